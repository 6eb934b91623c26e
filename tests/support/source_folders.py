"""Small source folders as labelling tools write them: every image is 200 x 100 pixels and a dog is at DOG."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vistune.types import AnnotatedImage, Box

PIXELS = (20, 10, 100, 60)  # corners
COCO_BOX = [20, 10, 80, 50]
DOG = (0.1, 0.1, 0.5, 0.6)


def draw(root: Path, *names: str) -> Path:
    """Write images of these names, in the format of their suffix, JPEG where Pillow knows none."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = {".png": "PNG", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF", ".gif": "GIF", ".webp": "WEBP"}
        Image.new("RGB", (200, 100), (number % 256, 99, 0)).save(path, kind.get(path.suffix.lower(), "JPEG"))
    return root


def write(path: Path, content: Any) -> Path:
    """Write text as it is, and anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def coco(*names: str, **annotation: Any) -> dict[str, Any]:
    """A COCO tree in which each image has a dog."""
    return {
        "images": [{"id": k, "file_name": name, "width": 200, "height": 100} for k, name in enumerate(names, start=1)],
        "annotations": [
            {"id": k, "image_id": k, "category_id": 7, "bbox": COCO_BOX, "iscrowd": 0, **annotation}
            for k in range(1, len(names) + 1)
        ],
        "categories": [{"id": 7, "name": "dog", "supercategory": "animal"}],
    }


def assert_dogs(images: list[AnnotatedImage], *paths: Path) -> None:
    """These files are the images, in this order, each with the one box."""
    assert [image.path for image in images] == list(paths)
    for image in images:
        [box] = image.boxes
        assert box.label == "dog"
        assert corners(box) == pytest.approx(DOG)


def corners(box: Box) -> tuple[float, ...]:
    return box.x0, box.y0, box.x1, box.y1

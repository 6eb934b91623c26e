"""A COCO folder as AnnotatedImages: captions, boxes with optional attributes, and where the pictures lie.

annotations/{captions,instances}_SPLIT.json + SPLIT/*.jpg -> AnnotatedImage. Names of 2014 and 2017 are both found.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vistune.errors import DataError
from vistune.files import read_json
from vistune.registry import guess
from vistune.types import AnnotatedImage, Box


def splits_of(folder: Path) -> list[str]:
    """The splits that have a captions or an instances file."""
    files = sorted((folder / "annotations").glob("*_*.json")) if (folder / "annotations").is_dir() else []
    names = {
        match.group(1) for file in files if (match := re.fullmatch(r"(?:captions|instances)_(.+)\.json", file.name))
    }
    return sorted(names)


def read_coco(folder: Path, split: str | None = None) -> list[AnnotatedImage]:
    """The pictures of one split, in the order of their ids; the only split need not be named.

    Raises DataError for a missing folder, an unknown or unnamed split, a missing picture, a bad box.
    """
    known = splits_of(folder)
    if not known:
        raise DataError(f"{folder}: no annotations/captions_*.json or instances_*.json", "name a COCO folder")
    if split is None:
        if len(known) > 1:
            raise DataError(
                f"{folder}: has the splits {', '.join(known)}", f"choose one, for example --split {known[-1]}"
            )
        split = known[0]
    if split not in known:
        raise DataError(f"{folder}: no split {split!r}", guess(split, known))
    images: dict[int, dict[str, Any]] = {}
    captions: dict[int, list[str]] = defaultdict(list)
    boxes: dict[int, list[Box]] = defaultdict(list)
    captions_file = folder / "annotations" / f"captions_{split}.json"
    if captions_file.exists():
        tree = _tree(captions_file)
        images.update({image["id"]: image for image in tree["images"]})
        for row in tree["annotations"]:
            captions[row["image_id"]].append(str(row["caption"]).strip())
    instances_file = folder / "annotations" / f"instances_{split}.json"
    if instances_file.exists():
        tree = _tree(instances_file)
        images.update({image["id"]: image for image in tree["images"]})
        labels = {category["id"]: str(category["name"]) for category in tree["categories"]}
        for number, row in enumerate(tree["annotations"]):
            if not row.get("iscrowd"):
                boxes[row["image_id"]].append(_box(row, images, labels, f"{instances_file}: annotations[{number}]"))
    return [
        AnnotatedImage(
            id=Path(image["file_name"]).stem.removeprefix(f"COCO_{split}_"),
            path=_find(folder / split, image["file_name"], split),
            captions=tuple(captions[key]),
            boxes=tuple(boxes[key]),
        )
        for key, image in sorted(images.items())
    ]


def _tree(path: Path) -> Mapping[str, Any]:
    tree = read_json(path)
    for key in ("images", "annotations"):
        if not isinstance(tree, dict) or not isinstance(tree.get(key), list):
            raise DataError(f"{path}: {key}: a COCO file has a list here", "check that the file is in COCO format")
    return tree


def _box(row: Mapping[str, Any], images: Mapping[int, Mapping[str, Any]], labels: Mapping[int, str], place: str) -> Box:
    try:
        image = images[row["image_id"]]
        x, y, width, height = row["bbox"]
        label = labels[row["category_id"]]
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{place}: not a COCO box ({type(error).__name__}: {error})", "mend or remove it") from None
    w, h = image["width"], image["height"]
    corners = (x / w, y / h, (x + width) / w, (y + height) / h)
    x0, y0, x1, y1 = (min(max(corner, 0.0), 1.0) for corner in corners)
    return Box(label, x0, y0, x1, y1, {str(k): str(v) for k, v in (row.get("attributes") or {}).items()})


def _find(folder: Path, name: str, split: str) -> Path:
    """The picture under its own name, or under that of the other year."""
    bare = name.removeprefix(f"COCO_{split}_")
    for candidate in (name, bare, f"COCO_{split}_{bare}"):
        if (folder / candidate).is_file():
            return folder / candidate
    raise DataError(
        f"{folder / name}: no such picture, though annotations name it", "put it there or drop it from the annotations"
    )

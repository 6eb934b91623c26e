"""Images inside a page: thumbnails as data URIs, and choices of rows that show every group."""

from __future__ import annotations

import base64
import io
import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image, ImageDraw, ImageOps

from vistune.records.image_files import DAMAGE, FORMATS, LARGEST_PIXELS

SIDE = 256  # pixels of the longer side
COLORS = ("#4e9bff", "#ffb000", "#33d17a", "#ff6b6b", "#c792ea", "#00d4d4", "#f9f871", "#ff8ad8")
Boxes = Sequence[Mapping[str, Any]]  # {label, x0, y0, x1, y1}, relative to the image
Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small copy of an image for a page."""

    name: str
    uri: str | None  # a data URI; None if the file is missing or not an image


def thumbnail(name: str, paths: Iterable[Path], boxes: Boxes = ()) -> Thumbnail:
    """Return the thumbnail of the first path that is a file. An image that cannot be opened keeps only its name.

    Args:
        boxes: Drawn over the image.
    """
    for path in paths:
        if path.is_file():
            try:
                return Thumbnail(Path(name).name, _data_uri(path, boxes))
            except DAMAGE:
                break
    return Thumbnail(Path(name).name, None)


def svg_uri(path: Path) -> str:
    """Return an SVG file as a data URI; a browser runs no scripts of an <img>."""
    return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()


def _data_uri(path: Path, boxes: Boxes) -> str:
    with Image.open(path, formats=FORMATS) as opened:
        if opened.width * opened.height > LARGEST_PIXELS:
            raise ValueError("too many pixels")
        opened.draft("RGB", (4 * SIDE, 4 * SIDE))  # decodes a large JPEG at a smaller size
        image = ImageOps.exif_transpose(opened)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("RGB")
    image.thumbnail((SIDE, SIDE))
    _draw(image, boxes)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _draw(image: Image.Image, boxes: Boxes) -> None:
    """Draw boxes as outlines with a colour per label, the largest first, and each label once."""
    pen = ImageDraw.Draw(image)
    labels = sorted({str(box["label"]) for box in boxes})
    written: set[str] = set()
    for box in sorted(boxes, key=lambda box: (box["x0"] - box["x1"]) * (box["y1"] - box["y0"])):
        label = str(box["label"])
        color = COLORS[labels.index(label) % len(COLORS)]
        x0, y0 = box["x0"] * (image.width - 1), box["y0"] * (image.height - 1)
        x1, y1 = box["x1"] * (image.width - 1), box["y1"] * (image.height - 1)
        pen.rectangle((x0, y0, max(x0, x1), max(y0, y1)), outline=color)
        if label not in written:
            written.add(label)
            pen.text((x0 + 2, y0 + 1), label, fill=color, stroke_width=1, stroke_fill="black")


def spread(rows: Sequence[Row], count: int, *, group: Callable[[Row], Hashable], seed: int) -> list[Row]:
    """Choose `count` rows by a seed, from every group in turn."""
    shuffled = random.Random(seed).sample(rows, len(rows))
    groups: dict[Hashable, list[Row]] = defaultdict(list)
    for row in shuffled:
        groups[group(row)].append(row)
    queues = [groups[key] for key in sorted(groups, key=str)]
    chosen: list[Row] = []
    depth = 0
    while len(chosen) < min(count, len(rows)):
        chosen += [queue[depth] for queue in queues if depth < len(queue)]
        depth += 1
    return chosen[:count]

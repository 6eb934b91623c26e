"""Render pages from templates, with labels in the page's language and thumbnails as data URIs.

All text from data is escaped, and an unknown name in a template is an error.
"""

from __future__ import annotations

import base64
import io
import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image, ImageDraw, ImageOps

from vistune.errors import DataError
from vistune.files import write_atomic
from vistune.records.image_files import DAMAGE, FORMATS, LARGEST_PIXELS
from vistune.report.plots import drawable
from vistune.translations import catalogue, translate

SIDE = 256  # pixels of the longer side of a thumbnail
COLORS = ("#4e9bff", "#ffb000", "#33d17a", "#ff6b6b", "#c792ea", "#00d4d4", "#f9f871", "#ff8ad8")  # of boxes
Boxes = Sequence[Mapping[str, Any]]  # {label, x0, y0, x1, y1}, relative to the image
Labels = Mapping[str, Any]  # texts of a page by key, in one language
Row = Mapping[str, Any]  # a JSON object from a file
Values = dict[str, Any]  # what a template shows
T = TypeVar("T")


def labels_of(language: str) -> Labels:
    """Return the labels of the pages in a language."""
    return catalogue("report/labels", language)


def render(template: str, labels: Labels, **values: object) -> str:
    """Render a template of this folder. It has the labels as `t`, and filters that format numbers and texts."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: "–" if share is None else f"{100 * share:.1f} %"
    environment.filters["points"] = lambda share: f"{100 * share:+.1f}"
    environment.filters["figure"] = metric
    environment.filters["duration"] = lambda seconds: duration(seconds, labels)
    environment.filters["word"] = lambda text: translated(text, labels)
    environment.filters["whole"] = lambda number: "–" if number is None else f"{number:,.0f}"
    page = environment.get_template(template).render(t=labels, **values)
    return page.encode(errors="backslashreplace").decode()  # a lone surrogate is shown as its escape


def write_page(path: Path, template: str, name: str, title: str, language: str, sections: Mapping[str, Any]) -> Path:
    """Render a template that extends page.html.j2, and write the page; sections that are None are omitted."""
    if not path.parent.is_dir():
        raise DataError(f"{path.parent}: no such folder", "name the folder that train, quickstart or generate wrote")
    labels = labels_of(language)
    write_atomic(path, render(template, labels, sections=sections, language=language, title=title, name=name))
    return path


def translated(text: object, labels: Labels) -> str:
    """Return a name or sentence from a file in the page's language; unknown ones unchanged."""
    name = str(text)
    known = labels["words"].get(name) or (translate(name) if labels is labels_of("ko") else None)
    return str(known or name.replace("_", " "))


def drawn_text(text: str, labels: Labels, fallback: str) -> str:
    """Return a text for a plot: in the page's language if the fonts have its letters, else in English."""
    return drawable(translated(text, labels), drawable(translated(text, labels_of("en")), fallback))


def drawn_label(key: str, labels: Labels) -> str:
    """Return a label for a plot: in the page's language if the fonts have its letters, else in English."""
    return drawable(labels[key], labels_of("en")[key])


def duration(seconds: float, labels: Labels) -> str:
    """Format seconds as hours, minutes and seconds."""
    if seconds < 60:
        return f"{seconds:.1f}{labels['second']}"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "hour"), (minutes, "minute"), (rest, "second"))
    return " ".join(f"{number}{labels[unit]}" for number, unit in parts if number)


def metric(value: float | None) -> str:
    """Format a metric, with four digits if it is at most 1; "" for None."""
    return "" if value is None else f"{value:.4f}" if abs(value) <= 1 else f"{value:.2f}"


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


def thumbnails(files: Iterable[object]) -> list[Thumbnail]:
    """Return the thumbnails of image files."""
    return [thumbnail(path.name, [path]) for path in (Path(str(file)) for file in files)]


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


def spread(rows: Sequence[T], count: int, *, group: Callable[[T], Hashable], seed: int) -> list[T]:
    """Choose `count` rows by a seed, from every group in turn."""
    shuffled = random.Random(seed).sample(rows, len(rows))
    groups: dict[Hashable, list[T]] = defaultdict(list)
    for row in shuffled:
        groups[group(row)].append(row)
    queues = [groups[key] for key in sorted(groups, key=str)]
    chosen: list[T] = []
    depth = 0
    while len(chosen) < min(count, len(rows)):
        chosen += [queue[depth] for queue in queues if depth < len(queue)]
        depth += 1
    return chosen[:count]

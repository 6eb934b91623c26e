"""A COCO folder as AnnotatedImages: captions, boxes with optional attributes, and where the pictures lie.

annotations/{captions,instances}_SPLIT.json + SPLIT/*.jpg -> AnnotatedImage. Names of 2014 and 2017 are both found.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
    crowds: dict[int, set[str]] = defaultdict(set)
    captions_file = folder / "annotations" / f"captions_{split}.json"
    if captions_file.exists():
        tree = _tree(captions_file)
        images.update(_images(tree, captions_file))
        for number, row in enumerate(tree["annotations"]):
            with _placed(f"{captions_file}: annotations[{number}]", "caption"):
                captions[images[row["image_id"]]["id"]].append(_text(row["caption"]))
    instances_file = folder / "annotations" / f"instances_{split}.json"
    if instances_file.exists():
        tree = _tree(instances_file)
        images.update(_images(tree, instances_file))
        with _placed(f"{instances_file}: categories", "list of categories"):
            labels = {category["id"]: _text(category["name"]) for category in tree["categories"]}
        for number, row in enumerate(tree["annotations"]):
            with _placed(f"{instances_file}: annotations[{number}]", "box"):
                if row.get("iscrowd"):  # its box spans a group that nobody counted
                    crowds[row["image_id"]].add(labels[row["category_id"]])
                else:
                    boxes[row["image_id"]].append(_box(row, images, labels))
    return [
        AnnotatedImage(
            id=Path(image["file_name"]).stem.removeprefix(f"COCO_{split}_"),
            path=_find(folder / split, image["file_name"], split),
            captions=tuple(captions[key]),
            boxes=tuple(boxes[key]),
            crowds=tuple(sorted(crowds[key])),
        )
        for key, image in sorted(images.items())
    ]


def _tree(path: Path) -> Mapping[str, Any]:
    tree = read_json(path)
    for key in ("images", "annotations"):
        if not isinstance(tree, dict) or not isinstance(tree.get(key), list):
            raise DataError(f"{path}: {key}: a COCO file has a list here", "check that the file is in COCO format")
    return tree


def _images(tree: Mapping[str, Any], path: Path) -> dict[int, dict[str, Any]]:
    """By id; a file name is a path below the split's folder."""
    found: dict[int, dict[str, Any]] = {}
    for number, image in enumerate(tree["images"]):
        with _placed(f"{path}: images[{number}]", "picture"):
            key, name = image["id"], Path(_text(image["file_name"]))
            if type(key) is not int:
                raise ValueError(f"the id {key!r} is no whole number")
            if name.is_absolute() or ".." in name.parts:
                raise ValueError(f"file_name {str(name)!r} leads out of the split's folder")
            found[key] = image
    return found


@contextmanager
def _placed(place: str, what: str) -> Iterator[None]:
    """Whatever a row lacks or has wrong is said with the row's place."""
    try:
        yield
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
        raise DataError(f"{place}: not a COCO {what} ({type(error).__name__}: {error})", "mend or remove it") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text is wanted, got {value!r}")
    value.encode()  # a lone surrogate raises here, not when the rows are written
    return value.strip()


def _box(row: Mapping[str, Any], images: Mapping[int, Mapping[str, Any]], labels: Mapping[int, str]) -> Box:
    image, label = images[row["image_id"]], labels[row["category_id"]]
    w, h = image["width"], image["height"]
    x, y, width, height = row["bbox"]
    numbers = (w, h, x, y, width, height)
    if any(isinstance(number, bool) or not math.isfinite(number) for number in numbers) or min(w, h) <= 0:
        raise ValueError(f"bbox {row['bbox']} in a picture of {w} x {h} pixels")
    # A box without width or height stands in COCO itself; a negative size or a box beside the picture is a mistake.
    if min(width, height) < 0 or x > w or y > h or x + width < 0 or y + height < 0:
        raise ValueError(f"bbox {row['bbox']} is not within the picture's {w} x {h} pixels")
    x0, y0, x1, y1 = (min(max(c, 0.0), 1.0) for c in (x / w, y / h, (x + width) / w, (y + height) / h))
    attributes = {_text(key): str(value) for key, value in (row.get("attributes") or {}).items()}
    return Box(label, x0, y0, x1, y1, attributes)


def _find(folder: Path, name: str, split: str) -> Path:
    """The picture under its own name, or under that of the other year."""
    bare = name.removeprefix(f"COCO_{split}_")
    for candidate in (name, bare, f"COCO_{split}_{bare}"):
        if (folder / candidate).is_file():
            return folder / candidate
    raise DataError(
        f"{folder / name}: no such picture, though annotations name it", "put it there or drop it from the annotations"
    )

"""Read labelme's files: one .json per image with its `shapes`."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vistune.datagen.sources.boxes import box_of, label_of, number, span
from vistune.datagen.sources.gathering import SourceCollector, count_filled
from vistune.datagen.sources.tree import READ_SUFFIXES, Tree, by_folder, form_of_json
from vistune.files import read_json
from vistune.records import RecordError, shown
from vistune.types import Box

TOP = ("version", "flags", "shapes", "imagePath", "imageData", "imageWidth", "imageHeight", "lineColor", "fillColor")
SHAPE = ("label", "points", "shape_type", "group_id", "mask", "line_color", "fill_color")
WITH_AREA = ("rectangle", "polygon", "circle", "mask", "")


def find(tree: Tree) -> dict[str, list[str]]:
    return by_folder(tree.of_form("labelme"))


def folders(root: Path, files: list[Path], split: str) -> list[Path]:
    beside = [Path(folder) for folder in dict.fromkeys(os.path.dirname(file) for file in files)]
    return [*beside, root / "images", root]


def read(gathered: SourceCollector, files: list[Path]) -> None:
    unread = gathered.unread(gathered.source, (*TOP, *SHAPE))
    for file in files:
        tree = read_json(file)
        if form_of_json(tree) != "labelme":  # a different kind of JSON file; it is reported as not read
            continue
        gathered.files.add(file)
        count_filled(tree, TOP, unread)
        flags = tree.get("flags")
        unread.update(f"flags.{name}" for name, value in (flags if isinstance(flags, dict) else {}).items() if value)
        name, beside = str(tree.get("imagePath") or "").replace("\\", "/"), os.path.dirname(file)
        own = [os.path.join(beside, f"{file.stem}{suffix}") for suffix in READ_SUFFIXES]
        named = os.path.normpath(os.path.join(beside, name)) if name else own[0]
        path = gathered.find(os.path.abspath(named), str(file), "imagePath", *map(os.path.abspath, own))
        if path is None:
            continue
        boxes = []
        for index, shape in enumerate(tree["shapes"]):
            location = f"{file}:shapes[{index}]"
            if not isinstance(shape, Mapping):
                raise RecordError(location, "", f"expected a shape, got {shown(shape)}", "draw it again")
            count_filled(shape, SHAPE, unread, "shapes[].")
            kind = shape.get("shape_type") or ""
            if kind in WITH_AREA:
                boxes.append(_box(shape, kind, tree, path, location, gathered))
            else:
                unread[f"shapes[] of type {kind}"] += 1
        gathered.add(path, boxes=boxes)


def _box(
    shape: Mapping[str, Any], kind: str, tree: Mapping[str, Any], path: Path, location: str, gathered: SourceCollector
) -> Box:
    points = shape.get("points")
    if not isinstance(points, list) or not all(isinstance(p, list) and len(p) == 2 for p in points) or len(points) < 2:
        raise RecordError(location, "points", f"expected points [x, y], got {shown(points)}", "draw it again")
    xs, ys = ([number(point[k], location, "points") for point in points] for k in (0, 1))
    corners = span(xs, ys, location, "points")  # a rectangle may be drawn from any corner
    if kind == "circle":  # the points are its centre and a point on the circle
        radius = math.hypot(xs[1] - xs[0], ys[1] - ys[0])
        corners = xs[0] - radius, ys[0] - radius, xs[0] + radius, ys[0] + radius
    sides = tree.get("imageWidth"), tree.get("imageHeight")
    size = gathered.size_of(path, location, sides if all(sides) else None)  # type: ignore[arg-type]
    label = label_of(shape.get("label"), location, "label")
    return box_of(label, corners, size, location, "points")

"""Read JSON of labelling tools: labelme (one .json per image) and VGG Image Annotator (JSON or CSV)."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from vistune.datagen.sources.boxes import JsonObject, attributes_of, box_of, label_of, number, span
from vistune.datagen.sources.collector import Family, SourceCollector, count_filled
from vistune.datagen.sources.tree import READ_SUFFIXES, Tree, by_folder, by_split, form_of_json
from vistune.files import parse_json, read_json
from vistune.records import RecordError, read_values, shown
from vistune.types import Box

LABELME_FIELDS = (
    "version",
    "flags",
    "shapes",
    "imagePath",
    "imageData",
    "imageWidth",
    "imageHeight",
    "lineColor",
    "fillColor",
)
LABELME_SHAPE = ("label", "points", "shape_type", "group_id", "mask", "line_color", "fill_color")
WITH_AREA = ("rectangle", "polygon", "circle", "mask", "")


def find_labelme(tree: Tree) -> dict[str, list[str]]:
    return by_folder(tree.of_form("labelme"))


def labelme_folders(root: Path, files: list[Path], split: str) -> list[Path]:
    folder = [Path(folder) for folder in dict.fromkeys(os.path.dirname(file) for file in files)]
    return [*folder, root / "images", root]


def read_labelme(collector: SourceCollector, files: list[Path]) -> None:
    unread = collector.unread(collector.source, (*LABELME_FIELDS, *LABELME_SHAPE))
    for file in files:
        tree = read_json(file)
        if form_of_json(tree) != "labelme":  # a different kind of JSON file; it is reported as not read
            continue
        collector.files.add(file)
        count_filled(tree, LABELME_FIELDS, unread)
        flags = tree.get("flags")
        unread.update(f"flags.{name}" for name, value in (flags if isinstance(flags, dict) else {}).items() if value)
        name, folder = str(tree.get("imagePath") or "").replace("\\", "/"), os.path.dirname(file)
        by_stem = [os.path.join(folder, f"{file.stem}{suffix}") for suffix in READ_SUFFIXES]
        named = os.path.normpath(os.path.join(folder, name)) if name else by_stem[0]
        path = collector.find(os.path.abspath(named), str(file), "imagePath", *map(os.path.abspath, by_stem))
        if path is None:
            continue
        boxes = []
        for index, shape in enumerate(tree["shapes"]):
            location = f"{file}:shapes[{index}]"
            if not isinstance(shape, Mapping):
                raise RecordError(location, "", f"expected a shape, got {shown(shape)}", "draw it again")
            count_filled(shape, LABELME_SHAPE, unread, "shapes[].")
            kind = shape.get("shape_type") or ""
            if kind in WITH_AREA:
                boxes.append(_labelme_box(shape, kind, tree, path, location, collector))
            else:
                unread[f"shapes[] of type {kind}"] += 1
        collector.add(path, boxes=boxes)


def _labelme_box(
    shape: JsonObject, kind: str, tree: JsonObject, path: Path, location: str, collector: SourceCollector
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
    size = collector.size_of(path, location, sides if all(sides) else None)  # type: ignore[arg-type]
    label = label_of(shape.get("label"), location, "label")
    return box_of(label, corners, size, location, "points")


VIA_IMAGE = ("filename", "size", "regions", "file_attributes", "fileref", "base64_img_data")
VIA_REGION = ("shape_attributes", "region_attributes")
VIA_CSV = frozenset({"region_shape_attributes", "region_attributes"})
VIA_LABELS = ("label", "class", "name", "object", "category", "type", "class_name", "object_name", "object_type")
VIA_CAPTIONS = ("caption", "captions")


def find_via(tree: Tree) -> dict[str, list[str]]:
    return by_split(tree.of_form("VIA"))


def via_folders(root: Path, files: list[Path], split: str) -> list[Path]:
    return [*(file.parent for file in files), root / "images", root]


def read_via(collector: SourceCollector, files: list[Path]) -> None:
    """Read JSON files."""
    for file in files:
        tree = read_json(file)
        unread = collector.unread(file, (*VIA_IMAGE, *VIA_REGION))
        images = tree.get("_via_img_metadata", tree)
        for key, image in images.items():
            location = f"{file}:{key}"
            if not isinstance(image, Mapping):
                raise RecordError(location, "", f"expected an image, got {shown(image)}", "export it again")
            count_filled(image, VIA_IMAGE, unread)
            regions = image.get("regions") or []
            regions = list(regions.values()) if isinstance(regions, Mapping) else regions
            if not isinstance(regions, list):
                raise RecordError(location, "regions", f"expected a list, got {shown(regions)}", "export it again")
            _add_via(collector, image.get("filename"), image.get("file_attributes"), regions, location, unread, file)


def read_via_table(collector: SourceCollector, file: Path) -> None:
    """Read a CSV with one region per row."""
    known = ("filename", "#filename", "file_size", "file_attributes", "region_count", "region_id", *VIA_CSV)
    unread = collector.unread(file, known)
    for location, row in read_values(file):
        assert isinstance(row, dict)
        count_filled(row, known, unread)
        cells = {
            name: parse_json(row.get(name) or "{}", f"{location}:{name}", first_line=1)
            for name in ("file_attributes", *VIA_CSV)
        }
        region = {"shape_attributes": cells["region_shape_attributes"], "region_attributes": cells["region_attributes"]}
        regions = [region] if cells["region_shape_attributes"] else []
        name = row.get("filename") or row.get("#filename")
        _add_via(collector, name, cells["file_attributes"], regions, location, unread, file)


def _add_via(
    collector: SourceCollector,
    name: object,
    about: object,
    regions: Sequence[object],
    location: str,
    unread: Counter[str],
    file: Path,
) -> None:
    path = collector.find(name, location, "filename")
    if path is None:
        return
    captions = []
    for key, value in (about if isinstance(about, Mapping) else {}).items():
        if key.lower() in VIA_CAPTIONS:
            caption = collector.caption(value, location, f"file_attributes.{key}", file)
            known = collector.images.get(path)
            if caption and (known is None or caption not in known.captions):  # a CSV repeats it with every region
                captions.append(caption)
        elif value:
            unread[f"file_attributes.{key}"] += 1
    boxes = [
        box
        for k, region in enumerate(regions)
        if (box := _via_box(region, path, f"{location}:regions[{k}]", collector, unread)) is not None
    ]
    collector.add(path, captions=captions, boxes=boxes)


def _via_box(region: object, path: Path, location: str, collector: SourceCollector, unread: Counter[str]) -> Box | None:
    if not isinstance(region, Mapping) or not isinstance(region.get("shape_attributes"), Mapping):
        raise RecordError(location, "shape_attributes", f"expected a shape, got {shown(region)}", "export it again")
    count_filled(region, VIA_REGION, unread, "regions[].")
    shape = region["shape_attributes"]
    corners = _via_corners(shape, location)
    if corners is None:
        unread[f"regions[] of shape {shape.get('name')}"] += 1
        return None
    label, attributes = _via_label(region.get("region_attributes") or {}, location, unread)
    if not label:
        collector.notes["regions without a label"] += 1
        return None
    return box_of(label, corners, collector.size_of(path, location), location, "shape_attributes", attributes)


def _via_corners(shape: JsonObject, location: str) -> tuple[float, ...] | None:
    def numbers(*names: str) -> Iterator[float]:
        return (number(shape.get(name), location, f"shape_attributes.{name}") for name in names)

    kind = shape.get("name")
    if kind == "rect":
        x, y, width, height = numbers("x", "y", "width", "height")
        return x, y, x + width, y + height
    if kind in ("circle", "ellipse"):
        x, y, across, down = numbers("cx", "cy", *(("r", "r") if kind == "circle" else ("rx", "ry")))
        return x - across, y - down, x + across, y + down
    if kind == "polygon":
        xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
        return span(xs, ys, location, "shape_attributes")
    return None


def _via_label(fields: object, location: str, unread: Counter[str]) -> tuple[str, dict[str, str]]:
    """Split a region's attributes into its label and the others. Raises RecordError if the label is not clear."""
    if not isinstance(fields, Mapping):
        raise RecordError(location, "region_attributes", f"expected attributes, got {shown(fields)}", "export it again")
    texts = {name: _attribute_text(value) for name, value in fields.items()}
    filled = [name for name, value in texts.items() if value]
    if not filled:
        return "", {}
    name = next((name for usual in VIA_LABELS for name in filled if name.lower() == usual), None)
    if name is None and len(filled) > 1:
        hint = f"call the attribute that names the object `label`; there are {', '.join(filled)}"
        raise RecordError(location, "region_attributes", "none of the attributes is called label, class or name", hint)
    name = name or filled[0]
    others = {other: texts[other] for other in filled if other != name}
    return texts[name], attributes_of(others, location, "region_attributes", unread)


def _attribute_text(value: object) -> str:
    """Return an attribute's text; for checkboxes `{"dog": true}`, the names of the ticked ones."""
    if isinstance(value, Mapping):
        return ", ".join(str(name) for name, ticked in value.items() if ticked)
    return str(value).strip() if isinstance(value, str | int | float) else ""


LABELME = Family("a .json per image with shapes (labelme)", find_labelme, labelme_folders, read_labelme)
VIA = Family("a VIA .json (regions)", find_via, via_folders, read_via)

"""Read VGG Image Annotator files: a project, or exported annotations as JSON or CSV."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vistune.datagen.sources.boxes import attributes_of, box_of, number, span
from vistune.datagen.sources.gathering import SourceCollector, count_filled
from vistune.datagen.sources.tree import Tree, by_split
from vistune.files import parse_json, read_json
from vistune.records import RecordError, read_values, shown
from vistune.types import Box

IMAGE = ("filename", "size", "regions", "file_attributes", "fileref", "base64_img_data")
REGION = ("shape_attributes", "region_attributes")
CSV = frozenset({"region_shape_attributes", "region_attributes"})
LABELS = ("label", "class", "name", "object", "category", "type", "class_name", "object_name", "object_type")
CAPTIONS = ("caption", "captions")


def find(tree: Tree) -> dict[str, list[str]]:
    return by_split(tree.of_form("VIA"))


def folders(root: Path, files: list[Path], split: str) -> list[Path]:
    return [*(file.parent for file in files), root / "images", root]


def read(gathered: SourceCollector, files: list[Path]) -> None:
    """Read JSON files."""
    for file in files:
        tree = read_json(file)
        unread = gathered.unread(file, (*IMAGE, *REGION))
        images = tree.get("_via_img_metadata", tree)
        for key, image in images.items():
            location = f"{file}:{key}"
            if not isinstance(image, Mapping):
                raise RecordError(location, "", f"expected an image, got {shown(image)}", "export it again")
            count_filled(image, IMAGE, unread)
            regions = image.get("regions") or []
            regions = list(regions.values()) if isinstance(regions, Mapping) else regions
            if not isinstance(regions, list):
                raise RecordError(location, "regions", f"expected a list, got {shown(regions)}", "export it again")
            _add(gathered, image.get("filename"), image.get("file_attributes"), regions, location, unread, file)


def read_table(gathered: SourceCollector, file: Path) -> None:
    """Read a CSV with one region per row."""
    known = ("filename", "#filename", "file_size", "file_attributes", "region_count", "region_id", *CSV)
    unread = gathered.unread(file, known)
    for location, row in read_values(file):
        assert isinstance(row, dict)
        count_filled(row, known, unread)
        cells = {
            name: parse_json(row.get(name) or "{}", f"{location}:{name}", first_line=1)
            for name in ("file_attributes", *CSV)
        }
        region = {"shape_attributes": cells["region_shape_attributes"], "region_attributes": cells["region_attributes"]}
        regions = [region] if cells["region_shape_attributes"] else []
        name = row.get("filename") or row.get("#filename")
        _add(gathered, name, cells["file_attributes"], regions, location, unread, file)


def _add(
    gathered: SourceCollector,
    name: Any,
    about: Any,
    regions: list[Any],
    location: str,
    unread: Counter[str],
    file: Path,
) -> None:
    path = gathered.find(name, location, "filename")
    if path is None:
        return
    captions = []
    for key, value in (about if isinstance(about, Mapping) else {}).items():
        if key.lower() in CAPTIONS:
            said = gathered.caption(value, location, f"file_attributes.{key}", file)
            known = gathered.images.get(path)
            if said and (known is None or said not in known.captions):  # a CSV repeats the caption with every region
                captions.append(said)
        elif value:
            unread[f"file_attributes.{key}"] += 1
    boxes = [
        box
        for k, region in enumerate(regions)
        if (box := _box(region, path, f"{location}:regions[{k}]", gathered, unread)) is not None
    ]
    gathered.add(path, captions=captions, boxes=boxes)


def _box(region: Any, path: Path, location: str, gathered: SourceCollector, unread: Counter[str]) -> Box | None:
    if not isinstance(region, Mapping) or not isinstance(region.get("shape_attributes"), Mapping):
        raise RecordError(location, "shape_attributes", f"expected a shape, got {shown(region)}", "export it again")
    count_filled(region, REGION, unread, "regions[].")
    shape = region["shape_attributes"]
    corners = _corners(shape, location)
    if corners is None:
        unread[f"regions[] of shape {shape.get('name')}"] += 1
        return None
    label, attributes = _label(region.get("region_attributes") or {}, location, unread)
    if not label:
        gathered.notes["regions without a label"] += 1
        return None
    return box_of(label, corners, gathered.size_of(path, location), location, "shape_attributes", attributes)


def _corners(shape: Mapping[str, Any], location: str) -> tuple[float, ...] | None:
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


def _label(given: Any, location: str, unread: Counter[str]) -> tuple[str, dict[str, str]]:
    """Split a region's attributes into its label and the others. Raises RecordError if the label is not clear."""
    if not isinstance(given, Mapping):
        raise RecordError(location, "region_attributes", f"expected attributes, got {shown(given)}", "export it again")
    texts = {name: _chosen(value) for name, value in given.items()}
    filled = [name for name, value in texts.items() if value]
    if not filled:
        return "", {}
    name = next((name for usual in LABELS for name in filled if name.lower() == usual), None)
    if name is None and len(filled) > 1:
        hint = f"call the attribute that names the object `label`; there are {', '.join(filled)}"
        raise RecordError(location, "region_attributes", "none of the attributes is called label, class or name", hint)
    name = name or filled[0]
    others = {other: texts[other] for other in filled if other != name}
    return texts[name], attributes_of(others, location, "region_attributes", unread)


def _chosen(value: Any) -> str:
    """An attribute's text; for checkboxes `{"dog": true}`, the names of the ticked ones."""
    if isinstance(value, Mapping):
        return ", ".join(str(name) for name, ticked in value.items() if ticked)
    return str(value).strip() if isinstance(value, str | int | float) else ""

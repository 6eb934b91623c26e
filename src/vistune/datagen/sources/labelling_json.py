"""Read JSON of labelling tools: labelme (one .json per image), VGG Image Annotator (JSON or CSV) and Label Studio.

Label Studio writes tasks with `annotations[].result[]` in per cent, or its short form JSON_MIN.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import unquote

from vistune.datagen.sources.boxes import (
    Corners,
    JsonObject,
    are_points,
    around,
    attributes_of,
    box_of,
    count_filled,
    label_of,
    list_in,
    number,
    numbers,
    object_in,
    sized,
    span,
    stated_size,
)
from vistune.datagen.sources.collector import SourceCollector
from vistune.datagen.sources.tree import READ_SUFFIXES, Family, Tree, by_folder, by_split, form_of_json, suffix_of
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
        same_name = [os.path.abspath(os.path.join(folder, f"{file.stem}{suffix}")) for suffix in READ_SUFFIXES]
        named = os.path.abspath(os.path.join(folder, name)) if name else same_name[0]
        path = collector.find(named, str(file), "imagePath", *same_name)
        if path is None:
            continue
        boxes = []
        for index, value in enumerate(tree["shapes"]):
            location = f"{file}:shapes[{index}]"
            shape = object_in(value, location, "a shape", "draw it again")
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
    if not are_points(points) or len(points) < 2:
        raise RecordError(location, "points", f"expected points [x, y], got {shown(points)}", "draw it again")
    xs, ys = ([number(point[k], location, "points") for point in points] for k in (0, 1))
    corners = span(xs, ys, location, "points")  # a rectangle may be drawn from any corner
    if kind == "circle":  # the points are its centre and a point on the circle
        radius = math.hypot(xs[1] - xs[0], ys[1] - ys[0])
        corners = around(xs[0], ys[0], radius, radius)
    size = collector.size_of(path, location, stated_size(tree, "imageWidth", "imageHeight"))
    label = label_of(shape.get("label"), location, "label")
    return box_of(label, corners, size, location, "points")


VIA_IMAGE = ("filename", "size", "regions", "file_attributes", "fileref", "base64_img_data")
VIA_REGION = ("shape_attributes", "region_attributes")
VIA_CSV = ("region_shape_attributes", "region_attributes")
VIA_LABELS = ("label", "class", "name", "object", "category", "type", "class_name", "object_name", "object_type")
VIA_CAPTIONS = ("caption", "captions")


def find_via(tree: Tree) -> dict[str, list[str]]:
    return by_split(tree.of_form("VIA"))


def read_via(collector: SourceCollector, files: list[Path]) -> None:
    """Read JSON files."""
    for file in files:
        tree = read_json(file)
        unread = collector.unread(file, (*VIA_IMAGE, *VIA_REGION))
        images = tree.get("_via_img_metadata", tree)
        for key, value in images.items():
            location = f"{file}:{key}"
            image = object_in(value, location, "an image")
            count_filled(image, VIA_IMAGE, unread)
            regions = image.get("regions") or []
            regions = list_in(list(regions.values()) if isinstance(regions, Mapping) else regions, location, "regions")
            _add_via(collector, file, location, image.get("filename"), image.get("file_attributes"), regions)


def read_via_table(collector: SourceCollector, file: Path) -> None:
    """Read a CSV with one region per row."""
    known = ("filename", "#filename", "file_size", "file_attributes", "region_count", "region_id", *VIA_CSV)
    unread = collector.unread(file, known)
    for location, row in read_values(file):
        assert isinstance(row, dict)
        count_filled(row, known, unread)
        about, shape, fields = (
            parse_json(row.get(name) or "{}", f"{location}:{name}", first_line=1)
            for name in ("file_attributes", *VIA_CSV)
        )
        regions = [{"shape_attributes": shape, "region_attributes": fields}] if shape else []
        _add_via(collector, file, location, row.get("filename") or row.get("#filename"), about, regions)


def _add_via(
    collector: SourceCollector, file: Path, location: str, name: object, about: object, regions: Iterable[object]
) -> None:
    path = collector.find(name, location, "filename")
    if path is None:
        return
    unread = collector.unread(file)
    captions = []
    for key, value in (about if isinstance(about, Mapping) else {}).items():
        if key.lower() in VIA_CAPTIONS:
            caption = collector.caption(value, location, f"file_attributes.{key}", file)
            known = collector.images.get(path)
            if caption and (known is None or caption not in known.captions):  # a CSV repeats it with every region
                captions.append(caption)
        elif value:
            unread[f"file_attributes.{key}"] += 1
    boxes = (_via_box(region, path, f"{location}:regions[{k}]", collector, unread) for k, region in enumerate(regions))
    collector.add(path, captions=captions, boxes=[box for box in boxes if box is not None])


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


_VIA_SIDES = {
    "rect": ("x", "y", "width", "height"),
    "circle": ("cx", "cy", "r", "r"),
    "ellipse": ("cx", "cy", "rx", "ry"),
}


def _via_corners(shape: JsonObject, location: str) -> Corners | None:
    kind = shape.get("name")
    if kind == "polygon":
        return span(shape.get("all_points_x"), shape.get("all_points_y"), location, "shape_attributes")
    if not isinstance(kind, str) or kind not in _VIA_SIDES:
        return None
    sides = numbers(shape, "shape_attributes.", _VIA_SIDES[kind], location)
    return sized(*sides) if kind == "rect" else around(*sides)


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


TASK = frozenset({
    "id", "data", "annotations", "completions", "predictions", "meta", "created_at", "updated_at", "project",
    "inner_id", "total_annotations", "cancelled_annotations", "total_predictions", "comment_count",
    "unresolved_comment_count", "last_comment_updated_at", "updated_by", "comment_authors", "file_upload",
    "drafts", "annotator", "annotation_id", "lead_time", "allow_skip", "precomputed_agreement",
})  # fmt: skip
RESULT = ("id", "type", "value", "original_width", "original_height", "image_rotation", "from_name", "to_name",
          "origin", "original_length", "parentID", "readonly", "hidden")  # fmt: skip
REGIONS = ("rectanglelabels", "polygonlabels", "ellipselabels")
ROTATED = "with image_rotation in Label Studio (turn the file and label it again)"
LABELS = ("rectanglelabels", "polygonlabels", "ellipselabels", "labels", "brushlabels", "keypointlabels")
IMAGE_FIELDS = ("image", "img", "photo", "picture", "url", "captioning")
_UPLOADED = re.compile(r"[0-9a-f]{8}-(.+)")  # prefix of an uploaded file's name


def find_label_studio(tree: Tree) -> dict[str, list[str]]:
    return by_split(tree.of_form("Label Studio"))


def read_label_studio(collector: SourceCollector, files: list[Path]) -> None:
    for file in files:
        unread = collector.unread(file, (*TASK, *RESULT))
        for location, value in read_values(file, own_fields=("data",)):
            task = object_in(value, location, "a task")
            data = task["data"] if isinstance(task.get("data"), Mapping) else task
            field, name = _image_of(data, location)
            local = name.partition("?d=")[2].partition("&")[0]  # a local file
            last = re.split(r"[\\/]", unquote(local or name))[-1]
            uploaded = _UPLOADED.fullmatch(last)
            path = collector.find(last, location, field, *([uploaded[1]] if uploaded else []))
            if data is task:
                results = _results_of_min(task, field, location)
            else:
                count_filled(task, TASK, unread)
                count_filled({k: v for k, v in data.items() if k not in ("caption", "text")}, (field,), unread, "data.")
                results = _results(task, location, collector)
            if path is None:
                continue
            boxes: list[Box] = []
            captions: list[object] = []
            for result_location, result in results:
                count_filled(result, RESULT, unread, "result[].")
                _check_image(result, path, result_location, collector)
                if not _add_result(result, result_location, boxes, captions):
                    unread[f"result[] of type {result.get('type')}"] += 1
            captions += [data[key] for key in ("caption", "text") if isinstance(data.get(key), str)]
            checked = (collector.caption(caption, location, "caption", file) for caption in captions)
            collector.add(path, captions=dict.fromkeys(filter(None, checked)), boxes=boxes)


def _image_of(data: JsonObject, location: str) -> tuple[str, str]:
    """Return (field, address) of a task's image."""
    texts = {name: value for name, value in data.items() if isinstance(value, str)}
    for name in (*IMAGE_FIELDS, *texts):
        if name in texts and (name in IMAGE_FIELDS or suffix_of(texts[name]) in READ_SUFFIXES):
            return name, texts[name]
    raise RecordError(location, "data", f"no image among {', '.join(map(str, data)) or 'no fields'}", "export it again")


def _results(task: JsonObject, location: str, collector: SourceCollector) -> list[tuple[str, JsonObject]]:
    """Return the results of a task's first annotation that was not cancelled; predictions of a model are not read."""
    listed = list_in(task.get("annotations") or task.get("completions") or [], location, "annotations")
    done = [item for item in listed if isinstance(item, Mapping) and not item.get("was_cancelled")]
    if task.get("predictions"):
        collector.notes["tasks with predictions, which are not read"] += 1
    if len(done) > 1:
        collector.notes["tasks with several annotations, of which the first is read"] += 1
    results = done[0].get("result") if done else []
    if not isinstance(results, list) or not all(isinstance(result, Mapping) for result in results):
        problem = f"expected a list of results, got {shown(results)}"
        raise RecordError(location, "annotations", problem, "export it again")
    return [(f"{location}:annotations.result[{k}]", result) for k, result in enumerate(results)]


def _results_of_min(task: JsonObject, image: str, location: str) -> list[tuple[str, JsonObject]]:
    """Return the results of a task in JSON_MIN, whose fields are named after the project's controls."""
    results: list[tuple[str, JsonObject]] = []
    for name, value in task.items():
        if name in TASK or name in (image, "caption", "text"):
            continue
        if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            for k, item in enumerate(value):
                kind = next((label for label in LABELS if label in item), name)
                results.append((f"{location}:{name}[{k}]", {"type": kind, "value": item}))
        else:
            results.append((f"{location}:{name}", {"type": name, "value": {}}))
    return results


def _check_image(result: JsonObject, path: Path, location: str, collector: SourceCollector) -> None:
    """Skip an image that is not in the file as it was labelled; count rotated boxes."""
    value = result.get("value")
    fields = {**value, **result} if isinstance(value, Mapping) else result
    if fields.get("type") in REGIONS:
        if fields.get("image_rotation"):
            collector.skipped[path] = ROTATED
        elif stated := stated_size(fields, "original_width", "original_height"):
            collector.size_of(path, location, stated)
    if isinstance(value, Mapping) and value.get("rotation"):
        collector.notes["rotated boxes, read without their rotation"] += 1


def _add_result(result: JsonObject, location: str, boxes: list[Box], captions: list[object]) -> bool:
    """Add a result's box or captions. Return False if its type is not read."""
    value, kind = result.get("value"), result.get("type")
    if not isinstance(value, Mapping):
        raise RecordError(location, "value", f"expected an object, got {shown(value)}", "export it again")
    if kind == "textarea":
        texts = value.get("text")
        captions += texts if isinstance(texts, list) else [texts]
        return True
    if kind not in REGIONS:
        return kind in ("rectangle", "polygon", "ellipse")  # the same region again, without its label
    corners = tuple(c / 100 for c in _region_corners(value, kind, location))
    labels = list_in(value.get(kind) or value.get("labels") or [], location, f"value.{kind}")
    boxes += (box_of(label_of(label, location, kind), corners, (1, 1), location, "value") for label in labels)
    return True


def _region_corners(value: JsonObject, kind: str, location: str) -> Corners:
    if kind == "polygonlabels":
        points = value.get("points") or []
        if not are_points(points):
            raise RecordError(location, "value.points", "expected points [x, y]", "export it again")
        return span([x for x, _ in points], [y for _, y in points], location, "value.points")
    if kind == "ellipselabels":
        return around(*numbers(value, "value.", ("x", "y", "radiusX", "radiusY"), location))
    return sized(*numbers(value, "value.", ("x", "y", "width", "height"), location))


LABELME = Family("a .json per image with shapes (labelme)", find_labelme, read_labelme)
VIA = Family("a VIA .json (regions)", find_via, read_via)
LABEL_STUDIO = Family(
    "a Label Studio .json (tasks)", find_label_studio, read_label_studio, ("@ @/images", "images", ".")
)

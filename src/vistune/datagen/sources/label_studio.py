"""Read Label Studio's JSON: tasks with `annotations[].result[]` in per cent, and its short form JSON_MIN."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote

from vistune.datagen.sources.boxes import JsonObject, box_of, label_of, number, span
from vistune.datagen.sources.collector import Family, SourceCollector, count_filled
from vistune.datagen.sources.tree import READ_SUFFIXES, Tree, by_split, suffix_of
from vistune.records import RecordError, read_values, shown
from vistune.types import Box

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


def find(tree: Tree) -> dict[str, list[str]]:
    return by_split(tree.of_form("Label Studio"))


def folders(root: Path, files: list[Path], split: str) -> list[Path]:
    return [*(folder for file in files for folder in (file.parent, file.parent / "images")), root / "images", root]


def read(collector: SourceCollector, files: list[Path]) -> None:
    for file in files:
        unread = collector.unread(file, (*TASK, *RESULT))
        for location, task in read_values(file, own_fields=("data",)):
            if not isinstance(task, Mapping):
                raise RecordError(location, "", f"expected a task, got {shown(task)}", "export it again")
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
                value = result.get("value")
                value = value if isinstance(value, Mapping) else {}
                _check_image({**value, **result}, path, result_location, collector)
                if value.get("rotation"):
                    collector.notes["rotated boxes, read without their rotation"] += 1
                if not _add(result, result_location, boxes, captions):
                    unread[f"result[] of type {result.get('type')}"] += 1
            for key in ("caption", "text"):
                if isinstance(data.get(key), str):
                    captions.append(data[key])
            kept = [caption for text in captions if (caption := collector.caption(text, location, "caption", file))]
            collector.add(path, captions=dict.fromkeys(kept), boxes=boxes)


def _image_of(data: JsonObject, location: str) -> tuple[str, str]:
    """Return (field, address) of a task's image."""
    texts = {name: value for name, value in data.items() if isinstance(value, str)}
    for name in (*IMAGE_FIELDS, *texts):
        if name in texts and (name in IMAGE_FIELDS or suffix_of(texts[name]) in READ_SUFFIXES):
            return name, texts[name]
    raise RecordError(location, "data", f"no image among {', '.join(map(str, data)) or 'no fields'}", "export it again")


def _results(task: JsonObject, location: str, collector: SourceCollector) -> list[tuple[str, JsonObject]]:
    """Return the results of a task's first annotation that was not cancelled; predictions of a model are not read."""
    listed = task.get("annotations") or task.get("completions") or []
    if not isinstance(listed, list):
        raise RecordError(location, "annotations", f"expected a list, got {shown(listed)}", "export it again")
    done = [item for item in listed if isinstance(item, Mapping) and not item.get("was_cancelled")]
    if task.get("predictions"):
        collector.notes["tasks with predictions, which are not read"] += 1
    if len(done) > 1:
        collector.notes["tasks with several annotations, of which the first is read"] += 1
    results = done[0].get("result") if done else []
    if not isinstance(results, list) or not all(isinstance(result, Mapping) for result in results):
        raise RecordError(
            location, "annotations", f"expected a list of results, got {shown(results)}", "export it again"
        )
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
    """Skip an image that is not in the file as it was labelled."""
    if result.get("type") not in REGIONS:
        return
    if result.get("image_rotation"):
        collector.skip(path, ROTATED)
        return
    stated = result.get("original_width"), result.get("original_height")
    if all(stated):
        collector.size_of(path, location, stated)  # type: ignore[arg-type]


def _add(result: JsonObject, location: str, boxes: list[Box], captions: list[object]) -> bool:
    """Add a result's box or captions. Return False if its type is not read."""
    value = result.get("value")
    kind = result.get("type")
    if not isinstance(value, Mapping):
        raise RecordError(location, "value", f"expected an object, got {shown(value)}", "export it again")
    if kind == "textarea":
        texts = value.get("text")
        captions += texts if isinstance(texts, list) else [texts]
        return True
    if kind not in REGIONS:
        return kind in ("rectangle", "polygon", "ellipse")  # the same region again, without its label
    corners = tuple(c / 100 for c in _corners(value, kind, location))
    labels = value.get(kind) or value.get("labels") or []
    if not isinstance(labels, list):
        raise RecordError(location, f"value.{kind}", f"expected a list, got {shown(labels)}", "export it again")
    boxes += (box_of(label_of(label, location, kind), corners, (1, 1), location, "value") for label in labels)
    return True


def _corners(value: JsonObject, kind: str, location: str) -> tuple[float, ...]:
    def numbers(*names: str) -> Iterator[float]:
        return (number(value.get(name), location, f"value.{name}") for name in names)

    if kind == "polygonlabels":
        points = value.get("points") or []
        if not isinstance(points, list) or not all(isinstance(point, list) and len(point) == 2 for point in points):
            raise RecordError(location, "value.points", "expected points [x, y]", "export it again")
        return span([point[0] for point in points], [point[1] for point in points], location, "value.points")
    if kind == "ellipselabels":
        x, y, across, down = numbers("x", "y", "radiusX", "radiusY")
        return x - across, y - down, x + across, y + down
    x, y, width, height = numbers("x", "y", "width", "height")
    return x, y, x + width, y + height


LABEL_STUDIO = Family("a Label Studio .json (tasks)", find, folders, read)

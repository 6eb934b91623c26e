"""Choose the columns of a table: by `--columns`, or by their usual names (COLUMNS, BOX_COLUMNS)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from vistune.datagen.sources.boxes import BoxForm
from vistune.errors import RecipeError
from vistune.registry import guess

# Fields of a row and their usual column names, in upper or lower case; `--columns` gives other names.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "file_name", "image_path", "filename", "image_name", "imageid", "image_id", "img", "images",
              "image_file", "file", "path", "filepath", "jpg", "png"),
    "captions": ("captions", "caption", "text", "description", "sentence", "sentences", "comment"),
    "boxes": ("boxes", "objects"),
    "bbox": ("bbox", "bboxes"),
    "id": ("id",),
    "label": ("label", "class", "labelname", "class_name", "category", "labels", "categories", "classes", "name"),
    "width": ("width", "image_width", "img_width"),
    "height": ("height", "image_height", "img_height"),
    "group": ("isgroupof", "iscrowd"),
}  # fmt: skip
CORNERS = ("xmin", "ymin", "xmax", "ymax")
# Sets of columns for one box per row, each with its default form; `--boxes-as` overrides it.
BOX_COLUMNS: Sequence[tuple[BoxForm, tuple[str, str, str, str]]] = (
    ("relative", ("XMin", "YMin", "XMax", "YMax")),  # Open Images
    ("pixels", ("xmin", "ymin", "xmax", "ymax")),  # VoTT, TensorFlow
    ("pixels", ("x_min", "y_min", "x_max", "y_max")),
    ("pixels", ("x1", "y1", "x2", "y2")),
    ("pixels", ("left", "top", "right", "bottom")),
    ("coco", ("x", "y", "w", "h")),
    ("coco", ("x", "y", "width", "height")),
    ("coco", ("bbox_x", "bbox_y", "bbox_width", "bbox_height")),
)


@dataclass(frozen=True, slots=True)
class TableForm:
    """How to read a table.

    - columns: field of COLUMNS or CORNERS -> column name
    - images: the folder that image names are relative to; default: the table's folder
    - boxes: `relative` (corners 0-1), `pixels` (corners) or `coco` (x, y, width, height in pixels); by default boxes in
      lists are relative, and the column names decide for boxes in columns
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    images: Path | None = None
    boxes: BoxForm | None = None

    def __post_init__(self) -> None:
        for name in self.columns:
            if name not in (*COLUMNS, *CORNERS):
                hint = guess(name, (*COLUMNS, *CORNERS))
                raise RecipeError(f"--columns {name}={self.columns[name]}: no such field", hint)
        if self.boxes is not None and self.boxes not in get_args(BoxForm):
            hint = "relative (corners 0-1), pixels (corners) or coco (x, y, width, height in pixels)"
            raise RecipeError(f"--boxes-as {self.boxes!r}: no such form of boxes", hint)


@dataclass(frozen=True, slots=True)
class Columns:
    """The column of each field; for tables with one box per row, also its `corners` columns and `form`."""

    names: Mapping[str, str]
    corners: tuple[str, ...] = ()
    form: BoxForm = "relative"

    @property
    def used(self) -> set[str]:
        unused = set() if self.corners else {"width", "height", "group", *(() if "bbox" in self.names else ("label",))}
        return {column for name, column in self.names.items() if name not in unused} | set(self.corners)


def choose(form: TableForm, present: Sequence[str], file: Path | str) -> Columns:
    """Return the column of each field, as given or by its usual name.

    Raises:
        RecipeError: A column is missing. The message or its hint lists the columns.
    """
    lowered: dict[str, str] = {}
    for column in present:
        lowered.setdefault(str(column).strip().lower(), column)
    listed = ", ".join(map(str, present))
    chosen: dict[str, str] = {}
    for name in (*COLUMNS, *CORNERS):
        if name in form.columns:
            column = form.columns[name]
            if column in present:  # rows of JSON may lack a field
                chosen[name] = column
            elif name == "image":
                raise RecipeError(f"{file}: has no column {column!r}", guess(column, present))
        elif usual := next((usual for usual in COLUMNS.get(name, ()) if usual in lowered), ""):
            chosen[name] = lowered[usual]
    named = [chosen.pop(name) for name in CORNERS if name in chosen]
    kind, corners = _box_columns(present, lowered)
    if len(named) == 4:
        kind, corners = "pixels", tuple(named)
    if 0 < sum(name in form.columns for name in CORNERS) < 4:
        raise RecipeError(f"{file}: --columns names only some of xmin, ymin, xmax and ymax", "name all four")
    if {"boxes", "label"} & chosen.keys() != {"label"}:
        chosen.pop("bbox", None)  # boxes without labels are of no use
    if corners and not {"boxes", "bbox"} & chosen.keys():
        chosen = {name: column for name, column in chosen.items() if column not in corners}
        if "label" not in chosen:
            raise RecipeError(f"{file}: no column of labels", f"name it: --columns label=…; the columns are {listed}")
        if "id" not in form.columns:
            chosen.pop("id", None)  # the box's id, not the image's
    else:
        corners = ()
    if "image" not in chosen:
        raise RecipeError(f"{file}: no column of images", f"name it: --columns image=…; the columns are {listed}")
    return Columns(chosen, corners, form.boxes or kind)


def _box_columns(present: Sequence[str], lowered: Mapping[str, str]) -> tuple[BoxForm, tuple[str, ...]]:
    for form, names in BOX_COLUMNS:
        if set(names) <= set(present):
            return form, names
    for form, names in BOX_COLUMNS[1:]:
        if set(names) <= lowered.keys():
            return form, tuple(lowered[name] for name in names)
    return "relative", ()

"""Read tables of images: any file of records with an image per row and its captions, its boxes, or one box.

Rows of the same image are merged. `table_columns` chooses the columns.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from vistune.datagen.sources.boxes import (
    BoxForm,
    JsonObject,
    box_in_form,
    is_missing,
    label_of,
    listed_box,
    numbers,
    objects_in,
)
from vistune.datagen.sources.collector import SourceCollector
from vistune.datagen.sources.labelling_json import VIA_CSV, read_via_table
from vistune.datagen.sources.table_columns import COLUMNS, Columns, TableForm, choose
from vistune.datagen.sources.tree import Family, Tree, by_split
from vistune.errors import DataError, RecipeError
from vistune.files import parse_json, user_cache
from vistune.records import (
    RecordError,
    TableFormat,
    count_unread,
    kind_of_file,
    open_file,
    read_values,
    shown,
    write_image,
)
from vistune.registry import guess
from vistune.types import Box

OPEN_IMAGES = "/m/"  # prefix of its label codes; class-descriptions*.csv has their names
FLICKR = "token"  # in the names of Flickr8k.token.txt: `image.jpg#0<TAB>caption`
SEPARATORS = {".csv": ",", ".tsv": "\t"}
OTHER_SEPARATORS = ("|", ";", "\t")  # in Flickr30k's results.csv, and in CSV files of some countries


def is_table(name: str) -> bool:
    base = os.path.basename(name).lower()
    return bool(kind_of_file(name)) or base == "captions.txt" or (FLICKR in base and base.endswith((".txt", ".token")))


def find_metadata(tree: Tree) -> dict[str, list[str]]:
    """Return the metadata file of each split of a Hugging Face image folder."""
    names = (name for name in tree.files if is_table(name) and os.path.basename(name).lower().startswith("metadata."))
    return by_split(name for name in names if not name.lower().endswith(".json") or _fits(tree, name))


def find(tree: Tree) -> dict[str, list[str]]:
    """Return tables with recognised columns, by split; numbered parts of a table count as one table.

    Raises DataError if a split has two tables.
    """
    names = [name for name in tree.files if is_table(name) and not name.lower().endswith(".json") and _fits(tree, name)]
    splits = by_split(names or [name for name, form in tree.json_forms.items() if not form and _fits(tree, name)])
    for names in splits.values():
        if len({re.sub(r"\d+", "", name) for name in names}) > 1:
            raise DataError(f"{tree.root}: several tables describe images: {', '.join(names[:5])}", "name one of them")
    return splits


def _fits(tree: Tree, name: str) -> bool:
    """Return whether a file's first row has an image and a caption or box."""
    path = tree.path(name)
    try:
        _, row = next(_rows(path), ("", None))
        if not isinstance(row, Mapping):
            return False
        columns = choose(TableForm(), list(row), path)
    except DataError as error:
        tree.broken[name] = error
        return False
    except RecipeError as error:
        if "column" not in error.message:  # a package is missing
            raise
        return False
    has_content = columns.corners or {"captions", "boxes", "bbox"} & columns.names.keys()
    return bool(has_content) or row.keys() >= set(VIA_CSV)


def read(collector: SourceCollector, files: list[Path]) -> None:
    for file in files:
        read_file(collector, file, TableForm())


def read_file(collector: SourceCollector, file: Path, form: TableForm) -> None:
    """Read a table.

    Raises DataError with file, line and field of the first bad row, RecipeError for unknown columns.
    """
    reader: _Reader | None = None
    for location, row in _rows(file, collector.unread(file)):
        if not isinstance(row, Mapping):
            raise RecordError(location, "", f"a row must be an object, got {type(row).__name__}", "one object per row")
        if row.keys() >= set(VIA_CSV):
            read_via_table(collector, file)
            return
        reader = reader or _Reader(collector, file, form)
        reader.add(row, location)
    if reader is None:
        raise DataError(f"{file}: has no rows", "give a table with at least one image")
    if missing := [column for column in form.columns.values() if column not in reader.present]:
        raise RecipeError(f"{file}: has no column {missing[0]!r}", guess(missing[0], reader.present))


def _rows(file: Path, unread: Counter[str] | None = None) -> Iterator[tuple[str, object]]:
    """Yield (location, row) of a table; the names of Flickr's text files imply their separator and columns."""
    base = file.name.lower()
    if FLICKR in base and base.endswith((".txt", ".token")):
        for location, row in read_values(file, table=TableFormat("\t", quotes=False, header=("image", "caption"))):
            assert isinstance(row, dict)
            yield location, {**row, "image": row["image"].rpartition("#")[0] or row["image"]}
        return
    separator = SEPARATORS.get(kind_of_file(file.name), "," if base == "captions.txt" else "")
    if separator and not base.endswith(".gz"):
        with open_file(file) as opened:
            first = opened.readline()
        other = next((other for other in OTHER_SEPARATORS if other.encode() in first), separator)
        if separator.encode() not in first and other != separator:
            for location, row in read_values(file, table=TableFormat(other, quotes=other != "|")):
                assert isinstance(row, dict)
                yield location, {name.strip(): cell.strip() for name, cell in row.items()}
            return
    fields = [name for name in COLUMNS["image"] if name != "images"]  # an object with `images` wraps a list of them
    yield from read_values(file, own_fields=fields, unread=unread, table=TableFormat(separator))


def _class_descriptions(collector: SourceCollector, file: Path) -> dict[str, str]:
    """Return names for the label codes of Open Images, from class-descriptions*.csv next to the table."""
    for path in sorted(file.parent.glob("*class-descriptions*.csv")):
        collector.files.add(path)
        rows = read_values(path, table=TableFormat(header=("LabelName", "DisplayName")))
        return {row["LabelName"]: row["DisplayName"] for _, row in rows if isinstance(row, dict)}
    return {}


class _Reader:
    """Reads the rows of one table. Columns are chosen per set of fields, because JSON rows may differ."""

    def __init__(self, collector: SourceCollector, file: Path, form: TableForm) -> None:
        self.collector, self.file, self.form, self.unread = collector, file, form, collector.unread(file)
        self.class_names = _class_descriptions(collector, file)
        self.present: dict[str, None] = {}
        self._columns: dict[tuple[str, ...], Columns] = {}

    def add(self, row: JsonObject, location: str) -> None:
        fields = tuple(row)
        if (columns := self._columns.get(fields)) is None:
            self.present.update(dict.fromkeys(fields))
            where = location if self._columns else self.file
            columns = self._columns[fields] = choose(self.form, fields, where)
            self.collector.unread(self.file, columns.used)
        count_unread(row, columns.used, self.unread)
        names, images = columns.names, self.collector.images
        id_field = names.get("id", "id")
        key = _id(row.get(id_field) if "id" in names else None, location, id_field)
        path = self._image(row[names["image"]], location, names["image"], key)
        if path is None:
            return
        before = images.get(path)
        captions = self._captions(row, names["captions"], location) if "captions" in names else []
        boxes, crowds = self._boxes(row, columns, path, location)
        if before is not None:  # merge rows of one image; with a box per row, the id is the box's
            captions = [caption for caption in captions if caption not in before.captions]
            boxes = boxes if columns.corners else [box for box in boxes if box not in before.boxes]
            key = before.id if columns.corners else key
            if key != before.id:
                raise RecordError(
                    location, id_field, f"an earlier row gives {path.name} the id {before.id!r}", "one id per image"
                )
        self.collector.add(path, captions=dict.fromkeys(captions), boxes=boxes, crowds=crowds, id=key)

    def _captions(self, row: JsonObject, field: str, location: str) -> list[str]:
        captions = []
        for value in _list(row.get(field), location, field):
            if isinstance(value, Mapping):  # Karpathy's splits of COCO and Flickr: {"raw": …, "tokens": …}
                name = next((name for name in ("raw", "caption", "text") if name in value), "")
                if not name:
                    problem = f"expected a text or a list, got {shown(dict(value))}"
                    raise RecordError(location, field, problem, "correct the row")
                count_unread(value, (name, "tokens", "imgid", "sentid"), self.unread, f"{field}[].")
                value = value.get(name)
            if caption := self.collector.caption(value, location, field, self.file):
                captions.append(caption)
        return captions

    def _boxes(self, row: JsonObject, columns: Columns, path: Path, location: str) -> tuple[list[Box], list[str]]:
        """Return (boxes, labels of crowds) of a row."""
        names = columns.names
        if columns.corners:
            label, box = self._row_box(row, columns, path, location)
            is_crowd = str(row.get(names.get("group", ""), "")).lower() in ("1", "true")
            return ([], [label]) if box and is_crowd else ([box] if box else [], [])
        if "boxes" in names:
            return self._listed_boxes(row[names["boxes"]], names["boxes"], path, location)
        if "bbox" in names:
            bbox, labels = _parsed(row[names["bbox"]], location, names["bbox"]), row[names["label"]]
            if bbox in (None, "", []):
                return [], []
            is_single = isinstance(bbox, list) and not isinstance(bbox[0], list | tuple)
            labels = [labels] if is_single else _parsed(labels, location, names["label"])
            cell = {"bbox": [bbox] if is_single else bbox, "categories": labels}
            return self._listed_boxes(cell, names["bbox"], path, location)
        return [], []

    def _row_box(self, row: JsonObject, columns: Columns, path: Path, location: str) -> tuple[str, Box | None]:
        """Return (label, the row's one box); no box if its cells are empty, for an image without objects."""
        if all(is_missing(row.get(column)) for column in columns.corners):
            return "", None
        values = numbers(row, "", columns.corners, location)
        field = columns.names["label"]
        label = label_of(row.get(field), location, field)
        if label.startswith(OPEN_IMAGES) and label not in self.class_names:
            hint = "put class-descriptions-boxable.csv next to the table; Open Images offers it"
            raise RecordError(location, field, f"{label!r} is a code, and no file says what it means", hint)
        label = self.class_names.get(label, label)
        size: tuple[float, float] = (1, 1)
        if columns.form != "relative":
            if self.form.boxes is None and 0 < max(values) <= 1:
                hint = "say how they are written: --boxes-as relative, pixels or coco"
                raise RecordError(location, columns.corners[0], f"{values} in pixels is a box of one pixel", hint)
            size = self.collector.size_of(path, location, _stated_size(row, columns, location))
        return label, box_in_form(label, values, columns.form, size, location, columns.corners[0])

    def _listed_boxes(self, cell: object, field: str, path: Path, location: str) -> tuple[list[Box], list[str]]:
        """Return (boxes, labels of crowds) of a cell: a list of boxes, or {"bbox": […], "categories": […]}."""
        usual: BoxForm = "relative"
        crowds: list[str] = []
        cell = _parsed(cell, location, field)
        if isinstance(cell, Mapping):
            usual = "coco"
            cell, crowds = objects_in(cell, location, field, self.unread)
        listed = _list(cell, location, field)
        form = self.form.boxes or usual
        size = self.collector.size_of(path, location) if listed and form != "relative" else (1, 1)
        items = ((f"{field}[{k}]", item) for k, item in enumerate(listed) if item != "")
        return [listed_box(item, form, size, location, name, self.unread) for name, item in items], crowds

    def _image(self, cell: object, location: str, field: str, key: str) -> Path | None:
        """Return the file of a row's image; an image inside the table is written to a file first."""
        if isinstance(cell, list) and len(cell) == 1:
            cell = cell[0]
        if isinstance(cell, bytes):
            cell = {"bytes": cell}
        if isinstance(cell, Mapping):
            count_unread(cell, ("bytes", "path"), self.unread, f"{field}.")
            content = cell.get("bytes")
            if isinstance(content, bytes):
                return self._written(content, key)
            if content:
                hint = "write the images to files and name those, or save the table as parquet"
                raise RecordError(location, field, "has the image's bytes as text, which is not read", hint)
            cell = cell.get("path")
        if field.lower() in ("imageid", "image_id") and isinstance(cell, str) and "." not in cell:
            return self.collector.find(f"{cell}.jpg", location, field, f"{cell}.png")
        return self.collector.find(cell, location, field)

    def _written(self, content: bytes, key: str) -> Path | None:
        """Write an image inside the table to a file; the same bytes under another id get a second file."""
        source = hashlib.sha256(str(self.collector.source).encode()).hexdigest()[:16]
        folder = self.collector.unpack_to or user_cache() / "images" / source
        folder.mkdir(parents=True, exist_ok=True)
        path = self.collector.readable(folder / write_image(content, folder))
        before = None if path is None else self.collector.images.get(path)
        if path is not None and before is not None and before.id != key:
            path = path.with_stem(f"{path.stem}-{hashlib.sha256(key.encode()).hexdigest()[:8]}")
            path.write_bytes(content)
        return path


def _id(value: object, location: str, field: str) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise RecordError(location, field, f"expected text or a whole number, got {value!r}", "correct the row")
    return str(value)


def _parsed(cell: object, location: str, field: str) -> object:
    """Return a cell; if it contains a JSON list or object, that value."""
    if isinstance(cell, str) and cell.lstrip().startswith(("[", "{")):
        return parse_json(cell, f"{location}:{field}", first_line=1)
    return cell


def _list(cell: object, location: str, field: str) -> list[object]:
    """Return a cell as a list. The cell is empty, one text, a list, or a list written as JSON."""
    cell = _parsed(cell, location, field)
    if cell is None or isinstance(cell, list):
        return cell or []
    if isinstance(cell, str | Mapping) or is_missing(cell):
        return [cell]
    raise RecordError(location, field, f"expected a text or a list, got {str(cell)[:40]!r}", "correct the row")


def _stated_size(row: JsonObject, columns: Columns, location: str) -> tuple[float, float] | None:
    sides = {side: row.get(columns.names.get(side, "")) for side in ("width", "height")}
    if columns.form == "coco" or any(side in (None, "", 0, "0") for side in sides.values()):
        return None
    width, height = numbers(sides, "", ("width", "height"), location)
    return width, height


FOLDERS = ("@ @/images @/Images", "{split}", "images/{split}", "images", ".")
IMAGE_FOLDER = Family("metadata.jsonl or .csv", find_metadata, read, FOLDERS)
TABLE = Family("a table with a column of images and captions or boxes", find, read, FOLDERS)

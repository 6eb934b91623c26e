"""A table of pictures as AnnotatedImages: JSON lines, a JSON list, CSV, TSV or parquet, one picture (or caption) a row.

FILE with the columns image, captions?, boxes?, id? under any names -> rows -> AnnotatedImage; rows of one picture join
A cell of captions is a text or a list of texts, a cell of boxes a list of {"label", "box"} or [label, a, b, c, d]; in
CSV and TSV lists are written as JSON.
"""

from __future__ import annotations

import csv
import math
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from typing import Any, Literal, get_args

from PIL import Image

from vistune import picture_files
from vistune.errors import DataError, RecipeError
from vistune.files import parse_json, read_jsonl, read_text
from vistune.registry import guess
from vistune.types import AnnotatedImage, Box

BoxForm = Literal["relative", "pixels", "coco"]
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
COLUMNS: Mapping[str, tuple[str, ...]] = {  # names that are found without being told
    "image": ("image", "file_name", "image_path"),
    "captions": ("captions", "caption"),
    "boxes": ("boxes",),
    "id": ("id",),
}


@dataclass(frozen=True, slots=True)
class TableForm:
    """How a table is to be read.

    columns: which column holds image, captions, boxes, id · images: the folder that `image` is relative to, the
    table's own without it · boxes: `relative` corners 0-1, corners in `pixels`, or `coco` (x, y, width, height in
    pixels).
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    images: Path | None = None
    boxes: BoxForm = "relative"

    def __post_init__(self) -> None:
        for name in self.columns:
            if name not in COLUMNS:
                raise RecipeError(f"--columns {name}={self.columns[name]}: no such field", guess(name, COLUMNS))
        if self.boxes not in get_args(BoxForm):
            hint = "relative (corners 0-1), pixels (corners) or coco (x, y, width, height in pixels)"
            raise RecipeError(f"--boxes-as {self.boxes!r}: no such form of boxes", hint)


def read_table(path: Path, form: TableForm) -> list[AnnotatedImage]:
    """The pictures of a table in the order of their first rows.

    Raises DataError naming file, line and field of the first row that is wrong, RecipeError for unknown columns.
    """
    folder = form.images or path.parent
    if not folder.is_dir():
        raise DataError(f"{folder}: no such picture folder", "check --images")
    rows, find, found = _rows(path), _Finder(folder), dict[Path, AnnotatedImage]()
    names: dict[str, str] | None = None
    for place, row in rows:
        if not isinstance(row, Mapping):
            raise DataError(f"{place}: a row must be an object, got {type(row).__name__}", "one object a row")
        names = names or _choose(form.columns, list(row), path)
        image = _image(place, {name: row.get(column) for name, column in names.items()}, names, find, form.boxes)
        before = found.get(image.path)
        if before is not None and before.id != image.id:
            raise DataError(f"{place}:{names['id']}: {image.path.name} was {before.id!r} before", "one id a picture")
        found[image.path] = image if before is None else _joined(before, image)
    if not found:
        raise DataError(f"{path}: holds no rows", "give a table with at least one picture")
    _refuse_shared_ids(found.values(), path)
    return list(found.values())


def read_pictures(folder: Path) -> list[AnnotatedImage]:
    """A folder of pictures, by name; a text file beside one, of the same name, holds its captions, one a line.

    Of a picture without such a file nothing is known: a teacher must see it.
    """
    paths = sorted(
        path for path in folder.iterdir() if path.suffix.lower() in picture_files.SUFFIXES and path.is_file()
    )
    images = [AnnotatedImage(path.stem, path, _captions_beside(path)) for path in paths]
    _refuse_shared_ids(images, folder)
    return images


def _captions_beside(picture: Path) -> tuple[str, ...]:
    path = picture.with_suffix(".txt")
    if not path.is_file():
        return ()
    lines = enumerate(read_text(path).splitlines(), start=1)
    return tuple(dict.fromkeys(text for number, line in lines if (text := _text(line, f"{path}:{number}"))))


def _joined(first: AnnotatedImage, second: AnnotatedImage) -> AnnotatedImage:
    """Two rows of one picture: every caption once, and the boxes of both."""
    captions = tuple(dict.fromkeys([*first.captions, *second.captions]))
    boxes = first.boxes + tuple(box for box in second.boxes if box not in first.boxes)
    return AnnotatedImage(first.id, first.path, captions, boxes)


def _refuse_shared_ids(images: Iterable[AnnotatedImage], place: Path) -> None:
    seen: dict[str, Path] = {}
    for image in images:
        if (other := seen.setdefault(image.id, image.path)) != image.path:
            raise DataError(
                f"{place}: {other} and {image.path} share the id {image.id!r}", "name them apart, or add an id column"
            )


def _choose(wanted: Mapping[str, str], present: list[str], path: Path) -> dict[str, str]:
    """The column of each field, as told or by its usual name; only `image` must be there."""
    chosen = {}
    for name, usual in COLUMNS.items():
        if name in wanted:
            if wanted[name] not in present:
                raise RecipeError(f"{path}: has no column {wanted[name]!r}", guess(wanted[name], present))
            chosen[name] = wanted[name]
        elif column := next((column for column in usual if column in present), None):
            chosen[name] = column
    if "image" not in chosen:
        hint = f"name it: --columns image=…; the columns are {', '.join(map(str, present))}"
        raise RecipeError(f"{path}: no column of pictures", hint)
    return chosen


def _image(
    place: str, row: Mapping[str, Any], names: Mapping[str, str], find: _Finder, form: BoxForm
) -> AnnotatedImage:
    path = find(row["image"], f"{place}:{names['image']}")
    captions, boxes = (_list(row.get(name), f"{place}:{names.get(name, name)}") for name in ("captions", "boxes"))
    size = None
    if boxes and form != "relative":
        size = _size(path, place)
    key = row.get("id")
    if key is not None and (isinstance(key, bool) or not isinstance(key, str | int) or not str(key).strip()):
        raise DataError(f"{place}:{names['id']}: text or a whole number is wanted, got {key!r}", "mend the row")
    return AnnotatedImage(
        path.stem if key is None else str(key),
        path,
        tuple(_text(text, f"{place}:{names.get('captions')}") for text in captions if text != ""),
        tuple(_box(box, f"{place}:{names.get('boxes')}[{k}]", form, size) for k, box in enumerate(boxes)),
    )


def _size(path: Path, place: str) -> tuple[int, int]:
    """(width, height) of a picture, from its header. Raises DataError where it is none of those that are read."""
    try:
        with Image.open(path, formats=picture_files.FORMATS) as picture:
            return picture.size
    except picture_files.DAMAGE:
        hint = f"convert it to {', '.join(picture_files.FORMATS)}, or give relative boxes"
        raise DataError(f"{place}: {path} is no picture that can be read", hint) from None


def _list(cell: Any, place: str) -> list[Any]:
    """A cell as a list: nothing, one text, a list, or a list written as JSON."""
    if cell is None or cell == "":
        return []
    if isinstance(cell, str):
        return parse_json(cell, place, first_line=1) if cell.lstrip().startswith("[") else [cell]
    if isinstance(cell, list):
        return cell
    raise DataError(f"{place}: a text or a list is wanted, got {str(cell)[:40]!r}", "mend the row")


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{place}: text is wanted, got {value!r}", "mend the row")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(f"{place}: a lone surrogate is no text", "mend the row") from None
    return " ".join(value.split())


def _box(value: Any, place: str, form: BoxForm, size: tuple[int, int] | None) -> Box:
    """A box of any of the forms as relative corners. Raises DataError saying what is wrong with it."""
    attributes: Any = {}
    if isinstance(value, Mapping):
        label, corners = value.get("label"), value.get("box", value.get("bbox"))
        attributes = value.get("attributes") or {}
    elif isinstance(value, list) and len(value) == 5:
        label, *corners = value
    else:
        label = corners = None
    if not isinstance(label, str) or not isinstance(corners, list) or len(corners) != 4:
        hint = 'write {"label": "dog", "box": [x0, y0, x1, y1]} or ["dog", x0, y0, x1, y1]'
        raise DataError(f"{place}: no box: {str(value)[:60]}", hint)
    if any(isinstance(c, bool) or not isinstance(c, int | float) or not math.isfinite(c) for c in corners):
        raise DataError(f"{place}: four numbers are wanted, got {corners}", "mend the row")
    if not isinstance(attributes, Mapping) or not all(isinstance(item, str) for item in attributes.values()):
        raise DataError(f"{place}: attributes must be texts by name", 'write for example {"color": "red"}')
    x0, y0, x1, y1 = corners
    if form == "coco":
        x1, y1 = x0 + x1, y0 + y1
    wide, high = size or (1, 1)
    x0, y0, x1, y1 = x0 / wide, y0 / high, x1 / wide, y1 / high
    slack = 0.01  # rounding, and boxes drawn a little over the edge
    if not (-slack <= x0 <= x1 <= 1 + slack and -slack <= y0 <= y1 <= 1 + slack):
        hint = "say how they are written: --boxes-as relative, pixels or coco (x, y, width, height)"
        raise DataError(f"{place}: {corners} is no box of form {form!r} in this picture", hint)
    x0, y0, x1, y1 = (min(max(c, 0.0), 1.0) for c in (x0, y0, x1, y1))
    return Box(_text(label, place), x0, y0, x1, y1, dict(attributes))


class _Finder:
    """Pictures below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inside = folder.resolve()

    def __call__(self, name: Any, place: str) -> Path:
        if isinstance(name, Mapping):  # as Hugging Face's datasets hold a picture
            if name.get("path") is None or name.get("bytes"):
                raise DataError(f"{place}: holds the picture itself", "write the pictures to files and name those")
            name = name["path"]
        if not isinstance(name, str) or not name.strip() or "\0" in name:
            raise DataError(f"{place}: a picture's path is wanted, got {str(name)[:60]!r}", "mend the row")
        path = self.folder / name
        if Path(name).is_absolute() or not path.resolve().is_relative_to(self.inside):
            raise DataError(f"{place}: {name!r} leads out of {self.folder}", "give a path below --images")
        if not path.is_file():
            near = _nearest(path)
            hint = f"did you mean {str(Path(name).with_name(near))!r}?" if near else "check --images and the name"
            raise DataError(f"{place}: no picture {name!r} in {self.folder}", hint)
        return path


def _nearest(path: Path) -> str | None:
    """A file beside where `path` should be, written alike but for case or Unicode form, else the most similar one."""
    plain = {_plain(entry.name): entry.name for entry in path.parent.iterdir()} if path.parent.is_dir() else {}
    near = get_close_matches(_plain(path.name), plain, n=1, cutoff=0.6)
    return plain[near[0]] if near else None


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(place, row) of a table by its suffix; the place is `file:line`."""
    readers: Mapping[str, Callable[[Path], Iterator[tuple[str, Any]]]] = {
        ".jsonl": lambda path: ((f"{path}:{line}", row) for line, row in read_jsonl(path)),
        ".json": _json_rows,
        ".csv": lambda path: _separated(path, ","),
        ".tsv": lambda path: _separated(path, "\t"),
        ".parquet": _parquet_rows,
    }
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: is no table of a kind that can be read", f"save it as one of {', '.join(SUFFIXES)}")
    return readers[path.suffix.lower()](path)


def _json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    tree = parse_json(read_text(path), str(path), first_line=1)
    if not isinstance(tree, list):
        raise DataError(f"{path}: a list of rows is wanted, got {type(tree).__name__}", "write [{...}, ...]")
    yield from ((f"{path}: [{number}]", row) for number, row in enumerate(tree))


def _separated(path: Path, separator: str) -> Iterator[tuple[str, Any]]:
    """Rows of a CSV or TSV file; the first line names the columns."""
    reader = csv.reader(StringIO(read_text(path), newline=""), delimiter=separator, strict=True)
    try:
        header = next(reader, [])
        if len(set(header)) != len(header):
            raise DataError(f"{path}:1: a column stands twice: {header}", "name the columns apart")
        line = reader.line_num + 1
        for row in reader:
            if row and len(row) != len(header):
                raise DataError(f"{path}:{line}: {len(row)} cells in {len(header)} columns", "quote cells with commas")
            if row:
                yield f"{path}:{line}", dict(zip(header, row, strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not {path.suffix[1:].upper()}: {error}", "mend the line") from None


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise RecipeError(f"{path}: parquet needs pyarrow", "pip install 'vistune[parquet]'") from None
    if not path.is_file():
        raise DataError(f"{path}: no such file", "check the path")
    try:
        file = parquet.ParquetFile(path)
        number = 0
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                yield f"{path}: row {number}", row
                number += 1
    except (OSError, ValueError) as error:  # pyarrow's own errors are among them
        raise DataError(f"{path}: cannot be read as parquet: {str(error)[:120]}", "write it again") from None

"""Files to Samples: LLaVA JSON lists and messages JSONL, every row proved at the door.

file or folder + picture folders -> rows with the line each begins on -> Samples, or rejects with a reason
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vistune.data.faults import RowError, shown
from vistune.data.pictures import PictureFolders
from vistune.data.rows import SEE, kind_of, read_row
from vistune.errors import DataError
from vistune.files import read_json, read_text
from vistune.recipe import DataSource
from vistune.types import Reject, Sample

_SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True, slots=True)
class Written:
    """A row as it stands in its file's text: the line it begins on, its characters, its value or what is wrong."""

    line: int
    begin: int
    end: int
    value: Any


@dataclass(slots=True)
class ReadResult:
    """Samples in file order, what was set aside, how often something was mended, and the kinds of all rows."""

    samples: list[Sample] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    warnings: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    rows: int = 0


def read_samples(
    source: DataSource,
    *,
    kinds: tuple[str, ...] | None = None,
    on_bad_sample: Literal["raise", "reject"] = "raise",
    find_pictures: bool = True,
) -> ReadResult:
    """All rows of a source whose kind is wanted; the source's own `kinds` go before the stage's.

    Raises DataError at the first bad row, unless told to reject; a JSON list that breaks off cannot be read past the
    break. Without `find_pictures` no picture need be there: names are kept as they stand.
    """
    path = data_file(source.file)
    pictures = PictureFolders(folders_of(path, source.images) if find_pictures else None)
    wanted = source.kinds or kinds
    result = ReadResult()
    for written in written_rows(path, read_text(path)):
        line, row = written.line, written.value
        result.rows += 1
        place = f"{path}:{line}"
        try:
            if isinstance(row, RowError):
                raise row
            if not isinstance(row, dict):
                raise RowError(place, "", f"a row must be an object, got {type(row).__name__}", SEE)
            kind = kind_of(row, place)
            result.kinds[kind] += 1
            if wanted and not kind:
                raise RowError(
                    place,
                    "kind",
                    f"the row has none, but the recipe chooses {', '.join(wanted)}",
                    "add `kind` to the rows, or set the stage's kinds to null",
                )
            if not wanted or kind in wanted:
                result.samples.append(read_row(row, place, pictures, result.warnings))
        except RowError as error:
            if on_bad_sample == "raise":
                raise
            name = row.get("id", "") if isinstance(row, dict) else ""
            result.rejects.append(Reject(printable(name), place, error.reason, str(error)))
    if not result.rows:
        raise DataError(f"{path}: holds no rows", "give a file with at least one sample")
    if source.kinds and not result.samples and not result.rejects:
        refuse_unknown_kinds(result.kinds, source.kinds, str(path))
    return result


def refuse_unknown_kinds(known: Iterable[str], wanted: tuple[str, ...], place: str) -> None:
    """No row of any file is of a wanted kind: raises DataError naming the kinds that there are."""
    raise DataError(
        f"{place}: no row of the kind {', '.join(wanted)}; there are {', '.join(sorted(known))}",
        "choose other kinds in the recipe",
    )


def pictures_of(source: DataSource) -> dict[str, Path | None]:
    """Every picture that a source's good rows name, and where it lies; None where it is not there."""
    samples = read_samples(source, on_bad_sample="reject", find_pictures=False).samples
    folders = PictureFolders(folders_of(data_file(source.file), source.images))
    found: dict[str, Path | None] = {}
    for name in dict.fromkeys(str(picture.source) for sample in samples for picture in sample.pictures):
        try:
            found[name] = Path(str(folders.find(name, str(source.file), "image").source))
        except RowError:
            found[name] = None
    return found


def data_file(path: Path) -> Path:
    """A file, or the samples.json or messages.jsonl of a folder that `generate` wrote."""
    if not path.is_dir():
        return path
    for name in ("samples.json", "messages.jsonl"):
        if (path / name).is_file():
            return path / name
    raise DataError(f"{path}: holds neither samples.json nor messages.jsonl", "name the data file itself")


def folders_of(path: Path, images: Path | None) -> list[Path]:
    """Where pictures lie: as told, else as images.json beside the file says, else beside the file."""
    if images is not None:
        if not images.is_dir():
            raise DataError(f"{images}: no such picture folder", "check --images, or the recipe's data.images")
        return [images]
    beside = path.parent / "images.json"
    if not beside.is_file():
        return [path.parent]
    tree = read_json(beside)
    folders = tree.get("folders") if isinstance(tree, dict) else None
    if not isinstance(folders, list) or not all(isinstance(folder, str) for folder in folders):
        raise DataError(f"{beside}: folders: a list of folders is wanted", 'write {"folders": ["…"]}')
    return [path.parent / folder for folder in folders]


def written_rows(path: Path, content: str) -> Iterator[Written]:
    """The rows of a file's text: a JSON list or JSON lines, told apart by the first character.

    Raises DataError where the file is empty, or a list breaks off.
    """
    if not content.strip():
        raise DataError(f"{path}: is empty", "give a file with at least one sample")
    return _list_rows(content, path) if content.lstrip()[0] == "[" else _line_rows(content, path)


def _line_rows(content: str, path: Path) -> Iterator[Written]:
    values = _Values()
    begin = after = 0
    for line, written in enumerate(content.split("\n"), start=1):
        begin, after = after, after + len(written) + 1
        if not written.strip():
            continue
        place, last = f"{path}:{line}", begin + len(written)
        try:
            row, end = values.at(written, _after_space(written, 0), place)
            if _after_space(written, end) < len(written):
                raise RowError(place, "", f"not JSON: more text after the value, at column {end + 1}", "one row a line")
            yield Written(line, begin, last, row)
        except RowError as error:
            yield Written(line, begin, last, error)
        except json.JSONDecodeError as error:
            wrong = RowError(place, "", f"not JSON at column {error.colno}: {error.msg}", "mend or remove the line")
            yield Written(line, begin, last, wrong)


def _list_rows(content: str, path: Path) -> Iterator[Written]:
    values = _Values()
    at, counted, line = content.index("[") + 1, 0, 1

    def broken(where: int, problem: str, hint: str) -> DataError:
        return DataError(f"{path}:{1 + content.count(chr(10), 0, where)}: {problem}", hint)

    separator = False
    while True:
        at = _after_space(content, at)
        if at >= len(content):
            raise broken(at, "the list is cut off", "the file is incomplete: write it again")
        if content[at] == "]" and not separator:
            break
        line, counted = line + content.count("\n", counted, at), at
        try:
            row, end = values.at(content, at, f"{path}:{line}")
            yield Written(line, at, end, row)
        except RowError as error:
            end = values.end
            yield Written(line, at, end, error)
        except json.JSONDecodeError as error:
            raise broken(error.pos, f"not JSON: {error.msg}", "mend or remove the row") from None
        at = _after_space(content, end)
        separator = content[at : at + 1] == ","
        if separator:
            at += 1
        elif at < len(content) and content[at] != "]":
            raise broken(at, f"not JSON: a comma or ] is wanted, got {shown(content[at])}", "mend the list")
    if (rest := _after_space(content, at + 1)) < len(content):
        raise broken(rest, "more text after the end of the list", "one list a file; or write JSON lines")


def _after_space(content: str, at: int) -> int:
    found = _SPACE.match(content, at)
    assert found is not None  # it matches nothing too
    return found.end()


class _Values:
    """JSON values out of the middle of a text; NaN and Infinity, which other readers refuse, are faults."""

    def __init__(self) -> None:
        self.constants: list[str] = []
        self.decoder = json.JSONDecoder(parse_constant=self.constants.append)
        self.end = 0

    def at(self, content: str, start: int, place: str) -> tuple[Any, int]:
        """The value that begins at `start`, and where it ends (kept in `end`). Raises RowError or JSONDecodeError."""
        self.constants.clear()
        try:
            value, self.end = self.decoder.raw_decode(content, start)
        except json.JSONDecodeError:
            raise
        except (RecursionError, ValueError) as error:  # brackets without end, a number of thousands of digits
            raise json.JSONDecodeError(str(error), content, start) from None
        if self.constants:
            raise RowError(place, "", f"{self.constants[0]} is not JSON", "write a number or null")
        return value, self.end


def printable(name: Any) -> str:
    return str(name).encode(errors="replace").decode().replace("\0", "?")

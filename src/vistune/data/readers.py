"""Data files as they lie on disk: where a source's rows and pictures are, and a file's text cut into rows.

source -> file, picture folders · text, a JSON list or JSON lines -> rows, each with its place
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from vistune.data.faults import RowError, shown
from vistune.errors import DataError
from vistune.files import read_json

_SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True, slots=True)
class Written:
    """A row as it stands in its file's text: the line it begins on, its characters, its value or what is wrong.

    `nth`: its number in the list where an earlier row begins on the same line, else 0.
    """

    line: int
    nth: int
    begin: int
    end: int
    value: Any


def place_of(path: Path, line: int, nth: int = 0) -> str:
    """`path:line`, and `path:line[17]` for a row of a list that shares its line with the one before."""
    return f"{path}:{line}[{nth}]" if nth else f"{path}:{line}"


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
        place, last = place_of(path, line), begin + len(written)
        try:
            row, end = values.at(written, _after_space(written, 0), place)
            if _after_space(written, end) < len(written):
                raise RowError(place, "", f"not JSON: more text after the value, at column {end + 1}", "one row a line")
            yield Written(line, 0, begin, last, row)
        except RowError as error:
            yield Written(line, 0, begin, last, error)
        except json.JSONDecodeError as error:
            wrong = RowError(place, "", f"not JSON at column {error.colno}: {error.msg}", "mend or remove the line")
            yield Written(line, 0, begin, last, wrong)


def _list_rows(content: str, path: Path) -> Iterator[Written]:
    values = _Values()
    at, counted, line, line_before = content.index("[") + 1, 0, 1, 0

    def broken(where: int, problem: str, hint: str) -> DataError:
        return DataError(f"{path}:{1 + content.count(chr(10), 0, where)}: {problem}", hint)

    separator = False
    for number in count():
        at = _after_space(content, at)
        if at >= len(content):
            raise broken(at, "the list is cut off", "the file is incomplete: write it again")
        if content[at] == "]" and not separator:
            break
        line, counted = line + content.count("\n", counted, at), at
        nth, line_before = number if line == line_before else 0, line
        try:
            row, end = values.at(content, at, place_of(path, line, nth))
            yield Written(line, nth, at, end, row)
        except RowError as error:
            end = values.end
            yield Written(line, nth, at, end, error)
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

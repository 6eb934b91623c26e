"""A data file cut into rows where they lie: a JSON list, or JSON lines, which are read one by one.

file -> Written rows: place, bytes, value or what is wrong with it

A file of lines is never held whole, however long a line is. A list is one JSON value and is.
"""

from __future__ import annotations

import codecs
import json
import math
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from itertools import count
from pathlib import Path
from typing import BinaryIO

from vistune.data.faults import RowError, shown
from vistune.errors import DataError

LARGEST_ROW_BYTES = 16 * 2**20  # of JSON; pictures lie in files of their own
_SPACE = re.compile(r"[ \t\n\r]*")
_LOOK = 1 << 16  # bytes in which the first character is looked for
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of bytes that are not UTF-8


@dataclass(frozen=True, slots=True)
class Written:
    """A row as it stands in its file: the line it begins on, its bytes, its value or what is wrong.

    `nth`: its number in the list where an earlier row begins on the same line, else 0 · `begin`: bytes from the file's
    start · `crc`: of its `size` bytes.
    """

    line: int
    nth: int
    begin: int
    size: int
    crc: int
    value: object


def place_of(path: Path, line: int, nth: int = 0) -> str:
    """`path:line`, and `path:line[17]` for a row of a list that shares its line with the one before."""
    return f"{path}:{line}[{nth}]" if nth else f"{path}:{line}"


def written_rows(path: Path) -> Iterator[Written]:
    """The rows of a file, read as its first character says. Raises DataError where it is empty or a list breaks off."""
    try:
        with open_file(path) as file:
            mark = len(codecs.BOM_UTF8) if file.read(3) == codecs.BOM_UTF8 else 0
            file.seek(mark)
            first = _first_character(file)
            if not first:
                raise DataError(f"{path}: is empty", "give a file with at least one sample")
            file.seek(mark)
            yield from _list_rows(file.read(), mark, path) if first == b"[" else _line_rows(file, mark, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}", "check the path and its permissions") from None


def open_file(path: Path) -> BufferedReader:
    """A regular file of the user's. Raises DataError for a folder, a pipe or a device, which would be read for ever."""
    if not path.exists():
        raise DataError(f"{path}: no such file", "check the path")
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no regular file"
        raise DataError(f"{path}: is {what}, a file is wanted", "name the file itself")
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}", "check its permissions") from None


def _first_character(file: BinaryIO) -> bytes:
    while block := file.read(_LOOK):
        if found := block.lstrip():
            return found[:1]
    return b""


def _line_rows(file: BinaryIO, mark: int, path: Path) -> Iterator[Written]:
    values = _Values()
    begin = mark
    for line in count(1):
        written = file.readline(LARGEST_ROW_BYTES + 1)
        if not written:
            return
        here, place = begin, place_of(path, line)
        begin += len(written)
        if len(written) > LARGEST_ROW_BYTES:
            while (more := file.readline(LARGEST_ROW_BYTES)) and not more.endswith(b"\n"):
                begin += len(more)
            begin += len(more)
            yield Written(line, 0, here, begin - here, 0, _too_large(place))
            continue
        written = written.removesuffix(b"\n")
        if written.strip():
            yield Written(line, 0, here, len(written), zlib.crc32(written), _line_value(written, values, place))


def _line_value(written: bytes, values: _Values, place: str) -> object:
    try:
        text = written.decode()
        value, end = values.at(text, _after_space(text, 0), place)
        if _after_space(text, end) < len(text):
            return RowError(place, "", f"not JSON: more text after the value, at column {end + 1}", "one row a line")
        return value
    except UnicodeDecodeError as error:
        return _not_utf8(place, error.start)
    except RowError as error:
        return error
    except json.JSONDecodeError as error:
        return RowError(place, "", f"not JSON at column {error.colno}: {error.msg}", "mend or remove the line")


def _list_rows(content: bytes, mark: int, path: Path) -> Iterator[Written]:
    try:
        text, damaged = content.decode(), False
    except UnicodeDecodeError:
        text, damaged = content.decode(errors="surrogateescape"), True
    values, bytes_before = _Values(), _byte_offsets(text)
    at, counted, line, line_before = text.index("[") + 1, 0, 1, 0

    def broken(where: int, problem: str, hint: str) -> DataError:
        return DataError(f"{path}:{1 + text.count(chr(10), 0, where)}: {problem}", hint)

    separator = False
    for number in count():
        at = _after_space(text, at)
        if at >= len(text):
            raise broken(at, "the list is cut off", "the file is incomplete: write it again")
        if text[at] == "]" and not separator:
            break
        line, counted = line + text.count("\n", counted, at), at
        nth, line_before = number if line == line_before else 0, line
        place = place_of(path, line, nth)
        value: object
        try:
            value, end = values.at(text, at, place)
        except RowError as error:
            value, end = error, values.end
        except json.JSONDecodeError as error:
            raise broken(error.pos, f"not JSON: {error.msg}", "mend or remove the row") from None
        first, last = bytes_before(at), bytes_before(end)
        if last - first > LARGEST_ROW_BYTES:
            value = _too_large(place)
        elif damaged and (bad := _NOT_UTF8.search(text, at, end)):
            value = _not_utf8(place, len(text[at : bad.start()].encode(errors="surrogateescape")))
        yield Written(line, nth, mark + first, last - first, zlib.crc32(content[first:last]), value)
        at = _after_space(text, end)
        separator = text[at : at + 1] == ","
        if separator:
            at += 1
        elif at < len(text) and text[at] != "]":
            raise broken(at, f"not JSON: a comma or ] is wanted, got {shown(text[at])}", "mend the list")
    if (rest := _after_space(text, at + 1)) < len(text):
        raise broken(rest, "more text after the end of the list", "one list a file; or write JSON lines")


def _too_large(place: str) -> RowError:
    return RowError(place, "", f"larger than {LARGEST_ROW_BYTES >> 20} MB", "a row holds text and the names of files")


def _not_utf8(place: str, byte: int) -> RowError:
    return RowError(place, "", f"not UTF-8 (byte {byte} of the row)", "save the file as UTF-8, or mend the row")


def _byte_offsets(text: str) -> Callable[[int], int]:
    """Where a character stands in the text's bytes; asked in growing order."""
    if text.isascii():
        return lambda place: place
    at, bytes_at = 0, 0

    def offset(place: int) -> int:
        nonlocal at, bytes_at
        bytes_at += len(text[at:place].encode(errors="surrogateescape"))
        at = place
        return bytes_at

    return offset


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None  # it matches nothing too
    return found.end()


class _Values:
    """JSON values out of the middle of a text; NaN, Infinity and what is read as them, such as 1e999, are faults."""

    def __init__(self) -> None:
        self.constants: list[str] = []
        self.decoder = json.JSONDecoder(parse_constant=self.constants.append, parse_float=self._number)
        self.end = 0

    def _number(self, digits: str) -> float:
        number = float(digits)
        if math.isinf(number):
            self.constants.append(digits)
        return number

    def at(self, text: str, start: int, place: str) -> tuple[object, int]:
        """The value that begins at `start`, and where it ends (kept in `end`). Raises RowError or JSONDecodeError."""
        self.constants.clear()
        try:
            value, self.end = self.decoder.raw_decode(text, start)
        except json.JSONDecodeError:
            raise
        except (RecursionError, ValueError) as error:  # brackets without end, a number of thousands of digits
            raise json.JSONDecodeError(str(error), text, start) from None
        if self.constants:
            raise RowError(place, "", f"{self.constants[0][:20]} is not JSON", "write a number or null")
        return value, self.end

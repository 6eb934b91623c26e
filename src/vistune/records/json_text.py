"""Read records from JSON: a list, JSON lines, or one object that contains the list; with each record's byte range.

Lists and JSON lines are read in pieces. An object is loaded whole and parsed once, to find its list of records.
"""

from __future__ import annotations

import codecs
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import IO, Any

from vistune.errors import DataError
from vistune.records.errors import RecordError, location_of, shown

LARGEST_RECORD_BYTES = 16 * 2**20  # of JSON; images are in files of their own
LARGEST_WINDOW_BYTES = 4 * LARGEST_RECORD_BYTES  # a longer value is taken for a broken list
CHUNK_BYTES = 1 << 20  # read at once of a list
_SPACE = re.compile(r"[ \t\n\r]*")
_BETWEEN = re.compile(r"[ \t\n\r]*(,?)[ \t\n\r]*")


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a file: its location, and its value or its error.

    `number`, `nth`: the numbers in `location` (errors.location_of). `begin`, `size`, `crc`: the record's
    byte range and CRC-32, to read it again; -1 if the record cannot be read separately.
    """

    location: str
    value: object
    number: int = 0
    nth: int = 0
    begin: int = -1
    size: int = 0
    crc: int = 0


def read_json(
    file: IO[bytes],
    name: str,
    *,
    own_fields: Collection[str] = (),
    unread: Counter[str] | None = None,
    by_id: tuple[str, str] | None = None,
) -> Iterator[Record]:
    """The records of a JSON file; its first character tells whether it is a list, JSON lines, or one object.

    An object must contain one list whose objects have one of `own_fields` (`{"data": […]}`), or be a record itself. The
    other fields of the object are counted in `unread`. With `by_id`, any other object is a map of ids, see
    `_map_records`. Raises DataError if the file is empty, a list is cut off, or no list of records is found.
    """
    mark = len(codecs.BOM_UTF8) if file.read(3) == codecs.BOM_UTF8 else 0
    file.seek(mark)
    first = _first_character(file)
    if not first:
        raise DataError(f"{name}: is empty", "give a file with at least one record")
    file.seek(mark)
    if first == b"[":
        yield from _list_records(_Window(file, name, mark))
        return
    if first == b"{" and (parsed := _one_object(file, name, mark)) is not None:
        tree, content = parsed
        if by_id is not None and not _lists(tree, own_fields) and not any(field in tree for field in own_fields):
            yield from _map_records(content, name, mark, by_id)
            return
        if unread is not None and not _is_record(tree, own_fields):
            lists = _lists(tree, own_fields)
            unread.update(key for key in tree if key not in lists)
        yield from _object_records(tree, content, name, mark, own_fields)
        return
    file.seek(mark)
    yield from _line_records(file, mark, name)


def _first_character(file: IO[bytes]) -> bytes:
    while block := file.read(1 << 16):
        if rest := block.lstrip():
            return rest[:1]
    return b""


def _line_records(file: IO[bytes], mark: int, name: str) -> Iterator[Record]:
    values = JsonValues()
    begin = mark
    for line in count(1):
        content = file.readline(LARGEST_RECORD_BYTES + 1)
        if not content:
            return
        here, location = begin, location_of(name, line)
        begin += len(content)
        if len(content) > LARGEST_RECORD_BYTES:
            while (more := file.readline(LARGEST_RECORD_BYTES)) and not more.endswith(b"\n"):
                begin += len(more)
            begin += len(more)
            yield Record(location, _too_large(location), line, 0, here, begin - here)
            continue
        content = content.removesuffix(b"\n")
        if content.rstrip().endswith(b"},"):  # the lines of a list without its brackets
            content = content.rstrip()[:-1]
        if content.strip():
            yield Record(location, _line_value(content, values, location), line, 0, here, len(content),
                         zlib.crc32(content))  # fmt: skip


def _line_value(content: bytes, values: JsonValues, location: str) -> object:
    try:
        line = content.decode()
        value, end = values.at(line, _after_space(line, 0), location)
        if _after_space(line, end) < len(line):
            return RecordError(
                location, "", f"not JSON: more text after the value, at column {end + 1}", "write one record per line"
            )
        return value
    except UnicodeDecodeError as error:
        return _not_utf8(location, error.start)
    except RecordError as error:
        return error
    except json.JSONDecodeError as error:
        return RecordError(location, "", f"not JSON at column {error.colno}: {error.msg}", "correct or remove the line")


class _Window:
    """The part of a JSON text that is in memory; `byte` and `line` give the position of `at` in the file."""

    def __init__(self, file: IO[bytes] | None, name: str, byte: int, text: str = "", line: int = 1) -> None:
        self.file, self.name = file, name
        self.decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self.text, self.at = text, 0
        self.byte, self.line = byte, line
        self.chunk_bytes = CHUNK_BYTES

    def next_character(self) -> str:
        """Skip white space. Return the next character without consuming it, or "" at the end."""
        while True:
            if (end := _after_space(self.text, self.at)) > self.at:
                self.skip(end - self.at)
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.read_on():
                return ""

    def next_separator(self) -> bool:
        """Skip white space and at most one comma. Return whether there was a comma."""
        seen = False
        while True:
            separator = _BETWEEN.match(self.text, self.at)
            assert separator is not None  # the pattern also matches the empty string
            end = separator.start(1) if seen else separator.end()  # a second comma is not consumed
            seen = seen or bool(separator[1])
            self.skip(end - self.at)
            if self.at < len(self.text) or not self.read_on():
                return seen

    def skip(self, length: int) -> None:
        """Consume white space or punctuation, one byte per character."""
        self.line += self.text.count("\n", self.at, self.at + length)
        self.byte += length
        self.at += length

    def take(self, length: int) -> tuple[int, int, int | None]:
        """Consume a value of `length` characters.

        Returns: Its size in bytes, its CRC-32, and the index of its first byte that is not UTF-8 (None: all are).
        """
        taken = self.text[self.at : self.at + length]
        bad_byte = None
        try:
            content = taken.encode()
        except UnicodeEncodeError as error:  # `surrogateescape` stands for bytes that are not UTF-8
            content = taken.encode(errors="surrogateescape")
            bad_byte = len(taken[: error.start].encode())
        self.line += content.count(b"\n")
        self.byte += len(content)
        self.at += length
        return len(content), zlib.crc32(content), bad_byte

    def read_on(self) -> bool:
        """Append the next piece of the file to `text`. Return False at the end of the file."""
        if self.file is None:
            return False
        block = self.file.read(self.chunk_bytes)
        piece = self.decoder.decode(block, final=not block)
        self.text, self.at = self.text[self.at :] + piece, 0
        return bool(block)

    def value(self, values: JsonValues, location: str) -> tuple[object, int]:
        """The value at `at`, or a RecordError if it is invalid, and its length. Raises DataError."""
        self.chunk_bytes = CHUNK_BYTES
        while True:
            fault: json.JSONDecodeError
            try:
                value, end = values.at(self.text, self.at, location)
            except RecordError as error:
                value, end = error, values.end
            except json.JSONDecodeError as error:
                value, end, fault = None, -1, error
            if 0 <= end < len(self.text):  # otherwise a number may continue in the next piece
                return value, end - self.at
            line = self.line if end >= 0 else self.line + self.text.count("\n", self.at, max(fault.pos, self.at))
            # An incomplete value looks like a broken one; only more text can tell them apart.
            if len(self.text) - self.at < LARGEST_WINDOW_BYTES and self.read_on():
                self.chunk_bytes *= 2
                continue
            if end >= 0:
                return value, end - self.at
            raise DataError(f"{self.name}:{line}: not JSON: {fault.msg}", "correct or remove the record")


def _list_records(window: _Window, *, rest: bool = False) -> Iterator[Record]:
    """The records of the list that begins at the window. `rest`: whether text may follow the list."""
    values, name = JsonValues(), window.name
    window.next_character()
    window.skip(1)
    line_before, separator, character = 0, False, window.next_character()
    for index in count():
        if not character:
            raise DataError(
                f"{name}:{window.line}: the list is cut off", "the file is incomplete: download or write it again"
            )
        if character == "]" and not separator:
            break
        line, begin = window.line, window.byte
        nth, line_before = index if line == line_before else 0, line
        location = location_of(name, line, nth)
        value, length = window.value(values, location)
        size, crc, bad_byte = window.take(length)
        if bad_byte is not None:
            value = _not_utf8(location, bad_byte)
        if size > LARGEST_RECORD_BYTES:
            value = _too_large(location)
        yield Record(location, value, line, nth, begin, size, crc)
        separator = window.next_separator()
        character = window.text[window.at : window.at + 1]
        if not separator and character and character != "]":
            raise DataError(
                f"{name}:{window.line}: not JSON: expected a comma or ], got {shown(character)}", "correct the list"
            )
    window.skip(1)
    if not rest and window.next_character():
        raise DataError(
            f"{name}:{window.line}: more text after the end of the list", "write one list per file, or JSON lines"
        )


def _one_object(file: IO[bytes], name: str, mark: int) -> tuple[dict[str, Any], str] | None:
    """The file's one JSON object and its text; None for JSON lines. Raises DataError if the object is broken."""
    first = b""
    while not first:
        first = file.readline(LARGEST_RECORD_BYTES + 1).strip()
    is_long = len(first) > LARGEST_RECORD_BYTES
    while is_long and (more := file.readline(LARGEST_RECORD_BYTES)) and not more.endswith(b"\n"):
        pass
    second = b""
    while (line := file.readline(LARGEST_RECORD_BYTES + 1)) and not (second := line.strip()):
        pass
    if is_long:  # an object on one line, or JSON lines of which the first is too long for a record
        is_open = not second
    else:
        try:
            json.loads(first)
            is_open = False
        except (ValueError, RecursionError):
            is_open = bool(second) and (first.endswith((b"{", b"[")) or not second.startswith(b"{"))
            if not is_open:
                return None
    if second and not is_open:
        return None
    file.seek(mark)
    try:
        content = file.read().decode()
        value = json.loads(content)
    except json.JSONDecodeError as error:
        raise DataError(f"{name}:{error.lineno}: not JSON: {error.msg}", "correct it, or write JSON lines") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: not UTF-8 (byte {error.start})", "save the file as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: not JSON that can be read: {str(error)[:80]}", "correct it") from None
    return (value, content) if isinstance(value, dict) else None


def _is_record(tree: Mapping[str, Any], own_fields: Collection[str]) -> bool:
    return not own_fields or any(name in tree for name in own_fields) or not _lists(tree, own_fields)


def _lists(tree: Mapping[str, Any], own_fields: Collection[str]) -> list[str]:
    """The fields that are lists of records, judged by the first entry of each list."""
    lists = [key for key, value in tree.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    return [key for key in lists if not set(own_fields).isdisjoint(tree[key][0])]


def _object_records(
    tree: dict[str, Any], content: str, name: str, mark: int, own_fields: Collection[str]
) -> Iterator[Record]:
    window = _Window(None, name, mark, content)
    if _is_record(tree, own_fields):
        if own_fields and not any(field in tree for field in own_fields) and "\n" in content.strip():
            fields = ", ".join(list(tree)[:10])
            raise DataError(
                f"{name}: is one JSON object ({fields}) in which no list holds the records",
                f"write a list of records, or JSON lines; a record has one of {', '.join(own_fields)}",
            )
        window.next_character()
        location = location_of(name, window.line)
        line, begin = window.line, window.byte
        value, length = window.value(JsonValues(), location)
        size, crc, _ = window.take(length)
        yield Record(location, value, line, 0, begin, size, crc)
        return
    lists = _lists(tree, own_fields)
    if len(lists) > 1:
        raise DataError(
            f"{name}: is one JSON object with {len(lists)} lists of records ({', '.join(lists)})",
            "write the list that holds the records to a file of its own",
        )
    values = JsonValues()
    for key in _keys(window, values):
        if key == lists[0]:
            yield from _list_records(window, rest=True)
            return
        window.take(window.value(values, name)[1])


def _keys(window: _Window, values: JsonValues) -> Iterator[str]:
    """Yield the keys of the object that begins at the window; the caller must consume the value after each key."""
    window.next_character()
    window.skip(1)
    while window.next_character() == '"':
        key, length = window.value(values, window.name)
        window.take(length)
        window.next_character()
        window.skip(1)  # the colon
        window.next_character()
        yield str(key)
        window.next_character()
        window.skip(1)  # the comma


def _map_records(content: str, name: str, mark: int, by_id: tuple[str, str]) -> Iterator[Record]:
    """The entries of an object of ids: `{"7": {…}}` as `{id: "7", …}`, `{"7": value}` as `{id: "7", text: value}`.

    `by_id`: the names of these two fields. A record whose id differs from its key is a RecordError, and so is a
    repeated key.
    """
    window, values, field, other = _Window(None, name, mark, content), JsonValues(), *by_id
    seen: set[str] = set()
    line_before, nth = 0, 0
    for key in _keys(window, values):
        line = window.line
        nth, line_before = nth + 1 if line == line_before else 0, line
        location = location_of(name, line, nth)
        value, length = window.value(values, location)
        window.take(length)
        if isinstance(value, dict):
            if str(value.get(field, key)) != key:
                problem = f"{shown(value[field])} in the record of {shown(key)}"
                value = RecordError(location, field, problem, "keep one of the two ids")
            else:
                value = {field: key, **value}
        elif not isinstance(value, RecordError):
            value = {field: key, other: value}
        if key in seen:
            value = RecordError(location, field, f"{shown(key)} is there twice", "keep one of them")
        seen.add(key)
        yield Record(location, value, line, nth)


def _too_large(location: str) -> RecordError:
    return RecordError(
        location, "", f"larger than {LARGEST_RECORD_BYTES >> 20} MB", "a record holds text and the names of files"
    )


def _not_utf8(location: str, byte: int) -> RecordError:
    return RecordError(location, "", f"not UTF-8 (byte {byte} of the record)", "save the file as UTF-8")


def _after_space(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    assert space is not None  # the pattern also matches the empty string
    return space.end()


class JsonValues:
    """Decode JSON values inside a longer text; refuse NaN, Infinity and numbers such as 1e999."""

    def __init__(self) -> None:
        self.constants: list[str] = []
        self.decoder = json.JSONDecoder(parse_constant=self.constants.append, parse_float=self._number)
        self.end = 0

    def _number(self, digits: str) -> float:
        number = float(digits)
        if math.isinf(number):
            self.constants.append(digits)
        return number

    def at(self, text: str, start: int, location: str) -> tuple[object, int]:
        """The value that begins at `start`, and its end (also in `self.end`). Raises RecordError or JSONDecodeError."""
        self.constants.clear()
        try:
            value, self.end = self.decoder.raw_decode(text, start)
        except json.JSONDecodeError:
            raise
        except (RecursionError, ValueError) as error:  # endless nesting, or a number with thousands of digits
            raise json.JSONDecodeError(str(error), text, start) from None
        if self.constants:
            raise RecordError(location, "", f"{self.constants[0][:20]} is not JSON", "write a number or null")
        return value, self.end

"""Read records from JSON: a list, JSON lines, or one object that contains the list; with each record's byte range.

Lists and JSON lines are read in pieces. An object is loaded whole and parsed once, to find its list of records.
"""

from __future__ import annotations

import codecs
import json
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from itertools import count
from typing import IO, Any

from vistune.errors import DataError
from vistune.records.errors import Record, RecordError, location_of, shown
from vistune.records.json_window import LARGEST_RECORD_BYTES, JsonValues, JsonWindow, after_space


def read_json(
    file: IO[bytes],
    name: str,
    *,
    own_fields: Collection[str] = (),
    unread: Counter[str] | None = None,
    by_id: tuple[str, str] | None = None,
) -> Iterator[Record]:
    """Yield the records of a JSON file. Its first character shows whether it is a list, JSON lines, or one object.

    An object must contain one list whose objects have one of `own_fields` (`{"data": […]}`), or be a record itself. The
    other fields of the object are counted in `unread`. `by_id` is the names of the id field and the text field. If it
    is given, an object without such a list maps ids to records or texts. Raises DataError if the file is empty, a list
    is cut off, or no list of records is found.
    """
    mark = len(codecs.BOM_UTF8) if file.read(3) == codecs.BOM_UTF8 else 0
    file.seek(mark)
    first = _first_character(file)
    if not first:
        raise DataError(f"{name}: is empty", "give a file with at least one record")
    file.seek(mark)
    if first == b"[":
        yield from _list_records(JsonWindow(file, name, mark))
        return
    if first == b"{" and (parsed := _one_object(file, name, mark)) is not None:
        tree, content = parsed
        window = JsonWindow(None, name, mark, content)
        lists, has_own_field = _lists(tree, own_fields), not tree.keys().isdisjoint(own_fields)
        if by_id is not None and not lists and not has_own_field:
            yield from _map_records(window, by_id)
        elif not own_fields or has_own_field or not lists:
            if own_fields and not has_own_field and "\n" in content.strip():
                fields = ", ".join(list(tree)[:10])
                raise DataError(
                    f"{name}: is one JSON object ({fields}) in which no list holds the records",
                    f"write a list of records, or JSON lines; a record has one of {', '.join(own_fields)}",
                )
            yield _only_record(window)
        else:
            if unread is not None:
                unread.update(key for key in tree if key not in lists)
            yield from _wrapped_records(window, lists)
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
        value, end = values.at(line, after_space(line, 0), location)
        if after_space(line, end) < len(line):
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


def _list_records(window: JsonWindow, *, rest: bool = False) -> Iterator[Record]:
    """Yield the records of the list that begins at the window. `rest`: whether text may follow the list."""
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
    """Return the file's one JSON object and its text; None for JSON lines. Raises DataError for a broken object."""
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
        raise DataError(f"{name}: cannot be read as JSON: {str(error)[:80]}", "correct it") from None
    return (value, content) if isinstance(value, dict) else None


def _lists(tree: Mapping[str, Any], own_fields: Collection[str]) -> list[str]:
    """Return the fields that are lists of records, judged by the first entry of each list."""
    lists = [key for key, value in tree.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    return [key for key in lists if not set(own_fields).isdisjoint(tree[key][0])]


def _only_record(window: JsonWindow) -> Record:
    window.next_character()
    location = location_of(window.name, window.line)
    line, begin = window.line, window.byte
    value, length = window.value(JsonValues(), location)
    size, crc, _ = window.take(length)
    return Record(location, value, line, 0, begin, size, crc)


def _wrapped_records(window: JsonWindow, lists: list[str]) -> Iterator[Record]:
    """Yield the records of an object's only list of records."""
    if len(lists) > 1:
        raise DataError(
            f"{window.name}: is one JSON object with {len(lists)} lists of records ({', '.join(lists)})",
            "write the list that holds the records to a file of its own",
        )
    values = JsonValues()
    for key in _keys(window, values):
        if key == lists[0]:
            yield from _list_records(window, rest=True)
            return
        window.take(window.value(values, window.name)[1])


def _keys(window: JsonWindow, values: JsonValues) -> Iterator[str]:
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


def _map_records(window: JsonWindow, by_id: tuple[str, str]) -> Iterator[Record]:
    """Yield the entries of a map of ids: `{"7": {…}}` as `{id: "7", …}`, `{"7": value}` as `{id: "7", text: value}`.

    `by_id`: the names of these two fields. A record whose id differs from its key is a RecordError, and so is a
    repeated key.
    """
    values, (field, other) = JsonValues(), by_id
    seen: set[str] = set()
    line_before, nth = 0, 0
    for key in _keys(window, values):
        line = window.line
        nth, line_before = nth + 1 if line == line_before else 0, line
        location = location_of(window.name, line, nth)
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
            value = RecordError(location, field, f"{shown(key)} occurs twice", "keep one of them")
        seen.add(key)
        yield Record(location, value, line, nth)


def _too_large(location: str) -> RecordError:
    return RecordError(
        location, "", f"larger than {LARGEST_RECORD_BYTES >> 20} MB", "a record holds text and the names of files"
    )


def _not_utf8(location: str, byte: int) -> RecordError:
    return RecordError(location, "", f"not UTF-8 (byte {byte} of the record)", "save the file as UTF-8")

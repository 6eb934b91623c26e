"""Files of captions, read row by row in bounded memory: JSON lines, a JSON list, TSV (CC3M's), CSV.

file -> rows as they stand, each with its caption or what is wrong with it -> the chosen ones copied, the wrong aside
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from vistune.errors import DataError
from vistune.files import replacing

NAMES = ("caption", "blip_caption", "text", "captions")  # where a caption stands without being told
CHUNK = 1 << 20  # characters read at once of a JSON list
LONGEST = 1 << 24  # characters of one value of a JSON list; past it, what is read as one value is a broken list
ROWS_A_REPORT = 1000  # a progress bar costs more than a row does

Advance = Callable[[float], None]
_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it stands in the file, without its line end: its caption, or its `fault`, or neither: the header."""

    line: int
    raw: str
    caption: str | None = None
    fault: str = ""


def read_rows(path: Path, column: str | None, advance: Advance = lambda megabytes: None) -> Iterator[Row]:
    """Every row of a file of one of FORMS; a caption is `column`, else the first of NAMES, or LLaVA's first answer.

    A list of captions counts as one text. Raises DataError for a file that cannot be read further.
    """
    try:
        file = open(path, encoding="utf-8-sig", errors="surrogateescape", newline="\n")  # noqa: SIM115 - closed below
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}", "check the path") from None
    with file:
        size = 0
        for number, row in enumerate(FORMS[path.suffix.lower()](file, path, column), start=1):
            size += len(row.raw) if row.raw.isascii() else len(row.raw.encode("utf-8", "surrogateescape"))
            if number % ROWS_A_REPORT == 0:
                advance(size / 1e6)
                size = 0
            yield row
        advance(size / 1e6)


def copy_rows(source: Path, column: str | None, out: Path, keep: np.ndarray[Any, Any], advance: Advance) -> None:
    """Write the header and the kept rows of `source` to `out`, rows with a fault to OUT.rejects.jsonl if any are.

    keep (captions,) bool: one for every row that has a caption. Raises DataError if the file is no longer the same.
    """
    listed = source.suffix.lower() == ".json"
    aside = out.with_name(f"{out.name}.rejects.jsonl")
    changed = DataError(f"{source}: was changed while it was read", "run again when nothing writes to it")
    number = written = rejected = 0
    with replacing(out) as file, replacing(aside) as set_aside:
        file.write(b"[" if listed else b"")
        for row in read_rows(source, column, advance):
            if row.fault:
                shown = row.raw[:500].encode("utf-8", "backslashreplace").decode()
                reject = {"line": row.line, "reason": row.fault, "raw": shown}
                set_aside.write((json.dumps(reject, ensure_ascii=False) + "\n").encode())
                rejected += 1
                continue
            if row.caption is not None:
                number += 1
                if number > len(keep):
                    raise changed
                if not keep[number - 1]:
                    continue
            file.write((("," if written else "") + "\n" + row.raw if listed else row.raw + "\n").encode())
            written += 1
        file.write(b"\n]\n" if listed else b"")
        if number != len(keep):
            raise changed
    if not rejected:
        aside.unlink()


def _checked(line: int, raw: str, caption: Any) -> Row:
    if isinstance(caption, list) and all(isinstance(text, str) for text in caption):
        caption = " . ".join(caption)
    if not isinstance(caption, str) or not caption.strip():
        return Row(line, raw, fault="no_caption")
    try:
        raw.encode()
        caption.encode()  # a JSON escape may hide a lone surrogate
    except UnicodeEncodeError:
        return Row(line, raw, fault="not_utf8")
    return Row(line, raw, caption)


# --- JSON ---


def _refuse_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _json_lines(file: IO[str], path: Path, column: str | None) -> Iterator[Row]:
    for line, text in enumerate(file, start=1):
        if raw := text.strip():
            try:
                value = _DECODER.decode(raw)
            except (ValueError, RecursionError):
                yield Row(line, raw, fault="not_json")
            else:
                yield _json_row(line, raw, value, column)


def _json_list(file: IO[str], path: Path, column: str | None) -> Iterator[Row]:
    for line, raw, value in json_values(file, path):
        yield _json_row(line, raw, value, column)


def _json_row(line: int, raw: str, value: Any, column: str | None) -> Row:
    if not isinstance(value, dict):
        return Row(line, raw, fault="not_an_object")
    return _checked(line, raw, _caption_of(value, column))


def _caption_of(row: Mapping[str, Any], column: str | None) -> Any:
    if column is not None:
        return row.get(column)
    turns = row.get("conversations")
    if isinstance(turns, list):
        return next((turn.get("value") for turn in turns if isinstance(turn, dict) and turn.get("from") == "gpt"), None)
    return next((row[name] for name in NAMES if name in row), None)


def json_values(file: IO[str], path: Path) -> Iterator[tuple[int, str, Any]]:
    """(line, text, value) of each value of a JSON list, read piece by piece. Raises DataError where it is broken."""
    text = _Window(file, path)
    if text.next_sign() != "[":
        raise DataError(f"{path}:{text.line}: a JSON list is wanted", "or name the file .jsonl if it is JSON lines")
    text.take(1)
    if text.next_sign() != "]":
        yield text.take_value()
        while (sign := text.next_sign()) == ",":
            text.take(1)
            text.next_sign()
            yield text.take_value()
        if sign != "]":
            raise DataError(f"{path}:{text.line}: the list breaks off before {sign or 'its end'!r}", "mend the file")
    text.take(1)
    if sign := text.next_sign():
        raise DataError(f"{path}:{text.line}: {sign!r} after the list's end", "one list a file")


class _Window:
    """The part of a file that is being looked at; `line` is where it begins."""

    def __init__(self, file: IO[str], path: Path) -> None:
        self.file, self.path = file, path
        self.text, self.at, self.line = "", 0, 1

    def next_sign(self) -> str:
        """Skip white space; the next character, which stays, or nothing at the end of the file."""
        while True:
            space = _SPACE.match(self.text, self.at)
            self.take(space.end() - self.at if space else 0)
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._read_on():
                return ""

    def take(self, size: int) -> str:
        taken = self.text[self.at : self.at + size]
        self.line += taken.count("\n")
        self.at += size
        return taken

    def take_value(self) -> tuple[int, str, Any]:
        while True:
            fault: Exception | str = "the list breaks off"
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
                if end < len(self.text):  # else a number may go on in the next piece
                    return self.line, self.take(end - self.at), value
            except (ValueError, RecursionError) as error:
                fault = error
            # What is cut off reads as broken too, so only a longer piece can tell, up to a length that no row has.
            if len(self.text) - self.at > LONGEST or not self._read_on():
                line = self.line
                if isinstance(fault, json.JSONDecodeError):
                    line += self.text.count("\n", self.at, fault.pos)
                    fault = fault.msg
                raise DataError(f"{self.path}:{line}: not JSON, or the list breaks off: {fault}", "mend the file")

    def _read_on(self) -> bool:
        piece = self.file.read(CHUNK)
        self.text, self.at = self.text[self.at :] + piece, 0
        return bool(piece)


# --- tables ---


def _tsv(file: IO[str], path: Path, column: str | None) -> Iterator[Row]:
    """With a header, or as CC3M's: a caption and an address. Quotation marks mean nothing: CC3M has bare ones."""
    lines = ((number, text.rstrip("\r\n")) for number, text in enumerate(file, start=1))
    return _table(((number, raw, raw.split("\t")) for number, raw in lines if raw.strip()), path, column)


def _csv(file: IO[str], path: Path, column: str | None) -> Iterator[Row]:
    return _table(_csv_cells(file, path), path, column)


def _csv_cells(file: IO[str], path: Path) -> Iterator[tuple[int, str, list[str]]]:
    """(first line, text, cells) of each row; a quoted cell may hold line ends."""
    taken: list[str] = []

    def lines() -> Iterator[str]:
        for text in file:
            taken.append(text)
            yield text

    reader, line = csv.reader(lines(), strict=True), 1
    try:
        for cells in reader:
            if cells:
                yield line, "".join(taken).rstrip("\r\n"), cells
            taken.clear()
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}:{line}: not CSV: {error}", "mend the row: a quotation mark is not closed?") from None


def _table(rows: Iterator[tuple[int, str, list[str]]], path: Path, column: str | None) -> Iterator[Row]:
    """The header, if there is one, then the rows; only CC3M's TSV has none."""
    place, width = 0, 0
    for line, raw, cells in rows:
        if not width:
            width = len(cells)
            names = [name for name in ([column] if column else NAMES) if name in cells]
            if names:
                place = cells.index(names[0])
                yield Row(line, raw)
                continue
            if column or path.suffix.lower() == ".csv":
                what = f"no column {column!r}" if column else "no column of captions"
                raise DataError(f"{path}:{line}: {what}", f"name one of {', '.join(cells)[:200]} with --column")
        yield _checked(line, raw, cells[place]) if len(cells) == width else Row(line, raw, fault="other_cells")


FORMS: Mapping[str, Callable[[IO[str], Path, str | None], Iterator[Row]]] = {
    ".jsonl": _json_lines,
    ".json": _json_list,
    ".tsv": _tsv,
    ".csv": _csv,
}

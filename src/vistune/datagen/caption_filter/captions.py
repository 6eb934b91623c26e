"""Read files of captions record by record in bounded memory: JSON lines, a JSON list, TSV (CC3M), CSV, also gzipped.

file -> records with a caption or a fault -> selected records copied byte for byte, bad records to a separate file
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from vistune.datagen.sources.collector import NULLS
from vistune.errors import DataError
from vistune.files import replacing
from vistune.records import Record, RecordError, kind_of_file, read_records
from vistune.records.reading import open_text

NAMES = ("caption", "blip_caption", "text", "captions")  # fields of the caption, unless `column` names one
CC3M = ("caption", "url")  # the columns of a TSV without a header
SUFFIXES = (".jsonl", ".ndjson", ".json", ".tsv", ".csv")
TABLES = (".tsv", ".csv")
BOM = b"\xef\xbb\xbf"
ROWS_PER_REPORT = 1000  # updating a progress bar takes longer than reading a row

Advance = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Row:
    """A record of a file with its caption, or with the `fault` that explains why it has none."""

    record: Record
    caption: str = ""
    fault: str = ""


def read_rows(path: Path, column: str | None, advance: Advance = lambda megabytes: None) -> Iterator[Row]:
    """Yield every row of a file; the caption is `column`, else the first of NAMES, or LLaVA's first answer.

    A list of captions is joined into one text. Raises DataError if the rest of the file cannot be read.
    """
    kind = kind_of_file(path.name)
    header = _header_of_tsv(path) if kind == ".tsv" and column is None else ()
    caption = _caption_of_table(path, column) if kind in TABLES else _caption_of
    done = 0
    fields = (column,) if column else (*NAMES, "conversations")
    records = read_records(path, quotes=kind != ".tsv", header=header, own_fields=fields)
    for number, record in enumerate(records, start=1):
        if number % ROWS_PER_REPORT == 0:
            advance((record.begin - done) / 1e6)  # unpacked bytes exceed a gzipped file's size; the bar stops at 100 %
            done = record.begin
        value = record.value
        if isinstance(value, RecordError):
            yield Row(record, fault=_fault_of(value, kind))
        elif not isinstance(value, Mapping):
            yield Row(record, fault="not_an_object")
        else:
            yield _checked(record, caption(value, column))
    advance(max(path.stat().st_size - done, 0) / 1e6)


def copy_rows(source: Path, column: str | None, out: Path, keep: np.ndarray[Any, Any], advance: Advance) -> None:
    """Write the header and the kept rows of `source` to `out`, rows with a fault to OUT.rejects.jsonl if any are.

    keep (captions,) bool: one for every row that has a caption. Raises DataError if the file is no longer the same.
    """
    kind = kind_of_file(source.name)
    listed = kind == ".json" or (kind not in TABLES and _begins_with_list(source))
    aside = out.with_name(f"{out.name}.rejects.jsonl")
    changed = DataError(f"{source}: was changed while it was read", "run again when nothing writes to it")
    number = written = rejected = 0
    with open_text(source) as given, replacing(out) as file, replacing(aside) as set_aside:
        file.write(b"[" if listed else b"")
        for row in read_rows(source, column, advance):
            if not number and not rejected and kind in TABLES:
                file.write(_header(given, row.record.begin))
            if row.fault:
                raw = _bytes_of(row.record, given, changed)[:500].decode("utf-8", "backslashreplace")
                reject = {"line": row.record.number, "reason": row.fault, "raw": raw}
                set_aside.write((json.dumps(reject, ensure_ascii=False) + "\n").encode())
                rejected += 1
                continue
            number += 1
            if number > len(keep):
                raise changed
            if keep[number - 1]:
                content = _bytes_of(row.record, given, changed)
                if listed:
                    file.write((b",\n" if written else b"\n") + content)
                else:  # JSON: an indented record is joined into one line
                    file.write((content if kind in TABLES else b" ".join(content.splitlines())) + b"\n")
                written += 1
        file.write(b"\n]\n" if listed else b"")
        if number != len(keep):
            raise changed
    if not rejected:
        aside.unlink()


def _bytes_of(record: Record, file: IO[bytes], changed: DataError) -> bytes:
    """The bytes of a record without its line end. Raises `changed` if they differ from the first reading."""
    file.seek(record.begin)
    content = file.read(record.size)
    if record.crc and zlib.crc32(content) != record.crc:
        raise changed
    return content.removeprefix(BOM).strip(b"\r\n")


def _header(file: IO[bytes], begin: int) -> bytes:
    """The line before the first record; empty if the file begins with a record."""
    file.seek(0)
    content = file.read(begin).removeprefix(BOM).strip(b"\r\n")
    return content + b"\n" if content else b""


def _begins_with_list(path: Path) -> bool:
    with open_text(path) as file:
        return file.read(1 << 16).removeprefix(BOM).lstrip()[:1] == b"["


def _header_of_tsv(path: Path) -> tuple[str, ...]:
    """Names for the columns if the first line has none of NAMES."""
    with open_text(path) as file:
        cells = file.readline().removeprefix(BOM).decode("utf-8", "replace").rstrip("\r\n").split("\t")
    return () if set(cells) & set(NAMES) else CC3M[: len(cells)]


def _fault_of(error: RecordError, kind: str) -> str:
    if ": not UTF-8" in error.message:
        return "not_utf8"
    return "other_cells" if kind in TABLES else "not_json"


def _checked(record: Record, caption: Any) -> Row:
    if isinstance(caption, list) and all(isinstance(text, str) for text in caption):
        caption = " . ".join(caption)
    if not isinstance(caption, str) or caption.strip().lower() in NULLS:
        return Row(record, fault="no_caption")
    try:
        caption.encode()  # a JSON escape may hide a lone surrogate
    except UnicodeEncodeError:
        return Row(record, fault="not_utf8")
    return Row(record, caption)


def _caption_of(row: Mapping[str, Any], column: str | None) -> Any:
    if column is not None:
        return row.get(column)
    turns = row.get("conversations")
    if isinstance(turns, list):
        return next((turn.get("value") for turn in turns if isinstance(turn, dict) and turn.get("from") == "gpt"), None)
    return next((row[name] for name in NAMES if name in row), None)


def _caption_of_table(path: Path, column: str | None) -> Callable[[Mapping[str, Any], str | None], Any]:
    """Like `_caption_of`, but refuse a table without a caption column at its first row."""

    def caption(row: Mapping[str, Any], _: str | None) -> Any:
        for name in (column,) if column else NAMES:
            if name in row:
                return row[name]
        what = f"no column {column!r}" if column else "no column of captions"
        raise DataError(f"{path}:1: {what}", f"name one of {', '.join(row)[:200]} with --column")

    return caption

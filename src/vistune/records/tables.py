"""Read records from tables: CSV, TSV and parquet.

The first line of a CSV or TSV file names the columns, and quoted cells may contain line breaks. Parquet is read one
batch of rows at a time.
"""

from __future__ import annotations

import codecs
import csv
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from vistune.errors import DataError, RecipeError
from vistune.records.errors import Record, RecordError, location_of

LARGEST_CELL = 1 << 28  # bytes; an image of a dozen megapixels as base64 is a tenth of that
ROWS_AT_ONCE = 256  # of parquet; images may be in the rows


@dataclass(frozen=True, slots=True)
class TableFormat:
    """How a table is written as text.

    Attributes:
        separator: Between two cells; "" for the one that the file's suffix implies.
        quotes: Whether quotation marks enclose cells; in CC3M's TSV they are ordinary characters.
        header: Column names for a file without a header, such as CC3M's; used if the first line has none of them.
    """

    separator: str = ""
    quotes: bool = True
    header: Collection[str] = ()


BY_SUFFIX = TableFormat()  # a table with a header and quotes, whose suffix implies the separator


def read_table(file: IO[bytes], name: str, table: TableFormat) -> Iterator[Record]:
    """Yield each row as `{column: cell}`, with the line it begins on as its location; empty lines are skipped.

    Raises DataError if the header is missing, if it repeats a column, or if the file is not a table.
    """
    rows = _cells(file, name, table)
    header: list[str] | None = None
    for line, begin, size, crc, is_utf8, cells in rows:
        location = location_of(name, line)
        if header is None:
            if not is_utf8:
                hint = "save the file as UTF-8 (of Excel: CSV UTF-8)"
                raise DataError(f"{location}: the column names are not UTF-8", hint)
            header = list(table.header) if table.header and set(table.header).isdisjoint(cells) else cells
            if len(set(header)) != len(header):
                twice = next(cell for cell in header if header.count(cell) > 1)
                raise DataError(f"{location}: the column {twice!r} occurs twice", "give each column its own name")
            if header is cells:
                continue
            header += [f"column {k + 1}" for k in range(len(header), len(cells))]
        value: object
        if not is_utf8:
            value = RecordError(location, "", "not UTF-8", "save the file as UTF-8 (of Excel: CSV UTF-8)")
        elif len(cells) == len(header):
            value = dict(zip(header, cells, strict=True))
        else:
            hint = f"quote cells that hold {'commas' if table.separator == ',' else 'tabs'}"
            value = RecordError(location, "", f"{len(cells)} cells in {len(header)} columns", hint)
        yield Record(location, value, line, 0, begin, size, crc)
    if header is None:
        raise DataError(f"{name}: is empty", "give a file with at least one record")


Cells = tuple[int, int, int, int, bool, list[str]]


def _cells(file: IO[bytes], name: str, table: TableFormat) -> Iterator[Cells]:
    """Yield (first line, first byte, bytes, CRC-32, whether it is UTF-8, cells) of each row that is not empty."""
    taken: list[bytes] = []

    def lines() -> Iterator[str]:
        for number, content in enumerate(iter(lambda: file.readline(LARGEST_CELL + 1), b"")):
            if len(content) > LARGEST_CELL:
                raise DataError(f"{name}: has a line of over {LARGEST_CELL:,} bytes", "is it a table? Check the file")
            taken.append(content)
            yield (content.removeprefix(codecs.BOM_UTF8) if number == 0 else content).decode("utf-8", "surrogateescape")

    csv.field_size_limit(LARGEST_CELL)  # of the whole process; a cell may hold an image
    mode: Literal[0, 3] = csv.QUOTE_MINIMAL if table.quotes else csv.QUOTE_NONE
    reader, line, begin = csv.reader(lines(), delimiter=table.separator, strict=True, quoting=mode), 1, 0
    try:
        for cells in reader:
            content = b"".join(taken)
            taken.clear()
            if cells:
                yield line, begin, len(content), zlib.crc32(content), _is_utf8(content), cells
            line, begin = reader.line_num + 1, begin + len(content)
    except csv.Error as error:
        kind = "CSV" if table.separator == "," else "TSV"
        hint = "a quotation mark is not closed? Correct the row"
        raise DataError(f"{location_of(name, line)}: not {kind}: {error}", hint) from None


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def read_parquet(
    path: Path, name: str, *, columns: Collection[str] | None = None, unread: Counter[str] | None = None
) -> Iterator[Record]:
    """Yield each row as `{column: value}`; image structs `{bytes, path}` are unchanged. The first row is row 1.

    `columns`: the columns that the caller uses; others are not decoded and are counted in `unread`.
    Raises DataError if the file cannot be read, RecipeError without pyarrow.
    """
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise RecipeError(f"{name}: parquet needs pyarrow", "pip install 'vistune[parquet]'") from None
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            decoded = [column for column in names if columns is None or column in columns]
            if unread is not None:
                unread.update({column: file.metadata.num_rows for column in names if column not in decoded})
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=decoded):
                for row in batch.to_pylist():
                    number += 1
                    yield Record(location_of(name, number), row, number)
    except FileNotFoundError:
        raise DataError(f"{name}: no such file", "check the path") from None
    except (OSError, ValueError) as error:  # includes pyarrow's errors
        why = " ".join(str(error).split())[:120]
        raise DataError(f"{name}: cannot be read as parquet: {why}", "download or write it again") from None

"""Read and write xlsx sheets: VLMEvalKit's predictions, and MMBench's submissions."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vistune.errors import DataError, RecipeError
from vistune.records import location_of


def read_sheet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(location, {column: cell}) of each row of an xlsx file's first sheet; empty rows are skipped."""
    openpyxl = _openpyxl()
    if not path.is_file():
        raise DataError(f"{path}: no such file", "check the path")
    try:
        book = openpyxl.load_workbook(path, read_only=True)
        lines = book.worksheets[0].iter_rows(values_only=True)
        names = [str(name) for name in next(lines, ())]
        rows = [(number, row) for number, row in enumerate(lines, start=2) if any(cell is not None for cell in row)]
    except Exception as error:  # xlsx is a zip of XML: openpyxl passes on errors of both
        raise DataError(f"{path}: not a readable xlsx file: {error}", "write it again") from None
    for number, row in rows:
        yield location_of(path, number), dict(zip(names, row, strict=False))


def write_sheet(rows: Sequence[Mapping[str, str]], numbers: Sequence[str] = ()) -> bytes:
    """An xlsx file with one sheet and a header line; columns in `numbers` are whole numbers, all others text.

    Control characters are removed, because xlsx cannot store them.
    """
    openpyxl = _openpyxl()
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    book = openpyxl.Workbook()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for column, name in enumerate(columns, start=1):
        book.active.cell(1, column, name)
    for number, row in enumerate(rows, start=2):
        for column, name in enumerate(columns, start=1):
            value = row.get(name, "")
            if name in numbers:
                book.active.cell(number, column, int(value))
            elif value:
                cell = book.active.cell(number, column, ILLEGAL_CHARACTERS_RE.sub("", value))
                cell.data_type = "s"  # text that begins with "=" would be a formula
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def _openpyxl() -> Any:
    try:
        import openpyxl
    except ImportError:
        raise RecipeError("xlsx files need openpyxl", "pip install 'vistune[evaluate]'") from None
    return openpyxl

"""Read and write xlsx sheets: VLMEvalKit's predictions, and MMBench's submissions."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vistune.errors import DataError, RecipeError
from vistune.records import location_of


def read_sheet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(location, {column: cell}) of each row of an xlsx file's one sheet; rows without a cell are passed over.

    Raises DataError where cells would be left unread: of another sheet, or of a column without a name of its own.
    """
    openpyxl = _openpyxl()
    if not path.is_file():
        raise DataError(f"{path}: no such file", "check the path")
    try:
        book = openpyxl.load_workbook(path, read_only=True)
        lines = book.worksheets[0].iter_rows(values_only=True)
        header = next(lines, ())
        rows = [(number, row) for number, row in enumerate(lines, start=2) if any(cell is not None for cell in row)]
        sheets = [book.worksheets[0], *(sheet for sheet in book.worksheets[1:] if _has_cells(sheet))]
    except Exception as error:  # a zip of XML: openpyxl raises whatever its parts raise
        raise DataError(f"{path}: no xlsx file that can be read: {error}", "write it again") from None
    if len(sheets) > 1:
        first, *others = (repr(sheet.title) for sheet in sheets)
        message = f"{path}: only its first sheet {first} is read, and there are cells in {', '.join(others)}"
        raise DataError(message, "keep the rows in one sheet, and delete the others or save them as files of their own")
    names = _names(path, header, rows)
    for number, row in rows:
        yield location_of(path, number), {name: row[k] for k, name in names.items() if k < len(row)}


def _names(path: Path, header: Sequence[Any], rows: Sequence[tuple[int, Sequence[Any]]]) -> dict[int, str]:
    """The name of each column by its index; a column without name and cells has none."""
    from openpyxl.utils import get_column_letter

    names = {k: str(name) for k, name in enumerate(header) if _is_filled(name)}
    for k, name in names.items():
        twins = [get_column_letter(other + 1) for other, its in names.items() if its.strip() == name.strip()]
        if len(twins) > 1:
            message = f"{location_of(path, 1)}: columns {' and '.join(twins)} have the same name {names[k]!r}"
            raise DataError(message, "rename or delete all but one of them")
    for number, row in rows:
        for k, cell in enumerate(row):
            if k not in names and _is_filled(cell):
                message = f"{location_of(path, number)}: column {get_column_letter(k + 1)} has a cell and no name"
                raise DataError(
                    message, "name the column in the first row, or empty it (pandas: to_excel(index=False))"
                )
    return names


def _has_cells(sheet: Any) -> bool:
    return any(_is_filled(cell) for row in sheet.iter_rows(values_only=True) for cell in row)


def _is_filled(cell: Any) -> bool:
    return cell is not None and (not isinstance(cell, str) or bool(cell.strip()))


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

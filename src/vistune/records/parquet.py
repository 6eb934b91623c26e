"""Read records from parquet files, one batch of rows at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from vistune.errors import DataError, RecipeError
from vistune.records.errors import location_of
from vistune.records.json_text import Record

ROWS_AT_ONCE = 256  # images may be in the rows


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

"""List the shards of a source too large for one index by name; fetch and unpack them one at a time.

s3://…/{00000..00999}.tar (webdataset), *.parquet, *.jsonl · any path that fsspec opens -> names -> DataFile
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any

from vistune.data.background import Interrupted
from vistune.errors import DataError, DiskError, RecipeError, VistuneError
from vistune.records import DataFile, columns_read, kind_of_file, needs_unpacking, unpack, unpacked_in

KINDS = (".tar", ".tar.gz", ".tgz", ".parquet", ".jsonl", ".json")
WAITS = (1.0, 4.0, 16.0)  # seconds before another attempt at a shard that did not come
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def listed(patterns: Sequence[str]) -> tuple[str, ...]:
    """Every shard that paths or addresses name, sorted within each; `{000..999}` counts up and is not looked for.

    Raises DataError where a pattern names none, RecipeError where fsspec cannot open its kind of address.
    """
    found: list[str] = []
    for pattern in patterns:
        names = _counted(pattern) if _RANGE.search(pattern) else _there(pattern)
        if not names:
            raise DataError(f"{pattern}: no shard is there", "check stages.NAME.shards.files")
        found += names
    if twice := len(found) - len(set(found)):
        raise DataError(f"shards: {twice} are listed twice", "name each shard once")
    return tuple(found)


def fetch(name: str, folder: Path, over: threading.Event | None = None) -> DataFile:
    """Copy a shard into `folder` and unpack it there. Errors and locations call it `name`.

    Raises DataError if it does not arrive completely, DiskError if the disk is full, Interrupted soon after `over` is
    set.
    """
    over = over or threading.Event()
    folder.mkdir(parents=True, exist_ok=True)
    base = PurePosixPath(name.split("::")[0]).name
    if kind_of_file(base) not in KINDS:
        raise DataError(
            f"{name}: is not a supported shard",
            f"write shards as {', '.join(KINDS)}; see docs/reference/file-formats.md",
        )
    copy = folder / base
    for wait in (*WAITS, None):
        _go_on(over)
        try:
            _copy(name, copy, over)
            break
        except (VistuneError, Interrupted):
            raise
        except Exception as error:  # of an address whatever its library raises: aiohttp's errors are no OSErrors
            if isinstance(error, FileNotFoundError) and "://" not in name:
                raise DataError(f"{name}: no such shard", "check stages.NAME.shards.files") from None
            if wait is None:
                told = f"{type(error).__name__}: {error}"
                raise DataError(
                    f"{name}: does not come: {told}", "check the address and the network, and go on with --resume"
                ) from None
            over.wait(wait)
    if not needs_unpacking(base):
        near = Path(name).absolute().parent if "://" not in name else folder
        return DataFile(near / base, copy, name)
    with _on_disk(folder):
        unpack(copy, folder, name=name, columns=columns_read(), stop=lambda: _go_on(over))
    copy.unlink()
    return unpacked_in(folder, folder / base, name)


def _counted(pattern: str) -> list[str]:
    parts = _RANGE.split(pattern)  # text, first, last, text, …
    texts, ends = parts[::3], list(zip(parts[1::3], parts[2::3], strict=True))
    numbers = [[str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)] for first, last in ends]
    return ["".join((texts[0], *(part for pair in zip(chosen, texts[1:], strict=True) for part in pair)))
            for chosen in product(*numbers)]  # fmt: skip


def _there(pattern: str) -> list[str]:
    files, path = _opened(pattern)
    try:
        return sorted(files.unstrip_protocol(name) if "://" in pattern else name for name in files.glob(path))
    except OSError as error:
        raise DataError(f"{pattern}: cannot be listed: {error}", "check the address and your access") from None


def _opened(name: str) -> tuple[Any, str]:
    """The file system of an address, and the path there."""
    from fsspec.core import url_to_fs

    try:
        files, path = url_to_fs(name)
    except (ImportError, ValueError) as error:  # s3:// needs s3fs, gs:// gcsfs; an unknown protocol
        raise RecipeError(f"{name}: {error}", "install the package that fsspec names, or mend the address") from None
    return files, path


def _copy(name: str, copy: Path, over: threading.Event) -> None:
    files, path = _opened(name)
    with files.open(path, "rb") as source, copy.open("wb", buffering=0) as target:
        while block := source.read(1 << 20):
            _go_on(over)
            with _on_disk(copy.parent):
                written = 0
                while written < len(block):
                    written += target.write(block[written:])


def _go_on(over: threading.Event) -> None:
    if over.is_set():
        raise Interrupted


@contextmanager
def _on_disk(folder: Path) -> Iterator[None]:
    """What the disk refuses is no fault of the shard or the network."""
    try:
        yield
    except DiskError:
        raise
    except OSError as error:
        raise DiskError(f"{folder}: cannot be written: {error.strerror or error}", "make room for shards") from error

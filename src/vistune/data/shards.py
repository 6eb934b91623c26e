"""Shards of a source that is too large for one index: list them, plan their order, fetch and unpack them one at a time.

s3://…/{00000..00999}.tar (webdataset), *.parquet, *.jsonl, or any path that fsspec opens -> names -> DataFile
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vistune.data.loader import Interrupted
from vistune.data.packing import PackedRow, StagePlan, pack, rng_of
from vistune.errors import DataError, DiskError, RecipeError, VistuneError
from vistune.records import DataFile, columns_read, kind_of_file, needs_unpacking, unpack, unpacked_in

KINDS = (".tar", ".tar.gz", ".tgz", ".parquet", ".jsonl", ".json")
WAITS = (1.0, 4.0, 16.0)  # seconds before each further attempt to fetch a shard
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True, slots=True)
class ShardStream:
    """The shards of a stage in order, and the settings by which their samples become packed rows.

    Attributes:
        window: Number of a lane's shards that are shuffled and packed together.
        rejects: Whether bad records are skipped; otherwise the first one stops the run.
        reject_limit: The share of bad records that a process skips before it stops.
    """

    shards: tuple[str, ...]
    lanes: int
    window: int
    steps: int
    tokens_per_row: int
    seed: int
    kinds: tuple[str, ...] | None = None
    cut: bool = True
    rejects: bool = False
    reject_limit: float = 0.0

    def __post_init__(self) -> None:
        if len(self.shards) < self.lanes:
            raise RecipeError(
                f"{len(self.shards)} shards for {self.lanes} rows per step: each row of a step needs its own shards",
                "lower tokens_per_step, raise tokens_per_row, or write more, smaller shards",
            )

    def plan(self) -> StagePlan:
        """Return a plan of steps whose rows are not known yet."""
        return StagePlan(
            ((),) * self.steps,
            {
                "shards": len(self.shards),
                "data": self.digest,
                "rows_per_step": self.lanes,
                "window": self.window,
                "steps": self.steps,
                "tokens_per_row": self.tokens_per_row,
                "seed": self.seed,
                "kinds": repr(self.kinds),
            },
        )

    @property
    def digest(self) -> str:
        """Checksum of the shards' names; a resumed run checks the content of the shards that it reads."""
        return hashlib.sha256("\n".join(self.shards).encode()).hexdigest()

    @property
    def tokens(self) -> int:
        """Largest possible number of tokens of all steps."""
        return self.steps * self.lanes * self.tokens_per_row

    def shards_of(self, lane: int, window: int) -> list[int]:
        """Return the indices of the shards in a lane's window; a window never spans two epochs."""
        count = len(range(lane, len(self.shards), self.lanes))
        windows_per_epoch = -(-count // self.window)
        epoch, number = divmod(window, windows_per_epoch)
        own = _epoch_order(len(self.shards), self.seed, epoch)[lane :: self.lanes]
        chosen: list[int] = own[number * self.window : (number + 1) * self.window].tolist()
        return chosen

    def rows_of(self, lane: int, window: int, lengths: Sequence[int]) -> list[PackedRow]:
        """Pack a window's samples best-fit and shuffle the rows, so that long rows do not come together."""
        rows = pack(range(len(lengths)), lengths, self.tokens_per_row)
        return [rows[k] for k in rng_of(self.seed, lane, window).permutation(len(rows))]


@lru_cache(maxsize=2)
def _epoch_order(shards: int, seed: int, epoch: int) -> np.ndarray:
    return rng_of(seed, epoch).permutation(shards)


def list_shards(patterns: Sequence[str]) -> tuple[str, ...]:
    """List every shard that the patterns name, sorted within each pattern. `{000..999}` is expanded without a lookup.

    Raises:
        DataError: A pattern names no shard, or a shard is named twice.
        RecipeError: fsspec cannot open this kind of address.
    """
    shards: list[str] = []
    for pattern in patterns:
        names = _expand(pattern) if _RANGE.search(pattern) else _glob(pattern)
        if not names:
            raise DataError(f"{pattern}: names no shard", "check stages.NAME.shards.files")
        shards += names
    if twice := len(shards) - len(set(shards)):
        raise DataError(f"shards: {twice} are listed twice", "name each shard once")
    return tuple(shards)


def fetch_shard(name: str, folder: Path, over: threading.Event | None = None) -> DataFile:
    """Copy a shard into `folder` and unpack it there. Errors and locations use `name` for the shard.

    Raises:
        DataError: The shard does not arrive completely.
        DiskError: The disk is full.
        Interrupted: `over` was set.
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
        _raise_if_over(over)
        try:
            _copy(name, copy, over)
            break
        except (VistuneError, Interrupted):
            raise
        except Exception as error:  # an address' library may raise anything: aiohttp's errors are not OSErrors
            if isinstance(error, FileNotFoundError) and "://" not in name:
                raise DataError(f"{name}: no such shard", "check stages.NAME.shards.files") from None
            if wait is None:
                reason = f"{type(error).__name__}: {error}"
                raise DataError(
                    f"{name}: cannot be fetched: {reason}", "check the address and the network, then use --resume"
                ) from None
            over.wait(wait)
    if not needs_unpacking(base):
        parent = Path(name).absolute().parent if "://" not in name else folder
        return DataFile(parent / base, copy, name)
    with _disk_errors(folder):
        unpack(copy, folder, name=name, columns=columns_read(), stop=lambda: _raise_if_over(over))
    copy.unlink()
    return unpacked_in(folder, folder / base, name)


def _expand(pattern: str) -> list[str]:
    parts = _RANGE.split(pattern)  # text, first, last, text, …
    texts, ends = parts[::3], list(zip(parts[1::3], parts[2::3], strict=True))
    numbers = [[str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)] for first, last in ends]
    return ["".join((texts[0], *(part for pair in zip(chosen, texts[1:], strict=True) for part in pair)))
            for chosen in product(*numbers)]  # fmt: skip


def _glob(pattern: str) -> list[str]:
    files, path = _opened(pattern)
    try:
        return sorted(files.unstrip_protocol(name) if "://" in pattern else name for name in files.glob(path))
    except OSError as error:
        raise DataError(f"{pattern}: cannot be listed: {error}", "check the address and your access") from None


def _opened(name: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path on it."""
    from fsspec.core import url_to_fs

    try:
        files, path = url_to_fs(name)
    except (ImportError, ValueError) as error:  # s3:// needs s3fs, gs:// gcsfs; an unknown protocol
        raise RecipeError(f"{name}: {error}", "install the package that fsspec names, or correct the address") from None
    return files, path


def _copy(name: str, copy: Path, over: threading.Event) -> None:
    files, path = _opened(name)
    with files.open(path, "rb") as source, copy.open("wb", buffering=0) as target:
        while block := source.read(1 << 20):
            _raise_if_over(over)
            with _disk_errors(copy.parent):
                written = 0
                while written < len(block):
                    written += target.write(block[written:])


def _raise_if_over(over: threading.Event) -> None:
    if over.is_set():
        raise Interrupted


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Raise DiskError for an error of the disk, so that it does not look like an error of the shard or network."""
    try:
        yield
    except DiskError:
        raise
    except OSError as error:
        raise DiskError(
            f"{folder}: cannot be written: {error.strerror or error}", "free disk space for the shards"
        ) from error

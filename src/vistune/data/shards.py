"""Shards of a source too large for one index: listed by name, brought here one at a time as lines and picture files.

s3://…/{00000..00999}.tar (webdataset), *.parquet, *.jsonl · any path that fsspec opens -> names -> FOLDER/NAME.jsonl

In a webdataset shard the files of one sample stand together under one key: KEY.json is the row, in either form; a row
that names no picture shows KEY.jpg (or .png, .webp, .gif, .bmp); without conversations, its caption or KEY.txt is what
is said about it. Line N of the lines is sample N of the shard.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path, PurePosixPath
from typing import IO, Any

from vistune.data.background import Interrupted
from vistune.data.parquet import write_lines
from vistune.data.rows import MARKER, READERS
from vistune.errors import DataError, DiskError, RecipeError, VistuneError
from vistune.files import LARGEST_CELL, write_json

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
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


def fetch(name: str, folder: Path, over: threading.Event | None = None) -> Path:
    """The shard as FOLDER/NAME.jsonl, with its pictures beside it. Raises DataError where it does not come whole,
    DiskError where there is no room for it, Interrupted soon after all is `over`.
    """
    over = over or threading.Event()
    folder.mkdir(parents=True, exist_ok=True)
    base = PurePosixPath(name.split("::")[0]).name
    copy, lines = folder / base, folder / f"{base}.jsonl"
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
    if base.endswith(".parquet"):
        with _on_disk(folder):
            write_lines(copy, lines, named=name)
    elif base.endswith((".tar", ".tar.gz", ".tgz")):
        with _on_disk(folder):
            _unpack(copy, lines, name, over)
    elif base.endswith((".jsonl", ".json")):
        copy.rename(lines)
        if "://" not in name:
            write_json(folder / "images.json", {"folders": [str(Path(name).absolute().parent)]})
        return lines
    else:
        raise DataError(f"{name}: neither .tar, .parquet nor .jsonl", "see docs/data.md for shards")
    copy.unlink()
    return lines


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


def _unpack(shard: Path, lines: Path, name: str, over: threading.Event) -> None:
    """A webdataset shard's samples as lines; a picture's name tells its sample's number and its bytes, so that lines
    of other pictures are other lines.
    """
    pictures = lines.parent / "pictures"
    pictures.mkdir()
    write_json(lines.parent / "images.json", {"folders": ["pictures"]})
    with lines.open("w", encoding="utf-8") as file:
        for number, (key, row, shown) in enumerate(_read(shard, name)):
            _go_on(over)
            named = [f"{number:06}-{hashlib.sha256(content).hexdigest()[:16]}{suffix}" for suffix, content in shown]
            for (_, content), picture in zip(shown, named, strict=True):
                (pictures / picture).write_bytes(content)
            file.write(json.dumps(_row(key, row, named), ensure_ascii=False) + "\n")


def _read(shard: Path, name: str) -> Iterator[tuple[str, dict[str, Any], Shown]]:
    try:
        with tarfile.open(shard) as tar:
            yield from _samples(tar, name)
            _refuse_cut(tar)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DataError(f"{name}: cannot be read as tar: {error}", "write the shard again") from None


def _refuse_cut(tar: tarfile.TarFile) -> None:
    """tarfile takes a damaged header for the end, and a cut between two files too: the end is a block of zeros."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"breaks off at byte {tar.offset}")


Shown = list[tuple[str, bytes]]  # suffix and bytes of each picture


def _samples(tar: tarfile.TarFile, name: str) -> Iterator[tuple[str, dict[str, Any], Shown]]:
    """(key, row, pictures) of each sample: files whose names agree up to the first dot of the last part."""
    key: str | None = None
    row: dict[str, Any] = {}
    shown: Shown = []
    seen: set[str] = set()
    for member in tar:
        if not member.isfile():
            continue
        path = PurePosixPath(member.name)
        own = str(path.parent / path.name.split(".", 1)[0])
        if key is not None and own != key:
            yield key, row, shown
            row, shown, seen = {}, [], set()
        key = own
        if member.size > LARGEST_CELL:
            raise DataError(f"{name}:{member.name}: {member.size:,} bytes", f"at most {LARGEST_CELL:,} are read")
        if member.name in seen:
            raise DataError(f"{name}:{member.name}: is there twice", "give each sample a key of its own")
        seen.add(member.name)
        opened = tar.extractfile(member)
        assert opened is not None  # a regular file has content
        suffix = path.suffix.lower()
        if suffix in PICTURES:
            shown.append((suffix, opened.read()))
        elif suffix in (".json", ".txt"):
            told = _told(opened, suffix, f"{name}:{member.name}")
            row = told | row if suffix == ".txt" else row | told  # the row's own caption stands
    if key is not None:
        yield key, row, shown


def _told(file: IO[bytes], suffix: str, place: str) -> dict[str, Any]:
    try:
        text = file.read().decode("utf-8")
        value = json.loads(text) if suffix == ".json" else {"caption": text}
    except ValueError as error:
        raise DataError(f"{place}: {error}", "write the shard again") from None
    if not isinstance(value, dict):
        raise DataError(f"{place}: an object is wanted", "write the sample's row")
    return value


def _row(key: str, row: dict[str, Any], pictures: list[str]) -> dict[str, Any]:
    """What the readers know: a caption becomes the answer to its picture alone. What is wrong stays, to be told."""
    kept = {name: row[name] for name in ("id", "image", "images", "kind", "language", *READERS) if name in row}
    kept.setdefault("id", key)
    form = next((name for name in READERS if name in row), None)
    if form is None and isinstance(row.get("caption"), str):
        said = {"from": "human", "value": MARKER}, {"from": "gpt", "value": row["caption"].strip()}
        kept |= {"conversations": list(said)}
        form = "conversations"
    if form is not None and pictures:
        kept["images" if form == "messages" else "image"] = pictures
    return kept

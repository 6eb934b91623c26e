"""webdataset shards (tar) as records: the files of one sample stand together under one key.

KEY.json is the record; KEY.txt its caption where the record has none; KEY.jpg, KEY.a.jpg … its images, which become
`{bytes, path}` structs. The record's own image names decide which image is which and in what order.
"""

from __future__ import annotations

import json
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from vistune.errors import DataError
from vistune.records.errors import RecordError
from vistune.records.json_text import Record
from vistune.records.tables import LARGEST_CELL

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


@dataclass(slots=True)
class _Sample:
    key: str
    row: dict[str, Any] = field(default_factory=dict)
    images: dict[str, bytes] = field(default_factory=dict)  # by member name, in the tar's order
    members: set[str] = field(default_factory=set)


def read_tar(
    path: Path, name: str, *, unread: Counter[str] | None = None, stop: Callable[[], None] = lambda: None
) -> Iterator[Record]:
    """Each sample as its JSON with `images`: structs `{bytes, path}`; its location is `shard.tar:KEY`.

    Members of other kinds are counted in `unread` by their suffix. `stop` is called before each sample and may raise.
    Raises DataError where the tar is damaged or cut off, or a member is not what its name says.
    """
    for number, sample in enumerate(_samples(path, name, unread), start=1):
        stop()
        location = f"{name}:{sample.key}"
        value: object
        try:
            value = _record_of(sample, location)
        except RecordError as error:
            value = error
        yield Record(location, value, number)


def natural(name: str) -> list[Any]:
    """Sort key by which `2.jpg` comes before `10.jpg`."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _record_of(sample: _Sample, location: str) -> dict[str, Any]:
    row = {"id": sample.key, **sample.row}
    given = {key: row.pop(key) for key in ("image", "images") if row.get(key) not in (None, "", [])}
    if len(given) > 1:
        raise RecordError(location, "images", "both `image` and `images` name images", "keep one of them")
    if not sample.images:
        return row | given
    if not given:
        found = sorted(sample.images, key=natural)
    else:
        [(key, named)] = given.items()
        listed = named if isinstance(named, list) else [named]
        found = [_member(sample, image, location, key) for image in listed]
        if left := [member for member in sample.images if member not in found]:
            hint = f"name it in `{key}`, or leave it out of the shard"
            raise RecordError(location, key, f"the image {left[0]!r} is in the shard but not named", hint)
    return row | {"images": [{"bytes": sample.images[member], "path": member} for member in found]}


def _member(sample: _Sample, named: Any, location: str, key: str) -> str:
    """The member that an image's name in the record means: its whole name, its file name, or what follows the key."""
    if isinstance(named, Mapping):
        named = named.get("path")
    base = PurePosixPath(sample.key).name
    if isinstance(named, str):
        files = {member: PurePosixPath(member).name for member in sample.images}
        last = PurePosixPath(named).name
        fits = [member for member, file in files.items() if last in (file, file[len(base) + 1 :])]
        if named in fits or len(fits) == 1:
            return named if named in fits else fits[0]
        if len(sample.images) == 1:  # `image: 000.jpg` beside the one KEY.jpg
            [only] = sample.images
            if PurePosixPath(only).name.count(".") == 1:
                return only
    there = ", ".join(PurePosixPath(member).name for member in sample.images)
    raise RecordError(location, key, f"the image {named!r} is not in the shard", f"the sample's images are {there}")


def _samples(path: Path, name: str, unread: Counter[str] | None) -> Iterator[_Sample]:
    try:
        with tarfile.open(path) as tar:
            yield from _grouped(tar, name, unread)
            _refuse_cut(tar)
    except FileNotFoundError:
        raise DataError(f"{name}: no such file", "check the path") from None
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DataError(f"{name}: cannot be read as tar: {error}", "write the shard again") from None


def _refuse_cut(tar: tarfile.TarFile) -> None:
    """tarfile takes a damaged header for the end, and a cut between two files too: the end is a block of zeros."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"breaks off at byte {tar.offset}")


def _grouped(tar: tarfile.TarFile, name: str, unread: Counter[str] | None) -> Iterator[_Sample]:
    """Samples: neighbouring files whose names agree up to the first dot of the last part."""
    sample: _Sample | None = None
    for member in tar:
        if not member.isfile():
            continue
        path = PurePosixPath(member.name)
        if path.name.startswith("."):  # such as macOS's ._ files
            continue
        key = str(path.parent / path.name.split(".", 1)[0])
        if sample is not None and key != sample.key:
            yield sample
            sample = None
        sample = sample or _Sample(key)
        if member.size > LARGEST_CELL:
            raise DataError(f"{name}:{member.name}: {member.size:,} bytes", f"at most {LARGEST_CELL:,} are read")
        if member.name in sample.members:
            raise DataError(f"{name}:{member.name}: is there twice", "give each sample a key of its own")
        sample.members.add(member.name)
        opened = tar.extractfile(member)
        assert opened is not None  # a regular file has content
        suffix = path.suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            sample.images[member.name] = opened.read()
        elif suffix in (".json", ".txt"):
            value = _json_or_caption(opened, suffix, f"{name}:{member.name}")
            sample.row = value | sample.row if suffix == ".txt" else sample.row | value  # a record's own caption wins
        elif unread is not None:
            unread[f"*{suffix or path.name}"] += 1
    if sample is not None:
        yield sample


def _json_or_caption(file: IO[bytes], suffix: str, location: str) -> dict[str, Any]:
    try:
        text = file.read().decode("utf-8")
        value = json.loads(text) if suffix == ".json" else {"caption": text.strip()}
    except (ValueError, RecursionError) as error:
        raise DataError(f"{location}: {error}", "write the shard again") from None
    if not isinstance(value, dict):
        raise DataError(f"{location}: an object is wanted", "write the sample's record")
    return value

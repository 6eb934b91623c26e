"""Read records from webdataset shards (tar): neighbouring files with the same key are one sample.

KEY.json is the record, KEY.txt its caption if the record has none, and KEY.jpg, KEY.a.jpg … are its images, which
become `{bytes, path}` structs. The image names in the record select the images and their order.
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
from typing import Any

from vistune.errors import DataError
from vistune.records.errors import Record, RecordError
from vistune.records.tables import LARGEST_CELL

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


@dataclass(slots=True)
class _Sample:
    key: str
    row: dict[str, Any] = field(default_factory=dict)
    images: dict[str, bytes] = field(default_factory=dict)  # by member name, in the tar's order
    members: set[str] = field(default_factory=set)
    fault: RecordError | None = None


def read_tar(
    path: Path, name: str, *, unread: Counter[str] | None = None, stop: Callable[[], None] = lambda: None
) -> Iterator[Record]:
    """Yield each sample's JSON with `images` as structs `{bytes, path}`; its location is `shard.tar:KEY`.

    Members of other types are counted in `unread` by suffix. `stop` is called before each sample and may raise.
    Raises DataError if the tar is damaged or cut off, or if the content of a member does not match its suffix.
    """
    for number, sample in enumerate(_samples(path, name, unread), start=1):
        stop()
        location = f"{name}:{sample.key}"
        value: object
        try:
            if sample.fault is not None:
                raise sample.fault
            value = _record_of(sample, location)
        except RecordError as error:
            value = error
        yield Record(location, value, number)


def natural(name: str) -> list[int | str]:
    """Return a sort key for natural order: `2.jpg` comes before `10.jpg`."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _record_of(sample: _Sample, location: str) -> dict[str, Any]:
    row = {"id": sample.key, **sample.row}
    given = {key: row.pop(key) for key in ("image", "images") if row.get(key) not in (None, "", [])}
    if len(given) > 1:
        raise RecordError(location, "images", "both `image` and `images` name images", "keep one of them")
    if not sample.images:
        return row | given
    if not given:
        members = sorted(sample.images, key=natural)
    else:
        [(key, named)] = given.items()
        listed = named if isinstance(named, list) else [named]
        members = [_member(sample, image, location, key) for image in listed]
        if left := [member for member in sample.images if member not in members]:
            hint = f"name it in `{key}`, or remove it from the shard"
            raise RecordError(location, key, f"the image {left[0]!r} is in the shard but not named", hint)
    return row | {"images": [{"bytes": sample.images[member], "path": member} for member in members]}


def _member(sample: _Sample, named: object, location: str, key: str) -> str:
    """Return the member that an image name refers to, by full name, file name, or the part after the key."""
    if isinstance(named, Mapping):
        named = named.get("path")
    base = PurePosixPath(sample.key).name
    if isinstance(named, str):
        files = {member: PurePosixPath(member).name for member in sample.images}
        last = PurePosixPath(named).name
        fits = [member for member, file in files.items() if last in (file, file[len(base) + 1 :])]
        if named in fits or len(fits) == 1:
            return named if named in fits else fits[0]
        if len(sample.images) == 1:  # `image: 000.jpg`, and KEY.jpg is the only image
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
    """Raise ReadError unless a tar ends with a block of zeros: tarfile takes damage or a cut for the end."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"breaks off at byte {tar.offset}")


def _grouped(tar: tarfile.TarFile, name: str, unread: Counter[str] | None) -> Iterator[_Sample]:
    """Yield samples: neighbouring files whose names agree up to the first dot of the last part."""
    sample: _Sample | None = None
    for member in tar:
        if member.isdir():
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
            hint = f"make it smaller; at most {LARGEST_CELL:,} bytes are read"
            raise DataError(f"{name}:{member.name}: too large ({member.size:,} bytes)", hint)
        if member.name in sample.members:
            hint = "give the files of each sample a separate base name"
            raise DataError(f"{name}:{member.name}: the archive contains two files of this name", hint)
        sample.members.add(member.name)
        suffix = path.suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            sample.images[member.name] = _content(tar, member, name)
        elif suffix in (".json", ".txt"):
            value = _json_or_caption(_content(tar, member, name), suffix, f"{name}:{member.name}")
            if isinstance(value, RecordError):
                sample.fault = sample.fault or value
                continue
            # A record's own caption wins over the text file, which often repeats it.
            captions = {row["caption"] for row in (value, sample.row) if isinstance(row.get("caption"), str)}
            if unread is not None and len({caption.strip() for caption in captions}) > 1:
                unread["*.txt"] += 1
            sample.row = value | sample.row if suffix == ".txt" else sample.row | value
        elif unread is not None:
            unread[f"*{suffix or path.name}"] += 1
    if sample is not None:
        yield sample


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> bytes:
    """Return the bytes of a file in the tar. A link must lead to another member, else DataError is raised."""
    try:
        opened = tar.extractfile(member)
    except KeyError:
        opened = None
    if opened is None:
        what = f"links to {member.linkname!r}, which is not in the tar" if member.linkname else "is not a file"
        raise DataError(f"{name}:{member.name}: {what}", "write the shard again, with the file itself")
    content = opened.read(LARGEST_CELL + 1)
    if len(content) > LARGEST_CELL:
        raise DataError(f"{name}:{member.name}: too large", f"at most {LARGEST_CELL:,} bytes are read")
    return content


def _json_or_caption(content: bytes, suffix: str, location: str) -> dict[str, Any] | RecordError:
    try:
        text = content.decode("utf-8")
        value = json.loads(text) if suffix == ".json" else {"caption": text.strip()}
    except (ValueError, RecursionError) as error:
        return RecordError(location, "", f"cannot be read: {str(error)[:100]}", "write the sample again")
    if not isinstance(value, dict):
        return RecordError(location, "", "expected an object", "write the sample's record")
    return value

"""Data files with random access by byte: the files themselves, or a copy of their records as JSON lines.

FILE.json, FILE.jsonl -> themselves · FILE.parquet, FILE.tar, FILE.*.gz -> CACHE/records/KEY/{records.jsonl, images/}
Locations always name the user's file: line N of the copy is row N, or the sample with the N-th key in `keys`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from vistune.files import committed_folder, own_code, read_json, user_cache, write_json
from vistune.records.conversations import FORMS, MARKER
from vistune.records.errors import Record, RecordError, location_of, restored
from vistune.records.image_files import FORMAT_SUFFIXES, HEAD, format_of
from vistune.records.reading import TARS, kind_of_file, open_file, open_text, read_records
from vistune.records.tables import read_parquet
from vistune.records.tar import read_tar

LINES, IMAGES, ABOUT = "records.jsonl", "images", "about.json"
BAD = "__error__"  # the only field of the line for a bad record


@dataclass(frozen=True)
class DataFile:
    """A data file, and the files from which its records and images are read.

    - `path`: the file as the user named it
    - `lines`: the JSON or JSON lines to read, either `path` or a copy (`is_copy`)
    - `name`: the file's name in locations
    - `by_key`: whether locations use a tar's keys instead of line numbers
    - `images`: the folder of images that were inside the file
    - `unread`: columns or members that vistune does not read
    - `digest`: SHA-256 of the user's file if it is known already, else ""
    """

    path: Path
    lines: Path
    name: str
    is_copy: bool = False
    by_key: bool = False
    images: Path | None = None
    unread: Mapping[str, int] | None = None
    digest: str = ""

    def location(self, number: int, nth: int = 0) -> str:
        """Return the location of a record in the user's file."""
        if self.by_key:
            return f"{self.name}:{self._keys[number - 1]}"
        return location_of(self.name, number, nth)

    @cached_property
    def _keys(self) -> list[str]:
        keys: list[str] = read_json(self.lines.with_name("keys.json"))
        return keys

    def records(self, own_fields: Collection[str] = (), unread: Counter[str] | None = None) -> Iterator[Record]:
        """Yield the records in `lines`, with their locations in the user's file."""
        for record in read_records(self.lines, name=self.name, own_fields=own_fields, unread=unread):
            if self.is_copy:
                value = record.value
                location = self.location(record.number)
                if isinstance(value, dict) and value.keys() == {BAD}:
                    problem, hint, reason = value[BAD]
                    value = restored(location + problem, hint, reason)
                yield replace(record, location=location, value=value)
            else:
                yield record


def open_data(path: Path, columns: Collection[str] | None = None) -> DataFile:
    """Open a data file; unpack it into the user's cache if it needs unpacking and is not there yet.

    `columns`: the columns of a parquet file that the caller uses. Raises DataError if the file cannot be read.
    """
    if not needs_unpacking(path.name):
        return DataFile(path, path, str(path))
    with open_file(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    selected = None if columns is None else sorted(columns)
    key = hashlib.sha256(f"{digest} {kind_of_file(path.name)} {selected} {own_code('records')}".encode()).hexdigest()
    folder = user_cache() / "records" / key
    if not (folder / ABOUT).is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with open(folder.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be unpacking the same file
            if not (folder / ABOUT).is_file():
                with committed_folder(folder) as draft:
                    unpack(path, draft, name=str(path), columns=columns)
    return replace(unpacked_in(folder, path, str(path)), digest=digest)


def needs_unpacking(name: str) -> bool:
    kind = kind_of_file(name)
    return kind == ".parquet" or kind in TARS or name.lower().endswith(".gz")


def unpack(
    path: Path,
    folder: Path,
    *,
    name: str,
    columns: Collection[str] | None = None,
    stop: Callable[[], None] = lambda: None,
) -> None:
    """Write a file's records as JSON lines into `folder`, with their images. `stop` may raise between records."""
    kind = kind_of_file(name)
    unread: Counter[str] = Counter()
    if kind != ".parquet" and kind not in TARS:
        with open_text(path, name) as packed, (folder / _copy_of(name)).open("wb") as lines:
            shutil.copyfileobj(packed, lines)
        write_json(folder / ABOUT, {"unread": {}})
        return
    images = folder / IMAGES
    images.mkdir()
    if kind == ".parquet":
        records = read_parquet(path, name, columns=columns, unread=unread)
    else:
        records = read_tar(path, name, unread=unread, stop=stop)
    keys: list[str] = []
    with (folder / LINES).open("w", encoding="utf-8") as lines:
        for record in records:
            stop()
            value = _with_conversation(record.value) if kind in TARS else record.value
            if isinstance(value, RecordError):
                written: object = {BAD: [value.message.removeprefix(record.location), value.hint, value.reason]}
            else:
                written = _without_bytes(value, images)
            lines.write(json.dumps(written, ensure_ascii=False, default=str) + "\n")
            keys.append(record.location.removeprefix(f"{name}:"))
    if kind in TARS:
        write_json(folder / "keys.json", keys)
    write_json(folder / ABOUT, {"unread": dict(unread)})


def unpacked_in(folder: Path, path: Path, name: str) -> DataFile:
    """Return the data file that `unpack` wrote into a folder."""
    images, unread = folder / IMAGES, read_json(folder / ABOUT)["unread"]
    if not images.is_dir():  # unzipped text
        return DataFile(path, folder / _copy_of(name), name)
    return DataFile(path, folder / LINES, name, True, (folder / "keys.json").is_file(), images, unread)


def _copy_of(name: str) -> str:
    """Return the name of an unzipped copy, whose suffix gives the same kind of file."""
    return f"records{kind_of_file(name) or '.jsonl'}"


def _with_conversation(value: object) -> object:
    """Turn a shard's sample that is only a caption into a conversation: image in, caption out, as in stage 1."""
    if not isinstance(value, dict) or not FORMS.keys().isdisjoint(value) or not isinstance(value.get("caption"), str):
        return value
    turns = [{"from": "human", "value": MARKER}, {"from": "gpt", "value": value["caption"].strip()}]
    return {key: item for key, item in value.items() if key != "caption"} | {"conversations": turns}


def _without_bytes(value: object, folder: Path) -> object:
    """Write the bytes of every image in a value to `folder`, and replace them by the file's name."""
    if isinstance(value, list):
        return [_without_bytes(item, folder) for item in value]
    if isinstance(value, Mapping):
        if isinstance(value.get("bytes"), bytes):
            rest = {key: item for key, item in value.items() if key not in ("bytes", "path")}
            return {"path": write_image(value["bytes"], folder), **rest}
        return {key: _without_bytes(item, folder) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):  # which JSON cannot hold
        return None if math.isnan(value) else str(value)
    return write_image(value, folder) if isinstance(value, bytes) else value


def write_image(content: bytes, folder: Path) -> str:
    """Write an image to `folder` under the name of its hash. Return the file's name."""
    form = format_of(content[:HEAD])
    suffix = FORMAT_SUFFIXES[form][0] if form else ".bin"
    file = folder / f"{hashlib.sha256(content).hexdigest()[:32]}{suffix}"
    if not file.exists():
        file.write_bytes(content)
    return file.name

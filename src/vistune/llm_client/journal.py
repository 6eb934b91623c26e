"""The journal of a paid conversation with a remote model: append-only, checked line by line, safe against power cuts.

record -> "CRC32 JSON\\n" appended, fsynced in groups -> on reopening: every whole record; the rest set aside
An `intent` is on disk before its request is sent and a `reply` before it is parsed, so that whatever was billed is
either recorded or among the intents without an outcome ("maybe billed").
"""

from __future__ import annotations

import asyncio
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vistune.errors import DataError, RecipeError, TeacherError
from vistune.files import Lock, sync_folder

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line of the journal that is no record: its number, 1-based, and why."""

    number: int
    why: str


def encode_record(record: Record) -> bytes:
    payload = json.dumps(record, ensure_ascii=True, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(payload), payload)


def decode_record(line: bytes) -> Record:
    """Raises ValueError saying why the line is no record."""
    payload = line.rstrip(b"\r\n")[9:]
    try:
        wanted = int(line[:8], 16)
    except ValueError:
        raise ValueError("does not begin with a checksum") from None
    if line[8:9] != b" " or zlib.crc32(payload) != wanted:
        raise ValueError("the checksum does not fit")
    record: Record = json.loads(payload)
    return record


def make_folder(folder: Path) -> None:
    """Make a folder whose name survives a power cut, and those of its new parents with it."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


class Journal:
    """Records by append; `append` returns when the record is on disk. Many appends share one fsync.

    Reading keeps no bodies in memory: `read` goes to the disk for one record.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "journal.jsonl"
        try:
            make_folder(folder)
            self.lock = Lock(folder / "journal.lock")
            self.handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            sync_folder(folder)
            self.end = self._cut_torn_tail()
        except OSError as error:
            raise RecipeError(
                f"{self.path}: cannot be written: {error.strerror}", "make room or mend the disk, or give another --out"
            ) from None
        self.bad: list[BadLine] = []
        self.waiting: list[tuple[bytes, asyncio.Future[int]]] = []
        self.writer: asyncio.Task[None] | None = None

    def _cut_torn_tail(self) -> int:
        """A write that was cut off leaves a line without its end; nothing was promised about it, so it goes."""
        size = os.fstat(self.handle).st_size
        position, chunk = size, b""
        while position > 0:
            step = min(position, 1 << 16)
            chunk = os.pread(self.handle, step, position - step)
            newline = chunk.rfind(b"\n")
            if newline >= 0:
                position = position - step + newline + 1
                break
            position -= step
        if position < size:
            os.ftruncate(self.handle, position)
            os.fsync(self.handle)
        return position

    def records(self) -> Iterator[tuple[int, Record]]:
        """(offset in bytes, record) of every good line; bad ones are set aside in `bad`, by their numbers."""
        self.bad = []
        offset = 0
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield offset, decode_record(line)
                except ValueError as error:
                    self.bad.append(BadLine(number, str(error)))
                offset += len(line)

    def read(self, offset: int) -> Record:
        """The record at an offset that `records` or `append` gave."""
        pieces, position = b"", offset
        while True:
            piece = os.pread(self.handle, 1 << 14, position)
            pieces += piece
            position += len(piece)
            if not piece or b"\n" in piece:
                break
        try:
            return decode_record(pieces[: pieces.find(b"\n") + 1])
        except ValueError as error:
            raise DataError(f"{self.path}: the record at byte {offset}: {error}", "the disk is at fault") from None

    async def append(self, record: Record) -> int:
        """Write a record, wait until it is on disk, return its offset. Raises TeacherError when the disk refuses."""
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.waiting.append((encode_record(record), done))
        if self.writer is None or self.writer.done():
            self.writer = asyncio.create_task(self._write_waiting())
        return await done

    async def _write_waiting(self) -> None:
        while self.waiting:
            group, self.waiting = self.waiting, []
            try:
                await asyncio.to_thread(self._write, b"".join(line for line, _ in group))
            except OSError as error:
                refusal = TeacherError(
                    f"{self.path}: cannot be written: {error.strerror}", "make room, then run the same command again"
                )
                for _, done in group:
                    if not done.done():
                        done.set_exception(refusal)
                continue
            for line, done in group:
                if not done.done():
                    done.set_result(self.end)
                self.end += len(line)

    def _write(self, data: bytes) -> None:
        """All of `data`, and nothing before it but what was promised: what a write left that failed is cut off first.

        Cut off now and not when it failed: a disk that refuses a write may refuse the cut as well.
        """
        if os.fstat(self.handle).st_size != self.end:
            os.ftruncate(self.handle, self.end)
        written = 0
        while written < len(data):
            written += os.write(self.handle, data[written:])
        os.fsync(self.handle)

    def close(self) -> None:
        os.close(self.handle)
        self.lock.release()

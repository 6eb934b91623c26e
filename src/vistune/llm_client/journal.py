"""Store paid replies in an append-only journal that survives crashes and power cuts, and sum up what it contains.

record -> "CRC32 JSON\\n", appended and fsynced in groups -> when reopened: every intact record
records -> Ledger: replies, refusals, batches, dollars

An `intent` is on disk before its request is sent, and a `reply` before it is parsed. So every billed request is either
recorded or one of the intents without an outcome ("maybe billed").
"""

from __future__ import annotations

import asyncio
import difflib
import json
import mmap
import os
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vistune.errors import DataError, RecipeError, TeacherError
from vistune.files import Lock, sync_folder, write_jsonl
from vistune.llm_client.client import Outcome
from vistune.llm_client.limits import Price
from vistune.llm_client.replies import ServiceCompletion

Record = Mapping[str, Any]


def encode_record(record: Record) -> bytes:
    payload = json.dumps(record, ensure_ascii=True, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(payload), payload)


def decode_record(line: bytes) -> Record:
    """Parse a line of the journal. Raise ValueError with the reason if it is damaged."""
    payload = line.rstrip(b"\r\n")[9:]
    try:
        checksum = int(line[:8], 16)
    except ValueError:
        raise ValueError("does not begin with a checksum") from None
    if line[8:9] != b" " or zlib.crc32(payload) != checksum:
        raise ValueError("checksum mismatch")
    record: Record = json.loads(payload)
    return record


def make_folder(folder: Path) -> None:
    """Create a folder and its parents such that their names survive a power cut."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


class Journal:
    """An append-only file of records. `append` returns when the record is on disk; many appends share one fsync.

    Replies are not held in memory: `read` reads one record from the disk.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "journal.jsonl"
        try:
            make_folder(folder)
            self.lock = Lock(folder / "journal.lock")
            self.handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            sync_folder(folder)
            self.end = self._cut_incomplete_line()
        except OSError as error:
            raise RecipeError(
                f"{self.path}: cannot be written: {error.strerror}",
                "free some space or repair the disk, or give another --out",
            ) from None
        self.damaged: dict[int, str] = {}  # line number, counted from 1 -> reason
        self.waiting: list[tuple[bytes, asyncio.Future[int]]] = []
        self.writer: asyncio.Task[None] | None = None

    def _cut_incomplete_line(self) -> int:
        """Remove an incomplete last line, which an interrupted write left; return the new size."""
        size = os.fstat(self.handle).st_size
        if size == 0:
            return 0
        with mmap.mmap(self.handle, size, access=mmap.ACCESS_READ) as content:
            end = content.rfind(b"\n") + 1
        if end < size:
            os.ftruncate(self.handle, end)
            os.fsync(self.handle)
        return end

    def records(self) -> Iterator[tuple[int, Record]]:
        """Yield (offset in bytes, record) of every intact line; damaged lines are collected in `damaged`."""
        self.damaged = {}
        offset = 0
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield offset, decode_record(line)
                except ValueError as error:
                    self.damaged[number] = str(error)
                offset += len(line)

    def read(self, offset: int) -> Record:
        """Read the record at an offset that `records` or `append` returned."""
        with open(self.path, "rb") as file:
            file.seek(offset)
            line = file.readline()
        try:
            return decode_record(line)
        except ValueError as error:
            raise DataError(f"{self.path}: the record at byte {offset}: {error}", "check the disk") from None

    async def append(self, record: Record) -> int:
        """Write a record, wait until it is on disk, return its offset. Raise TeacherError if it cannot be written."""
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
                    f"{self.path}: cannot be written: {error.strerror}",
                    "free some space, then run the same command again",
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
        """Append `data`, after cutting off what a failed write may have left.

        The cut is made now and not right after the failure, because a disk that refuses a write may refuse the cut too.
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


@dataclass
class Ledger:
    """The sum of a journal's records.

    Attributes:
        replies: Offset of each key's first reply.
        refused: Reason by key, of requests that were refused in this run.
        run: Random name of this journal, by which its batches are found again at the service.
        dollars, maybe_dollars: Cost of replies, and worst-case cost of requests that may have been billed.
        dialects: The form of requests that each endpoint accepts, learned in the last run.
    """

    replies: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    sends: Counter[str] = field(default_factory=Counter)
    open_intents: dict[tuple[str, int], float] = field(default_factory=dict)
    header: Record | None = None
    run: str = ""
    model: str = ""
    dollars: float = 0.0
    maybe_dollars: float = 0.0
    maybe_billed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    chunks: dict[str, dict[str, Any]] = field(default_factory=dict)
    dialects: dict[str, Any] = field(default_factory=dict)

    def add(self, offset: int, record: Record) -> None:
        """Add the next record of the journal. A key's first reply is its answer."""
        kind, key = record.get("t"), str(record.get("key", ""))
        if kind == "header":
            self.header = record["header"]
            self.run = self.run or record["run"]
        elif kind == "intent":
            self.open_intents[key, record["send"]] = record["worst"]
            self.sends[key] = max(self.sends[key], record["send"])
        elif kind == "reply":
            self.open_intents.pop((key, record["send"]), None)
            self.replies.setdefault(key, offset)
            self.model = self.model or record["model"]
            self.dollars += record["dollars"]
            self.prompt_tokens += record["usage"][0] or 0
            self.completion_tokens += record["usage"][1] or 0
            self.outcomes["reply"] += 1
        elif kind == "chunk":
            self.chunks[record["chunk"]] = {**self.chunks.get(record["chunk"], {}), **record}
        elif kind == "dialect":
            self.dialects[str(record["endpoint"])] = record["dialect"]
        elif kind == "failure":
            worst = self.open_intents.pop((key, record["send"]), 0.0)
            self.outcomes[record["kind"]] += 1
            if record["kind"] == "refused":
                self.refused[key] = record["reason"]
            elif record["kind"] == "unknown":
                self.maybe_dollars += worst
                self.maybe_billed += 1

    @property
    def holds_answers(self) -> bool:
        """Whether the journal has a paid reply or a batch in progress."""
        return bool(self.replies) or any(chunk["step"] != "finished" for chunk in self.chunks.values())

    def count_open_intents_as_spent(self) -> None:
        """Count as spent the highest possible cost of requests that a killed run sent without learning the outcome."""
        self.maybe_dollars += sum(self.open_intents.values())
        self.maybe_billed += len(self.open_intents)
        self.open_intents.clear()


def read_ledger(journal: Journal) -> Ledger:
    """Sum up a journal. Damaged lines are listed in `journal.damaged.jsonl`; their requests are sent again."""
    ledger = Ledger()
    for offset, record in journal.records():
        ledger.add(offset, record)
    ledger.count_open_intents_as_spent()
    ledger.refused.clear()  # send refused requests of earlier runs again: their cause may be fixed
    if journal.damaged:
        ledger.outcomes["damaged_line"] = len(journal.damaged)
        rows = [{"line": number, "why": reason} for number, reason in journal.damaged.items()]
        write_jsonl(journal.path.with_name("journal.damaged.jsonl"), rows)
    return ledger


def header_changes(before: Record, now: Record) -> str:
    """Compare two headers as a unified diff; empty if they are equal."""
    old, new = (json.dumps(item, ensure_ascii=False, indent=1, sort_keys=True).split("\n") for item in (before, now))
    return "\n".join(difflib.unified_diff(old, new, "asked before", "asked now", lineterm="", n=1))


def dollars_of(completion: ServiceCompletion, price: Price | None, worst: float, *, batch: bool = False) -> float:
    """Return the cost of a reply by its token counts; the worst case if the price or the counts are unknown."""
    if price is None or completion.prompt_tokens is None or completion.completion_tokens is None:
        return worst
    return price.dollars(completion.prompt_tokens, completion.completion_tokens, batch=batch)


def reply_record(key: str, send: int, outcome: Outcome, completion: ServiceCompletion, dollars: float) -> Record:
    """Return the record of a reply, with its body unchanged."""
    return {
        "t": "reply",
        "key": key,
        "send": send,
        "model": completion.model,
        "usage": [completion.prompt_tokens, completion.completion_tokens],
        "dollars": dollars,
        "seconds": round(outcome.seconds, 3),
        "at": time.time(),
        "reason": outcome.reason,
        "body": outcome.body,
    }

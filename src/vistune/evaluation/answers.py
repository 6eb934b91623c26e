"""Answers on disk while they come: appended as they end, taken up again after a kill, in order once all are there.

asked (model, prompts, decoding …) + PATH -> what PATH holds of them -> add rows -> finish: PATH whole and in order
PATH.asked.json says what the rows were asked with; rows of anything else are refused with what differs.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from vistune.errors import DataError, DiskError, RecipeError
from vistune.evaluation.ranks import Ranks
from vistune.files import parse_json, read_json, write_json, write_jsonl

FLUSH_SECONDS = 1.0  # what a power cut may cost; a kill costs nothing that was written
Key = tuple[str, str]  # condition, question id
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Said:
    text: str
    finish_reason: str


class AnswerFile:
    """One run's answers. Of several processes each appends to a file of its own; the first one's is PATH itself.

    Raises RecipeError where PATH holds answers that were asked with something else, or another process writes it,
    DataError naming a line that is no answer, DiskError where the disk refuses.
    """

    def __init__(
        self, path: Path, asked: Mapping[str, Any], *, again: bool = False, ranks: Ranks | None = None
    ) -> None:
        self.path, self.ranks = path, ranks or Ranks()
        self.own = path if self.ranks.is_first else part_of(path, self.ranks.rank)
        self.known: dict[Key, Said] = {}
        self.synced = time.monotonic()
        with self.ranks.together():  # the others open their files once the first has found PATH fit
            if self.ranks.is_first:
                self.handle = self._open()
                try:
                    self._begin(asked, again)
                except BaseException:
                    os.close(self.handle)
                    raise
        with self.ranks.together():
            if not self.ranks.is_first:
                self.handle = self._open()
            self._cut_torn_end()
            for part in (path, *_parts(path)):
                self.known |= read_kept(part)

    def _begin(self, asked: Mapping[str, Any], again: bool) -> None:
        told = asked_beside(self.path)
        drop_drafts(self.path)
        drop_drafts(told)
        if again:
            os.ftruncate(self.handle, 0)
            for part in (told, *_parts(self.path)):
                part.unlink(missing_ok=True)
        if os.fstat(self.handle).st_size and not told.is_file():
            raise RecipeError(
                f"{self.path}: holds answers, but not {told.name} beside it, which says what they were asked with: "
                "they come from an older vistune, or the file was lost",
                "add --again to answer anew in their place, or keep them and name another --out",
            )
        before = read_json(told) if told.is_file() else None
        if before is not None and (changed := differing(before, _without_new(asked, before))):
            raise RecipeError(
                f"{self.path}: holds answers of another run: {'; '.join(changed)}",
                f"{_same_conditions(asked, before)}name another --out, or --again to answer anew in their place",
            )
        if before != asked:
            write_json(told, asked)

    def _open(self) -> int:
        """Its file to append to, by this process alone."""
        _make_folder(self.own.parent)
        try:
            handle = os.open(self.own, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise _refused(self.own, error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise RecipeError(
                f"{self.own}: another process is writing it", "wait for it to end, or name another --out"
            ) from None
        return handle

    def _cut_torn_end(self) -> None:
        """What a write that was cut off left of a line."""
        content = os.pread(self.handle, os.fstat(self.handle).st_size, 0)
        os.ftruncate(self.handle, content.rfind(b"\n") + 1)

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows; they are written at once and on disk within about a second."""
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        try:
            written = 0
            while written < len(data):
                written += os.write(self.handle, data[written:])
            if time.monotonic() - self.synced > FLUSH_SECONDS:
                os.fsync(self.handle)
                self.synced = time.monotonic()
        except OSError as error:
            raise _refused(self.own, error) from error

    def finish(self, rows: Iterable[Row]) -> None:
        """All rows in their order, in place of what was appended; the first process does it, for all."""
        if self.ranks.is_first:
            write_jsonl(self.path, rows)
            for part in _parts(self.path):
                part.unlink(missing_ok=True)
        self.ranks.gathered(None)  # not before the whole file is there
        if not self.ranks.is_first:
            self.own.unlink(missing_ok=True)  # where it lies on a disk of its own

    def close(self) -> None:
        os.fsync(self.handle)
        os.close(self.handle)

    def __enter__(self) -> AnswerFile:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()


def asked_beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.asked.json")


def drop_drafts(path: Path) -> None:
    """Remove what a process that was killed while it wrote a file left of it."""
    for draft in path.parent.glob(f".{escape(path.name)}.tmp-*"):
        draft.unlink(missing_ok=True)


def part_of(path: Path, rank: int) -> Path:
    return path.with_name(f"{path.name}.rank{rank}")


def _parts(path: Path) -> list[Path]:
    """What the other processes of this or an earlier, killed run have appended."""
    return sorted(path.parent.glob(f"{escape(path.name)}.rank*"))


def _refused(path: Path, error: OSError) -> DiskError:
    return DiskError(
        f"{path}: cannot be written: {error.strerror or error}",
        "make room or mend the disk, then run the same command again: it goes on where it was",
    )


def _without_new(asked: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked, less the conditions that are asked for the first time: the others' answers stand."""
    prompts = {name: told for name, told in asked.get("prompts", {}).items() if name in before.get("prompts", {})}
    return {**asked, "prompts": prompts} if "prompts" in asked else dict(asked)


def _same_conditions(asked: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    """The advice where answers are there of conditions that are not asked now, as with --blind 0."""
    left_out = [name for name in before.get("prompts", {}) if name not in asked.get("prompts", {})]
    return f"also ask {' and '.join(left_out)} (--blind), " if left_out else ""


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(path, error) from error


def read_kept(path: Path) -> dict[Key, Said]:
    """The answers that a file holds, the last of several to one question; a torn last line is left out."""
    if not path.is_file():
        return {}
    content = path.read_bytes()
    found: dict[Key, Said] = {}
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1):
        row = parse_json(line.decode(errors="replace"), str(path), first_line=number)
        if not isinstance(row, dict) or not isinstance(row.get("text"), str) or "question_id" not in row:
            raise DataError(f"{path}:{number}: is no answer line", "remove the line: its question is asked again")
        key = (str(row.get("condition", "with_image")), str(row["question_id"]))
        found[key] = Said(row["text"], str(row.get("finish_reason", "stop")))
    return found


def differing(before: Mapping[str, Any], now: Mapping[str, Any], under: str = "") -> list[str]:
    """`key: was … now …` for each key with another value, those of tables by their path."""
    found = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differing(old, new, f"{under}{key}.")
        elif old != new:
            found.append(f"{under}{key} was {old!r}, now {new!r}")
    return found

"""Store answers while they arrive, resume after a crash, and share the work among torchrun's processes.

Opening PATH reads the answers that are already in it. `add` appends answers as they arrive. `finish` rewrites PATH in
the order of the questions. PATH.asked.json records the settings: model, prompts, decoding and others. Stored answers
that were given with other settings are refused.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from glob import escape
from pathlib import Path
from typing import Any, TypeVar

from vistune.errors import DataError, DiskError, RecipeError, VistuneError
from vistune.files import parse_json, read_json, write_json, write_jsonl

FLUSH_SECONDS = 1.0  # how much a power cut may lose; a killed process loses nothing that was written
Key = tuple[str, str]  # condition, question id
AnswerLine = Mapping[str, object]
Settings = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that torchrun started. They exchange values over gloo at the start and the end."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def gathered(self, value: T) -> list[T]:
        """Return the values of all processes by rank; all processes must call it."""
        if self.count == 1:
            return [value]
        import torch.distributed as dist

        values: list[T] = [value] * self.count
        dist.all_gather_object(values, value)
        return values

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run a block in all processes; if one of them fails, all raise its error when the block ends."""
        own: VistuneError | None = None
        try:
            yield
        except VistuneError as caught:
            own = caught
        for error in self.gathered(own):
            if error is not None:
                raise error


@contextmanager
def open_ranks() -> Iterator[Ranks]:
    """Join the processes of torchrun's environment; within another such block, yield the same ones."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Ranks()
        return
    import torch.distributed as dist

    ranks = Ranks(int(os.environ["RANK"]), count)
    if dist.is_initialized():
        yield ranks
        return
    dist.init_process_group("gloo", timeout=timedelta(days=7))  # the slowest share may take long
    try:
        yield ranks
    finally:
        dist.destroy_process_group()


def device_of_rank(device: str, ranks: Ranks) -> str:
    """Return this process's own GPU if there are several processes on `cuda`; any other device is unchanged."""
    local = os.environ.get("LOCAL_RANK")
    return f"cuda:{local}" if ranks.count > 1 and device == "cuda" and local is not None else device


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    text: str
    finish_reason: str


class AnswerFile:
    """The answers of one run. With several processes each appends to its own file; the first one's is PATH itself.

    Raises:
        RecipeError: PATH contains answers that were given with other settings, or another process is writing it.
        DataError: A line is not an answer.
        DiskError: A file cannot be written.
    """

    def __init__(self, path: Path, settings: Settings, *, again: bool = False, ranks: Ranks | None = None) -> None:
        self.path, self.ranks = path, ranks or Ranks()
        self.own_path = path if self.ranks.is_first else path.with_name(f"{path.name}.rank{self.ranks.rank}")
        self.known: dict[Key, StoredAnswer] = {}
        self.synced = time.monotonic()
        with self.ranks.together():  # the others open their files once the first has checked PATH
            if self.ranks.is_first:
                self.handle = self._open()
                try:
                    self._check_settings(settings, again)
                except BaseException:
                    os.close(self.handle)
                    raise
        with self.ranks.together():
            if not self.ranks.is_first:
                self.handle = self._open()
            self._cut_torn_line()
            for part in (path, *_rank_files(path)):
                self.known |= read_answers(part)

    def _check_settings(self, settings: Settings, again: bool) -> None:
        file = settings_path(self.path)
        drop_drafts(self.path)
        drop_drafts(file)
        if again:
            os.ftruncate(self.handle, 0)
            for part in (file, *_rank_files(self.path)):
                part.unlink(missing_ok=True)
        if os.fstat(self.handle).st_size and not file.is_file():
            raise RecipeError(
                f"{self.path}: contains answers, but {file.name} with their settings is missing: an older vistune "
                "wrote them, or the file was lost",
                "add --again to replace these answers, or name another --out to keep them",
            )
        before = read_json(file) if file.is_file() else None
        if before is not None and (changed := differences(before, _without_new_conditions(settings, before))):
            left_out = [name for name in before.get("prompts", {}) if name not in settings.get("prompts", {})]
            ask_them = f"also ask {' and '.join(left_out)} (--blind), " if left_out else ""
            raise RecipeError(
                f"{self.path}: contains answers of another run: {'; '.join(changed)}",
                f"{ask_them}give another --out, or add --again to replace these answers",
            )
        if before != settings:
            write_json(file, settings)

    def _open(self) -> int:
        """Open this process's file to append to, and lock it."""
        try:
            self.own_path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.own_path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise self._disk_error(error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise RecipeError(
                f"{self.own_path}: another process is writing it", "wait for it to end, or name another --out"
            ) from None
        return handle

    def _cut_torn_line(self) -> None:
        """Remove an incomplete last line, which an interrupted write left."""
        content = os.pread(self.handle, os.fstat(self.handle).st_size, 0)
        os.ftruncate(self.handle, content.rfind(b"\n") + 1)

    def add(self, lines: Iterable[AnswerLine]) -> None:
        """Append lines. They are written at once, and on disk within about a second."""
        data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
        try:
            written = 0
            while written < len(data):
                written += os.write(self.handle, data[written:])
            if time.monotonic() - self.synced > FLUSH_SECONDS:
                os.fsync(self.handle)
                self.synced = time.monotonic()
        except OSError as error:
            raise self._disk_error(error) from error

    def finish(self, lines: Iterable[AnswerLine]) -> None:
        """Rewrite the file with all lines in order. The first process writes the lines of all."""
        if self.ranks.is_first:
            write_jsonl(self.path, lines)
            for part in _rank_files(self.path):
                part.unlink(missing_ok=True)
        self.ranks.gathered(None)  # wait until the whole file is there
        if not self.ranks.is_first:
            self.own_path.unlink(missing_ok=True)  # if it is on another machine's disk

    def close(self) -> None:
        os.fsync(self.handle)
        os.close(self.handle)

    def _disk_error(self, error: OSError) -> DiskError:
        return DiskError(
            f"{self.own_path}: cannot be written: {error.strerror or error}",
            "free some space or repair the disk, then run the same command again to resume",
        )

    def __enter__(self) -> AnswerFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def settings_path(path: Path) -> Path:
    """Return the file with the settings of an answer file."""
    return path.with_name(f"{path.name}.asked.json")


def drop_drafts(path: Path) -> None:
    """Remove the incomplete files that a killed process left while it wrote `path`."""
    for draft in path.parent.glob(f".{escape(path.name)}.tmp-*"):
        draft.unlink(missing_ok=True)


def _rank_files(path: Path) -> list[Path]:
    """Return the files of the other processes of this run, or of an earlier one that was killed."""
    return sorted(path.parent.glob(f"{escape(path.name)}.rank*"))


def _without_new_conditions(settings: Settings, before: Settings) -> Settings:
    """Remove the prompts of conditions that are asked for the first time: stored answers to the others stay valid."""
    if "prompts" not in settings:
        return settings
    known = before.get("prompts", {})
    return {**settings, "prompts": {name: value for name, value in settings["prompts"].items() if name in known}}


def read_answers(path: Path) -> dict[Key, StoredAnswer]:
    """Read the answers of a file, the last one for each question; an incomplete last line is ignored."""
    if not path.is_file():
        return {}
    content = path.read_bytes()
    answers: dict[Key, StoredAnswer] = {}
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1):
        record = parse_json(line.decode(errors="replace"), str(path), first_line=number)
        if not isinstance(record, dict) or not isinstance(record.get("text"), str) or "question_id" not in record:
            raise DataError(f"{path}:{number}: is not an answer", "remove the line: its question is asked again")
        key = (str(record.get("condition", "with_image")), str(record["question_id"]))
        answers[key] = StoredAnswer(record["text"], str(record.get("finish_reason", "stop")))
    return answers


def differences(before: Settings, now: Settings, prefix: str = "") -> list[str]:
    """Return `key was … now …` for each key whose value differs; nested keys are joined with dots."""
    changed = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            changed += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            changed.append(f"{prefix}{key} was {old!r}, now {new!r}")
    return changed

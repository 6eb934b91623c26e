"""The journal survives torn writes, flipped bytes, full disks, a second process and power cuts."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vistune.errors import RecipeError, TeacherError
from vistune.llm_client import Journal


def fill(folder: Path, count: int = 5) -> list[dict[str, Any]]:
    """`count` records, appended all at once."""
    records = [{"t": "reply", "key": f"k{n}", "text": "가나다 \u2028 line"} for n in range(count)]
    journal = Journal(folder)

    async def append() -> None:
        await asyncio.gather(*map(journal.append, records))

    asyncio.run(append())
    journal.close()
    return records


def read(folder: Path) -> tuple[list[Any], list[int]]:
    """Records of a reopened journal, and the numbers of its bad lines."""
    journal = Journal(folder)
    try:
        found = [record for _, record in journal.records()]
        assert all(journal.read(offset) == record for offset, record in journal.records())
        return found, list(journal.damaged)
    finally:
        journal.close()


Change = Callable[[list[bytes]], bytes]
DAMAGE: dict[str, tuple[Change, list[int], list[int]]] = {
    "torn tail": (lambda lines: b"".join(lines)[:-9], [0, 1, 2, 3], []),
    "torn after the first byte": (lambda lines: b"".join(lines) + b"0", [0, 1, 2, 3, 4], []),
    "a flipped byte": (lambda lines: b"".join(lines).replace(b"k2", b"k7"), [0, 1, 3, 4], [3]),
    "a flipped checksum": (lambda lines: b"".join([b"zz" + lines[0][2:], *lines[1:]]), [1, 2, 3, 4], [1]),
    "a line twice": (lambda lines: b"".join([*lines, lines[1]]), [0, 1, 2, 3, 4, 1], []),
    "out of order": (lambda lines: b"".join(reversed(lines)), [4, 3, 2, 1, 0], []),
    "CRLF": (lambda lines: b"".join(line[:-1] + b"\r\n" for line in lines), [0, 1, 2, 3, 4], []),
    "a hole of NUL": (lambda lines: b"".join([lines[0], b"\0" * 4096 + b"\n", *lines[1:]]), [0, 1, 2, 3, 4], [2]),
    "a blank line": (lambda lines: b"".join([lines[0], b"\n", *lines[1:]]), [0, 1, 2, 3, 4], [2]),
    "half a line": (lambda lines: b"".join([lines[0], lines[1][:20] + b"\n", *lines[2:]]), [0, 2, 3, 4], [2]),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_costs_the_damaged_line_alone(tmp_path: Path, name: str) -> None:
    records = fill(tmp_path)
    change, kept, bad = DAMAGE[name]
    path = tmp_path / "journal.jsonl"
    path.write_bytes(change(path.read_bytes().splitlines(keepends=True)))
    assert read(tmp_path) == ([records[k] for k in kept], bad)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_cut_and_any_flip_leaves_all_other_records(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "journal.jsonl"
    path.unlink(missing_ok=True)
    records = fill(tmp_path)
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    line = content[:at].count(b"\n")
    if data.draw(st.booleans()):
        path.write_bytes(content[:at])
        assert read(tmp_path) == (records[:line], [])
    else:
        content[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        found, _ = read(tmp_path)
        others = [record for k, record in enumerate(records) if k not in (line, line + 1)]
        assert [record for record in found if record in others] == others
        assert all(record in records for record in found), "a damaged line was taken for a record"


def test_an_acknowledged_append_survives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only bytes that an fsync saw count; every append that returned lies among them."""
    durable = 0
    real = os.fsync

    def fsync(handle: int) -> None:
        nonlocal durable
        size = os.fstat(handle).st_size
        real(handle)
        durable = size

    journal = Journal(tmp_path)
    monkeypatch.setattr(os, "fsync", fsync)
    lines: list[tuple[int, int]] = []

    async def append(number: int) -> None:
        await asyncio.sleep(number % 7 * 0.001)
        offset = await journal.append({"n": number})
        lines.append((offset, number))
        assert journal.read(offset) == {"n": number}
        assert durable > offset, "acknowledged before it was on disk"

    async def work() -> None:
        await asyncio.gather(*map(append, range(300)))

    asyncio.run(work())
    journal.close()
    assert sorted(number for _, number in lines) == list(range(300))


@pytest.mark.parametrize("cut", ["the cut works", "the cut is refused as well"])
@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_is_said_and_leaves_no_half_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, cut: str
) -> None:
    fill(tmp_path, 3)
    real_cut = os.ftruncate

    def refuse_cut(handle: int, size: int) -> None:
        if full:
            raise OSError(errno.EIO, "Input/output error")
        real_cut(handle, size)

    real = getattr(os, call)
    full = True

    def refuse(*given: Any) -> Any:
        if full:
            if call == "write":
                real(given[0], given[1][:7])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*given)

    journal = Journal(tmp_path)
    monkeypatch.setattr(os, call, refuse)
    if cut == "the cut is refused as well":
        monkeypatch.setattr(os, "ftruncate", refuse_cut)

    async def work() -> None:
        nonlocal full
        with pytest.raises(TeacherError, match="No space left on device"):
            await journal.append({"n": 1})
        full = False
        assert journal.read(await journal.append({"n": 2})) == {"n": 2}

    asyncio.run(work())
    journal.close()
    monkeypatch.undo()
    found, bad = read(tmp_path)
    assert found[3:] == [{"n": 2}]
    assert bad == []


def test_a_second_process_is_refused_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        held = Journal(tmp_path)
        time.sleep(60)
        os._exit(held.end)
    try:
        until = time.monotonic() + 10
        while not (tmp_path / "journal.lock").exists() or not (tmp_path / "journal.lock").read_text():
            assert time.monotonic() < until
            time.sleep(0.01)
        began = time.monotonic()
        with pytest.raises(RecipeError, match=f"process {child} on "):
            Journal(tmp_path)
        assert time.monotonic() - began < 2
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    Journal(tmp_path).close()


def test_a_journal_that_another_host_holds_is_refused_until_that_host_lets_go(tmp_path: Path) -> None:
    """A network disk hands the other host's lock to our kernel; here a process that goes by another name holds it."""
    child = os.fork()
    if child == 0:
        socket.gethostname = lambda: "node-7"
        held = Journal(tmp_path)
        time.sleep(60)
        os._exit(held.end)
    lock = tmp_path / "journal.lock"
    try:
        until = time.monotonic() + 10
        while not lock.exists() or not lock.read_text():
            assert time.monotonic() < until
            time.sleep(0.01)
        before = (tmp_path / "journal.jsonl").read_bytes()
        began = time.monotonic()
        with pytest.raises(RecipeError, match=f"in use by process {child} on node-7.*--out"):
            Journal(tmp_path)
        assert time.monotonic() - began < 2
        assert (tmp_path / "journal.jsonl").read_bytes() == before
        assert lock.read_text() == f"process {child} on node-7", "the holder's name was overwritten"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    journal = Journal(tmp_path)  # what the dead host wrote into the lock is no lock
    assert lock.read_text() == f"process {os.getpid()} on {socket.gethostname()}"
    journal.close()

"""Budget, changed settings, a second process, disks that refuse, signals."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import signal
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from fake_teacher import TEXTS, Behaviour, FakeTeacher, completion, good
from paid_runs import (
    CANARY,
    Images,
    check_accounts,
    ended,
    exported,
    fates,
    in_child,
    paid,
    records,
    reference,
    sends,
    write,
)

from vistune.datagen import GenerationConfig
from vistune.errors import BudgetError, DiskError, RecipeError, TeacherError


def test_a_budget_for_a_model_without_a_price_is_refused_with_what_to_do(
    tmp_path: Path, teacher: FakeTeacher, images: Images
) -> None:
    with pytest.raises(RecipeError, match=r"no price is known for the model 'other'.*models: {other: .*--prices"):
        write(images, teacher, tmp_path / "out", model="other", budget=1.0)
    assert not teacher.asked


@pytest.mark.parametrize("concurrency", [1, 16])
def test_the_budget_holds_and_a_larger_one_goes_on(
    tmp_path: Path, teacher: FakeTeacher, images: Images, concurrency: int
) -> None:
    """A reply costs 900 x $10 + 120 x $100 a million tokens = $0.021."""
    wanted = reference(images, teacher, tmp_path / "whole")
    start = len(teacher.asked)
    teacher.behave = lambda request: Behaviour(delay=0.01)
    with pytest.raises(BudgetError) as caught:
        write(images, teacher, tmp_path / "out", budget=0.5, concurrency=concurrency)
    assert caught.value.exit_code == 4
    billed = sum(request.billed for request in teacher.asked[start:])
    assert billed >= 10
    assert billed * 0.021 <= 0.5
    write(images, teacher, tmp_path / "out", budget=1.5, concurrency=concurrency)
    assert exported(tmp_path / "out") == wanted
    assert len(teacher.asked) - start == 48
    assert paid(tmp_path / "out") == pytest.approx(48 * 0.021)


def test_usage_that_is_missing_counts_at_its_worst(tmp_path: Path, teacher: FakeTeacher, images: Images) -> None:
    teacher.behave = lambda request: Behaviour(body=completion(TEXTS["en"]["detail"], usage=None))
    write(images[:2], teacher, tmp_path / "out", GenerationConfig(kinds=("detail",)))
    replies = [record for record in records(tmp_path / "out") if record["t"] == "reply"]
    assert all(record["dollars"] > 768 * 100 / 1e6 for record in replies)


def test_another_model_is_refused_with_what_changed(tmp_path: Path, teacher: FakeTeacher, images: Images) -> None:
    write(images[:2], teacher, tmp_path / "out")
    before = len(teacher.asked)
    with pytest.raises(RecipeError, match=r'(?s)-  ?"temperature": 0\.7.*\+ +"temperature": 0\.2|--allow-drift'):
        write(images[:2], teacher, tmp_path / "out", temperature=0.2)
    assert len(teacher.asked) == before
    write(images[:2], teacher, tmp_path / "out", temperature=0.2, allow_drift=True)
    assert len(teacher.asked) == 2 * before, "keys of another question are other keys"


def test_a_service_that_changes_its_model_is_noticed(tmp_path: Path, teacher: FakeTeacher, images: Images) -> None:
    teacher.behave = lambda request: Behaviour(
        body=completion(json.loads(good(request.tree))["choices"][0]["message"]["content"], model="fake-2")
        if request.number > 10
        else None
    )
    with pytest.raises(RecipeError, match="now answers with the model 'fake-2'; earlier answers are from 'fake-1'"):
        write(images, teacher, tmp_path / "out", concurrency=2)
    write(images, teacher, tmp_path / "out", allow_drift=True)


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path, teacher: FakeTeacher, images: Images) -> None:
    teacher.behave = lambda request: Behaviour(delay=0.5)
    out = tmp_path / "out"
    child = in_child(lambda: write(images, teacher, out, concurrency=1))
    try:
        until = time.monotonic() + 10
        while not teacher.asked and time.monotonic() < until:
            time.sleep(0.01)
        began = time.monotonic()
        with pytest.raises(RecipeError, match=f"process {child}"):
            write(images, teacher, out)
        assert time.monotonic() - began < 2
    finally:
        os.kill(child, signal.SIGKILL)
        ended(child)
    teacher.behave = lambda request: Behaviour()
    write(images, teacher, out)  # a lock of a dead process is none
    check_accounts(out, teacher.asked, kills=1)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_disk_that_refuses_stops_the_sending_and_loses_nothing(
    tmp_path: Path, teacher: FakeTeacher, images: Images, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    wanted = reference(images, teacher, tmp_path / "whole")
    start = len(teacher.asked)
    teacher.behave = lambda request: Behaviour(delay=0.05)
    real, since = os.fsync, 0.0

    def fsync(handle: int) -> None:
        nonlocal since
        if len(teacher.asked) - start >= 20:
            since = since or time.monotonic()
            if time.monotonic() - since < 0.6:
                raise OSError(number, os.strerror(number))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(TeacherError, match="cannot be written"):
        write(images, teacher, tmp_path / "out", concurrency=4)
    monkeypatch.undo()
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    assert len(teacher.asked) - start <= 20 + 2 * 4
    billed = {request.key for request in teacher.asked[start:] if request.billed}
    assert billed == set(sends(tmp_path / "out", "reply")), "an answer that was in memory is lost"
    assert reference(images, teacher, tmp_path / "out") == wanted
    assert len(teacher.asked) - start == 48


def mount_small(folder: Path, options: str) -> bool:
    """A file system in memory on `folder`, seen by this process alone; False where this may not be done."""
    if ctypes.CDLL(None).unshare(0x20000) != 0:  # CLONE_NEWNS
        return False
    quiet = {"check": True, "capture_output": True}
    try:
        subprocess.run(["mount", "--make-rprivate", "/"], **quiet)  # type: ignore[call-overload]
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], **quiet)  # type: ignore[call-overload]
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


MAY_NOT_MOUNT = 77


def test_a_disk_that_is_really_full_and_gets_room_again_loses_nothing(
    tmp_path: Path, teacher: FakeTeacher, images: Images
) -> None:
    wanted = reference(images, teacher, tmp_path / "whole" / "out")
    start = len(teacher.asked)
    small = tmp_path / "small"
    small.mkdir()

    def make_room() -> None:
        while (disk := os.statvfs(small)).f_bavail:
            time.sleep(0.01)
        time.sleep(0.8)
        assert disk.f_blocks
        subprocess.run(["mount", "-o", "remount,size=8m", str(small)], check=True)

    def work() -> None:
        if not mount_small(small, "size=24k"):
            os._exit(MAY_NOT_MOUNT)
        threading.Thread(target=make_room, daemon=True).start()
        with pytest.raises(TeacherError, match="No space left on device"):
            write(images, teacher, small / "out", concurrency=4)
        fate = Counter(fates(small / "out").values())
        assert fate["reply"] >= 5
        assert not fate["maybe"], "an answer that was in memory is lost"
        write(images, teacher, small / "out")
        assert exported(small / "out") == wanted

    code = ended(in_child(work))
    if code == MAY_NOT_MOUNT:
        pytest.skip("mounting needs root and a kernel that allows it")
    assert code == 0
    asked = teacher.asked[start:]
    assert sum(request.billed for request in asked) == 48, "something was paid for twice"


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_asked(
    tmp_path: Path, teacher: FakeTeacher, images: Images
) -> None:
    small = tmp_path / "small"
    small.mkdir()

    def work() -> None:
        if not mount_small(small, "ro"):
            os._exit(MAY_NOT_MOUNT)
        with pytest.raises(RecipeError, match=r"journal.jsonl: cannot be written: Read-only file system"):
            write(images, teacher, small / "out")

    code = ended(in_child(work))
    if code == MAY_NOT_MOUNT:
        pytest.skip("mounting needs root and a kernel that allows it")
    assert code == 0
    assert not teacher.asked


def test_a_disk_that_is_full_when_the_files_are_written_is_said_and_the_answers_stay(
    tmp_path: Path, teacher: FakeTeacher, images: Images
) -> None:
    """No file may grow to the size of the largest one: the answers are there, and the export does not fit."""
    wanted = reference(images, teacher, tmp_path / "whole")
    out = tmp_path / "out"
    write(images, teacher, out)
    (out / "samples.json").unlink()
    kept, start = (out / "journal.jsonl").read_bytes(), len(teacher.asked)

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(wanted["messages.jsonl"]) - 1, resource.RLIM_INFINITY))
        with pytest.raises(
            DiskError, match=r"messages.jsonl: cannot be written: File too large. Fix: free disk space"
        ) as caught:
            write(images, teacher, out)
        assert caught.value.exit_code == 2

    assert ended(in_child(work)) == 0
    assert (out / "journal.jsonl").read_bytes() == kept
    assert not (out / "samples.json").exists()
    assert not list(out.glob(".*.tmp-*"))
    assert reference(images, teacher, out) == wanted
    assert len(teacher.asked) == start, "what was paid for was asked again"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_ends_the_run_when_what_is_under_way_has_ended(
    tmp_path: Path, teacher: FakeTeacher, images: Images, name: str
) -> None:
    wanted = reference(images, teacher, tmp_path / "whole")
    start = len(teacher.asked)
    teacher.behave = lambda request: Behaviour(delay=0.3)
    out = tmp_path / "out"
    child = in_child(lambda: write(images, teacher, out, concurrency=4))
    while len(teacher.asked) - start < 9:
        time.sleep(0.005)
    os.kill(child, getattr(signal, name))
    sent = len(teacher.asked)
    assert ended(child, 35) == 75
    # As many as it may have under way can be sent and not yet here when they are counted.
    assert len(teacher.asked) <= sent + 4, "sent after it was told to stop"
    assert len(sends(out, "reply")) == len(teacher.asked) - start, "what was under way is in the journal"
    teacher.behave = lambda request: Behaviour()
    assert reference(images, teacher, out) == wanted
    assert len(teacher.asked) - start == 48


def test_a_second_ctrl_c_ends_it_at_once(tmp_path: Path, teacher: FakeTeacher, images: Images) -> None:
    teacher.behave = lambda request: Behaviour(delay=0 if request.number == 0 else 20)
    child = in_child(lambda: write(images, teacher, tmp_path / "out", concurrency=4))
    while len(teacher.asked) < 5:
        time.sleep(0.005)
    os.kill(child, signal.SIGINT)
    time.sleep(0.3)
    began = time.monotonic()
    os.kill(child, signal.SIGINT)
    assert ended(child, 5) == 75
    assert time.monotonic() - began < 1
    kinds = Counter(record["kind"] for record in records(tmp_path / "out") if record["t"] == "failure")
    assert kinds["unknown"] == 4, "each that was under way has its outcome in the journal"


def test_the_grace_ends(tmp_path: Path, teacher: FakeTeacher, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vistune.llm_client.workers.GRACE_SECONDS", 0.5)
    teacher.behave = lambda request: Behaviour(delay=0 if request.number == 0 else 30)
    child = in_child(lambda: write(images, teacher, tmp_path / "out"))
    while len(teacher.asked) < 5:
        time.sleep(0.005)
    os.kill(child, signal.SIGTERM)
    assert ended(child, 10) == 75

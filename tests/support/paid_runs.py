"""Runs of `vistune generate` with a remote teacher that are killed, cut off from power, resumed and compared."""

from __future__ import annotations

import json
import os
import signal
import stat
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fake_teacher import FakeTeacher, Request

from vistune.datagen import GeneratedData, GenerationConfig, TeacherOptions, generate_by_model, write_generated
from vistune.errors import VistuneError
from vistune.llm_client import Client, Journal
from vistune.types import AnnotatedImage

WISHES = GenerationConfig(kinds=("conversation", "detail"), languages=("en", "ko"))
EXPORTED = ("samples.json", "messages.jsonl", "rejects.jsonl", "pictures.jsonl", "images.json")
CANARY = "sk-CANARY-0123456789"
Images = list[AnnotatedImage]


def write(
    images: Images, teacher: FakeTeacher, out: Path, wishes: GenerationConfig = WISHES, **service: Any
) -> GeneratedData:
    """One run as `vistune generate` makes it; `report` takes its lines for a person."""
    report = {"report": service.pop("report")} if "report" in service else {}
    prices = images[0].path.parent / "prices.yaml"
    given = {"model": "fake-1", "base_url": teacher.url, "prices": prices, "poll_seconds": 0.01, **service}
    made = generate_by_model(images, wishes, TeacherOptions(**given), out, lambda *_: None, **report)
    write_generated(out, made, images)
    return made


def exported(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in EXPORTED}


def records(out: Path) -> list[dict[str, Any]]:
    journal = Journal(out)
    try:
        return [dict(record) for _, record in journal.records()]
    finally:
        journal.close()


def sends(out: Path, kind: str) -> Counter[str]:
    return Counter(f"{r['key']}/{r['send']}" for r in records(out) if r["t"] == kind)


def paid(out: Path) -> float:
    """Dollars that the journal's replies cost."""
    return sum(record["dollars"] for record in records(out) if record["t"] == "reply")


def in_child(work: Callable[[], object]) -> int:
    """Run `work` in a child forked here; its process id. It exits as the command line would."""
    child = os.fork()
    if child == 0:
        code = 1
        # Tests that were started in the background would hand down that these are ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        try:
            work()
            code = 0
        except VistuneError as stopped:
            code = stopped.exit_code
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def ended(child: int, within: float = 60) -> int:
    """The exit code of a child, or minus the signal that killed it."""
    until = time.monotonic() + within
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise AssertionError(f"still running after {within} s")
        time.sleep(0.005)


KILLABLE = ("write", "fsync", "replace", "ftruncate")
MOST_UNDER_WAY = 7  # with 4 slots: one a worker, 1.5 workers a slot and one


def kill_at(number: int) -> None:
    """From now on the process kills itself at its `number`-th write, fsync, rename or HTTP call, before or after it."""
    count = 0

    def reached() -> bool:
        nonlocal count
        count += 1
        return count >= number

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def hooked(real: Callable[..., Any], half: bool) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            if reached():
                if half:
                    real(given[0], given[1][: len(given[1]) // 2])
                die()
            result = real(*given, **named)
            if reached():
                die()
            return result

        return call

    for name in KILLABLE:
        setattr(os, name, hooked(getattr(os, name), name == "write"))
    real_request = Client.request

    async def request(self: Client, *given: Any, **named: Any) -> Any:
        if reached():
            die()
        outcome = await real_request(self, *given, **named)
        if reached():
            die()
        return outcome

    Client.request = request  # type: ignore[method-assign]


def answered(out: Path) -> set[str]:
    """Keys that have their reply in the journal."""
    return {key.split("/")[0] for key in sends(out, "reply")} if (out / "journal.jsonl").exists() else set()


def fates(out: Path) -> dict[str, str]:
    """What the journal says of each request sent: its reply, maybe billed, or free."""
    fate = {}
    for record in records(out):
        name = f"{record.get('key')}/{record.get('send')}"
        if record["t"] == "intent":
            fate[name] = "maybe"
        elif record["t"] == "reply":
            fate[name] = "reply"
        elif record["t"] == "failure":
            fate[name] = "maybe" if record["kind"] == "unknown" else "free"
    return fate


def check_accounts(out: Path, asked: Sequence[Request], kills: int) -> None:
    """By the service's own ledger: what it billed is in the journal, and a kill cost what was under way at most."""
    fate = fates(out)
    billed = [request.key for request in asked if request.billed]
    assert not [key for key in billed if fate.get(key, "free") == "free"], "billed and not in the journal"
    assert len([key for key in billed if fate[key] == "maybe"]) <= kills * MOST_UNDER_WAY
    replies = sends(out, "reply")
    assert not replies or replies.most_common(1)[0][1] == 1, "a reply twice in the journal"


def check_not_again(keys: set[str], asked: Sequence[Request]) -> None:
    again = {request.key.split("/")[0] for request in asked if request.path.endswith("completions")}
    assert not again & keys, "asked what was answered"


def kill_and_go_on(
    images: Images, teacher: FakeTeacher, out: Path, wanted: dict[str, bytes], number: int, **service: Any
) -> bool:
    """Kill a run at one point, go on, compare all; False where the run ended before that point."""
    first = len(teacher.asked)

    def work() -> None:
        kill_at(number)
        write(images, teacher, out, concurrency=4, **service)

    code = ended(in_child(work))
    assert code in (0, -signal.SIGKILL), f"exit {code} at kill point {number}"
    killed, known = len(teacher.asked), answered(out)
    write(images, teacher, out, concurrency=4, **service)
    assert exported(out) == wanted, f"kill point {number}: the files differ"
    check_not_again(known, teacher.asked[killed:])
    check_accounts(out, teacher.asked[first:], kills=1)
    return code != 0


# What a power cut leaves: of a file the bytes that an fsync saw, of a folder the names.


def keep_what_is_synced(root: Path, shadow: Path) -> None:
    """From now on `shadow` holds what a power cut would leave below `root`, and in `promised` what was promised."""
    real, replace = os.fsync, os.replace

    def note(name: str, content: bytes) -> None:
        draft = shadow / f"{name}.{threading.get_ident()}"
        draft.write_bytes(content)
        replace(draft, shadow / name)

    def fsync(handle: int) -> None:
        there = os.fstat(handle)
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        if stat.S_ISDIR(there.st_mode):
            names = {entry.name: [entry.inode(), entry.is_dir()] for entry in os.scandir(path)}
            content = json.dumps(names).encode()
        else:
            content = path.read_bytes()
        real(handle)
        if path.is_relative_to(root):
            note(str(there.st_ino), content)

    os.fsync = fsync
    append = Journal.append

    async def promising(self: Journal, record: Any) -> int:
        offset = await append(self, record)
        with open(shadow / "promised", "a", encoding="utf-8") as file:
            file.write(f"{record['t']} {record.get('key')}\n")
        return offset

    Journal.append = promising  # type: ignore[method-assign]


def after_the_power_cut(root: Path, shadow: Path, restored: Path) -> set[str]:
    """Make `restored` of what is left of `root`; returns the keys whose replies were promised to be on disk."""

    def restore(inode: int, to: Path) -> None:
        to.mkdir()
        names = shadow / str(inode)
        for name, (child, is_folder) in json.loads(names.read_bytes() if names.exists() else b"{}").items():
            kept = shadow / str(child)
            if is_folder:
                restore(child, to / name)
            else:
                (to / name).write_bytes(kept.read_bytes() if kept.exists() else b"")

    restore(root.stat().st_ino, restored)
    promised = shadow / "promised"
    lines = promised.read_text(encoding="utf-8").splitlines() if promised.exists() else []
    return {line.split()[1] for line in lines if line.startswith("reply ")}


def reference(images: Images, teacher: FakeTeacher, out: Path, **service: Any) -> dict[str, bytes]:
    write(images, teacher, out, **service)
    return exported(out)

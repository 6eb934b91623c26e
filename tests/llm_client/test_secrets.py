"""The key is sent to its endpoint and nowhere else."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fake_teacher import Behaviour, FakeService, FakeTeacher, completion, error
from paid_runs import CANARY, Images, write
from typer.testing import CliRunner
from virtual_time import ask_about, made_up, run

from vistune.errors import RecipeError, VistuneError


def arguments(teacher: FakeTeacher, coco_mini: Path, out: Path, *more: str) -> list[str]:
    asked = [
        "--teacher",
        "openai",
        "--model",
        "fake-1",
        "--base-url",
        teacher.url,
        "--limit",
        "4",
        "--split",
        "val2017",
    ]
    return ["generate", str(coco_mini), "--out", str(out), *asked, *more]


ECHO = f"Incorrect API key provided: {CANARY}"
WEATHER = {
    "401": error(401, "invalid_api_key", ECHO),
    "403": error(403, "", ECHO),
    "404": error(404, "model_not_found", ECHO),
    "quota": error(429, "insufficient_quota", ECHO),
    "400": error(400, "bad_request", ECHO),
    "500": error(500, "", ECHO),
    "429": error(429, "", ECHO, Retry_After="30"),
    "redirect": Behaviour(307, ECHO.encode(), {"Location": "http://127.0.0.1:1/v1"}),
    "html": Behaviour(body=f"<html>{ECHO}</html>".encode()),
    "cut json": Behaviour(body=completion(ECHO)[:-9]),
    "drip": Behaviour(body=b"x" * 1000, drip=1.0),
    "stall": Behaviour(body=b"x", hang=True),
    "reset": Behaviour(body=completion("x"), cut=9),
    "gzip": Behaviour(body=b"no gzip", headers={"Content-Encoding": "gzip"}),
    "large": Behaviour(body=b"x" * (5 << 20)),
    "good": Behaviour(),
}


@pytest.mark.parametrize("name", WEATHER)
def test_the_key_is_nowhere(
    tmp_path: Path,
    name: str,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After every kind of failure, everything logged: no file, log line or traceback holds the key."""
    caplog.set_level(logging.DEBUG)
    teacher = FakeService(lambda r: WEATHER[name] if name != "429" or r.number < 5 else Behaviour())

    async def work() -> BaseException | None:
        async with teacher.serving():
            asked = ask_about(made_up(2), teacher, tmp_path, concurrency=2)
            [ended] = await asyncio.gather(asked, return_exceptions=True)
            return ended if isinstance(ended, BaseException) else None

    ended = run(work())
    assert ended is None or isinstance(ended, VistuneError), repr(ended)
    said = "".join(traceback.format_exception(ended)) if ended else ""
    assert all(request.headers["authorization"] == f"Bearer {CANARY}" for request in teacher.asked)
    assert teacher.asked
    assert CANARY not in said + caplog.text + "".join(capfd.readouterr())
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes(), path


def test_the_command_shows_no_key(tmp_path: Path, teacher: FakeTeacher, coco_mini: Path) -> None:
    """A real command whose key is refused: not in its arguments, its output, its files."""
    teacher.behave = lambda request: WEATHER["401"]
    command = [sys.executable, "-c", "from vistune.cli import main; main()"]
    done = subprocess.run(
        [*command, *arguments(teacher, coco_mini, tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "Incorrect API key provided: [key]" in done.stderr
    assert CANARY not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("batch", [False, True])
def test_no_redirect_takes_the_key_to_another_host(
    tmp_path: Path, teacher: FakeTeacher, images: Images, status: int, batch: bool
) -> None:
    other = FakeTeacher()
    try:
        teacher.behave = lambda request: Behaviour(status, b"", {"Location": f"{other.url}/chat/completions"})
        with pytest.raises(RecipeError):
            write(images, teacher, tmp_path / "out", batch=batch)
        assert len(teacher.asked) == 1
        assert not other.asked
    finally:
        other.close()


@pytest.mark.parametrize("form", ["@127.0.0.1:{port}/x", "//127.0.0.1:{port}/x", "../../../@127.0.0.1:{port}", "x?y#z"])
def test_no_name_that_the_service_gives_takes_the_key_to_another_host(
    tmp_path: Path, teacher: FakeTeacher, images: Images, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch's output file with an address for its name."""
    monkeypatch.setattr("vistune.llm_client.batch.DOWNLOADS", 1)
    other = FakeTeacher()
    try:

        def step(given: dict[str, Any]) -> None:
            given["batch"] |= {"status": "completed", "output_file_id": form.format(port=other.port)}

        teacher.batch_step = step
        with suppress(VistuneError):
            write(images[:1], teacher, tmp_path / "out", batch=True)
        assert not other.asked
    finally:
        other.close()


def test_the_command_line_writes_data_that_check_accepts(
    tmp_path: Path, teacher: FakeTeacher, coco_mini: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vistune.cli.app import app

    out = tmp_path / "out"
    done = CliRunner().invoke(app, [*arguments(teacher, coco_mini, out, "--language", "en,ko"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["rejected"] == 0
    checked = CliRunner().invoke(app, ["check", str(out)])
    assert checked.exit_code == 0, checked.output
    rows = json.loads((out / "samples.json").read_text(encoding="utf-8"))
    korean = [row for row in rows if row["kind"] == "detail" and row["language"] == "ko"]
    questions = {row["conversations"][0]["value"].replace("<image>", "").strip() for row in korean}
    assert all("가" <= char <= "힣" for question in questions for char in question if char.isalpha())

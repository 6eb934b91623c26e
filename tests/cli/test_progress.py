"""Progress on stderr: lines with their events as text or JSON where nobody watches, a bar on a terminal."""

from __future__ import annotations

import io
import json
import re
import time
from pathlib import Path

import pytest
from rich.console import Console

from vistune.cli.app import print_error
from vistune.cli.log import log, print_message, using
from vistune.cli.progress import duration, progress_bar, progress_lines, terminal_bar
from vistune.cli.settings import Level, LogFormat, Settings
from vistune.errors import RecipeError

STEP = {"step": 0, "loss": 2.5, "learning_rate": 1e-3, "tokens_per_second": 3200.0, "memory_gb": 1.25}


def train_three_steps(settings: Settings) -> None:
    """Report a stage of three steps that resumes after the first."""
    with using(settings), progress_lines("tune", 3, every=0.2) as advance:
        advance(1, event="resumed")
        advance(1, note="loss 2.500", values=STEP)
        time.sleep(0.3)
        advance(1, note="loss 2.400", values={**STEP, "step": 1, "loss": 2.4})
        advance(0, event="validation", values={"validation_loss": 2.1})
        advance(0, event="checkpoint", values={"checkpoint": Path("run/checkpoints/1-tune-000003")})


def test_a_stage_prints_its_steps_and_events_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    train_three_steps(Settings())
    lines = [line[9:] for line in capsys.readouterr().err.splitlines()]
    assert lines[0] == "tune: resumed at 1 of 3"
    assert lines[1].startswith("tune: 2 of 3, loss 2.500, learning rate 1.0e-03, 3,200 tokens/s, 1.2 GB")
    assert lines[-3] == "tune: 3 of 3, validation loss 2.1000"
    assert lines[-2] == "tune: 3 of 3, checkpoint run/checkpoints/1-tune-000003"
    assert re.match(r"tune: 3 of 3 in \d+ s, loss 2\.400, ", lines[-1])


def test_the_lines_are_korean_if_asked(capsys: pytest.CaptureFixture[str]) -> None:
    train_three_steps(Settings(language="ko"))
    lines = [line[9:] for line in capsys.readouterr().err.splitlines()]
    assert lines[0] == "tune: 3 중 1에서 이어서 시작"
    assert lines[1].startswith("tune: 3 중 2, 손실 2.500, 학습률 1.0e-03, 초당 3,200토큰")
    assert lines[-3] == "tune: 3 중 3, 검증 손실 2.1000"


def test_json_lines_have_the_values_of_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    train_three_steps(Settings(log_format="json"))
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in lines if line["event"] != "progress"] == [
        "start", "resumed", "validation", "checkpoint", "end",
    ]  # fmt: skip
    progress = next(line for line in lines if line["event"] == "progress")
    assert (progress["task"], progress["done"], progress["total"]) == ("tune", 2, 3)
    assert progress["loss"] == 2.5
    assert progress["learning_rate"] == 1e-3
    assert lines[-1]["loss"] == 2.4


def test_the_remaining_time_counts_only_steps_of_this_process(capsys: pytest.CaptureFixture[str]) -> None:
    with using(Settings(log_format="json")), progress_lines("tune", 1000, every=0.2) as advance:
        advance(900, event="resumed")
        time.sleep(0.1)
        advance(1)
        time.sleep(0.2)
    progress = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    left = next(line["seconds_left"] for line in progress if line["event"] == "progress")
    assert left >= 10  # 99 steps at 0.1 s or more; with the 900 steps it would be less than one second


@pytest.mark.parametrize(("level", "format_"), [("quiet", "text"), ("quiet", "json")])
def test_quiet_prints_no_progress_and_no_message(
    level: Level, format_: LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    with using(Settings(level=level, log_format=format_)), progress_bar("tune", 2) as advance:
        advance(2, values=STEP)
        print_message("stage tune: the loss explodes")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("seconds", "lines"), [(3600.0, 0), (0.0, 1)])
def test_a_task_without_events_is_silent_if_it_is_short(
    seconds: float, lines: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vistune.cli.progress.SILENT_SECONDS", seconds)
    with using(Settings()), progress_lines("read", 3) as advance:
        advance(3)
    assert len(capsys.readouterr().err.splitlines()) == lines


def test_only_the_first_process_of_torchrun_shows_progress(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        with using(Settings(log_format="json")), progress_bar("tune", 2) as advance:
            advance(2, values=STEP)
            print_message("the loss explodes")
        printed.append([json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()])
    assert printed == [["start", "message", "end"], ["message"]]


def test_a_json_line_of_a_diverged_step_is_strict_json(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    with using(Settings(log_format="json")), progress_bar("tune", 2) as advance:
        advance(2, values={**STEP, "loss": float("nan")})
    end = [json.loads(line, parse_constant=refuse) for line in capsys.readouterr().err.splitlines()][-1]
    assert (end["loss"], end["learning_rate"]) == (None, 1e-3)
    assert "loss nan" in end["message"]


@pytest.mark.parametrize("format_", ["text", "json"])
@pytest.mark.parametrize("level", ["normal", "verbose"])
def test_the_traceback_of_an_error_is_printed_if_asked(
    level: Level, format_: LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        raise RecipeError("wrong", "mend it")
    except RecipeError as error:
        with using(Settings(level=level, log_format=format_)):
            print_error(error)
    printed = capsys.readouterr().err
    assert ("Traceback (most recent call last)" in printed) == (level == "verbose")
    if format_ == "json":
        line = json.loads(printed)
        assert (line["event"], line["exit_code"], line["message"]) == ("error", 2, "vistune: wrong. Fix: mend it")


def test_a_line_that_cannot_be_printed_is_reported_and_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    class Unprintable:
        def __str__(self) -> str:
            raise ValueError("cannot be printed")

    with using(Settings(log_format="json")):
        log.info("read", extra={"values": {"file": Unprintable()}})
        print_message("next")
    printed = capsys.readouterr().err
    assert "--- Logging error ---" in printed
    assert json.loads(printed.splitlines()[-1])["message"] == "next"


def test_a_task_that_fails_says_where(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with using(Settings()), progress_lines("tune", 3) as advance:
            advance(1, values=STEP)
            raise KeyError("x")

    with pytest.raises(KeyError):
        fail()
    assert re.search(r"tune: stopped at 1 of 3 after \d+ s", capsys.readouterr().err)


def test_a_bar_shows_the_values_and_puts_events_above(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    monkeypatch.setattr("vistune.cli.log.stderr", console)
    with using(Settings()), terminal_bar("tune", 2) as advance:
        advance(1, values=STEP)
        advance(1, values=STEP)
        advance(0, event="checkpoint", values={"checkpoint": "1-tune-000002"})
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert " 2/2 " in shown
    assert "loss 2.500" in shown
    assert "tune: 2 of 2, checkpoint 1-tune-000002\n" in shown


@pytest.mark.parametrize(
    ("seconds", "text"), [(45, "45 s"), (720, "12 min"), (9000, "2.5 h"), (200_000, "2.3 d"), (8e8, "25 y")]
)
def test_durations_have_one_unit(seconds: float, text: str) -> None:
    assert duration(seconds, "en") == text

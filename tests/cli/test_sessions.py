"""Whole sessions as text, at 80 and 120 columns and in both languages: help, recipes, init and plan.

`VISTUNE_WRITE_SESSIONS=1 pytest tests/cli/test_sessions.py` writes the files again. Rows of this machine are omitted.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from vistune import __version__
from vistune.cli.app import run
from vistune.cli.help import cells

SESSIONS = Path(__file__).parent / "sessions"
COMMANDS = {
    "help": ["--help"],
    "help-train": ["train", "-h"],
    "recipes": ["recipes"],
    "init": ["init", "smol", "--data", "data.json", "--vision", "my-tower", "--out", "mine.yaml"],
    "plan": ["plan", "quickstart", "--samples", "1000"],
    "plan-does-not-fit": ["plan", "llava-v1.5-7b", "--samples", "665298"],
}
OWN_ROWS = ("this CPU", "이 CPU")


def session(name: str, language: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command as `main` does, and return what a user sees without the rows of this machine."""
    command = [*COMMANDS[name], "--lang", language]
    assert run(command) == 0
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines() if not line.startswith(OWN_ROWS)]
    lines = [f"$ vistune {' '.join(command)}", *lines]
    if name.startswith("plan"):  # columns are as wide as the omitted rows
        lines = [re.sub(" {2,}", "  ", line) for line in lines]
    if name == "init":
        lines += ["$ cat mine.yaml", *Path("mine.yaml").read_text(encoding="utf-8").splitlines()]
    return "\n".join(lines).replace(__version__, "VERSION") + "\n"


@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_session_is_as_recorded(
    name: str,
    columns: int,
    language: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", str(columns))
    Path("data.json").write_text("[]")
    found = session(name, language, capsys)
    file = SESSIONS / f"{name}.{language}.{columns}.txt"
    if os.environ.get("VISTUNE_WRITE_SESSIONS"):
        file.write_text(found, encoding="utf-8")
    expected = file.read_text(encoding="utf-8")
    if name.startswith("plan"):  # the figures of this machine's omitted rows move the line breaks
        assert found.split() == expected.split()
    else:
        assert found == expected
    printed = found.partition("$ cat")[0].splitlines()[1:]
    assert not [line for line in printed if cells(line) > columns]

"""Write docs/cli.md from the program itself; a test compares, so the page cannot drift.

python scripts/write_cli_docs.py
"""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"


def page() -> str:
    """The help of every verb, 100 columns wide."""
    from typer.testing import CliRunner

    from vistune.cli.app import app

    runner = CliRunner(env={"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1"})
    lines = ["# Command line", "", "Written by `python scripts/write_cli_docs.py`; a test holds it current.", ""]
    for command in app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__
        shown = runner.invoke(app, [name, "--help"], prog_name="vistune").stdout.strip()
        lines += [f"## vistune {name}", "", "```text", shown, "```", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

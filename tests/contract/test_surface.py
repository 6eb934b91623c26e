"""What others rely on: public names, recipes, the command line's page, the README's commands."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import vistune
from vistune.recipe import dump, known_recipes, load_recipe, parse_yaml, validate

ROOT = Path(__file__).parents[2]


def test_public_names_are_there() -> None:
    for name in vistune.__all__:
        assert callable(getattr(vistune, name))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = vistune.nothing


def test_importing_does_no_work() -> None:
    """`import vistune` and the help pull in neither torch nor transformers."""
    code = (
        "import sys, vistune, vistune.cli; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'peft')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", known_recipes())
def test_every_recipe_parses_and_replays(name: str) -> None:
    recipe = load_recipe(name)
    assert validate(parse_yaml(dump(recipe), "dump"), "dump") == recipe


def test_the_command_lines_page_is_current() -> None:
    spec = importlib.util.spec_from_file_location("write_cli_docs", ROOT / "scripts" / "write_cli_docs.py")
    assert spec is not None
    assert spec.loader is not None
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    assert writer.PAGE.read_text(encoding="utf-8") == writer.page(), "run: python scripts/write_cli_docs.py"


def commands(page: Path) -> list[str]:
    """The vistune commands in a page's shell blocks."""
    blocks = re.findall(r"```(?:bash|sh|console)\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = [line.removeprefix("$ ").strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("vistune ")]


@pytest.mark.parametrize(
    "page", ["README.md", *(str(p.relative_to(ROOT)) for p in sorted((ROOT / "docs").glob("*.md")))]
)
def test_every_command_in_the_pages_parses(page: str) -> None:
    """Each verb, option and override of a documented command is one that the program takes."""
    from typer.testing import CliRunner

    from vistune.cli import app

    for command in commands(ROOT / page):
        words = shlex.split(command, comments=True)[1:]
        verb = words[0]
        shown = CliRunner().invoke(app, [verb, "--help"])
        assert shown.exit_code == 0, f"{page}: {command}: no verb {verb}"
        for word in words[1:]:
            if word.startswith("--"):
                assert word.split("=")[0] in shown.stdout, f"{page}: {command}: no option {word}"
        if verb == "train":
            load_recipe(words[1], [word for word in words[2:] if "=" in word and not word.startswith("-")])


def test_no_path_of_a_machine_is_in_the_project() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    pattern = re.compile(rb"/(?:work|root|home)/[a-z]")
    texts = [name for name in listed if name.endswith((".py", ".md", ".toml", ".yaml", ".json", ".txt", "Makefile"))]
    found = [name for name in texts if (ROOT / name).is_file() and pattern.search((ROOT / name).read_bytes())]
    assert not found


def test_the_tasks_in_the_evaluation_page_are_current() -> None:
    spec = importlib.util.spec_from_file_location("write_task_docs", ROOT / "scripts" / "write_task_docs.py")
    assert spec is not None
    assert spec.loader is not None
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    assert writer.PAGE.read_text(encoding="utf-8") == writer.page(), "run: python scripts/write_task_docs.py"

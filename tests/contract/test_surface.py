"""What others rely on: public names, recipes, the command line's page."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vistune
from vistune.files import parse_yaml
from vistune.recipe import dump, known_recipes, load_recipe, validate

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

"""Every notebook runs from its first cell to its last, in an empty folder, and is stored without outputs."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

import vistune

FOLDER = Path(__file__).parents[2] / "examples" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def cells_of(path: Path, kind: str) -> list[str]:
    return [
        "".join(cell["source"]) for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == kind
    ]


def shown(cell: str, names: dict[str, Any]) -> object:
    """Run a cell as a kernel does: the value of its last line is shown, as HTML if it can be."""
    *before, last = ast.parse(cell).body
    exec(compile(ast.Module(before, []), "cell", "exec"), names)
    if not isinstance(last, ast.Expr):
        exec(compile(ast.Module([last], []), "cell", "exec"), names)
        return None
    value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    return value._repr_html_() if hasattr(value, "_repr_html_") else repr(value)


def test_there_is_a_notebook_for_every_journey() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["1-data", "2-train", "3-evaluate", "4-own-loop", "5-chat"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path: Path) -> None:
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world, data and run that notebooks make in their first cell."""
    folder = tmp_path_factory.mktemp("notebooks")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(cells_of(FOLDER / "4-own-loop.ipynb", "code")[0], {})
    return folder


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, *rest = cells_of(path, "code")
    names: dict[str, Any] = {}
    if path.stem in ("4-own-loop", "5-chat"):  # their first cell is that of the fixture
        assert first == cells_of(FOLDER / "4-own-loop.ipynb", "code")[0]
        monkeypatch.chdir(run)
        names = {"vistune": vistune, "run": vistune.Run(Path("run"))}
    else:
        shown(first, names)
    for cell in rest:
        if isinstance(value := shown(cell, names), str):
            assert value not in ("", "None")

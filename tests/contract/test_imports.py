"""Imports point down only: nine levels, checked over the syntax trees."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "vistune"
LEVELS = (
    ("errors", "types", "registry", "files", "progress"),
    ("recipe", "records", "grounding", "translations", "notebook"),
    ("processor", "model", "llm_client", "scenes"),
    ("data", "generation", "runs"),
    ("datagen", "interop"),
    ("planner",),
    ("training", "evaluation", "serving", "report"),
    ("api", "_quickstart"),
    ("cli", "__main__"),
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
# Modules within a level that others of the level may import.
FIRST_IN_LEVEL = {"errors", "api", "cli"}
FILES = sorted(SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[str, int, bool]]:
    """(module, line, at top level and not for type checking only) of every import in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "vistune" else [f"vistune.{alias.name}" for alias in node.names]
            found += [(name, node.lineno, id(node) not in guarded) for name in names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, node.lineno, id(node) not in guarded) for alias in node.names]
    return found


def test_every_room_has_a_level() -> None:
    rooms = {room_of(path) for path in FILES} - {"__init__"}
    assert rooms <= set(LEVEL), f"rooms without a level: {sorted(rooms - set(LEVEL))}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return
    for module, line, _ in imports(path):
        if not module.startswith("vistune.") or module == "vistune.__version__":
            continue
        other = module.split(".")[1]
        if other == room:
            continue
        down = LEVEL[other] < LEVEL[room]
        inside = LEVEL[other] == LEVEL[room] and other in FIRST_IN_LEVEL
        assert down or inside, (
            f"{path.name}:{line}: {room} (level {LEVEL[room]}) imports {other} (level {LEVEL[other]})"
        )


@pytest.mark.parametrize(
    "room",
    [
        "api",
        "cli",
        "datagen",
        "errors",
        "files",
        "grounding",
        "llm_client",
        "progress",
        "recipe",
        "records",
        "registry",
        "report",
        "types",
    ],
)
def test_rooms_that_must_not_import_torch(room: str) -> None:
    for path in FILES:
        if room_of(path) == room:
            for module, line, runs in imports(path):
                assert not (runs and module.split(".")[0] in ("torch", "transformers")), (
                    f"{path.name}:{line}: {room} imports {module}"
                )


def test_there_are_at_most_nine_levels_and_eight_loose_modules() -> None:
    loose = [path.stem for path in SOURCE.glob("*.py") if not path.stem.startswith("__")]
    assert len(LEVELS) <= 9
    assert len(loose) <= 8


def test_no_file_is_a_drawer() -> None:
    assert not [path for path in FILES if path.stem in ("utils", "common", "helpers", "misc")]

"""Names are looked up exactly, or imported; a wrong one lists the known and guesses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from vistune.errors import RecipeError
from vistune.registry import guess, lookup


def test_a_known_name_is_its_entry_even_with_a_colon() -> None:
    table = {"a": 1, "b:c": 2}
    assert lookup("a", table, "thing") == 1
    assert lookup("b:c", table, "thing") == 2


def test_a_module_and_attribute_are_imported() -> None:
    assert lookup("json:dumps", {}, "thing") is json.dumps
    assert lookup("os.path:join", {}, "thing")("a", "b") == "a/b"


def test_only_the_exact_name_is_known() -> None:
    for name in ("Circle", " circle", "circl", "circle_lora", ""):
        with pytest.raises(RecipeError, match=f"unknown shape {name!r}"):
            lookup(name, {"circle": 1}, "shape")


def test_a_wrong_name_gets_the_nearest_and_all() -> None:
    with pytest.raises(RecipeError) as caught:
        lookup("circel", {"star": 1, "circle": 2}, "shape")
    assert caught.value.message == "unknown shape 'circel'"
    assert caught.value.hint == "did you mean 'circle'? known: circle, star"


def test_nothing_near_is_not_guessed() -> None:
    assert guess("zzz", ["circle", "star"]) == "known: circle, star"
    assert guess("zzz", []) == "known: none"


@pytest.mark.parametrize(
    "name", ["no.such:thing", "json:nothing", "json:", ":dumps", ":", "json:dumps:x", ".json:dumps"]
)
def test_what_cannot_be_imported_is_a_recipe_error(name: str) -> None:
    with pytest.raises(RecipeError, match="cannot be imported") as caught:
        lookup(name, {}, "thing")
    assert caught.value.hint


def test_a_module_with_a_mistake_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_written_teacher.py").write_text("import no_such_module_anywhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RecipeError, match="no_such_module_anywhere"):
        lookup("half_written_teacher:write", {}, "teacher")
    assert "half_written_teacher" not in sys.modules


def test_a_module_that_is_not_python_is_named_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unfinished_task.py").write_text("class Task(\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        RecipeError, match=r"task 'unfinished_task:Task' cannot be imported: .*unfinished_task.py, line 1"
    ):
        lookup("unfinished_task:Task", {}, "task")

"""Recipes: YAML 1.2 scalars, overrides by path and name, one clear error for each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from vistune.errors import DataError, RecipeError
from vistune.recipe import Recipe, Stage, load_recipe, parse_yaml, stage_steps, warmup_steps

STAGE = "stages:\n- {name: tune, learn: {projector: 1e-3}, steps: 5}\n"


def read(folder: Path, text: str, *overrides: str) -> Recipe:
    (folder / "r.yaml").write_text(text, encoding="utf-8")
    return load_recipe(str(folder / "r.yaml"), overrides)


def test_numbers_and_words_are_read_as_yaml_1_2_reads_them() -> None:
    tree = parse_yaml("{a: 1e-4, b: no, c: 010, d: true, e: 1_000, f: 2020-01-01, g: .5, h: 7}", "x")
    assert tree == {"a": 1e-4, "b": "no", "c": 10, "d": True, "e": "1_000", "f": "2020-01-01", "g": 0.5, "h": 7}


def test_overrides_reach_list_items_by_name(tmp_path: Path) -> None:
    recipe = read(
        tmp_path, STAGE, "stages.tune.learn.language=1e-4", "seed=3", "data=[a.json, {file: b.json, take: 5}]"
    )
    assert recipe.stages[0].learn == {"projector": 1e-3, "language": 1e-4}
    assert recipe.seed == 3
    assert [(str(source.file), source.take) for source in recipe.data] == [("a.json", None), ("b.json", 5)]


BAD = {
    "seeds: 1\n": "unknown key 'seeds'",
    "seed: no\n": "seed",
    "seed: 1\nseed: 2\n": "stands twice",
    "a: &x [1]\nb: *x\n": "aliases",
    "a: !!python/object/apply:os.system [ls]\n": "not YAML",
    "seed: [\n": r"r\.yaml:\d+: not YAML",
    "- 1\n": "a mapping of keys",
    "model: {openai_api_key: x}\n": "secret",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_file_is_one_clear_error(tmp_path: Path, text: str) -> None:
    body = text if text.startswith("-") else text + STAGE
    with pytest.raises(RecipeError, match=BAD[text]) as caught:
        read(tmp_path, body)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stages.tune.lern.projector=1", "did you mean 'learn'"),
        ("stages.tun.steps=1", "did you mean 'tune'"),
        ("stages.tune.learn.projectr=1e-3", "projector"),
        ("model.visoin=x", "did you mean 'vision'"),
        ("stages.tune.learn.projector=-1", "greater than 0"),
        ("stages.tune.learn.projector='1e-3x'", "number"),
        ("stages.tune.learn.projector=.nan", "finite"),
        ("stages.tune.samples_per_step=0", "greater than or equal to 1"),
        ("stages.tune.epochs=1", "exactly one of `steps` and `epochs`"),
        ("stages.tune.learn={}", "`learn` is empty"),
        ("stages.tune.learn.adapters=1e-3", "needs a `lora` section"),
        ("stages.tune.lora={rank: 4}", "needs `learn.adapters`"),
        ("seed", "not key=value"),
        ("stages.tune=1", "names a whole list item"),
    ],
)
def test_a_bad_override_says_where_and_what(tmp_path: Path, override: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, STAGE, override)
    assert words in str(caught.value)


def test_lora_and_full_tuning_exclude_each_other(tmp_path: Path) -> None:
    both = "stages.tune.learn={language: 1e-4, adapters: 1e-3}"
    with pytest.raises(RecipeError, match="exclude each other"):
        read(tmp_path, STAGE, both, "stages.tune.lora={rank: 4}")


def test_two_stages_may_not_share_a_name(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="share a name"):
        read(tmp_path, STAGE + "- {name: tune, learn: {projector: 1e-3}, steps: 5}\n")


def test_unknown_recipes_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="unknown recipe 'quickstrat'"):
        load_recipe("quickstrat")
    with pytest.raises(DataError, match=r"gone\.yaml: no such file"):
        load_recipe(str(tmp_path / "gone.yaml"))


def test_steps_and_warmup_follow_from_the_stage() -> None:
    stage = Stage(name="x", learn={"projector": 1e-3}, epochs=3, samples_per_step=32)
    assert stage_steps(stage, 100) == 12  # three times four steps, the last of each smaller: every row three times
    assert warmup_steps(stage, 1000) == 30
    assert stage_steps(Stage(name="x", learn={"projector": 1e-3}, steps=7), 100) == 7

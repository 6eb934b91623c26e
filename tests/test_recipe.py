"""Recipes: YAML 1.2 scalars, overrides by path and name, one clear error for each mistake."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from script_modules import load_script

from vistune.errors import DataError, RecipeError
from vistune.files import parse_yaml
from vistune.recipe import Recipe, Stage, Take, dump, load_recipe, validate
from vistune.training.optimizer import rate_schedule

RECIPES = load_script("corpus_recipes").RECIPES
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
    assert [(str(source.file), source.take) for source in recipe.data] == [("a.json", None), ("b.json", Take(rows=5))]


@pytest.mark.parametrize("name", RECIPES)
def test_a_bad_recipe_is_one_clear_error_and_runs_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows C of the corpus."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=RECIPES[name].words) as caught:
        read(tmp_path, RECIPES[name].text)
    assert caught.value.hint
    assert [entry.name for entry in tmp_path.iterdir()] == ["r.yaml"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stages.tune.lern.projector=1", "did you mean 'learn'"),
        ("stages.tune.lr=1e-3", "did you mean 'learn'"),
        ("stages.tune.learning_rate=1e-3", "did you mean 'learn'"),
        ("stages.tune.batch_size=8", "did you mean 'samples_per_step'"),
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
        ("stages.tune=1", "names a complete list item"),
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


def test_warmup_follows_from_the_stage() -> None:
    rate = rate_schedule(Stage(name="x", learn={"projector": 1e-3}, epochs=3), 1000)
    assert [rate(0), rate(28), rate(29)] == [1 / 30, 29 / 30, 1.0]  # three hundredths of 1,000 steps


@pytest.mark.parametrize("key", ["sk-CANARYabcdefghijkl0123", "hf_CANARYabcdefghijkl0123"])
def test_a_key_in_any_field_is_refused_and_not_repeated(tmp_path: Path, key: str) -> None:
    with pytest.raises(RecipeError, match=r"model\.language: looks like a secret") as caught:
        read(tmp_path, STAGE, f"model.language={key}")
    assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("1e-4", 1e-4), ("-2E+3", -2000.0), (".5", 0.5), ("1.", 1.0), ("+3", 3), ("0o17", 15), ("0x1F", 31)],
        *[("010", 10), ("yes", "yes"), ("off", "off"), ("12:30:45", "12:30:45"), ("null", None), ("~", None)],
        *[("'1e-4'", "1e-4"), ("1e", "1e"), ("e5", "e5"), ("0b1", "0b1"), ("false", False)],
    ],
)
def test_each_scalar_is_what_yaml_1_2_says(text: str, value: object) -> None:
    read = parse_yaml(f"a: {text}", "x")["a"]
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("override", "path", "meant"),
    [
        ("sede=1", "sede", "seed"),
        ("model.langauge=x", "model.langauge", "language"),
        ("stages.tune.shedule=cosine", "stages.tune.shedule", "schedule"),
        ("stages.tune.learn.languge=1e-3", "stages.tune.learn.languge", "language"),
        ("stages.tune.lora={rnk: 4}", "stages.tune.lora.rnk", "rank"),
        ("data=[{file: a, knids: [caption]}]", "data.0.knids", "kinds"),
        ("stages.tune.data=[{file: a, imges: b}]", "stages.tune.data.0.imges", "images"),
    ],
)
def test_an_unknown_key_gets_its_path_and_a_guess_at_each_level(
    tmp_path: Path, override: str, path: str, meant: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, STAGE, override)
    assert caught.value.message.endswith(f": unknown key {path!r}")
    assert f"did you mean {meant!r}?" in caught.value.hint


@pytest.mark.parametrize(
    "wrong",
    [
        *["learn.projector=0", "learn.projector=.inf", "learn.projector=10", "learn.projector='1e-4'"],
        *["steps=0", "steps=-1", "steps=1.5", "steps='5'", "steps=true", "epochs=.nan", "samples_per_step=-3"],
        *["warmup_share=1", "warmup_share=-0.1", "weight_decay=.nan", "weight_decay=-1", "clip=0", "clip=.nan"],
        *["betas=[.nan, 0.9]", "betas=[0.9, 1.0]", "betas=[0.9]", "betas=[-0.1, 0.9]", "tokens_per_row=1"],
        *["lora={rank: 0}", "lora={alpha: .inf}", "lora={alpha: -1}", "lora={dropout: 1}", "precision=fp8"],
        *["save_every=0", "schedule=cosin", "optimizer=sgd", "name=Tune/2", "name=", "learn=5"],
    ],
)
def test_a_wrong_value_is_the_only_complaint(tmp_path: Path, wrong: str) -> None:
    """One mistake, one complaint that begins at its key; nothing follows from it."""
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, STAGE, f"stages.tune.{wrong}")
    where = wrong.partition("=")[0]
    assert re.search(rf": stages\.\S+?\.{where}\b|: stages\.\S*{where}", caught.value.message), caught.value.message
    assert "at least 1 item" not in caught.value.message


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, STAGE, "seed=-1", "model.image_mode=round", "stages.tune.clip=0")
    for path in ("seed", "model.image_mode", "stages.tune.clip"):
        assert f": {path}: " in caught.value.message


def test_a_full_recipe_survives_its_dump(tmp_path: Path) -> None:
    recipe = read(
        tmp_path,
        STAGE,
        "name='010'",
        "seed=7",
        "model={vision: 'no', language: 1e5 x, image_mode: pad, feature_layer: -1}",
        "data=[a.json, {file: 그림.json, kinds: [caption], take: 5, images: 'p q'}]",
        "stages.tune.learn={projector: 1e-7, adapters: 2e-4}",
        "stages.tune.lora={rank: 4, alpha: 8, targets: [q_proj]}",
        "stages.tune.betas=[0.8, 0.95]",
        "reject_limit=0.5",
    )
    again = validate(parse_yaml(dump(recipe), "dump"), "dump")
    assert again == recipe
    assert dump(again) == dump(recipe)
    assert recipe.stages[0].learn["projector"] == 1e-7
    assert recipe.model.vision == "no"


def test_a_batch_in_tokens_and_shards_survive_their_dump(tmp_path: Path) -> None:
    """The other way to give a batch has a default, which must not be written beside it."""
    recipe = read(
        tmp_path,
        STAGE,
        "stages.tune.tokens_per_row=512",
        "stages.tune.tokens_per_step=4096",
        "stages.tune.shards='s3://bucket/{000..999}.tar'",
    )
    again = validate(parse_yaml(dump(recipe), "dump"), "dump")
    assert again.stages[0].shards == recipe.stages[0].shards
    assert dump(again) == dump(recipe)


def test_sources_without_a_name_are_reached_by_their_place(tmp_path: Path) -> None:
    text = STAGE + "data: [{file: a.json}, {file: b.json}]\n"
    assert read(tmp_path, text, "data.1.take=5").data[1].take == Take(rows=5)
    with pytest.raises(RecipeError, match=r"no item has the name '2'"):
        read(tmp_path, text, "data.2.take=5")


def test_an_override_leaves_the_rest_of_the_recipe(tmp_path: Path) -> None:
    two = STAGE + "- {name: last, learn: {language: 1e-5}, epochs: 2}\n"
    plain, changed = read(tmp_path, two), read(tmp_path, two, "stages.last.epochs=3", "stages.tune.clip=.inf")
    assert changed.stages[1].epochs == 3
    assert changed.stages[0] == plain.stages[0].model_copy(update={"clip": float("inf")})
    assert changed.stages[1].learn == plain.stages[1].learn


@pytest.mark.parametrize(
    ("written", "wanted"),
    [("take: 5", ("first", 5)), ("take: last 7", ("last", 7)), ("take: random 9", ("random", 9))],
)
def test_some_rows_may_be_taken(tmp_path: Path, written: str, wanted: tuple[str, int]) -> None:
    recipe = read(tmp_path, STAGE + f"data: [{{file: a.json, {written}}}]\n")
    take = recipe.data[0].take
    assert take is not None
    assert (take.which, take.rows) == wanted
    (tmp_path / "again.yaml").write_text(dump(recipe))
    assert load_recipe(str(tmp_path / "again.yaml")) == recipe


def test_a_wrong_choice_of_rows_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"data.0.take.*'the last'.*last N"):
        read(tmp_path, STAGE + "data: [{file: a.json, take: the last}]\n")


# Of arXiv 2304.08485 and 2310.03744: (samples a step, epochs, rates) of both stages.
PAPERS = {
    "llava-v1-7b": ((128, 1, {"projector": 2e-3}), (32, 3, {"projector": 2e-5, "language": 2e-5})),
    "llava-v1-13b": ((128, 1, {"projector": 2e-3}), (32, 3, {"projector": 2e-5, "language": 2e-5})),
    "llava-v1.5-7b": ((256, 1, {"projector": 1e-3}), (128, 1, {"projector": 2e-5, "language": 2e-5})),
    "llava-v1.5-13b": ((256, 1, {"projector": 1e-3}), (128, 1, {"projector": 2e-5, "language": 2e-5})),
    "llava-v1.5-7b-lora": ((256, 1, {"projector": 1e-3}), (128, 1, {"projector": 2e-5, "adapters": 2e-4})),
    "llava-v1.5-13b-lora": ((256, 1, {"projector": 1e-3}), (128, 1, {"projector": 2e-5, "adapters": 2e-4})),
    "llava-v1.5-7b-qlora": ((256, 1, {"projector": 1e-3}), (128, 1, {"projector": 2e-5, "adapters": 2e-4})),
    "scienceqa-13b": ((128, 1, {"projector": 2e-3}), (32, 12, {"projector": 2e-5, "language": 2e-5})),
}


@pytest.mark.parametrize("name", PAPERS)
def test_shipped_recipes_learn_as_the_papers_say(name: str) -> None:
    recipe = load_recipe(name)
    found = tuple((stage.samples_per_step, stage.epochs, dict(stage.learn)) for stage in recipe.stages)
    assert found == PAPERS[name]
    assert {stage.schedule for stage in recipe.stages} == {"cosine"}
    assert {(stage.warmup_share, stage.weight_decay, stage.clip) for stage in recipe.stages} == {(0.03, 0.0, 1.0)}
    assert [stage.template for stage in recipe.stages] == ["plain", None]
    if "lora" in name:
        lora = recipe.stages[1].lora
        assert lora is not None
        assert (lora.rank, lora.alpha, lora.dropout, lora.targets) == (128, 256, 0.05, None)
        assert recipe.stages[1].quantize == (4 if "qlora" in name else None)
    assert {(stage.tokens_per_row, stage.betas, stage.optimizer, stage.too_long) for stage in recipe.stages} == {
        (2048, (0.9, 0.999), "adamw", "cut")
    }
    model, newer = recipe.model, "v1.5" in name
    assert model.vision == "openai/clip-vit-large-patch14" + ("-336" if newer else "")
    size = "13b" if "13b" in name else "7b"
    assert model.language == f"lmsys/vicuna-{size}-{'v1.5' if newer else 'v1.3'}"
    assert (model.projector, model.template) == ("mlp2x_gelu" if newer else "linear", "v1")
    assert (model.feature_layer, model.feature_tokens, recipe.seed, recipe.workers) == (-2, "patch", 42, 4)
    # Both of v1's stages crop; v1.5 aligns on crops and tunes on padded pictures.
    modes = [stage.image_mode or model.image_mode for stage in recipe.stages]
    assert modes == (["square", "pad"] if newer else ["square", "square"])


def test_the_recipe_that_goes_on_is_the_papers_lora_on_padded_pictures() -> None:
    """finetune_task_lora."""
    recipe = load_recipe("llava-v1.5-7b-task-lora")
    (stage,) = recipe.stages
    assert recipe.origin is not None
    assert (recipe.origin.image_mode, recipe.origin.template) == ("pad", "v1")
    assert (stage.samples_per_step, stage.epochs, dict(stage.learn)) == (128, 1, {"projector": 2e-5, "adapters": 2e-4})
    assert stage.lora == load_recipe("llava-v1.5-7b-lora").stages[1].lora

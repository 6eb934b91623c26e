"""`from`: a run that begins with an existing model, of ours or of another layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from training_stages import ALIGN, LORA, TUNE, MakeRecipe

from vistune import api
from vistune.api import plan
from vistune.errors import CheckpointError, RecipeError
from vistune.files import read_json
from vistune.recipe import Origin, Recipe, dump, load_recipe, validate
from vistune.runs import checkpoint
from vistune.runs.folder import checkpoints_of

QUESTION = [{"role": "user", "content": "What colour?"}]


def going_on(first: Recipe, origin: Path, *stages: dict[str, Any], **changes: Any) -> Recipe:
    return validate({"from": str(origin), "data": str(first.data[0].file), "stages": list(stages), **changes}, "test")


def logits(model: Path) -> torch.Tensor:
    """Of the tokenizer's own tokens: llava-hf pads the vocabulary."""
    assistant = api.load(model)
    return assistant.logits([*QUESTION, {"role": "assistant", "content": "red"}])[:, :400]


@pytest.fixture
def first(make_recipe: MakeRecipe) -> Recipe:
    return make_recipe(ALIGN, {**LORA, "steps": 3, "save_every": None})


@pytest.mark.parametrize("layout", ["ours", "llava-original", "llava-hf"])
def test_a_run_goes_on_where_a_model_stands(first: Recipe, tmp_path: Path, layout: str) -> None:
    torch.set_num_threads(1)
    origin = api.train(first, tmp_path / "first")
    if layout != "ours":
        api.export(origin, tmp_path / layout, layout=layout, merge=True)
        origin = tmp_path / layout
    still = {**TUNE, "learn": {"projector": 1e-9}, "steps": 1, "save_every": None}
    run = api.train(going_on(first, origin, still), tmp_path / "second")
    saved = checkpoints_of(run)[-1]
    assert torch.allclose(logits(run), logits(tmp_path / "first"), atol=1e-4)
    parts = checkpoint.read_parts(saved)
    assert parts["language"]["saved"] == (layout == "ours")  # adapters became part of the weights
    assert (run / "from").exists() == (layout != "ours")
    assert "model" not in (run / "recipe.yaml").read_text().split("stages")[0].replace("model: /", "")
    assert load_recipe(str(run / "recipe.yaml")).origin is not None


def test_pictures_may_be_padded_though_a_folder_crops_them(first: Recipe, tmp_path: Path) -> None:
    """As llava-hf's folders of LLaVA 1.5 do, which has learnt from padded ones; the model keeps to it."""
    origin = api.train(first, tmp_path / "first")
    api.export(origin, tmp_path / "hf", layout="llava-hf", merge=True)
    padded = {"model": str(tmp_path / "hf"), "image_mode": "pad"}
    recipe = going_on(first, origin, {**TUNE, "steps": 1}).model_copy(update={"origin": Origin.model_validate(padded)})
    run = api.train(recipe, tmp_path / "second")
    assert api.load(tmp_path / "hf").processor.spec.image_mode == "square"
    assert api.load(run).processor.spec.image_mode == "pad"
    assert load_recipe(str(run / "recipe.yaml")).origin == recipe.origin
    api.export(run, tmp_path / "again", layout="llava-hf", merge=True)
    assert api.load(tmp_path / "again").processor.spec.image_mode == "pad"


def test_a_run_with_another_layout_under_it_is_killed_and_goes_on(first: Recipe, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    origin = api.train(first, tmp_path / "first")
    api.export(origin, tmp_path / "hf", layout="llava-hf", merge=True)
    recipe = going_on(first, tmp_path / "hf", {**LORA, "steps": 6, "save_every": 2}, keep_checkpoints=5)
    whole = api.train(recipe, tmp_path / "whole")
    cut = api.train(recipe, tmp_path / "cut")
    for saved in checkpoints_of(cut)[1:]:
        for file in sorted(saved.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        saved.rmdir()
    api.train(recipe, cut, resume=True)
    names = [path.name for path in checkpoints_of(whole)]
    assert [path.name for path in checkpoints_of(cut)] == names
    for name in ("projector.safetensors", "adapter/adapter_model.safetensors"):
        ends = [(run / "checkpoints" / names[-1] / name).read_bytes() for run in (whole, cut)]
        assert ends[0] == ends[1]
    assert read_json(cut / "run.json")["status"] == "finished"


def test_the_model_begun_with_stays_the_same_though_its_run_went_on(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    short = make_recipe({**ALIGN, "steps": 2})
    origin = api.train(short, tmp_path / "first")
    begun = checkpoints_of(origin)[-1]
    recipe = going_on(short, origin, {**TUNE, "steps": 2, "save_every": 1}, keep_checkpoints=5)
    run = api.train(recipe, tmp_path / "second")
    assert load_recipe(str(run / "recipe.yaml")) == recipe.model_copy(update={"origin": Origin(model=begun)})
    api.train(make_recipe({**ALIGN, "steps": 2}, {**TUNE, "steps": 1, "save_every": None}), origin, resume=True)
    with pytest.raises(CheckpointError, match=r"from\.model was .*1-align-000002, is .*2-tune-000001"):
        api.train(recipe, run, resume=True)
    api.train(load_recipe(str(run / "recipe.yaml")), run, resume=True)


def test_adapters_of_the_model_begun_with_are_never_lost_under_a_quantised_stage(first: Recipe, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    origin = api.train(first, tmp_path / "first")
    recipe = going_on(first, origin, ALIGN, {**LORA, "quantize": 4})
    with pytest.raises(RecipeError, match="the model that `from` names has adapters"):
        api.train(recipe, tmp_path / "second")
    assert not (tmp_path / "second").exists()


def test_what_an_earlier_start_brought_in_is_not_taken_for_another_model(first: Recipe, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    origin = api.train(first, tmp_path / "first")
    api.export(origin, tmp_path / "hf", layout="llava-hf", merge=True)
    stale = tmp_path / "second" / "from"
    stale.mkdir(parents=True)
    (stale / "parts.json").write_text("{}")
    still = {**TUNE, "learn": {"projector": 1e-9}, "steps": 1, "save_every": None}
    run = api.train(going_on(first, tmp_path / "hf", still), tmp_path / "second")
    assert torch.allclose(logits(run), logits(origin), atol=1e-4)


def test_a_tower_that_learnt_stays_whole_in_what_follows(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    learn = {"projector": 1e-3, "vision": 1e-3}
    recipe = make_recipe({**TUNE, "learn": learn, "steps": 2, "save_every": None})
    origin = api.train(recipe, tmp_path / "first")
    still = {**TUNE, "learn": {"projector": 1e-9}, "steps": 1, "save_every": None}
    run = api.train(going_on(recipe, origin, still), tmp_path / "second")
    image = next(recipe.data[0].file.parent.glob("*.png"))
    asked = [{"role": "user", "content": [{"type": "image", "image": str(image)}, {"type": "text", "text": "?"}]},
             {"role": "assistant", "content": "red"}]  # fmt: skip
    before, after = (api.load(folder).logits(asked) for folder in (origin, run))
    assert torch.allclose(before, after, atol=1e-4)


def test_from_and_model_exclude_each_other(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="`from` and `model` exclude each other"):
        validate({"from": "somewhere", "model": {}, "stages": [ALIGN]}, "test")
    recipe = validate({"from": {"model": "somewhere", "base": "vicuna"}, "stages": [ALIGN]}, "test")
    (tmp_path / "again.yaml").write_text(dump(recipe))
    assert load_recipe(str(tmp_path / "again.yaml")) == recipe


@pytest.mark.parametrize("layout", ["ours", "llava-original", "llava-hf"])
def test_what_a_run_from_a_model_takes_is_foreseen_as_of_its_backbones(
    first: Recipe, tmp_path: Path, layout: str
) -> None:
    """Adapters that merge keep the language model in fp32, a merged one of another layout lies in bf16."""
    origin = api.train(first, tmp_path / "first")
    if layout != "ours":
        api.export(origin, tmp_path / layout, layout=layout, merge=True)
        origin = tmp_path / layout
    foreseen, plain = (plan(recipe).stages[0] for recipe in (going_on(first, origin, ALIGN), first))
    same = ("vision", "projector") if layout == "llava-hf" else plain.parameters  # llava-hf pads the vocabulary
    assert all(foreseen.parameters[part] == plain.parameters[part] for part in same)
    gpu = foreseen.devices[-1].memory.weights
    counts = foreseen.parameters
    language = (4 if layout == "ours" else 2) * counts["language"]
    assert gpu == 4 * counts["projector"] + 2 * counts["vision"] + language

"""A model folder comes back as it was saved, and says which file is wrong when it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vistune.errors import CheckpointError
from vistune.generation import Assistant
from vistune.model import VisionLanguageModel, add_adapters, build, read_spec
from vistune.processor import Processor, load_tokenizer
from vistune.recipe import Lora, Model, Recipe, Stage
from vistune.runs import checkpoint


@pytest.fixture
def recipe(tiny_backbones: Path) -> Recipe:
    model = Model(vision=str(tiny_backbones / "vision"), language=str(tiny_backbones / "language"))
    return Recipe(model=model, stages=(Stage(name="align", learn={"projector": 1e-3}, steps=1),))


@pytest.fixture
def made(recipe: Recipe) -> tuple[VisionLanguageModel, Processor]:
    spec = read_spec(recipe.model)
    return build(recipe.model, spec, seed=1), Processor(load_tokenizer(recipe.model.language), spec)


def perturb(model: VisionLanguageModel, parts: set[str]) -> None:
    with torch.no_grad():
        for part in parts:
            for _, parameter in model.parts()[part]:
                parameter.add_(0.01 * torch.randn_like(parameter))


@pytest.mark.parametrize("learnt", [{"projector"}, {"projector", "language"}, {"vision", "projector"}, {"adapters"}])
def test_what_is_saved_comes_back(
    learnt: set[str], recipe: Recipe, made: tuple[VisionLanguageModel, Processor], tmp_path: Path
) -> None:
    model, processor = made
    if "adapters" in learnt:
        model.language = add_adapters(model.language, Lora(rank=2, alpha=4))
    perturb(model, learnt)
    checkpoint.save(tmp_path / "saved", model, processor, recipe=recipe, tensors=checkpoint.snapshot(model, learnt))
    loaded, read = checkpoint.load(tmp_path / "saved")
    messages = [{"role": "user", "content": "무슨 색?"}, {"role": "assistant", "content": "red"}]
    wanted = Assistant(model.eval(), processor).logits(messages)
    torch.testing.assert_close(Assistant(loaded, read).logits(messages), wanted)
    tile = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(loaded.projector(loaded.vision(tile)), model.projector(model.vision(tile)))
    assert (tmp_path / "saved" / "language").is_dir() == ("language" in learnt)


@pytest.mark.parametrize("name", ["projector.safetensors", "parts.json", "tokenizer/tokenizer.json"])
@pytest.mark.parametrize("damage", ["truncated", "missing", "flipped"])
def test_a_damaged_file_is_named(
    name: str, damage: str, recipe: Recipe, made: tuple[VisionLanguageModel, Processor], tmp_path: Path
) -> None:
    checkpoint.save(tmp_path / "saved", *made, recipe=recipe, tensors=checkpoint.snapshot(made[0], {"projector"}))
    path = tmp_path / "saved" / name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=Path(name).name):
        checkpoint.load(tmp_path / "saved")


def test_weights_that_are_not_finite_are_not_saved(
    recipe: Recipe, made: tuple[VisionLanguageModel, Processor], tmp_path: Path
) -> None:
    with torch.no_grad():
        made[0].projector[0].weight[0, 0] = torch.nan  # type: ignore[index]
    with pytest.raises(CheckpointError, match=r"projector 0\.weight is not finite"):
        checkpoint.save(tmp_path / "saved", *made, recipe=recipe, tensors=checkpoint.snapshot(made[0], {"projector"}))
    assert not list(tmp_path.iterdir())


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        checkpoint.load(tmp_path)

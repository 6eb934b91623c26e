"""Two fused towers of different sizes and grids through the public calls: train, resume, evaluate, answer, export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tower_kinds import save_tower
from training_stages import ALIGN, PLAIN_LORA, MakeRecipe, ask_to_stop, weights
from transformers import SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

from vistune import api
from vistune.errors import RecipeError, Stopped
from vistune.model import read_spec
from vistune.progress import no_progress
from vistune.recipe import Recipe
from vistune.runs.folder import MetricsLog, checkpoints_of
from vistune.training import Run


def save_siglip(folder: Path) -> None:
    """A SigLIP tower of 24 pixels and 3 x 3 patches."""
    torch.manual_seed(3)
    config = SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=24, patch_size=8
    )
    SiglipVisionModel(config).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 24, "width": 24}).save_pretrained(folder)


@pytest.fixture
def recipe(make_recipe: MakeRecipe, tiny_backbones: Path, tmp_path: Path) -> Recipe:
    """Stage 1 and LoRA on DINOv2 (28 pixels, 4 x 4 patches) and SigLIP (24 pixels, 3 x 3 patches)."""
    save_tower("dinov2", tmp_path / "dinov2")
    save_siglip(tmp_path / "siglip")
    model: dict[str, Any] = {
        "vision": [str(tmp_path / "dinov2"), str(tmp_path / "siglip")],
        "language": str(tiny_backbones / "language"),
        "projector": "shuffle2x2_mlp2x_gelu",
    }
    align = {**ALIGN, "steps": 3, "precision": "fp32"}
    return make_recipe(align, {**PLAIN_LORA, "steps": 4}, model=model)


def losses(run: Path) -> list[str]:
    return [row["loss_hex"] for row in MetricsLog(run / "metrics.jsonl").read()]


def test_the_projector_gets_the_features_of_both_towers(recipe: Recipe) -> None:
    """32 and 16 numbers are the language model's width together, and only the first grid can be halved."""
    spec = read_spec(recipe.model.model_copy(update={"projector": "identity"}))
    assert (spec.vision_width, spec.language_width, spec.slots_per_image) == (48, 48, 16)


def test_two_towers_train_resume_answer_and_are_refused_by_other_layouts(
    recipe: Recipe, data: Path, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    api.train(recipe, whole)
    run = Run(recipe, stopped, progress=no_progress)
    ask_to_stop(run, "tune", 1)
    with pytest.raises(Stopped):
        run.start(resume=False)
    api.train(recipe, stopped, resume=True)
    assert len(losses(whole)) == 7
    assert losses(stopped) == losses(whole)
    ours, theirs = (weights(checkpoints_of(folder)[-1]) for folder in (stopped, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    questions = [{"question_id": k, "image": f"{k}.png", "text": "What colour?", "answer": "red"} for k in range(4)]
    (data.parent / "questions.jsonl").write_text("\n".join(map(json.dumps, questions)))
    result = api.evaluate(whole, task="file", data=data.parent / "questions.jsonl", out=tmp_path / "evaluation")
    assert result.count == 4
    assistant = api.load(whole, device="cpu")
    assert (assistant.processor.spec.slots_per_image, assistant.processor.spec.vision_width) == (4, 48)
    image = Image.open(data.parent / "0.png")
    answer = assistant.ask(image, "What colour?", max_tokens=6)
    assert answer == api.load(stopped, device="cpu").ask(image, "What colour?", max_tokens=6)

    for layout in ("llava-hf", "llava-original", "peft"):
        with pytest.raises(RecipeError, match="no layout of other tools has two towers"):
            api.export(whole, tmp_path / layout, layout=layout, merge=layout != "peft")
        assert not (tmp_path / layout).exists()
    assert api.plan(recipe).stages

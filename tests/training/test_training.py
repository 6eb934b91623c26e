"""Training learns, is exact however it is packed, and changes only what a stage names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from training_stages import ALIGN, TUNE, MakeRecipe, train, weights

from vistune.errors import DataError, VistuneError
from vistune.files import read_json, read_jsonl
from vistune.progress import no_progress
from vistune.recipe import Stage
from vistune.runs import checkpoint
from vistune.runs.folder import checkpoints_of
from vistune.training import Run
from vistune.training.optimizer import make_optimizer, rate_factor
from vistune.training.stage import StageTraining


def test_what_can_be_memorised_is(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    fast = {"projector": 5e-3, "language": 5e-3}
    rows = train(make_recipe(ALIGN, {**TUNE, "learn": fast, "steps": 120, "save_every": None}), tmp_path / "run")
    tune = [row["loss"] for row in rows if row["stage"] == "tune"]
    assert len(tune) == 120
    assert sum(tune[-5:]) < 0.2 * sum(tune[:5])
    assert read_json(tmp_path / "run" / "run.json")["status"] == "finished"
    assert [path.name for path in checkpoints_of(tmp_path / "run")] == ["1-align-000006", "2-tune-000120"]


def test_a_stage_changes_only_what_it_names(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    train(make_recipe(ALIGN), tmp_path / "run")
    saved = checkpoints_of(tmp_path / "run")[-1]
    assert not (saved / "language").exists()
    model, _ = checkpoint.load(saved)
    fresh = Run(make_recipe(ALIGN), tmp_path / "other", progress=no_progress).first_model(None)
    started = dict(fresh.language.named_parameters())
    for name, parameter in model.language.named_parameters():
        assert torch.equal(parameter, started[name]), name
    assert not torch.equal(model.projector[0].weight, fresh.projector[0].weight)


def test_rows_of_any_length_give_the_same_losses(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Accumulated over many short rows or packed into one long row: the step is the same."""
    long = train(make_recipe({**TUNE, "tokens_per_row": 2048}), tmp_path / "long")
    short = train(make_recipe({**TUNE, "tokens_per_row": 96}), tmp_path / "short")
    assert [row["supervised_tokens"] for row in long] == [row["supervised_tokens"] for row in short]
    for a, b in zip(long, short, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-3)


def test_samples_that_do_not_fit_may_be_set_aside(make_recipe: MakeRecipe, tmp_path: Path, data: Path) -> None:
    rows = json.loads(data.read_text())
    long = [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "red " * 500}]
    data.write_text(json.dumps([*rows, {"id": "long", "kind": "caption", "conversations": long}]))
    with pytest.raises(DataError, match="do not fit a row of 300"):
        train(make_recipe({**ALIGN, "tokens_per_row": 300}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    stages = ({**ALIGN, "tokens_per_row": 300}, {**TUNE, "tokens_per_row": 300})
    train(make_recipe(*stages, on_bad_sample="reject", reject_limit=0.2), tmp_path / "run")
    rejects = list(read_jsonl(tmp_path / "run" / "rejects.jsonl"))
    assert [(row["id"], row["reason"]) for _, row in rejects] == [("long", "too_long")]


def test_a_stage_may_choose_kinds_that_only_one_of_its_files_has(
    make_recipe: MakeRecipe, tmp_path: Path, data: Path
) -> None:
    other = tmp_path / "other.json"
    other.write_text(data.read_text().replace('"caption"', '"detail"'))
    train(make_recipe({**ALIGN, "kinds": ["detail"]}, data=[str(data), str(other)]), tmp_path / "run")
    with pytest.raises(DataError, match="stage align: no record of the kind reasoning; there are caption, detail"):
        train(make_recipe({**ALIGN, "kinds": ["reasoning"]}, data=[str(data), str(other)]), tmp_path / "no")


def test_bf16_learns_on_fp32_weights(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    fast = {**TUNE, "learn": {"projector": 5e-3, "language": 5e-3}, "steps": 60, "save_every": None}
    losses = [row["loss"] for row in train(make_recipe({**fast, "precision": "bf16"}), tmp_path / "run")]
    exact = [row["loss"] for row in train(make_recipe({**fast, "precision": "fp32"}), tmp_path / "exact")]
    assert losses != exact
    assert sum(losses[-5:]) < 0.4 * sum(losses[:5])
    saved = weights(checkpoints_of(tmp_path / "run")[-1])
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}


def test_a_loss_that_is_no_number_stops_with_the_samples(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    run = Run(make_recipe(TUNE), tmp_path / "run", progress=no_progress)
    rehearse = run._rehearse_saving

    def poisoned(training: StageTraining) -> None:
        rehearse(training)  # which refuses to save such a model
        with torch.no_grad():
            training.trainer.model.projector[0].weight.fill_(float("nan"))

    run._rehearse_saving = poisoned  # type: ignore[method-assign]
    with pytest.raises(VistuneError, match=r"stage tune, step 0: loss nan.*samples \w"):
        run.start(resume=False)
    told = read_json(tmp_path / "run" / "run.json")
    assert told["status"] == "failed"
    assert "loss nan" in told["reason"]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_rates_rise_to_the_peak_and_fall_to_nothing(schedule: str) -> None:
    factors = [rate_factor(k, steps=100, warmup=10, schedule=schedule) for k in range(100)]
    assert factors[:10] == sorted(factors[:10])
    assert factors[10] == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[-1] == 1.0 if schedule == "constant" else factors[-1] < 0.02


def test_norms_and_biases_do_not_decay(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    run = Run(make_recipe(TUNE), tmp_path / "run", progress=no_progress)
    model = run.first_model(None)
    model.set_trainable({"projector", "language"})
    stage = Stage(name="x", learn={"projector": 1e-3, "language": 1e-4}, steps=1, weight_decay=0.1)
    groups = make_optimizer(model.parts(), stage).param_groups
    assert {(g["part"], g["lr"], g["weight_decay"]) for g in groups} == {
        ("projector", 1e-3, 0.1),
        ("projector", 1e-3, 0.0),
        ("language", 1e-4, 0.1),
        ("language", 1e-4, 0.0),
    }
    assert all((p.ndim > 1) == (g["weight_decay"] > 0) for g in groups for p in g["params"])


@pytest.mark.parametrize("parts", [("language",), ("vision", "language")])
def test_computing_activations_again_changes_no_number(
    make_recipe: MakeRecipe, tmp_path: Path, parts: tuple[str, ...]
) -> None:
    stage = {**TUNE, "steps": 4, "save_every": None, "learn": {"projector": 1e-3, "language": 1e-3, "vision": 1e-4}}
    plain = train(make_recipe(stage), tmp_path / "plain")
    again = train(make_recipe({**stage, "recompute": parts}), tmp_path / "again")
    assert [row["loss_hex"] for row in again] == [row["loss_hex"] for row in plain]
    assert (
        weights(checkpoints_of(tmp_path / "again")[-1]).keys() == weights(checkpoints_of(tmp_path / "plain")[-1]).keys()
    )


def test_a_stage_may_see_pictures_in_a_mode_of_its_own(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Pictures of another mode are other pixels, though both stages read them through one cache."""
    stages = (
        {**TUNE, "name": "a", "steps": 3, "save_every": None},
        {**TUNE, "name": "b", "steps": 3, "save_every": None},
    )
    recipe = make_recipe(*stages)
    for number, image in enumerate(sorted(recipe.data[0].file.parent.glob("*.png"))):
        wide = Image.new("RGB", (64, 32), (250, 20, 9 * number))
        wide.paste((0, 90, 200), (0, 0, 16, 32))
        wide.save(image)
    same = train(recipe, tmp_path / "same")
    pad = train(make_recipe(stages[0], {**stages[1], "image_mode": "pad"}), tmp_path / "pad")
    assert [row["loss_hex"] for row in pad[:3]] == [row["loss_hex"] for row in same[:3]]
    assert pad[3]["loss_hex"] != same[3]["loss_hex"]

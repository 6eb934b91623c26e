"""Compiled layers: the same numbers, one graph for all lengths and numbers of documents, and a word where it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from training_stages import PLAIN_LORA, TUNE, MakeRecipe, train

from vistune.data import Loader
from vistune.data.stages import plan_stages
from vistune.progress import no_progress
from vistune.recipe import Stage
from vistune.training import Hooks, Run, Trainer
from vistune.training.stage import compiled, hindrance, is_wanted


def trainer_of(stage: dict[str, Any], make_recipe: MakeRecipe, tmp_path: Path) -> Trainer:
    run = Run(make_recipe({**stage, "compile": "on"}), tmp_path / "never", progress=no_progress)
    item = plan_stages(run.recipe, run.processor, no_progress)[0][0]
    model = run.first_model(None)
    run.prepare(model, item.stage, 0)
    model.set_trainable(item.stage.learn)
    return Trainer(model, Loader(item.samples, item.processor, item.plan), item.stage)


def losses_and_gradients(trainer: Trainer) -> list[tuple[float, torch.Tensor]]:
    """Of every row of the stage, nothing learnt from it."""
    found = []
    for _, batches in trainer.loader.steps():
        for row in batches:
            loss, _ = trainer.model_with_loss(row)
            loss.backward()
            gradient = torch.cat([p.grad.flatten() for p in trainer.trainable if p.grad is not None])
            found.append((float(loss.detach()), gradient))
            trainer.optimizer.zero_grad()
    return found


def refuse(words: str) -> None:
    raise AssertionError(words)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.soak)])
def test_rows_of_all_lengths_share_a_graph_and_give_the_same_numbers(
    backend: str, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    """Two steps warm up (a first picture alone is a graph of its own); nothing is compiled after them."""
    torch.set_num_threads(1)
    stage = {**PLAIN_LORA, "steps": 4, "samples_per_step": 7, "tokens_per_row": 450}
    trainer = trainer_of(stage, make_recipe, tmp_path)
    rows = [row for _, batches in trainer.loader.steps() for row in batches]
    assert len({(len(row.input_ids), len(row.starts), len(row.images)) for row in rows}) > 4
    wanted = losses_and_gradients(trainer)
    torch._dynamo.reset()
    counters.clear()
    with compiled(trainer, "single", 0.0, refuse, backend=backend) as yes:
        assert yes
        first = losses_and_gradients(trainer)
        graphs = counters["stats"]["unique_graphs"]
        found = losses_and_gradients(trainer)
    assert counters["stats"]["unique_graphs"] == graphs > 0
    for runs in (first, found):
        for (loss, gradient), (other, theirs) in zip(runs, wanted, strict=True):
            assert loss == pytest.approx(other, rel=1e-5)
            torch.testing.assert_close(gradient, theirs, rtol=1e-3, atol=1e-5)
    for (loss, gradient), (other, theirs) in zip(losses_and_gradients(trainer), wanted, strict=True):  # as they were
        assert loss == other
        assert torch.equal(gradient, theirs)


def test_without_a_compiler_one_line_says_so(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    told: list[str] = []
    recipe = make_recipe({**TUNE, "compile": "on", "save_every": None, "steps": 2})
    torch.set_num_threads(1)
    run = Run(recipe, tmp_path / "run", progress=no_progress, hooks=Hooks(told.append))
    run.start(resume=False)
    said = [words for words in told if "compiled" in words]
    assert said == ["stage tune: layers are not compiled because there is no C++ compiler; training is slower"]
    plain = train(make_recipe({**TUNE, "compile": "off", "save_every": None, "steps": 2}), tmp_path / "plain")
    assert [row["loss_hex"] for row in run.metrics.read()] == [row["loss_hex"] for row in plain]


def test_auto_goes_by_the_work_alone() -> None:
    def stage(wanted: str) -> Stage:
        return Stage.model_validate({"name": "x", "learn": {"projector": 1e-3}, "steps": 1, "compile": wanted})

    assert not is_wanted(stage("auto"), "cpu", 1e14)
    assert is_wanted(stage("auto"), "cpu", 1e16)
    assert not is_wanted(stage("auto"), "cuda:0", 1e16)
    assert is_wanted(stage("on"), "cpu", 0)
    assert not is_wanted(stage("off"), "cuda:0", 1e20)
    assert hindrance("cpu", "fsdp") == "fsdp shards their weights"

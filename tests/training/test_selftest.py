"""`selftest`: every kind of stage gives one gradient however its samples are arranged, and a broken model is caught."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from training_stages import ALIGN, LORA, PLAIN_LORA, TUNE, MakeRecipe, train

from vistune import api
from vistune.cli.model import selftest as verb
from vistune.errors import VistuneError
from vistune.model import VisionLanguageModel
from vistune.progress import no_progress
from vistune.recipe import dump
from vistune.training import Run, selftest
from vistune.training.distributed import parallelism
from vistune.types import Batch


def test_every_kind_of_stage_is_the_same_however_arranged(make_recipe: MakeRecipe) -> None:
    torch.set_num_threads(1)
    tuned = {**TUNE, "name": "full", "learn": {"projector": 1e-3, "language": 1e-3, "vision": 1e-3}}
    rows = api.selftest(make_recipe(ALIGN, tuned, LORA, {**PLAIN_LORA, "name": "plain-lora"}))
    stages = ("align", "full", "tune", "plain-lora")
    assert [row.stage for row in rows] == ["align", *(stage for stage in stages for _ in range(2))]
    assert all(row.equal for row in rows)
    assert {row.arrangement: row.rows for row in rows} == {
        "transformers' own attention": 3,
        "one by one": 5,
        "two halves, turned round": 2,
    }


def test_documents_that_see_each_other_are_caught(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that attends over the whole packed row, as peers' packing does."""
    torch.set_num_threads(1)
    whole = VisionLanguageModel.forward

    def leaking(model: VisionLanguageModel, batch: Batch, at: Tensor | None = None) -> Tensor:
        ends = torch.tensor([0, len(batch.input_ids)], dtype=batch.starts.dtype)
        return whole(model, Batch(**{name: getattr(batch, name) for name in batch.__slots__} | {"starts": ends}), at)

    monkeypatch.setattr(VisionLanguageModel, "forward", leaking)
    found = selftest(Run(make_recipe(TUNE), tmp_path, progress=no_progress))
    assert not any(row.equal for row in found)
    (tmp_path / "recipe.yaml").write_text(dump(make_recipe(TUNE)))
    with pytest.raises(VistuneError, match="different gradients") as told:
        verb(str(tmp_path / "recipe.yaml"))
    assert told.value.exit_code == 1


def test_a_loss_at_wrong_positions_is_caught(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last MLP runs at the positions that training hands down: one token too early gives another gradient."""
    torch.set_num_threads(1)
    right = parallelism.supervised_positions

    def wrong(labels: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        positions, targets = right(labels, starts)
        return (positions - 1).clamp(min=0), targets

    monkeypatch.setattr(parallelism, "supervised_positions", wrong)
    assert not any(row.equal for row in selftest(Run(make_recipe(PLAIN_LORA), tmp_path, progress=no_progress)))


def test_nothing_is_written_where_nothing_is_brought(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a selftest nor a plan nor a stage over files needs a cache that can be written."""
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("VISTUNE_CACHE", str(tmp_path / "file"))
    recipe = make_recipe({**ALIGN, "cache_features": "off", "steps": 1})
    assert all(row.equal for row in api.selftest(recipe))
    assert len(api.plan(recipe).stages) == 1
    assert len(train(recipe, tmp_path / "run")) == 1
    assert not Path("selftest").exists()

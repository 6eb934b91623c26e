"""Two processes learn what one learns: DDP and FSDP2, every kind of stage, rows of text alone, blank rows.

Real processes over gloo; what NCCL does differently, only a GPU shows.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_processes import Ranks, train_as_rank, train_each_as_rank
from training_stages import ALIGN, LORA, PLAIN_LORA, TUNE, MakeRecipe, assert_same_runs, train, weights

from vistune.data.packing import deal
from vistune.errors import RecipeError
from vistune.files import read_json
from vistune.planner.work import work_of_model
from vistune.progress import no_progress
from vistune.recipe import dump
from vistune.runs.folder import checkpoints_of
from vistune.training import Run
from vistune.training.step_log import StragglerMonitor

SHORT: dict[str, Any] = {"steps": 3, "save_every": None}
STAGES: dict[str, list[dict[str, Any]]] = {
    "align then full": [{**ALIGN, **SHORT, "tokens_per_row": 2048}, {**TUNE, **SHORT, "tokens_per_row": 96}],
    "align then lora": [{**ALIGN, **SHORT, "tokens_per_row": 96}, {**LORA, **SHORT, "tokens_per_row": 200}],
    "plain lora": [{**PLAIN_LORA, **SHORT, "tokens_per_row": 96}],
    "vision and all": [{**TUNE, **SHORT, "tokens_per_row": 96, "recompute": ["language", "vision"],
                        "learn": {"vision": 1e-3, "projector": 2e-3, "language": 2e-3}}],
}  # fmt: skip


def test_rows_are_dealt_evenly_and_all_of_them() -> None:
    lengths = [100, 90, 80, 30, 20, 10, 5]
    step = tuple((index,) for index in range(7))
    dealt = deal(step, lengths, 3)
    assert sorted(number for numbers in dealt for number in numbers) == list(range(7))
    assert max(map(len, dealt)) == 3
    tokens = [sum(lengths[number] for number in numbers) for numbers in dealt]
    assert max(tokens) - min(tokens) <= 20
    assert deal(step[:1], lengths, 3) == [[0], [], []]


def test_rows_weigh_what_they_cost_and_not_their_tokens_alone(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """One document of 4,096 tokens costs more than eight of 512, and pictures cost the tower."""
    needed = work_of_model(Run(make_recipe(ALIGN), tmp_path, progress=no_progress).first_model(None))
    lengths, tiles = np.array([4096, *[512] * 8, 512, 512]), np.array([0] * 9 + [20, 0])
    costs = needed.of_samples(lengths, np.zeros(11), tiles)
    assert costs[0] > costs[1:9].sum()
    assert costs[9] > costs[10]
    step = ((0,), tuple(range(1, 9)), (9,), (10,))
    assert deal(step, costs.tolist(), 2) == [[0, 3], [1, 2]]


def test_two_processes_learn_what_one_learns(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Rows of 96 tokens are dealt; of one row of 2048, the other process has a blank one; the text row is alone."""
    runs = []
    for name, stages in STAGES.items():
        train(make_recipe(*stages), tmp_path / name)
        for way in ("ddp", "fsdp"):
            path = tmp_path / f"{name}-{way}.yaml"
            path.write_text(dump(make_recipe(*stages, parallel=way)))
            runs.append((path, tmp_path / f"{name}-{way}"))
    assert Ranks(train_each_as_rank, runs).ended() == [0, 0]
    proved = read_json(runs[-1][1] / "selftest.json")
    assert {row["arrangement"] for row in proved} >= {"one by one", "over 2 processes, fsdp"}
    assert all(row["equal"] for row in proved)
    for name in STAGES:
        for way in ("ddp", "fsdp"):
            assert_same_runs(tmp_path / f"{name}-{way}", tmp_path / name)


def test_three_processes_learn_what_one_learns(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Five samples a step in four rows or one: not all of the three have as many, and some have a blank one.

    The order of a sum of three depends on where DDP lays gradients out: the last step, done again by a run that goes
    on, has the same bits.
    """
    stages = [{**stage, "save_every": 1} for stage in STAGES["align then full"]]
    train(make_recipe(*stages), tmp_path / "one")
    runs = []
    for way in ("ddp", "fsdp"):
        path = tmp_path / f"{way}.yaml"
        path.write_text(dump(make_recipe(*stages, parallel=way)))
        runs.append((path, tmp_path / way))
    assert Ranks(train_each_as_rank, runs, size=3).ended() == [0, 0, 0]
    for _, run in runs:
        assert_same_runs(run, tmp_path / "one")
    assert all(row["equal"] for row in read_json(runs[-1][1] / "selftest.json"))
    recipe, run = runs[0]
    last = checkpoints_of(run)[-1]
    wanted = weights(last)
    shutil.rmtree(last)
    assert Ranks(train_as_rank, recipe, run, True, size=3).ended() == [0, 0, 0]
    again = weights(last)
    assert all(torch.equal(again[name], wanted[name]) for name in wanted)


def test_two_processes_learn_from_text_alone(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """No row of either shows a picture: nobody skips a collective of the tower's or the projector's."""
    said = [("Hello?", "네"), ("2 + 2?", "4"), ("Who?", "me"), ("Which one of these?", "the red one")] * 2
    rows = [
        {"id": str(k), "conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]}
        for k, (asked, answer) in enumerate(said)
    ]
    (tmp_path / "text.json").write_text(json.dumps(rows))
    stage = {**TUNE, **SHORT, "tokens_per_row": 100, "learn": {"vision": 1e-3, "projector": 2e-3, "language": 2e-3}}
    data = str(tmp_path / "text.json")
    train(make_recipe(stage, data=data), tmp_path / "one")
    for way in ("ddp", "fsdp"):
        (tmp_path / f"{way}.yaml").write_text(dump(make_recipe(stage, data=data, parallel=way, watchdog=60)))
        assert Ranks(train_as_rank, tmp_path / f"{way}.yaml", tmp_path / way).ended() == [0, 0]
        assert_same_runs(tmp_path / way, tmp_path / "one")


def test_a_process_that_holds_the_others_up_is_named() -> None:
    pace, told = StragglerMonitor(), []
    for step in range(100):
        late = 0.2 if step >= 50 else 0.0
        told.append(pace.slow([0.5, 0.52, 0.5 + late, 0.49]))
    assert [step for step, words in enumerate(told) if words] == [99]
    assert told[99] is not None
    assert told[99].startswith("rank 2 slows the others down: 0.700 s")
    assert StragglerMonitor().slow([0.5]) is None


def test_fsdp_in_one_process_is_refused(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="parallel=fsdp: this run has one process"):
        train(make_recipe(ALIGN, parallel="fsdp"), tmp_path / "run")

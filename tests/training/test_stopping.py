"""A run that is asked to stop while it waits for data ends within moments, keeps what it has learnt, and goes on.

What is waited for is a shard that never comes: a pipe into which nobody writes.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from training_processes import Ranks, train_as_rank, wait_for_lines
from training_shards import STREAM, write_shard
from training_stages import ALIGN, MakeRecipe, train, weights

from vistune.data import read_window
from vistune.data.stages import plan_stages
from vistune.errors import Stopped
from vistune.files import read_json, read_jsonl
from vistune.progress import no_progress
from vistune.recipe import Recipe, dump
from vistune.runs.folder import checkpoints_of
from vistune.training import Run

SOON = 60  # seconds, against hanging: it takes a few


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(7):
        write_shard(folder / f"{number:05}.tar", number, 4)
    return folder


@pytest.fixture
def recipe(make_recipe: MakeRecipe, shards: Path, tmp_path: Path) -> Recipe:
    stage = {**STREAM, "shards": str(shards / "{00000..00006}.tar"), "save_every": None}
    made = make_recipe(stage, parallel="ddp")
    (tmp_path / "recipe.yaml").write_text(dump(made))
    return made


def stall(shard: Path) -> Callable[[], None]:
    """A pipe in the shard's place; what puts the shard back."""
    aside = shard.with_suffix(".aside")
    shard.rename(aside)
    os.mkfifo(shard)

    def mend() -> None:
        shard.unlink()
        aside.rename(shard)

    return mend


def wait_for(path: Path, ranks: Ranks) -> None:
    until = time.monotonic() + SOON
    while time.monotonic() < until and all(process.exitcode is None for process in ranks.processes):
        if path.exists():
            return
        time.sleep(0.01)


@pytest.mark.parametrize(("size", "window"), [(1, 0), (2, 1)])
def test_sigterm_while_a_shard_does_not_come(
    size: int, window: int, recipe: Recipe, shards: Path, tmp_path: Path
) -> None:
    """The first shard of all, before any step; or the second one of lane 1, which the last process reads."""
    (planned,), _ = plan_stages(recipe, Run(recipe, tmp_path / "never", progress=no_progress).processor, no_progress)
    assert planned.stream is not None
    first, _, _ = read_window(planned.stream, 1, 0, planned.processor, tmp_path / "window")
    steps = window * len(first.rows)
    assert steps < STREAM["steps"]
    given = (tmp_path / "recipe.yaml", tmp_path / "run")
    assert Ranks(train_as_rank, given[0], tmp_path / "whole", size=size).ended() == [0] * size
    (stalled,) = planned.stream.shards_of(window, window)
    mend = stall(Path(planned.stream.shards[stalled]))
    ranks = Ranks(train_as_rank, *given, size=size)
    if steps:
        wait_for_lines(tmp_path / "run" / "metrics.jsonl", steps, ranks)
    else:
        wait_for(tmp_path / "run" / "run.json", ranks)
    time.sleep(0.5)  # it waits for the shard, whenever that began
    ranks.signal(signal.SIGTERM, *range(size))
    codes = set(ranks.ended(within=SOON))
    assert Stopped.exit_code in codes
    assert codes <= {Stopped.exit_code, -signal.SIGTERM}  # the launcher may end one that is about to leave
    told = read_json(tmp_path / "run" / "run.json")
    assert (told["status"], told["step"]) == ("preempted", steps)
    assert [path.name for path in checkpoints_of(tmp_path / "run")] == [f"1-align-{steps:06}"] * bool(steps)
    mend()
    assert Ranks(train_as_rank, *given, True, size=size).ended() == [0] * size
    ran, wanted = (
        [(row["step"], row["loss_hex"]) for _, row in read_jsonl(tmp_path / name / "metrics.jsonl")]
        for name in ("run", "whole")
    )
    assert ran == wanted
    ours, theirs = (weights(checkpoints_of(tmp_path / name)[-1]) for name in ("run", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_stage_ends_though_the_shard_behind_its_last_step_does_not_come(
    recipe: Recipe, shards: Path, tmp_path: Path
) -> None:
    (planned,), _ = plan_stages(recipe, Run(recipe, tmp_path / "never", progress=no_progress).processor, no_progress)
    assert planned.stream is not None
    (stalled,) = planned.stream.shards_of(1, 1)
    stall(Path(planned.stream.shards[stalled]))
    short = recipe.model_copy(update={"stages": (recipe.stages[0].model_copy(update={"steps": 1}),)})
    (tmp_path / "recipe.yaml").write_text(dump(short))
    assert Ranks(train_as_rank, tmp_path / "recipe.yaml", tmp_path / "run", size=1).ended(within=SOON) == [0]


def test_sigterm_while_features_are_computed(make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: Any) -> None:
    """What is computed is kept, and not computed again."""
    monkeypatch.setenv("VISTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("vistune.training.features.TILES_AT_ONCE", {"cpu": 1})
    recipe = make_recipe({**ALIGN, "cache_features": "on"})
    kept: list[int] = []

    @contextmanager
    def progress(label: str, total: int) -> Iterator[Callable[..., None]]:
        def advance(count: int = 1, note: str = "", total: int | None = None, **event: object) -> None:
            if label == "cache features":
                kept.append(count)
                if len(kept) == 2:
                    os.kill(os.getpid(), signal.SIGTERM)

        yield advance

    with pytest.raises(Stopped, match="stopped before its first step"):
        Run(recipe, tmp_path / "run", progress=progress).start(resume=False)
    assert len(kept) == 2
    assert read_json(tmp_path / "run" / "run.json")["status"] == "preempted"
    Run(recipe, tmp_path / "run", progress=progress).start(resume=True)
    assert len(kept) == 4  # of four pictures, by their bytes
    assert (
        train(recipe, tmp_path / "again")[-1]["loss_hex"]
        == [row["loss_hex"] for _, row in read_jsonl(tmp_path / "run" / "metrics.jsonl")][-1]
    )

"""A step's size in samples or tokens, and what becomes of samples that are longer than a row."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_stages import ALIGN, TUNE, MakeRecipe, train

from vistune.data import plan_epoch, plan_stage, steps_of
from vistune.data.stages import plan_stages
from vistune.errors import RecipeError
from vistune.files import read_jsonl
from vistune.planner.sizes import sample_sizes
from vistune.progress import no_progress
from vistune.training import Run

LENGTHS = st.lists(st.integers(1, 64), min_size=1, max_size=40)


@given(LENGTHS, st.integers(64, 300), st.floats(0.1, 3), st.integers(0, 9))
def test_steps_hold_as_many_samples_as_their_tokens_allow(
    lengths: list[int], most: int, epochs: float, seed: int
) -> None:
    sizes = {"samples_per_step": 1, "tokens_per_step": most, "seed": seed}
    plan = plan_stage(lengths, tokens_per_row=64, steps=steps_of(epochs, lengths, **sizes), **sizes)
    shown = [[index for row in step for index in row] for step in plan.steps]
    assert all(sum(lengths[k] for k in step) <= most for step in shown)
    whole = [list(plan_epoch(lengths, tokens_per_row=64, epoch=epoch, **sizes)) for epoch in range(4)]
    assert list(plan.steps) == [step for epoch in whole for step in epoch][: len(plan.steps)]
    first = [[index for row in step for index in row] for step in whole[0]]
    assert sorted(index for step in first for index in step) == list(range(len(lengths)))
    for step, after in pairwise(first):  # no step that could have held the next sample too
        assert sum(lengths[k] for k in step) + max(lengths[k] for k in after) > most
    for number in range(int(epochs)):  # whole epochs are whole
        before = sum(map(len, whole[:number]))
        assert len(plan.steps) >= before + len(whole[number])


def test_epochs_in_samples_count_their_last_smaller_step() -> None:
    assert steps_of(3, [9] * 100, samples_per_step=32, seed=0) == 12
    assert steps_of(0.5, [9] * 100, samples_per_step=32, seed=0) == 2
    assert steps_of(0.07, [9] * 100, samples_per_step=1, seed=0) == 7  # 0.07 * 100 is a little more in floats
    assert steps_of(1, [9] * 100, samples_per_step=32, seed=0, mixture=[(50, 2.0), (50, 0.5)]) == 4


def test_a_run_in_tokens(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    stage = {key: value for key, value in TUNE.items() if key not in ("samples_per_step", "steps")}
    rows = train(make_recipe({**stage, "tokens_per_step": 200, "epochs": 2}), tmp_path / "run")
    assert max(row["tokens"] for row in rows) <= 200
    by_samples = train(make_recipe({**stage, "samples_per_step": 13, "epochs": 2}), tmp_path / "samples")
    assert sum(row["tokens"] for row in rows) == sum(row["tokens"] for row in by_samples)
    with pytest.raises(RecipeError, match="`samples_per_step` and `tokens_per_step` exclude each other"):
        make_recipe({**TUNE, "tokens_per_step": 200})


def test_long_samples_are_cut_where_a_turn_ends_or_set_aside(
    make_recipe: MakeRecipe, tmp_path: Path, data: Path
) -> None:
    rows = json.loads(data.read_text())
    turns = [{"from": who, "value": text} for k in range(40) for who, text in (("human", f"And {k}?"), ("gpt", "red"))]
    turns[0]["value"] = "<image>\n" + turns[0]["value"]
    long = {"id": "long", "kind": "caption", "image": "0.png", "conversations": turns}
    data.write_text(json.dumps([*rows, long]))
    stage = {**ALIGN, "template": "v1", "tokens_per_row": 300, "samples_per_step": 14, "steps": 1}
    (cut,) = train(make_recipe(stage), tmp_path / "cut")
    listed = [row for _, row in read_jsonl(tmp_path / "cut" / "rejects.jsonl")]
    assert [(row["id"], row["reason"]) for row in listed] == [("long", "cut_short")]
    aside = make_recipe({**stage, "too_long": "reject"}, on_bad_sample="reject", reject_limit=0.2)
    (without,) = train(aside, tmp_path / "aside")
    listed = [row for _, row in read_jsonl(tmp_path / "aside" / "rejects.jsonl")]
    assert [(row["id"], row["reason"]) for row in listed] == [("long", "too_long")]
    assert cut["supervised_tokens"] > without["supervised_tokens"]


def test_a_weight_that_shows_none_of_a_files_rows_in_any_epoch_is_named(
    make_recipe: MakeRecipe, tmp_path: Path, data: Path
) -> None:
    sources = [str(data), {"file": str(data), "take": 4, "weight": 0.1}]
    with pytest.raises(RecipeError, match=r"data\.json: weight .* selects 0 of 4 records"):
        train(make_recipe({**ALIGN, "data": sources}), tmp_path / "run")


def test_the_work_of_a_cut_sample_is_that_of_what_is_left(make_recipe: MakeRecipe, tmp_path: Path, data: Path) -> None:
    """Its pictures are those of the turns that are kept, with anyres too."""
    turns = [{"from": who, "value": text} for k in range(9) for who, text in (("human", f"And {k}?"), ("gpt", "red"))]
    for k in (0, 16):
        turns[k]["value"] = "<image>\n" + turns[k]["value"]
    row = {"id": "long", "kind": "caption", "image": ["0.png", "1.png"], "conversations": turns}
    data.write_text(json.dumps([row]))
    stage = {**ALIGN, "template": "v1", "tokens_per_row": 200}
    for mode in ("square", "anyres"):
        recipe = make_recipe(stage)
        model = recipe.model.model_copy(update={"image_mode": mode, "canvases": ((32, 64), (64, 32))})
        recipe = recipe.model_copy(update={"model": model})
        (planned,), (note,) = plan_stages(
            recipe, Run(recipe, tmp_path / mode, progress=no_progress).processor, no_progress
        )
        assert note.reason == "cut_short"
        sizes = sample_sizes(planned)
        assert sizes.tokens[0] <= 200
        sample = planned.samples[0]
        assert len(sample.images) == 1
        assert sizes.tiles[0] == len(planned.processor.encode(sample).images)

"""The largest row is tried before the first step, and its memory compared with the forecast."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from training_stages import ALIGN, LORA, PLAIN_LORA, TUNE, MakeRecipe

from vistune.data.stages import plan_stages
from vistune.interop.load import recipe_processor
from vistune.planner.sizes import largest_row
from vistune.progress import no_progress
from vistune.training import Hooks, Run
from vistune.training.largest_row import compare_with_forecast, compare_with_resident, peak_bytes, resident_peak


@pytest.mark.parametrize("stage", [ALIGN, TUNE, LORA, PLAIN_LORA], ids=["projector", "full", "lora", "plain lora"])
def test_the_largest_row_is_tried_before_the_first_step_and_reported_next_to_the_forecast(
    stage: dict[str, Any], make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    messages: list[str] = []
    recipe = make_recipe({**stage, "steps": 2, "save_every": None, "precision": "fp32"})
    run = Run(recipe, tmp_path / "run", progress=no_progress, hooks=Hooks(on_message=messages.append))
    run.start(resume=False)
    (message,) = [message for message in messages if "the largest row" in message]
    tokens = re.search(
        r"the largest row \((\d+) tokens, \d+ tiles, \d+ supervised\) takes \S+ .* the forecast is", message
    )
    assert tokens is not None, message
    (planned,), _ = plan_stages(recipe, recipe_processor(recipe), no_progress)
    step, number = largest_row(planned)
    lengths = [sum(planned.plan.lengths[k] for k in row) for rows in planned.plan.steps for row in rows]
    assert sum(planned.plan.lengths[k] for k in planned.plan.steps[step][number]) == max(lengths) == int(tokens[1])


def test_a_peak_on_a_cpu_is_what_tensors_held_at_once() -> None:
    kept = []

    def work() -> None:
        for _ in range(3):
            torch.zeros(1000)
        kept.extend([torch.zeros(500), torch.zeros(600)])

    assert peak_bytes("cpu", work) == 4400
    assert "more than 15% off" in compare_with_forecast(100e6, 120e6)
    assert "+10%" in compare_with_forecast(100e6, 110e6)


def test_the_resident_memory_of_a_process_is_compared_with_its_tensors() -> None:
    with resident_peak("cpu") as resident:
        large = torch.ones(50_000_000)
        del large
    assert sum(resident) == 0 or sum(resident) > 200e6
    assert compare_with_resident(1e9, 0.0) == ""
    assert compare_with_resident(1e9, 1.6e9) == (
        "; 1.50 GB with Python and its libraries, and the process held 1.60 GB"
    )
    assert "MALLOC_MMAP_THRESHOLD_=131072 in the environment" in compare_with_resident(1e9, 3e9)

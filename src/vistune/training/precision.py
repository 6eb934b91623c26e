"""Resolve `precision: auto` of every stage before the first one trains: once per run, the same in all processes.

planned stages + model -> choices by stage, which checkpoints record -> planned stages with fp32 or bf16

A run that resumes on the same kind of device keeps its choices. So its final weights are the same, bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from vistune.data.stages import PlannedStage
from vistune.errors import RecipeError
from vistune.model import VisionLanguageModel
from vistune.model.precision import uses_bf16
from vistune.planner.precision import PrecisionChoice, choose_precision
from vistune.planner.sizes import load_of, sizes_of_loaded
from vistune.progress import OnMessage
from vistune.recipe import Model
from vistune.training.distributed.world import World

Choices = Mapping[str, PrecisionChoice]  # by name of the stage


def choose_precisions(
    stages: Sequence[PlannedStage],
    recipe_model: Model,
    model: VisionLanguageModel,
    world: World,
    *,
    recorded: Choices,
    on_message: OnMessage,
) -> Choices:
    """Choose for every stage with `precision: auto`: as recorded, else as rank 0 finds; all processes must call it."""
    choices = {}
    for planned in stages if world.is_first else ():
        stage = planned.stage
        if stage.precision != "auto":
            continue
        if stage.name in recorded:
            choice = recorded[stage.name]
            lines = [f"precision {choice.precision}, as when the run began"] if choice.speedup is not None else []
        else:
            choice = _choose(planned, recipe_model, model, world.device)
            lines = [line for line in (*choice.remarks, choice.reason) if line]
        for line in lines:
            on_message(f"stage {stage.name}: {line}")
        choices[stage.name] = choice
    return _read(json.loads(world.gather_text(json.dumps(_values(choices)))[0]))


def _choose(planned: PlannedStage, recipe_model: Model, model: VisionLanguageModel, device: str) -> PrecisionChoice:
    try:
        sizes, spec = sizes_of_loaded(recipe_model, model)
    except RecipeError as error:
        remark = f"precision auto is not measured: {error.message}"
        return PrecisionChoice("bf16" if uses_bf16("auto", device) else "fp32", remarks=(remark,))
    load = load_of(planned) if planned.stream is None else None
    return choose_precision(sizes, spec, planned.stage, load, device)


def with_precisions(stages: Sequence[PlannedStage], choices: Choices) -> list[PlannedStage]:
    """Return the stages with the chosen precision in place of `auto`."""
    return [
        replace(planned, stage=planned.stage.model_copy(update={"precision": choices[planned.stage.name].precision}))
        if planned.stage.precision == "auto"
        else planned
        for planned in stages
    ]


def to_record(choices: Choices, device: str) -> Mapping[str, Any]:
    """Return what checkpoints and run.json record of the choices."""
    return {"device": device.split(":")[0], "stages": _values(choices)}


def read_record(record: Mapping[str, Any] | None, stages: Sequence[PlannedStage], device: str) -> Choices:
    """Return the choices that a checkpoint records for this kind of device.

    `record`: None if the checkpoint is of a version that did not measure: the hardware decided.
    """
    if record is None:
        by_hardware = PrecisionChoice("bf16" if uses_bf16("auto", device) else "fp32")
        return {planned.stage.name: by_hardware for planned in stages}
    return _read(record["stages"]) if record["device"] == device.split(":")[0] else {}


def _values(choices: Choices) -> dict[str, dict[str, Any]]:
    fields = ("precision", "speedup")
    return {name: {key: asdict(choice)[key] for key in fields} for name, choice in choices.items()}


def _read(values: Mapping[str, Mapping[str, Any]]) -> Choices:
    return {name: PrecisionChoice(**choice) for name, choice in values.items()}

"""The verb `plan`: what every stage of a recipe will take and cost, before anything is loaded or paid for.

Recipe (+ its data where they are there, + the user's prices) -> of each stage: memory, steps, time, disk, money
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vistune.errors import RecipeError
from vistune.files import scratch_folder, user_cache
from vistune.progress import Progress, no_progress
from vistune.recipe import Lora, Recipe, Stage, source_of

if TYPE_CHECKING:
    from vistune.interop.load import ParentModel
    from vistune.planner.forecast import Device, Load
    from vistune.planner.memory import How, Sizes
    from vistune.types import Spec

PROCESSES = 8  # of the runs over several that are shown, where nothing else is asked for
RANK = Lora(rank=128, alpha=256)  # of the alternatives to a stage without adapters
PROMPT_TOKENS, ANSWER_TOKENS = 1000, 250  # of one instruction that a teacher is asked for, its examples included


def plan(
    recipe: Recipe,
    *,
    samples: int | None = None,
    processes: int = PROCESSES,
    flops: float | None = None,
    prices: Path | None = None,
    teacher: str | None = None,
    parent: ParentModel | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Every stage's forecast as plain values, in bytes, seconds and dollars; see planner/forecast.py for how.

    `samples`: of a stage whose data are not there · `processes`: of FSDP2, in which each keeps a share · `flops`: what
    a device reaches, in place of what is measured here or assumed of a GPU · `prices`: `gpus: {NAME: dollars an hour}`,
    and `models` for a teacher. Raises RecipeError where a backbone's config is not at hand.
    """
    from vistune.planner.forecast import GPUS, sizes_of, this_cpu
    from vistune.planner.precision import uses_bf16

    if parent is None:
        sizes, spec = sizes_of(recipe.model)
    else:
        sizes, spec = sizes_of(parent.model, parent.configs, cut=parent.cut)
    loads = _loads(recipe, parent, spec, samples, progress)
    here = this_cpu(sizes, bf16=uses_bf16("auto", "cpu"))
    devices = [replace(device, flops=flops or device.flops) for device in (here, *GPUS.values())]
    hourly, asked = read_money(prices, teacher)
    offers = [(device, _price(device.name, hourly)) for device in devices]
    learnt = set() if parent is None else parent.trained_parts
    stages = [_stage(recipe, number, sizes, load, offers, processes, learnt) for number, load in enumerate(loads)]
    return {
        "recipe": recipe.name,
        "processes": processes,
        "stages": stages,
        "teacher": asked and asked | {"dollars": asked["dollars_each"] * max(load.samples for load in loads)},
    }


def _price(device: str, hourly: Mapping[str, float]) -> float | None:
    """Dollars an hour of a device, by a name in its own."""
    return next((dollars for name, dollars in hourly.items() if name.lower() in device.lower()), None)


def _loads(
    recipe: Recipe, parent: ParentModel | None, spec: Spec, samples: int | None, progress: Progress
) -> list[Load]:
    from vistune.planner.forecast import assumed_load, load_of, load_of_shards

    if not data_is_there(recipe):
        return [assumed_load(stage, spec, samples) for stage in recipe.stages]
    from vistune.data.stages import plan_stages
    from vistune.interop.load import recipe_processor

    loads = []
    for item in plan_stages(recipe, recipe_processor(recipe, parent), progress)[0]:
        if item.stream is None:
            loads.append(load_of(item))
            continue
        with scratch_folder(user_cache() / "shards") as folder:
            loads.append(load_of_shards(item, folder))
    return loads


def data_is_there(recipe: Recipe) -> bool:
    """Whether every stage's files can be read here, so that rows are counted and not assumed."""
    return all(
        all("://" not in name for name in stage.shards.files)
        if stage.shards is not None
        else (sources := stage.data if stage.data is not None else recipe.data)
        and all(source.file.exists() for source in sources)
        for stage in recipe.stages
    )


def backbones_are_there(recipe: Recipe) -> bool:
    """Whether both backbones are folders with weights and a tokenizer; otherwise only their sizes are known."""
    vision, language = (Path(source_of(getattr(recipe.model, part), part)) for part in ("vision", "language"))
    weights = ("*.safetensors", "pytorch_model*.bin")
    held = all(any(next(folder.glob(name), None) for name in weights) for folder in (vision, language))
    return held and any((language / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))


def _stage(
    recipe: Recipe,
    number: int,
    sizes: Sizes,
    load: Load,
    offers: list[tuple[Device, float | None]],
    processes: int,
    learnt: Collection[str],
) -> dict[str, Any]:
    from vistune.planner.forecast import GPUS, INDEX_BYTES, ROOM, checkpoint_bytes, longest_row, seconds
    from vistune.planner.memory import how_of, memory, parameters
    from vistune.planner.precision import frozen_for_good

    stage = recipe.stages[number]
    found: dict[str, Any] = {
        "stage": stage.name,
        "parameters": parameters(sizes, stage.lora),
        "learn": list(stage.learn),
        "steps": load.steps,
        "samples": load.samples if load.steps is not None else None,
        "assumed": load.assumed,
        "row": asdict(load.worst),
        "devices": [],
    }
    for device, price in offers:
        in_bf16 = [device.bf16 if each.precision == "auto" else each.precision == "bf16" for each in recipe.stages]
        bf16, halves = in_bf16[number], all(in_bf16)  # frozen weights as planner/precision.py's `to_halve` has them
        alone = how_of(stage, bf16=bf16, on_gpu=device.name in GPUS)
        shared = replace(alone, way="fsdp", processes=processes)
        in_half = halves and "language" not in learnt
        if halves:
            alone = replace(alone, halved=tuple(frozen_for_good(recipe.stages, learnt)))
        took = None if load.steps is None else seconds(sizes, alone, load, device)
        room = ROOM * device.memory
        found["devices"].append(
            {
                "device": device.name,
                "memory": {part: value for part, value in asdict(memory(sizes, alone, load.worst)).items() if value},
                "total": memory(sizes, alone, load.worst).total,
                "total_fsdp": memory(sizes, shared, load.worst).total,
                "fits": memory(sizes, alone, load.worst).total <= room,
                "longest_row": longest_row(sizes, alone, load.worst, room),
                "longest_row_fsdp": longest_row(sizes, shared, load.worst, room),
                "seconds": took,
                "dollars": took / 3600 * price if took is not None and price is not None else None,
                "otherwise": otherwise(sizes, stage, alone, processes, load, halves=in_half),
            }
        )
    index = 0 if stage.shards is not None else INDEX_BYTES * load.samples
    finished, midway = checkpoint_bytes(sizes, recipe, number, learnt)
    kept = recipe.keep_checkpoints * midway if stage.save_every else finished
    found["disk"] = {"checkpoint": finished, "midway": midway, "kept": kept, "cache": index}
    return found


def otherwise(
    sizes: Sizes, stage: Stage, how: How, processes: int, load: Load, *, halves: bool
) -> dict[str, dict[str, float]]:
    """Bytes a device of the same rows learnt in other ways, by one process or DDP, and by FSDP2 where that can be.

    `halves`: whether the language model's weights lie in bf16 where they are frozen under adapters.
    """
    from vistune.planner.memory import memory

    rest = tuple(part for part in how.halved if part != "language")
    frozen = (*rest, "language") if halves else ()
    lora, parts = stage.lora or RANK, [part for part in stage.learn if part in ("vision", "projector")]
    ways = {
        "full": replace(how, learn=(*parts, "language"), lora=None, quantize=None, halved=rest),
        "lora": replace(how, learn=(*parts, "adapters"), lora=lora, quantize=None, halved=frozen),
        "lora on 8 bits": replace(how, learn=(*parts, "adapters"), lora=lora, quantize=8, halved=frozen),
        "lora on 4 bits": replace(how, learn=(*parts, "adapters"), lora=lora, quantize=4, halved=frozen),
    }
    found = {}
    for name, way in ways.items():
        found[name] = {"ddp": memory(sizes, replace(way, way="ddp"), load.worst).total}
        if way.quantize is None:  # bitsandbytes' weights are whole (docs/how-to/use-several-gpus.md)
            shared = replace(way, way="fsdp", processes=processes, halved=())
            found[name]["fsdp"] = memory(sizes, shared, load.worst).total
    return found


def read_money(path: Path | None, teacher: str | None) -> tuple[dict[str, float], dict[str, Any] | None]:
    """Dollars an hour of GPUs, and of one instruction of a teacher. Raises RecipeError naming what cannot be read."""
    from vistune.files import read_text
    from vistune.llm_client import how_to_price, read_prices
    from vistune.recipe.strict_yaml import parse_yaml

    tree = parse_yaml(read_text(path), str(path)) if path is not None else {}
    hourly = tree.get("gpus", {}) if isinstance(tree, dict) else {}
    good = isinstance(hourly, dict) and all(
        isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 for value in hourly.values()
    )
    if not good:
        raise RecipeError(f"{path}: gpus: dollars an hour are wanted", "write gpus: {H100: 2.5, A100: 1.3}")
    if teacher is None:
        return {str(name): float(value) for name, value in hourly.items()}, None
    known = read_prices(path if path is not None and "models" in tree else None)
    if teacher not in known:
        raise RecipeError(f"--teacher {teacher}: no price is known", how_to_price(teacher))
    each = known[teacher].dollars(PROMPT_TOKENS, ANSWER_TOKENS)
    return {str(name): float(value) for name, value in hourly.items()}, {"model": teacher, "dollars_each": each}

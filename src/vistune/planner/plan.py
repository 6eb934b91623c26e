"""Plan a recipe: the memory, time and cost of every stage, before anything is loaded or paid for.

Recipe (+ its data if they are on this machine, + the user's prices) -> Plan: memory, steps, time, disk, dollars
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vistune.errors import RecipeError
from vistune.files import scratch_folder, user_cache
from vistune.progress import Progress, no_progress
from vistune.recipe import Lora, Recipe, Stage, source_of

if TYPE_CHECKING:
    from vistune.interop.load import ParentModel
    from vistune.planner.memory import Memory
    from vistune.planner.precision import PrecisionChoice
    from vistune.planner.sizes import Load, ModelSizes, RowSize, StageSetup
    from vistune.planner.work import Device
    from vistune.types import Spec

PROCESSES = 8  # of FSDP, if nothing else is asked for
ALTERNATIVE_LORA = Lora(rank=128, alpha=256)  # of the LoRA alternatives to a stage without adapters
PROMPT_TOKENS, ANSWER_TOKENS = 1000, 250  # of one instruction from a teacher, examples included
INDEX_BYTES = 52  # per sample in the cache


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """Assumptions of a plan.

    Attributes:
        samples: Samples of a stage whose data are not on this machine.
        processes: Processes of FSDP; each keeps a share of the model.
        flops: FLOP/s that a device reaches, instead of the measured or assumed ones.
        prices: YAML file with `gpus: {NAME: dollars per hour}`, and `models` for a teacher.
        teacher: A teacher's model whose price is added.
    """

    samples: int | None = None
    processes: int = PROCESSES
    flops: float | None = None
    prices: Path | None = None
    teacher: str | None = None


@dataclass(frozen=True, slots=True)
class Alternative:
    """Bytes per device of another way to train the same rows; `fsdp`: None if FSDP cannot do it."""

    name: str
    ddp: float
    fsdp: float | None = None


@dataclass(frozen=True, slots=True)
class DeviceForecast:
    """A stage on one device.

    Attributes:
        precision: In which the stage would multiply: fp32, bf16, or tf32.
        memory: Bytes of a single process at its peak.
        total_fsdp: Bytes of one of several FSDP processes.
        fits: Whether a single process fits into the device's memory.
        longest_row: The most tokens of a packed row that fits; 0 = none fits.
        seconds: None if the number of steps is unknown.
        dollars: None if the time or the price is unknown.
    """

    device: str
    precision: str
    memory: Memory
    total_fsdp: float
    fits: bool
    longest_row: int
    longest_row_fsdp: int
    seconds: float | None
    dollars: float | None
    alternatives: tuple[Alternative, ...]

    def to_dict(self) -> dict[str, object]:
        """Return the forecast as `plan --json` prints it."""
        return {
            "device": self.device,
            "precision": self.precision,
            "memory": {part: size for part, size in asdict(self.memory).items() if size},
            "total": self.memory.total,
            "total_fsdp": self.total_fsdp,
            "fits": self.fits,
            "longest_row": self.longest_row,
            "longest_row_fsdp": self.longest_row_fsdp,
            "seconds": self.seconds,
            "dollars": self.dollars,
            "otherwise": {
                other.name: {"ddp": other.ddp, **({} if other.fsdp is None else {"fsdp": other.fsdp})}
                for other in self.alternatives
            },
        }


@dataclass(frozen=True, slots=True)
class DiskForecast:
    """Bytes on disk: a finished stage's checkpoint, one within the stage, all that are kept, the cached index."""

    checkpoint: float
    midway: float
    kept: float
    cache: float


@dataclass(frozen=True, slots=True)
class StageForecast:
    """The forecast of a stage.

    Attributes:
        parameters: By part.
        learn: The trained parts.
        steps: None if it depends on data that are not on this machine.
        samples: None if the data are not on this machine.
        assumed: How the data were assumed; "" if they were counted.
        row: The packed row that takes most memory.
        remarks: How `precision: auto` was measured on this CPU.
    """

    stage: str
    parameters: Mapping[str, int]
    learn: tuple[str, ...]
    steps: int | None
    samples: int | None
    assumed: str
    row: RowSize
    devices: tuple[DeviceForecast, ...]
    disk: DiskForecast
    remarks: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Return the forecast as `plan --json` prints it."""
        devices = [device.to_dict() for device in self.devices]
        return {**asdict(self), "learn": list(self.learn), "devices": devices, "remarks": list(self.remarks)}


@dataclass(frozen=True, slots=True)
class TeacherCost:
    """Dollars of a teacher: for one instruction, and for as many as the largest stage has samples."""

    model: str
    dollars_each: float
    dollars: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The forecast of a recipe. `processes`: Processes in the FSDP figures."""

    recipe: str
    processes: int
    stages: tuple[StageForecast, ...]
    teacher: TeacherCost | None

    def to_dict(self) -> dict[str, object]:
        """Return the plan as `plan --json` prints it."""
        return {**asdict(self), "stages": [stage.to_dict() for stage in self.stages]}


def plan(
    recipe: Recipe,
    options: PlanOptions = PlanOptions(),
    *,
    parent: ParentModel | None = None,
    progress: Progress = no_progress,
) -> Plan:
    """Forecast every stage, in bytes, seconds and dollars. Raises RecipeError if a backbone's config is not here."""
    from vistune.planner.precision import choices_on_cpu
    from vistune.planner.sizes import sizes_of
    from vistune.planner.work import GPUS, this_cpu

    if parent is None:
        sizes, spec = sizes_of(recipe.model)
    else:
        sizes, spec = sizes_of(parent.model, parent.configs, cut=parent.cut, spec=parent.processor.spec)
    loads = _loads(recipe, parent, spec, options.samples, progress)
    choices = choices_on_cpu(sizes, spec, recipe.stages, loads)
    in_bf16 = [choice.precision == "bf16" for choice in choices]
    measured = {bf16: this_cpu(sizes, bf16=bf16) for bf16 in set(in_bf16)}
    cpus, gpus = (
        [replace(device, flops=options.flops or device.flops) for device in devices]
        for devices in ([measured[bf16] for bf16 in in_bf16], GPUS.values())
    )
    prices = read_prices(options.prices, options.teacher)
    trained = set() if parent is None else parent.trained_parts
    planner = _StagePlanner(recipe, sizes, cpus, choices, gpus, prices, options.processes, trained)
    return Plan(
        recipe=recipe.name,
        processes=options.processes,
        stages=tuple(planner.forecast(number, load) for number, load in enumerate(loads)),
        teacher=None
        if options.teacher is None
        else TeacherCost(options.teacher, prices.instruction, prices.instruction * max(load.samples for load in loads)),
    )


def _loads(
    recipe: Recipe, parent: ParentModel | None, spec: Spec, samples: int | None, progress: Progress
) -> list[Load]:
    from vistune.planner.sizes import assumed_load, data_is_there, load_of, load_of_shards

    if not data_is_there(recipe):
        return [assumed_load(stage, spec, samples) for stage in recipe.stages]
    from vistune.data.stages import plan_stages
    from vistune.interop.load import recipe_processor

    loads = []
    for planned in plan_stages(recipe, recipe_processor(recipe, parent), progress)[0]:
        if planned.stream is None:
            loads.append(load_of(planned))
            continue
        with scratch_folder(user_cache() / "shards") as folder:
            loads.append(load_of_shards(planned, folder))
    return loads


def backbones_are_there(recipe: Recipe) -> bool:
    """Return whether both backbones are folders with weights and a tokenizer; if not, only their sizes are known."""
    folders = [Path(source_of(name, part)) for part, name in recipe.model.backbones.items()]
    weights = ("*.safetensors", "pytorch_model*.bin")
    complete = all(any(next(folder.glob(name), None) for name in weights) for folder in folders)
    return complete and any((folders[-1] / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))


@dataclass(frozen=True, slots=True)
class Prices:
    """Dollars per hour of GPUs by a part of their name, and dollars per instruction of the chosen teacher."""

    hourly: Mapping[str, float]
    instruction: float = 0.0

    def of(self, device: str) -> float | None:
        """Return a device's dollars per hour; None if no price names it."""
        return next((dollars for name, dollars in self.hourly.items() if name.lower() in device.lower()), None)


@dataclass(frozen=True, slots=True)
class _StagePlanner:
    """Makes the forecasts of a recipe's stages.

    Attributes:
        cpus: For each stage, this CPU in the stage's precision.
        choices: For each stage, its precision on this CPU.
        trained: Parts that were trained before the recipe.
    """

    recipe: Recipe
    sizes: ModelSizes
    cpus: list[Device]
    choices: list[PrecisionChoice]
    gpus: list[Device]
    prices: Prices
    processes: int
    trained: Collection[str]

    def forecast(self, number: int, load: Load) -> StageForecast:
        from vistune.planner.memory import checkpoint_bytes
        from vistune.planner.sizes import parameters

        stage = self.recipe.stages[number]
        finished, midway = checkpoint_bytes(self.sizes, self.recipe, number, self.trained)
        return StageForecast(
            stage=stage.name,
            parameters=parameters(self.sizes, stage.lora),
            learn=tuple(stage.learn),
            steps=load.steps,
            samples=load.samples if load.steps is not None else None,
            assumed=load.assumed,
            row=load.worst,
            devices=tuple(self._on(device, number, load) for device in (self.cpus[number], *self.gpus)),
            disk=DiskForecast(
                checkpoint=finished,
                midway=midway,
                kept=self.recipe.keep_checkpoints * midway if stage.save_every else finished,
                cache=0 if stage.shards is not None else INDEX_BYTES * load.samples,
            ),
            remarks=tuple(line for line in (*self.choices[number].remarks, self.choices[number].reason) if line),
        )

    def _on(self, device: Device, number: int, load: Load) -> DeviceForecast:
        from vistune.model.precision import never_trained
        from vistune.planner.memory import PROCESS, longest_row, memory
        from vistune.planner.sizes import setup_of
        from vistune.planner.work import GPUS, USABLE_MEMORY, seconds

        stages, stage, sizes = self.recipe.stages, self.recipe.stages[number], self.sizes
        on_gpu = device.name in GPUS
        precisions = [choice.precision for choice in self.choices]
        if on_gpu:
            precisions = ["bf16" if each.precision == "auto" else each.precision for each in stages]
        in_bf16 = [precision == "bf16" for precision in precisions]
        single = setup_of(stage, bf16=in_bf16[number], on_gpu=on_gpu)
        fsdp = replace(single, parallelism="fsdp", processes=self.processes)
        if all(in_bf16):  # frozen weights are then stored in bf16, as model/precision.py's `parts_in_bf16` says
            single = replace(single, bf16_parts=tuple(never_trained(stages, self.trained)))
        process = 0.0 if single.on_gpu else PROCESS
        needed = replace(memory(sizes, single, load.worst), process=process)
        room = USABLE_MEMORY * device.memory
        took = None if load.steps is None else seconds(sizes, single, load, device)
        price = self.prices.of(device.name)
        return DeviceForecast(
            device=device.name,
            precision=precisions[number],
            memory=needed,
            total_fsdp=memory(sizes, fsdp, load.worst).total + process,
            fits=needed.total <= room,
            longest_row=longest_row(sizes, single, load.worst, room - process),
            longest_row_fsdp=longest_row(sizes, fsdp, load.worst, room - process),
            seconds=took,
            dollars=took / 3600 * price if took is not None and price is not None else None,
            alternatives=self._alternatives(
                stage, single, load.worst, language_in_bf16=all(in_bf16) and "language" not in self.trained
            ),
        )

    def _alternatives(
        self, stage: Stage, setup: StageSetup, row: RowSize, *, language_in_bf16: bool
    ) -> tuple[Alternative, ...]:
        """Return the memory of the rows with all weights trained, and with adapters on full and quantised weights."""
        from vistune.planner.memory import memory

        others = tuple(part for part in setup.bf16_parts if part != "language")
        parts = tuple(part for part in stage.learn if part in ("vision", "projector"))
        full = replace(setup, learn=(*parts, "language"), lora=None, quantize=None, bf16_parts=others)
        lora = replace(
            setup,
            learn=(*parts, "adapters"),
            lora=stage.lora or ALTERNATIVE_LORA,
            quantize=None,
            bf16_parts=(*others, "language") if language_in_bf16 else others,
        )

        def alternative(name: str, setup: StageSetup) -> Alternative:
            ddp = memory(self.sizes, replace(setup, parallelism="ddp"), row).total
            if setup.quantize is not None:  # bitsandbytes' weights cannot be sharded (docs/how-to/use-several-gpus.md)
                return Alternative(name, ddp)
            fsdp = replace(setup, parallelism="fsdp", processes=self.processes, bf16_parts=())
            return Alternative(name, ddp, memory(self.sizes, fsdp, row).total)

        return (
            alternative("full", full),
            alternative("lora", lora),
            alternative("lora on 8 bits", replace(lora, quantize=8)),
            alternative("lora on 4 bits", replace(lora, quantize=4)),
        )


def read_prices(path: Path | None, teacher: str | None) -> Prices:
    """Read the dollars per hour of GPUs and the price of a teacher. Raises RecipeError naming what cannot be read."""
    from vistune.files import parse_yaml, read_text
    from vistune.llm_client import how_to_price
    from vistune.llm_client import read_prices as read_model_prices

    tree = parse_yaml(read_text(path), str(path)) if path is not None else {}
    hourly = tree.get("gpus", {}) if isinstance(tree, dict) else {}
    good = isinstance(hourly, dict) and all(
        isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 for value in hourly.values()
    )
    if not good:
        raise RecipeError(
            f"{path}: `gpus` must give dollars per hour by the GPU's name", "write gpus: {H100: 2.5, A100: 1.3}"
        )
    gpus = {str(name): float(value) for name, value in hourly.items()}
    if teacher is None:
        return Prices(gpus)
    known = read_model_prices(path if path is not None and "models" in tree else None)
    if teacher not in known:
        raise RecipeError(f"--teacher {teacher}: its price is not known", how_to_price(teacher))
    return Prices(gpus, known[teacher].dollars(PROMPT_TOKENS, ANSWER_TOKENS))

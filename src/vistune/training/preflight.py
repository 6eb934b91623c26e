"""Check without weights everything that a run would refuse before its first step.

Recipe + Spec (+ the model of `from`) -> a model on torch's meta device, set up for every stage -> error or None

Conditions that can change are not checked: free memory, free disk, another process on the same folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch

from vistune.data.stage_records import processor_for
from vistune.data.stages import PlannedStage, plan_stages, with_first_shard
from vistune.errors import RecipeError
from vistune.files import scratch_folder, user_cache
from vistune.interop.load import ParentModel, recipe_processor
from vistune.model import VisionLanguageModel, build
from vistune.model.language import quantization
from vistune.model.part_adapters import drop_adapters, put_adapters
from vistune.model.precision import matmul_precision, resolve_device
from vistune.processor import Processor
from vistune.progress import Progress, no_progress
from vistune.recipe import Recipe, Stage
from vistune.training.distributed.parallelism import choose_parallelism, refuse_shards
from vistune.training.distributed.world import World
from vistune.training.features import refuse_features
from vistune.training.optimizer import make_optimizer
from vistune.training.step_log import refuse_missing
from vistune.types import Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRunStage:
    """The steps and data of one stage, as a run would plan them.

    Attributes:
        samples: None for a stage over shards, whose samples are not counted before they are read.
        shards: Only of a stage over shards, as is `samples_of_first_shard`.
        rows: Packed rows.
        validation_samples: None if the stage has no validation split.
        blind_check: Samples of the blind check; None if it measures none.
        learn: Peak learning rates by trained part.
        remarks: Where the stage's sources differ from the recipe.
    """

    stage: str
    samples: int | None = None
    shards: int | None = None
    samples_of_first_shard: int | None = None
    steps: int
    rows: int
    validation_samples: int | None = None
    blind_check: int | None = None
    learn: Mapping[str, float]
    remarks: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Return what `train --dry-run` prints: without the fields that have no value."""
        values = {**asdict(self), "remarks": list(self.remarks) or None}
        names = {"validation_samples": "held"}
        return {names.get(key, key): value for key, value in values.items() if value is not None}


def check_recipe(recipe: Recipe, parent: ParentModel | None = None) -> Processor:
    """Raise the errors of `train` about model, templates and stages; return the model's processor.

    The data are not checked and no weights are loaded. Errors that depend on the machine are not raised.
    """
    refuse_adapted(recipe, parent)
    processor = recipe_processor(recipe, parent)
    for stage in recipe.stages:
        processor_for(stage, processor)
    refuse_untrainable(recipe, processor.spec, parent, None)
    return processor


def dry_run(
    recipe: Recipe, parent: ParentModel | None = None, *, progress: Progress = no_progress
) -> list[DryRunStage]:
    """Read, encode and plan like a run, and raise the same errors; train nothing. Only the first shard is read."""
    refuse_adapted(recipe, parent)
    processor = recipe_processor(recipe, parent)
    refuse_missing(recipe.track)
    stages, _ = plan_stages(recipe, processor, progress)
    refuse_untrainable(recipe, processor.spec, parent, World(device=resolve_device("auto")))
    return [_dry_run_stage(planned) for planned in stages]


def _dry_run_stage(planned: PlannedStage) -> DryRunStage:
    stream, first = planned.stream, None
    rows = sum(map(len, planned.plan.steps))
    if stream is not None:
        with scratch_folder(user_cache() / "shards") as folder:
            first = len(with_first_shard(planned, folder).samples)
        rows = stream.steps * stream.lanes
    return DryRunStage(
        stage=planned.stage.name,
        samples=len(planned.samples) if stream is None else None,
        shards=None if stream is None else len(stream.shards),
        samples_of_first_shard=first,
        steps=len(planned.plan.steps),
        rows=rows,
        validation_samples=None if planned.validation is None else len(planned.validation.samples),
        blind_check=len(planned.held_out.samples) or None,
        learn={str(part): rate for part, rate in planned.stage.learn.items()},
        remarks=planned.remarks,
    )


def refuse_adapted(recipe: Recipe, parent: ParentModel | None) -> None:
    """Raise RecipeError if a stage quantises a language model whose adapters must be merged first."""
    if parent is not None and parent.adapted and any(stage.quantize is not None for stage in recipe.stages):
        raise RecipeError(
            "quantize: the model that `from` names has adapters, which can only be merged into full-precision weights",
            "merge them first (vistune export MODEL OUT --layout llava-hf --merge), or remove quantize",
        )


def refuse_untrainable(recipe: Recipe, spec: Spec, parent: ParentModel | None, world: World | None) -> None:
    """Raise the errors that a run of the recipe would raise about its backbones or stages, before any training step.

    Only names and shapes of stored weights are read. `world`: the processes and device of the run; None = not known, so
    errors that depend on the machine are not raised.
    """
    on_machine = world is not None
    if parent is not None:
        model = parent.build_empty()
    else:
        quantize = recipe.stages[0].quantize if on_machine else None
        model = build(recipe.model, spec, seed=recipe.seed, quantize=quantize, meta=True)
    for stage in recipe.stages:
        _prepare(model, stage, on_machine=on_machine)
        model.set_trainable(stage.learn)
        model.set_recompute(stage.recompute)
        if world is None:
            refuse_shards(recipe, stage)
        else:
            choose_parallelism(recipe, stage, model, world)
        refuse_features(stage)
        make_optimizer(model.parts(), stage)
        if world is not None:
            with matmul_precision(stage.precision, world.device):
                pass


def _prepare(model: VisionLanguageModel, stage: Stage, *, on_machine: bool) -> None:
    """Prepare the model like `Run.prepare`, but drop adapters: there are no weights to merge them into."""
    drop_adapters(model)
    if on_machine and stage.quantize is not None:
        quantization(stage.quantize, torch.float32)  # whether the weights fit was checked when the model was built
    if stage.lora is not None:
        put_adapters(model, stage.lora)

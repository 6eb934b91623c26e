"""Compute the reference model's log-probabilities once before a stage of preference tuning, and keep them in the run.

The reference is the model with which the stage begins. With new adapters, it is the base model. It is run before the
training, so it needs no additional memory. A resumed run reads the stored numbers.

pairs -> packed rows -> log-probability of each answer (samples, documents) -> OUT/reference/STAGE.npz
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from vistune.data import Loader, ShouldStop, StagePlan
from vistune.data.packing import pack
from vistune.errors import DataError
from vistune.files import replacing
from vistune.progress import Progress
from vistune.training.trainer import Trainer
from vistune.training.validation import Validator, evaluating


def attach_reference(
    trainer: Trainer,
    validator: Validator | None,
    out: Path,
    *,
    resumed: bool,
    progress: Progress,
    stopping: ShouldStop,
) -> None:
    """Give the loaders of a stage the reference of their pairs; do nothing for other stages.

    Raises:
        DataError: The stored reference of a resumed run is missing or belongs to other pairs.
        Stopped: The run is asked to stop meanwhile; a resumed run computes the reference again.
    """
    settings, loader = trainer.stage.preference_loss, trainer.loader
    if settings is None or not isinstance(loader, Loader):
        return
    loaders = [loader, *([validator.loader] if validator is not None else [])]
    if not settings.needs_reference:
        for each in loaders:
            each.reference = torch.zeros(len(each.samples), each.pair_documents)
        return
    path = out / "reference" / f"{trainer.stage.name}.npz"
    digests = [_digest(each) for each in loaders]
    if resumed:
        references = _read(path, digests, trainer.stage.name)
    else:
        references = [_compute(trainer, each, progress, stopping) for each in loaders]
        if trainer.world.is_first:
            _write(path, digests, references)
    for each, reference in zip(loaders, references, strict=True):
        each.reference = reference


def _compute(trainer: Trainer, loader: Loader, progress: Progress, stopping: ShouldStop) -> Tensor:
    """Return (samples, documents) fp32 of all pairs that the loader's plan uses; zeros for the others.

    The processes share the rows; all must call it, and each returns the whole result.
    """
    used, plan, world = _used(loader), loader.plan, trainer.world
    rows = pack(used, plan.lengths, trainer.stage.tokens_per_row)
    # Under FSDP all processes must compute as many rows: a step has one for each, and the loader adds blank ones.
    steps = tuple(tuple(rows[first : first + world.size]) for first in range(0, len(rows), world.size))
    own = Loader(
        loader.samples,
        loader.processor,
        StagePlan(steps, plan.made_from, plan.lengths),
        pixels=loader.pixels,
        share=(world.rank, world.size),
        prefetch=loader.prefetch,
        pair_documents=loader.pair_documents,
    )
    totals = np.zeros((len(loader.samples), loader.pair_documents))
    with (
        evaluating(trainer),
        progress(f"{trainer.stage.name} reference", len(used)) as advance,
        closing(own.steps()) as loaded,
    ):
        for step, (row,) in loaded:
            of_row = trainer.answers(row)
            if row.ids:  # not a blank row
                totals[list(steps[step][row.number])] = of_row.view(-1, loader.pair_documents).double().numpy()
            advance(sum(map(len, steps[step])))
            world.meet_before_first_step(trainer.stage.name, stopping)
    gathered = world.gather(*totals.ravel().tolist())
    return torch.from_numpy(np.sum(gathered, axis=0).reshape(totals.shape)).float()


def _used(loader: Loader) -> list[int]:
    """Return the pairs that some step of the loader's plan uses."""
    return sorted({index for step in loader.plan.steps for row in step for index in row})


def _digest(loader: Loader) -> str:
    """Return a checksum of the pairs and of their order."""
    content = f"{loader.plan.digest} {dict(loader.plan.made_from)} {loader.pair_documents}"
    return hashlib.sha256(content.encode()).hexdigest()


def _write(path: Path, digests: Sequence[str], references: Sequence[Tensor]) -> None:
    arrays = {f"reference_{k}": reference.numpy() for k, reference in enumerate(references)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        np.savez(file, digests=np.array(digests), **arrays)  # type: ignore[arg-type]


def _read(path: Path, digests: Sequence[str], stage: str) -> list[Tensor]:
    hint = "restore the file, or train the stage again in a new run folder"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            stored = arrays["digests"].tolist()
            references = [torch.from_numpy(arrays[f"reference_{k}"]) for k in range(len(stored))]
    except FileNotFoundError:
        raise DataError(f"{path}: the reference of stage {stage} is missing", hint) from None
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise DataError(f"{path}: the reference of stage {stage} cannot be read: {error}", hint) from None
    if stored != list(digests):
        raise DataError(f"{path}: the reference does not fit stage {stage}: it was computed for other pairs", hint)
    return references

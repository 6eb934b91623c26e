"""What a stage needs to go on as if it had never stopped: its optimiser, and where it was.

Written into a checkpoint's `state/` before its manifest, so it is whole or the checkpoint is not there. Chance needs no
state: it is drawn anew for every row, from the seed, the step and the row's number.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vistune.data import ShardCursor, StagePlan
from vistune.errors import CheckpointError
from vistune.training.distributed.sharding import sliced
from vistune.training.optim import Optimizer


@dataclass(frozen=True, slots=True)
class Cursor:
    """The next step of a stage, and the plan it belongs to."""

    stage: str
    step: int
    plan: str
    made_from: Mapping[str, int | str]
    lanes: Sequence[ShardCursor] = ()  # of a stage over shards


def cursor_at(stage: str, step: int, plan: StagePlan, lanes: Sequence[ShardCursor] = ()) -> Cursor:
    return Cursor(stage, step, plan.digest, dict(plan.made_from), list(lanes))


def seed_all(seed: int) -> None:
    """Set every global source of chance that training code, a library's or a user's part may draw from."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def seed_row(seed: int, step: int, number: int) -> None:
    """The chance of one row, whichever process computes it and whatever was computed before."""
    seed_all(int(np.random.SeedSequence([seed, step, number]).generate_state(1, np.uint64)[0]))


def save_state(folder: Path, states: Sequence[Mapping[str, Any]], cursor: Cursor) -> None:
    """`states`: what `Optimizer.state_dict` gave, whole and on the CPU."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "state.pt", "wb") as file:  # not by its name: an error then tells what the disk said
        torch.save({"optimizer": list(states), "cursor": asdict(cursor)}, file)


def load_state(folder: Path, optimizer: Optimizer, *, plan: StagePlan) -> Cursor:
    """Restore the optimiser, in slices where its parameters are.

    Raises CheckpointError, naming what differs, where the plan is another one or the tensors do not fit.
    """
    try:
        state = torch.load(folder / "state.pt", weights_only=True, map_location="cpu")
        cursor, states = Cursor(**state["cursor"]), state["optimizer"]
    except Exception as error:  # a damaged pickle raises nearly anything; the manifest has passed it, so say what it is
        raise CheckpointError(
            f"{folder / 'state.pt'}: not a state that this version reads: {type(error).__name__}: {error}",
            "start a new run",
        ) from None
    if cursor.plan != plan.digest or cursor.made_from != plan.made_from:
        differing = [key for key, value in plan.made_from.items() if cursor.made_from.get(key) != value]
        listed = "; ".join(f"{key} was {cursor.made_from.get(key)}, is {plan.made_from[key]}" for key in differing)
        raise CheckpointError(
            f"{folder}: was written for another plan: {listed or 'the steps differ'}",
            "resume with the recipe and data of the run, or start a new run",
        )
    _refuse_misfits(states, optimizer, folder)
    optimizer.load_state_dict(sliced(states, optimizer.parameters()))
    return cursor


def _refuse_misfits(states: Sequence[Mapping[str, Any]], optimizer: Optimizer, folder: Path) -> None:
    parameters = optimizer.parameters()
    fits = len(states) == len(parameters) and all(
        number < len(learning) and all(value.shape in (learning[number].shape, ()) for value in entry.values())
        for state, learning in zip(states, parameters, strict=True)
        for number, entry in state["state"].items()
    )
    if not fits:
        raise CheckpointError(
            f"{folder / 'state.pt'}: of other parameters than this model's", "use the run's own checkpoint"
        )

"""What a stage needs to go on as if it had never stopped: optimiser, chance, and where it was.

Written into a checkpoint's `state/` before its manifest, so it is whole or the checkpoint is not there.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vistune.data import StagePlan
from vistune.errors import CheckpointError
from vistune.training.optim import Optimizer


@dataclass(frozen=True, slots=True)
class Cursor:
    """The next step of a stage, and the plan it belongs to."""

    stage: str
    step: int
    plan: str
    made_from: Mapping[str, int | str]


def cursor_at(stage: str, step: int, plan: StagePlan) -> Cursor:
    return Cursor(stage, step, plan.digest, dict(plan.made_from))


def seed_all(seed: int) -> None:
    """Set every global source of chance that training code, a library's or a user's part may draw from."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def save_state(folder: Path, optimizer: Optimizer, cursor: Cursor) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    chance = {"torch": torch.get_rng_state(), "python": random.getstate(), "numpy": _numpy_state()}
    if torch.cuda.is_available():
        chance["cuda"] = torch.cuda.get_rng_state_all()
    content = {"optimizer": optimizer.state_dict(), "chance": chance, "cursor": asdict(cursor)}
    torch.save(content, folder / "state.pt")


def load_state(folder: Path, optimizer: Optimizer, *, plan: StagePlan) -> Cursor:
    """Restore optimiser and chance. Raises CheckpointError, naming what differs, where the plan is another one."""
    state = torch.load(folder / "state.pt", weights_only=True, map_location="cpu")
    try:
        cursor, chance = Cursor(**state["cursor"]), state["chance"]
        random.setstate(chance["python"])
        np.random.set_state(_numpy_tuple(chance["numpy"]))
        torch.set_rng_state(chance["torch"])
    except (KeyError, TypeError):
        raise CheckpointError(f"{folder}: written by another version of vistune", "start a new run") from None
    if cursor.plan != plan.digest or cursor.made_from != plan.made_from:
        differing = [key for key, value in plan.made_from.items() if cursor.made_from.get(key) != value]
        listed = "; ".join(f"{key} was {cursor.made_from.get(key)}, is {plan.made_from[key]}" for key in differing)
        raise CheckpointError(
            f"{folder}: was written for another plan: {listed or 'the steps differ'}",
            "resume with the recipe and data of the run, or start a new run",
        )
    optimizer.load_state_dict(state["optimizer"])
    if "cuda" in chance and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(chance["cuda"])
    return cursor


def _numpy_state() -> dict[str, Any]:
    """numpy's global generator as plain values: `weights_only` reads no arrays of numpy's."""
    state = np.random.get_state(legacy=False)
    assert isinstance(state, dict)
    inner = state["state"]
    gauss = (int(state["has_gauss"]), float(state["gauss"]))
    return {
        "name": state["bit_generator"],
        "keys": inner["key"].tolist(),
        "position": int(inner["pos"]),
        "gauss": gauss,
    }


def _numpy_tuple(state: Mapping[str, Any]) -> tuple[Any, ...]:
    return (state["name"], np.array(state["keys"], dtype=np.uint32), state["position"], *state["gauss"])

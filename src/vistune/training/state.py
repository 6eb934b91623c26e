"""What a stage needs to go on as if it had never stopped: optimiser, chance, and where it was.

Written into a checkpoint's `state/` before its manifest, so it is whole or the checkpoint is not there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vistune.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Cursor:
    """The next step of a stage, and the plan it belongs to."""

    stage: str
    step: int
    plan: str


def save_state(folder: Path, optimizer: torch.optim.Optimizer, cursor: Cursor) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    chance: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        chance["cuda"] = torch.cuda.get_rng_state_all()
    where = {"stage": cursor.stage, "step": cursor.step, "plan": cursor.plan}
    torch.save({"optimizer": optimizer.state_dict(), "chance": chance, "cursor": where}, folder / "state.pt")


def load_state(folder: Path, optimizer: torch.optim.Optimizer, *, plan: str) -> Cursor:
    """Restore optimiser and chance. Raises CheckpointError where the plan is another one."""
    state = torch.load(folder / "state.pt", weights_only=True, map_location="cpu")
    cursor = Cursor(**state["cursor"])
    if cursor.plan != plan:
        raise CheckpointError(
            f"{folder}: was written for other data, batch sizes or seed (plan {cursor.plan[:12]}, now {plan[:12]})",
            "resume with the recipe and data of the run, or start a new run",
        )
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["chance"]["cpu"])
    if "cuda" in state["chance"]:
        torch.cuda.set_rng_state_all(state["chance"]["cuda"])
    return cursor

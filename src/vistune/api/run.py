"""A run folder as a Python object."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vistune.files import read_json_if_there, read_jsonl
from vistune.notebook import html_table
from vistune.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from vistune.generation import Assistant


@dataclass(frozen=True, repr=False)
class Run:
    """A run folder. Its properties read the folder, so they show what a run that still trains has reached.

    A run can be given wherever a path can: `vistune.evaluate(run, …)`, `run / "report.html"`.
    """

    path: Path

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str | os.PathLike[str]) -> Path:
        return self.path / name

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, status={self.status!r}, steps={len(self.metrics)})"

    @property
    def status(self) -> str:
        """How the run ended: `finished`, `stopped`, or another status of run.json; `new` before the first step."""
        return str(self._record.get("status", "new"))

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe."""
        return load_recipe(str(self.path / "recipe.yaml"))

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl: `step`, `stage`, `loss`, `learning_rate` and more."""
        file = self.path / "metrics.jsonl"
        return [line for _, line in read_jsonl(file)] if file.is_file() else []

    @property
    def checkpoints(self) -> list[Path]:
        """The complete checkpoints, the newest last."""
        from vistune.runs.folder import checkpoints_of

        return checkpoints_of(self.path)

    def load(self, *, device: str = "auto", dtype: str = "auto", quantize: int | None = None) -> Assistant:
        """Load the best checkpoint of the last finished stage, or the newest one if no stage is finished."""
        from vistune.api.models import load

        return load(self.path, device=device, dtype=dtype, quantize=quantize)

    def to_dict(self) -> dict[str, object]:
        """Return path, status, number of steps, last loss of each stage, and checkpoints as JSON values."""
        return {
            "path": str(self.path),
            "status": self.status,
            "steps": len(self.metrics),
            "last_loss": {stage: line.get("loss") for stage, line in self._last_lines().items()},
            "checkpoints": [str(path) for path in self.checkpoints],
        }

    @property
    def _record(self) -> Mapping[str, Any]:
        tree = read_json_if_there(self.path / "run.json")
        return tree if isinstance(tree, dict) else {}

    def _last_lines(self) -> dict[str, dict[str, Any]]:
        return {line["stage"]: line for line in self.metrics}

    def _repr_html_(self) -> str:
        rows = [
            (stage, line["step"], "" if (loss := line.get("loss")) is None else f"{loss:.3f}")
            for stage, line in self._last_lines().items()
        ]
        return html_table(rows, ("stage", "step", "loss"), f"{self.path}: {self.status}")

"""Pictures of a recipe: its model and its stages, in English or Korean.

ModelFacts + StageFacts (plain values) -> a sheet each -> model.svg/.png · stages.svg/.png
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vistune.files import read_json
from vistune.planner.structure import ModelFacts, StageFacts
from vistune.registry import lookup
from vistune.report.model_diagram import model_sheet
from vistune.report.pen import style
from vistune.report.stage_diagram import stages_sheet


def draw_diagrams(
    name: str, model: ModelFacts, stages: Sequence[StageFacts], folder: Path, *, language: str = "en"
) -> list[Path]:
    """Write model.svg, model.png, stages.svg and stages.png; `name` is the recipe's.

    Raises RecipeError for an unknown language, and for letters that no font of this machine has.
    """
    labels: Mapping[str, Any] = lookup(language, read_json(Path(__file__).with_name("diagrams.json")), "language")
    with style():
        sheets = (
            ("model", labels["model_title"].format(name=name), model_sheet(name, model, labels)),
            ("stages", labels["stages_title"].format(name=name), stages_sheet(name, stages, labels)),
        )
        return [path for file, title, pen in sheets for path in pen.save(folder, file, title)]

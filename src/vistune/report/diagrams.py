"""Pictures of a recipe: its model and its stages, in English or Korean.

ModelFacts + StageFacts (plain values) -> a sheet each -> model.svg/.png · stages.svg/.png
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vistune.planner.structure import ModelFacts, StageFacts
from vistune.report.model_diagram import model_sheet
from vistune.report.pen import style
from vistune.report.stage_diagram import stages_sheet
from vistune.translations import catalogue


def draw_diagrams(
    name: str, model: ModelFacts, stages: Sequence[StageFacts], folder: Path, *, language: str = "en"
) -> list[Path]:
    """Write model.svg, model.png, stages.svg and stages.png; `name` is the recipe's.

    Raises RecipeError for an unknown language, and for letters that no font of this machine has.
    """
    labels = catalogue("report/diagrams", language)
    with style():
        sheets = (
            ("model", labels["model_title"].format(name=name), model_sheet(name, model, labels)),
            ("stages", labels["stages_title"].format(name=name), stages_sheet(name, stages, labels)),
        )
        return [path for file, title, pen in sheets for path in pen.save(folder, file, title)]

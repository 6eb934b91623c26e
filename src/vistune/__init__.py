"""Visual instruction tuning, whole: write the data, align, tune, measure, talk, serve, export.

`import vistune` costs nothing: what a name needs is imported when the name is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vistune.asking import answer, evaluate, evaluate_all
    from vistune.drawing import draw
    from vistune.mainjob import quickstart
    from vistune.measuring import score
    from vistune.models import export, import_model, load
    from vistune.workflows import (
        check_data,
        draw_scenes,
        generate_data,
        train,
        write_report,
    )

__all__ = [
    "answer",
    "check_data",
    "draw",
    "draw_scenes",
    "evaluate",
    "evaluate_all",
    "export",
    "generate_data",
    "import_model",
    "load",
    "quickstart",
    "score",
    "train",
    "write_report",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in __all__:
        from vistune import asking, drawing, mainjob, measuring, models, workflows

        rooms = (models, drawing, measuring, asking, workflows, mainjob)
        return next(getattr(room, name) for room in rooms if hasattr(room, name))
    raise AttributeError(f"module 'vistune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

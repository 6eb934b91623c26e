"""Visual instruction tuning, whole: write the data, align, tune, measure, talk, serve, export.

`import vistune` costs nothing: what a name needs is imported when the name is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vistune.mainjob import quickstart
    from vistune.workflows import (
        check_data,
        draw_scenes,
        evaluate,
        generate_data,
        load,
        train,
        write_report,
    )

__all__ = ["check_data", "draw_scenes", "evaluate", "generate_data", "load", "quickstart", "train", "write_report"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in __all__:
        from vistune import mainjob, workflows

        return getattr(mainjob if name == "quickstart" else workflows, name)
    raise AttributeError(f"module 'vistune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

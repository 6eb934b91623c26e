"""Visual instruction tuning: write the data, align, tune, evaluate, chat, serve, export.

`import vistune` loads nothing else: each name is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vistune.registry import lazy_names

if TYPE_CHECKING:
    from vistune._quickstart import quickstart
    from vistune.api import (
        answer,
        check_data,
        draw,
        draw_scenes,
        evaluate,
        evaluate_all,
        export,
        export_gguf,
        generate_data,
        import_model,
        load,
        push,
        score,
        train,
        verify,
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
    "export_gguf",
    "generate_data",
    "import_model",
    "load",
    "push",
    "quickstart",
    "score",
    "train",
    "verify",
    "write_report",
]
__version__ = "0.2.0"

__getattr__ = lazy_names(
    __name__,
    {"api": tuple(name for name in __all__ if name != "quickstart"), "_quickstart": ("quickstart",)},
)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

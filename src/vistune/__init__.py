"""Visual instruction tuning: write the data, align, tune, evaluate, chat, serve, export.

`import vistune` loads nothing else: each name is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vistune.registry import lazy_names

if TYPE_CHECKING:
    from vistune._quickstart import Photographs, QuickstartSummary, Size, quickstart
    from vistune.api import (
        Run,
        answer,
        check,
        check_data,
        draw,
        draw_scenes,
        dry_run,
        evaluate,
        evaluate_all,
        export,
        export_gguf,
        filter_captions,
        generate_data,
        import_model,
        load,
        plan,
        plan_generation,
        push,
        score,
        selftest,
        show,
        tasks,
        train,
        verify,
        why,
        write_report,
    )
    from vistune.data.check import CheckReport
    from vistune.datagen import GeneratedData, GenerationConfig, TableForm, TeacherOptions
    from vistune.errors import VistuneError
    from vistune.evaluation import Comparison, EvaluationResult, ScoreResult
    from vistune.generation import Answer, Assistant, Sampling
    from vistune.interop.push import PushResult
    from vistune.interop.verify import VerifyResult
    from vistune.llm_client import Endpoint
    from vistune.model import next_token_loss
    from vistune.notebook import show_progress
    from vistune.processor import collate
    from vistune.recipe import DataSource, Recipe, load_recipe
    from vistune.types import Completion, Example, Message, Sample

LAZY = {
    "_quickstart": ("Photographs", "QuickstartSummary", "Size", "quickstart"),
    "api": (
        "Run",
        "answer",
        "check",
        "check_data",
        "draw",
        "draw_scenes",
        "dry_run",
        "evaluate",
        "evaluate_all",
        "export",
        "export_gguf",
        "filter_captions",
        "generate_data",
        "import_model",
        "load",
        "plan",
        "plan_generation",
        "push",
        "score",
        "selftest",
        "show",
        "tasks",
        "train",
        "verify",
        "why",
        "write_report",
    ),
    "data.check": ("CheckReport",),
    "datagen": ("GeneratedData", "GenerationConfig", "TableForm", "TeacherOptions"),
    "errors": ("VistuneError",),
    "evaluation": ("Comparison", "EvaluationResult", "ScoreResult"),
    "generation": ("Answer", "Assistant", "Sampling"),
    "interop.push": ("PushResult",),
    "interop.verify": ("VerifyResult",),
    "llm_client": ("Endpoint",),
    "model": ("next_token_loss",),
    "notebook": ("show_progress",),
    "processor": ("collate",),
    "recipe": ("DataSource", "Recipe", "load_recipe"),
    "types": ("Completion", "Example", "Message", "Sample"),
}
__all__ = [
    "Answer",
    "Assistant",
    "CheckReport",
    "Comparison",
    "Completion",
    "DataSource",
    "Endpoint",
    "EvaluationResult",
    "Example",
    "GeneratedData",
    "GenerationConfig",
    "Message",
    "Photographs",
    "PushResult",
    "QuickstartSummary",
    "Recipe",
    "Run",
    "Sample",
    "Sampling",
    "ScoreResult",
    "Size",
    "TableForm",
    "TeacherOptions",
    "VerifyResult",
    "VistuneError",
    "answer",
    "check",
    "check_data",
    "collate",
    "draw",
    "draw_scenes",
    "dry_run",
    "evaluate",
    "evaluate_all",
    "export",
    "export_gguf",
    "filter_captions",
    "generate_data",
    "import_model",
    "load",
    "load_recipe",
    "next_token_loss",
    "plan",
    "plan_generation",
    "push",
    "quickstart",
    "score",
    "selftest",
    "show",
    "show_progress",
    "tasks",
    "train",
    "verify",
    "why",
    "write_report",
]
__version__ = "0.2.0"

__getattr__ = lazy_names(__name__, LAZY)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

"""The Python API: one function per command. The functions put the packages together.

The usual order is draw_scenes, generate_data, check, train, evaluate, write_report; `quickstart` runs all of them.
The functions share only folders, so each step can be repeated by itself. Packages that need torch are imported
inside the functions, so that `vistune --help` answers at once.
"""

from vistune.api.data import (
    GenerationOptions,
    GenerationPlan,
    SourceSelection,
    check,
    check_data,
    draw_scenes,
    filter_captions,
    generate_data,
    plan_generation,
    show,
)
from vistune.api.evaluation import BLIND_QUESTIONS, answer, describe, evaluate, evaluate_all, score, tasks
from vistune.api.models import LoadOptions, chat, draw, load, serve, why, write_report
from vistune.api.run import Run
from vistune.api.sharing import GgufOptions, PushSettings, export, export_gguf, import_model, push, verify
from vistune.api.training import check_recipe, dry_run, parent_of, plan, selftest, train

__all__ = [
    "BLIND_QUESTIONS",
    "GenerationOptions",
    "GenerationPlan",
    "GgufOptions",
    "LoadOptions",
    "PushSettings",
    "Run",
    "SourceSelection",
    "answer",
    "chat",
    "check",
    "check_data",
    "check_recipe",
    "describe",
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
    "parent_of",
    "plan",
    "plan_generation",
    "push",
    "score",
    "selftest",
    "serve",
    "show",
    "tasks",
    "train",
    "verify",
    "why",
    "write_report",
]

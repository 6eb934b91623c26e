"""The command line: one verb = parse, call one workflow, print.

Results go to stdout, progress to stderr. A VistuneError is one line and its exit code; anything else is our bug.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Annotated

import typer
from typer.main import get_command

from vistune.cli import data, evaluation, model, plan, report, serve
from vistune.cli.console import stderr
from vistune.cli.help import Program, Verb, language_of, speak
from vistune.cli.korean_errors import in_korean
from vistune.errors import VistuneError

VERBS: Mapping[str, Callable[..., None]] = {
    "quickstart": model.quickstart,
    "scenes": data.scenes,
    "generate": data.generate,
    "filter": data.filter_,
    "check": data.check,
    "show": data.show,
    "plan": plan.plan,
    "train": model.train,
    "selftest": model.selftest,
    "evaluate": evaluation.evaluate,
    "answer": evaluation.answer,
    "score": evaluation.score,
    "chat": model.chat,
    "serve": serve.serve,
    "import": model.import_,
    "export": model.export,
    "draw": model.draw,
    "report": report.report,
    "why": model.why,
}

app = typer.Typer(
    name="vistune",
    help="Visual instruction tuning: generate data, train, evaluate and use vision-language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    cls=Program,
)
for name, verb in VERBS.items():
    app.command(name, cls=Verb)(verb)


@app.callback()
def program(
    language: Annotated[
        str | None, typer.Option("--lang", help="Language of help and messages: en or ko. Default: from the locale.")
    ] = None,
) -> None:
    """`main` has read the option by then: the help is shown before any option means something."""


def main() -> None:
    """The entry point: errors of ours become one line and an exit code."""
    # This process is ours: one progress bar a step is shown, and no library's beside it.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # Nor what libraries tell each other: names to be changed, a faster kernel that is not there.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
    warnings.filterwarnings("ignore", module=r"peft\.mapping_func")
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    language = "en"
    try:
        command = get_command(app)
        language = language_of(sys.argv[1:], os.environ)
        speak(command, language)
        command()
    except VistuneError as error:
        said = in_korean(error) if language == "ko" else str(error)
        rank = f"rank {os.environ['RANK']}: " if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""
        stderr.print(f"vistune: {rank}{said}", style="red", soft_wrap=True, markup=False, emoji=False)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)

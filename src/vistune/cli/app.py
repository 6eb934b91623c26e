"""The program `vistune`: all commands, and its exit codes.

A VistuneError ends it with a one-line message and the error's exit code, and so does an exception in a user's module,
such as a task or a projector. Any other exception is a bug of vistune.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from typer._click.exceptions import UsageError
from typer.main import get_command

from vistune.cli import data, evaluation, generate, model
from vistune.cli.commands import Program, Verb, language_of, set_language, show_usage_error
from vistune.cli.console import stderr
from vistune.errors import VistuneError, in_users_code
from vistune.translations import LANGUAGES, in_language

TRAINING_VERBS = ("train", "quickstart")
SETTINGS = {"tcache_count": 0, "mxfast": 0, "trim_threshold": 512 << 20, "mmap_threshold": 32 << 20}
TUNABLES = ":".join(f"glibc.malloc.{name}={value}" for name, value in SETTINGS.items())
REUSES_ALIGNED_BLOCKS = (2, 38)

VERBS: Mapping[str, Callable[..., None]] = {
    "quickstart": model.quickstart,
    "scenes": data.scenes,
    "generate": generate.generate,
    "filter": data.filter_,
    "check": data.check,
    "show": data.show,
    "plan": data.plan,
    "train": model.train,
    "selftest": model.selftest,
    "evaluate": evaluation.evaluate,
    "answer": evaluation.answer,
    "score": evaluation.score,
    "chat": model.chat,
    "serve": model.serve,
    "import": model.import_,
    "export": model.export,
    "draw": model.draw,
    "report": model.report,
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
for verb_name, verb in VERBS.items():
    app.command(verb_name, cls=Verb)(verb)


@app.callback()
def program(
    language: Annotated[
        str | None, typer.Option("--lang", help="Language of help and messages: en or ko. Default: from the locale.")
    ] = None,
) -> None:
    """Declare --lang for the help. `main` reads it, since the help is printed before options are parsed."""


def main() -> None:
    """Run the command line; print an error of the user's as one line and exit with its code."""
    # vistune shows its own progress bars, so the libraries' bars and notices are switched off.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
    warnings.filterwarnings("ignore", module=r"peft\.mapping_func")
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    restart_with_small_heap()
    language = "en"
    try:
        command = get_command(app)
        assert isinstance(command, Program)
        language = language_of(sys.argv[1:], os.environ)
        set_language(command, language)
        sys.exit(command(standalone_mode=False))  # the exit code of --help and of typer.Exit; None is 0
    except UsageError as mistake:
        show_usage_error(mistake, language)
        sys.exit(mistake.exit_code)
    except typer.Abort:  # Ctrl-C during a command
        stderr.print("Aborted!")
        sys.exit(1)
    except Exception as raised:
        error = raised if isinstance(raised, VistuneError) else in_users_code(raised)
        if error is None:
            raise
        message = in_language(str(error), language)
        rank = f"rank {os.environ['RANK']}: " if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""
        stderr.print(f"vistune: {rank}{message}", style="red", soft_wrap=True, markup=False, emoji=False)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def restart_with_small_heap() -> None:
    """Replace this process by the same command with `TUNABLES`, if it trains on a CPU and its glibc needs them.

    glibc before 2.38 does not reuse a freed block for the next tensor of its size, so a process that trains on a CPU
    holds up to twice the memory of its tensors (docs/decisions/0036). The settings are read when a process starts.
    """
    has_gpu = Path("/dev/nvidiactl").exists()
    if not has_gpu and sys.gettrace() is None and can_profit(sys.argv[1:], os.environ, platform.libc_ver()):
        os.environ["GLIBC_TUNABLES"] = TUNABLES
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - the same command


def can_profit(arguments: Sequence[str], environment: Mapping[str, str], libc: tuple[str, str]) -> bool:
    """Return whether the command trains, glibc is older than 2.38, and the environment sets up no allocator."""
    name, version = libc
    numbers = tuple(int(part) for part in version.split(".") if part.isdigit())
    has_own = any(key.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")) for key in environment)
    words = (argument for argument in arguments if not argument.startswith("-") and argument not in LANGUAGES)
    trains = next(words, "") in TRAINING_VERBS
    return name == "glibc" and () < numbers < REUSES_ALIGNED_BLOCKS and trains and not has_own

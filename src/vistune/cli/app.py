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
from typer.exceptions import TyperException
from typer.main import get_command

from vistune import __version__
from vistune.cli import data, evaluation, generate, hub, model, quickstart, recipes, verifying
from vistune.cli.commands import Program, Verb, usage_error
from vistune.cli.log import log, using
from vistune.cli.settings import CURRENT, LOG_FORMATS, Settings, language_of, read_settings
from vistune.errors import VistuneError, in_users_code
from vistune.translations import LANGUAGES, in_language

TRAINING_VERBS = ("train", "quickstart")
SETTINGS = {"tcache_count": 0, "mxfast": 0, "trim_threshold": 512 << 20, "mmap_threshold": 32 << 20}
TUNABLES = ":".join(f"glibc.malloc.{name}={value}" for name, value in SETTINGS.items())
REUSES_ALIGNED_BLOCKS = (2, 38)

VERBS: Mapping[str, Callable[..., None]] = {
    "quickstart": quickstart.quickstart,
    "recipes": recipes.recipes,
    "init": recipes.init,
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
    "verify": verifying.verify,
    "push": hub.push,
    "draw": model.draw,
    "report": model.report,
    "why": model.why,
}

# The headings of the help, with their verbs. A verb that is in no group is listed under "Commands".
GROUPS: Mapping[str, Sequence[str]] = {
    "Data": ("scenes", "generate", "filter", "check", "show"),
    "Train": ("quickstart", "recipes", "init", "plan", "train", "selftest", "draw"),
    "Evaluate": ("evaluate", "answer", "score", "report", "why"),
    "Use": ("chat", "serve"),
    "Share": ("import", "export", "verify", "push"),
}
GROUP_OF = {verb: group for group, verbs in GROUPS.items() for verb in verbs}
IN_ORDER = sorted(VERBS, key=lambda verb: list(GROUPS).index(GROUP_OF[verb]) if verb in GROUP_OF else len(GROUPS))

app = typer.Typer(
    name="vistune",
    help="Visual instruction tuning: generate data, train, evaluate and use vision-language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    cls=Program,
)
for verb_name in IN_ORDER:
    app.command(verb_name, cls=Verb, rich_help_panel=GROUP_OF.get(verb_name))(VERBS[verb_name])


def print_version(is_asked: bool) -> None:
    """Print the version and end, if the option was given."""
    if is_asked:
        typer.echo(f"vistune {__version__}")
        raise typer.Exit


@app.callback()
def program(
    language: Annotated[
        str | None,
        typer.Option("--lang", metavar="en|ko", help="Language of help and messages. Default: from the locale."),
    ] = None,
    log_format: Annotated[
        str,
        typer.Option(
            metavar="text|json", help="Lines on stderr: text, with a bar on a terminal, or JSON.", show_default=False
        ),
    ] = "text",
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print only errors on stderr.")] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Also print debug messages, and the traceback of an error.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Declare the options of every command for the help and the parser. `main` has read their values before."""


def main() -> None:
    """Run the command line; print an error of the user's as one line and exit with its code."""
    # vistune shows its own progress bars, so the libraries' bars and notices are switched off.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
    warnings.filterwarnings("ignore", module=r"peft\.mapping_func")
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    restart_with_small_heap()
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run a command; return its exit code. An error of the user's is printed in the language and form asked for."""
    settings = Settings()
    try:
        settings = Settings(language=language_of([], os.environ))
        settings = Settings(language=language_of(arguments, os.environ))
        settings, _ = read_settings(arguments, os.environ)
        return run_command(arguments)
    except Exception as raised:
        error = raised if isinstance(raised, VistuneError) else in_users_code(raised)
        if error is None:
            raise
        with using(settings):
            print_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def run_command(arguments: Sequence[str]) -> int:
    """Parse and run a command; return its exit code. Raises RecipeError for arguments that cannot be parsed."""
    try:
        code: int | None = get_command(app).main(arguments, prog_name="vistune", standalone_mode=False)
        return code or 0
    except TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.format_message())
            return 0
        raise usage_error(error) from error.__cause__


def print_error(error: VistuneError) -> None:
    """Print an error as one line, with its rank under torchrun; with -v also the traceback."""
    message = in_language(str(error), CURRENT.get().language)
    rank = f"rank {os.environ['RANK']}: " if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""
    fields = {"event": "error", "values": {"exit_code": error.exit_code}}
    log.error("vistune: %s%s", rank, message, extra=fields, exc_info=error)


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
    words = (
        argument
        for argument in arguments
        if not argument.startswith("-") and argument not in (*LANGUAGES, *LOG_FORMATS)
    )
    trains = next(words, "") in TRAINING_VERBS
    return name == "glibc" and () < numbers < REUSES_ALIGNED_BLOCKS and trains and not has_own

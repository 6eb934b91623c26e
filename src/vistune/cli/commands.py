"""The typer commands: their help in the user's language, the options that were given, and errors in one line."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from vistune.cli.help import SHARED_OPTIONS, page
from vistune.cli.log import using
from vistune.cli.settings import CURRENT, current_language, read_settings
from vistune.errors import RecipeError

if TYPE_CHECKING:
    from typer._click.core import Context

__all__ = ["Program", "Verb", "current_language", "refuse_given", "usage_error"]

_GIVEN: ContextVar[Mapping[str, str]] = ContextVar("given", default={})  # noqa: B039 - never changed
HELP_NAMES = ("-h", "--help")


class Verb(TyperCommand):
    """A command that remembers the options that were given."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        context = {"help_option_names": list(HELP_NAMES), **(settings.pop("context_settings", None) or {})}
        super().__init__(*arguments, context_settings=context, **settings)

    def get_help(self, ctx: Context) -> str:
        return page(self, ctx, CURRENT.get().language)

    def invoke(self, ctx: Context) -> object:
        sources = {parameter: ctx.get_parameter_source(parameter.name or "") for parameter in self.params}
        given = {
            parameter.name or "": parameter.opts[0]
            for parameter, source in sources.items()
            if source is not None and source.name == "COMMANDLINE"
        }
        token = _GIVEN.set(given)
        try:
            return super().invoke(ctx)
        finally:
            _GIVEN.reset(token)


class Program(TyperGroup):
    """The group of all commands. Each command has the program's shared options too; `main` reads their values."""

    def __init__(self, **settings: Any) -> None:
        context = {"help_option_names": list(HELP_NAMES), **(settings.pop("context_settings", None) or {})}
        super().__init__(context_settings=context, **settings)
        shared = [parameter for parameter in self.params if parameter.name in SHARED_OPTIONS]
        for parameter in shared:
            parameter.expose_value = False
        for command in self.commands.values():
            command.params = [*command.params, *shared]

    def main(self, args: Sequence[str] | None = None, *arguments: Any, **options: Any) -> Any:
        """Run the command that the arguments name, with the shared options that are anywhere among them."""
        settings, rest = read_settings(sys.argv[1:] if args is None else args, os.environ)
        with using(settings):
            return super().main(rest, *arguments, **options)

    def get_help(self, ctx: Context) -> str:
        return page(self, ctx, CURRENT.get().language)


def refuse_given(names: Collection[str], why: str, hint: str) -> None:
    """Raise RecipeError if any of these parameters was written on the command line.

    Args:
        names: Parameters of the command's function, such as `api_key_file`.
        why: Why they have no effect here, such as "only used with --judge".
    """
    if options := [option for name, option in _GIVEN.get().items() if name in names]:
        raise RecipeError(f"{', '.join(options)}: {why}", hint)


def usage_error(error: TyperException) -> RecipeError:
    """Return the error of a command line that cannot be parsed, as one line."""
    ctx: Context | None = getattr(error, "ctx", None)
    command = "vistune" if ctx is None or ctx.parent is None else f"vistune {ctx.info_name}"
    parameter, option = getattr(error, "param", None), getattr(error, "option_name", "")
    hint = f"see {command} --help"
    match type(error).__name__:
        case "NoSuchOption":
            similar = getattr(error, "possibilities", None) or ()
            return RecipeError(f"no such option: {option}", f"did you mean {', '.join(similar)}?" if similar else hint)
        case "BadOptionUsage":
            return RecipeError(f"{option} needs a value", hint)
        case "MissingParameter":
            return RecipeError(f"{name_of(parameter)} is missing", hint)
        case "BadParameter" if parameter is not None:
            return RecipeError(_refused_value(error, name_of(parameter)), hint)
    if unknown := re.match(r"No such command '([^']*)'(?:\. Did you mean (.*)\?)?", error.message):
        return RecipeError(f"no such command: {unknown[1]}", f"did you mean {unknown[2]}?" if unknown[2] else hint)
    if extra := re.match(r"Got unexpected extra argument\S* \((.*)\)", error.message):
        return RecipeError(f"too many arguments: {extra[1]}", hint)
    return RecipeError(error.format_message().rstrip("."), hint)


def name_of(parameter: Any) -> str:
    """Return how a user writes a parameter: `--out`, or `RECIPE`."""
    if parameter is None:
        return "a value"
    is_option = parameter.param_type_name == "option"
    return str(parameter.opts[-1] if is_option else parameter.metavar or parameter.name.upper().rstrip("_"))


def _refused_value(error: TyperException, name: str) -> str:
    """Say what the value of a parameter must be."""
    problems: Any = getattr(error.__cause__, "errors", list)()
    problem = problems[0] if problems else {}
    limits, value = problem.get("ctx") or {}, problem.get("input", "")
    match problem.get("type", ""):
        case "int_parsing":
            return f"{name} {value}: must be a whole number"
        case "float_parsing":
            return f"{name} {value}: must be a number"
        case "greater_than_equal":
            return f"{name} {value}: must be {limits.get('ge')} or more"
        case "less_than_equal":
            return f"{name} {value}: must be {limits.get('le')} or less"
    return f"{name}: {error.message}"

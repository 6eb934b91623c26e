"""The options of every command: language, how much is printed on stderr, and in which form.

`main` takes them out of the command line before the command is parsed, because help and errors depend on them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Literal, cast

from vistune.errors import RecipeError
from vistune.translations import LANGUAGES

LOG_FORMATS = ("text", "json")
LEVELS: Mapping[str, Level] = {"-q": "quiet", "--quiet": "quiet", "-v": "verbose", "--verbose": "verbose"}

Level = Literal["quiet", "normal", "verbose"]
LogFormat = Literal["text", "json"]


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of every command.

    Attributes:
        level: `quiet`: only errors on stderr. `verbose`: also debug messages, and the traceback of an error.
        log_format: Lines on stderr as text (or a progress bar, on a terminal) or as JSON.
    """

    language: str = "en"
    level: Level = "normal"
    log_format: LogFormat = "text"


CURRENT: ContextVar[Settings] = ContextVar("settings", default=Settings())  # noqa: B039 - frozen


def current_language() -> str:
    """Return the language of this process's command line."""
    return CURRENT.get().language


def read_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[Settings, list[str]]:
    """Return the settings, and the other arguments. The options may be anywhere before `--`.

    Raises RecipeError for a language or log format that does not exist, and for -q with -v.
    """
    settings = Settings(language=language_of(arguments, environment))
    rest: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        name, equals, value = argument.partition("=")
        if argument == "--":
            return settings, [*rest, argument, *waiting]
        if argument in LEVELS:
            settings = _with_level(settings, LEVELS[argument])
        elif name == "--lang":
            _ = equals or next(waiting, "")
        elif name == "--log-format":
            chosen = _chosen(name, value if equals else next(waiting, ""), LOG_FORMATS)
            settings = replace(settings, log_format=cast("LogFormat", chosen))
        else:
            rest.append(argument)
    return settings, rest


def _with_level(settings: Settings, level: Level) -> Settings:
    if settings.level not in ("normal", level):
        raise RecipeError("-q and -v contradict each other", "use one of them")
    return replace(settings, level=level)


def language_of(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """Return the language that the last `--lang` names, else Korean for a Korean locale, else English.

    Raises RecipeError for another language.
    """
    language = ""
    before = arguments[: arguments.index("--")] if "--" in arguments else arguments
    for index, argument in enumerate(before):
        name, equals, value = argument.partition("=")
        if name == "--lang":
            language = _chosen(name, value if equals else next(iter(before[index + 1 :]), ""), tuple(LANGUAGES))
    if language:
        return language
    locale = next((setting for name in ("LC_ALL", "LC_MESSAGES", "LANG") if (setting := environment.get(name))), "")
    return "ko" if locale.lower().split(".")[0].split("_")[0] == "ko" else "en"


def _chosen(option: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise RecipeError(f"{option} {value!r}: not supported", f"choose one of: {', '.join(known)}")
    return value


def is_interactive() -> bool:
    """Return whether a person watches stderr, so that a progress bar can be drawn."""
    return sys.stderr.isatty()


def is_first_process() -> bool:
    """Return whether this is the only process or the first of torchrun's, which prints results and progress."""
    return os.environ.get("RANK", "0") == "0"

"""Everything that a command prints on stderr while it runs: one logger, as text or as JSON lines.

messages, warnings, progress and errors -> records of the logger `vistune` -> one line each
"""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime

from rich.console import Console
from rich.text import Text

from vistune.cli.settings import CURRENT, Settings
from vistune.translations import in_language, korean_texts

stderr = Console(stderr=True, highlight=False, emoji=False)
log = logging.getLogger("vistune.cli")
SERVER = "vistune.serving"  # its lines have a date; a server runs for weeks
LEVELS = {"quiet": logging.ERROR, "normal": logging.INFO, "verbose": logging.DEBUG}


class LineHandler(logging.Handler):
    """Print records on stderr, in the user's language and log format, above a progress bar that is running."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(LEVELS[settings.level])
        self.settings = settings

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record. Its `values` and `event`, if it has them, are those of a task."""
        try:
            print_record(record, self.settings)
        except Exception:  # like the handlers of `logging`: a line that cannot be printed must not end the command
            self.handleError(record)  # prints the traceback on stderr


def print_record(record: logging.LogRecord, settings: Settings) -> None:
    """Print one record on stderr."""
    text = in_language(record.getMessage(), settings.language)
    values: Mapping[str, object] = getattr(record, "values", {})
    event = getattr(record, "event", "error" if record.levelno >= logging.ERROR else "message")
    traceback = ""
    if record.exc_info and settings.level == "verbose":
        traceback = logging.Formatter().formatException(record.exc_info)
    if settings.log_format == "json":
        time = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname.lower(), "event": event, "message": text}
        line |= {name: json_value(value) for name, value in values.items()}
        line |= {"traceback": traceback} if traceback else {}
        sys.stderr.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        sys.stderr.flush()
        return
    if record.name == SERVER:
        text = f"{datetime.fromtimestamp(record.created):%Y-%m-%d %H:%M:%S} {text}"
    elif values and event != "error" and not stderr.is_terminal:
        text = f"{datetime.fromtimestamp(record.created):%H:%M:%S} {text}"
    text += f"\n{traceback}" if traceback else ""
    stderr.print(Text(text), style="red" if event == "error" else "", soft_wrap=True)


def json_value(value: object) -> object:
    """Return a value as JSON can store it: None for NaN and infinity, text for a path."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


@contextmanager
def using(settings: Settings) -> Iterator[None]:
    """Use settings while the block lasts: for help, progress, and all that vistune and its libraries warn about."""
    handler = LineHandler(settings)
    token = CURRENT.set(settings)
    loggers = [logging.getLogger(name) for name in ("vistune", "py.warnings")]
    before = [(logger, logger.handlers, logger.level) for logger in loggers]
    logging.captureWarnings(True)
    for logger in loggers:
        logger.handlers, logger.level = [handler], handler.level
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger, handlers, level in before:
            logger.handlers, logger.level = handlers, level
        CURRENT.reset(token)


def template_in(template: str, language: str) -> str:
    """Return a template of this package in the user's language."""
    return korean_texts().get(template, template) if language == "ko" else template


def phrase(template: str, language: str, **fields: object) -> str:
    """Fill a template of this package in the user's language."""
    return template_in(template, language).format(**fields)


def print_message(message: str) -> None:
    """Print a message for the user."""
    log.info("%s", message)

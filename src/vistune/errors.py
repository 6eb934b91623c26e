"""The errors of vistune, grouped by what the user has to do.

VistuneError(message, hint)
├── RecipeError       edit the recipe or the command                    exit 2
├── DataError         fix the file: path, line, field                   exit 2
│   └── TooManyRejects                                                  exit 3
├── DiskError         free disk space, or repair the disk               exit 2
├── CheckpointError   use another folder, or repair this one            exit 2
├── TeacherError      a remote service stayed down after all retries    exit 5
│   └── BudgetError   the budget or quota is spent                      exit 4
└── Stopped           stopped on request, state saved; resume           exit 75
The command line prints these errors on one line. It does the same for an exception of a user's own module, such as a
task. Any other exception is a bug of vistune and exits with 1.
"""

from __future__ import annotations

import os
import sysconfig
import traceback
from collections.abc import Iterable

_INSTALLED = (
    os.path.join(os.path.dirname(__file__), ""),
    os.path.join(sysconfig.get_path("stdlib"), ""),
)


class VistuneError(Exception):
    """An error for the user: what is wrong, and in `hint` what to do."""

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. Fix: {self.hint}" if self.hint else self.message


class RecipeError(VistuneError):
    """The recipe or the command asks for something impossible."""


class DataError(VistuneError):
    """A user's file is wrong; the message names path, line and field."""


class TooManyRejects(DataError):
    """More samples were rejected than the limit allows."""

    exit_code = 3


class DiskError(VistuneError, OSError):
    """A file cannot be written; the old file is unchanged. Also an OSError."""


class CheckpointError(VistuneError):
    """A model folder is incomplete, damaged, or of another layout."""


class TeacherError(VistuneError):
    """A remote model did not answer after all retries."""

    exit_code = 5


class HubError(VistuneError):
    """A model hub refuses a request or cannot be reached."""

    exit_code = 5


class BudgetError(TeacherError):
    """The budget or quota is spent; paid replies are kept."""

    exit_code = 4


class Stopped(VistuneError):
    """The run was asked to stop, and has saved its state."""

    exit_code = 75


def reason_of(error: Exception) -> str:
    """Return the message of a library's error on one line, for use in ours."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def raised_at(error: Exception) -> str:
    """Return the type and message of an error of a user's code, with the file and line that raised it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not is_installed(frame.filename)]
    line = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {reason_of(error)}{line}"


def in_users_code(error: Exception) -> VistuneError | None:
    """Return an error of one line if a user's module, such as a task or a projector, raised this; None if vistune did.

    A frame is the user's if vistune called it: the file is neither vistune's nor an installed package's.
    """
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    first = next((k for k, file in enumerate(files) if file.startswith(_INSTALLED[0])), len(files))
    if all(map(is_installed, files[first:])):
        return None
    return VistuneError(f"your own module fails: {raised_at(error)}", "correct it at this line")


def is_installed(file: str) -> bool:
    """Return whether a source file is part of vistune, of an installed package or of Python itself."""
    return file.startswith((*_INSTALLED, "<")) or "site-packages" in file or "dist-packages" in file


def some(names: Iterable[str], most: int = 10) -> str:
    """List names for a message: sorted, at most `most`, and the number of the others."""
    listed = sorted(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more

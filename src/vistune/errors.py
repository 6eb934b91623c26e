"""Errors by who must act.

VistuneError(message, hint)
├── RecipeError       edit the recipe or the command                    exit 2
├── DataError         fix the file: path, line, field                   exit 2
│   └── TooManyRejects                                                  exit 3
├── DiskError         make room, or mend the disk; an OSError too    exit 2
├── CheckpointError   another folder, or the same one mended            exit 2
├── TeacherError      a remote service; raised after the retries        exit 5
│   └── BudgetError   money or quota is spent                           exit 4
└── Stopped           asked to stop, state saved, resume me             exit 75
The command line catches these and prints one line; anything else is our bug and exits with 1.
"""

from __future__ import annotations

from collections.abc import Iterable


class VistuneError(Exception):
    """What went wrong and, in `hint`, what to do about it."""

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. Fix: {self.hint}" if self.hint else self.message


class RecipeError(VistuneError):
    """The recipe or the command asks for something that cannot be done."""


class DataError(VistuneError):
    """A file of the user's does not hold what it should; the message names path, line and field."""


class TooManyRejects(DataError):
    """More samples were set aside than the limit allows."""

    exit_code = 3


class DiskError(VistuneError, OSError):
    """A file cannot be written; what was there before is as it was."""


class CheckpointError(VistuneError):
    """A model folder is incomplete, damaged, or of another layout."""


class TeacherError(VistuneError):
    """A remote model did not answer, after all retries."""

    exit_code = 5


class BudgetError(TeacherError):
    """Money or quota is spent; what was paid for is kept."""

    exit_code = 4


class Stopped(VistuneError):
    """The run was asked to stop and saved its state first."""

    exit_code = 75


def reason_of(error: Exception) -> str:
    """Return the message of a library's error on one line, for use in ours."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def some(names: Iterable[str], most: int = 10) -> str:
    """Names for a message, sorted, at most `most` of them, and how many more there are."""
    listed = sorted(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more

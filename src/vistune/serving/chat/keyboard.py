"""Lines from a person or a pipe; what is said to them.

keys -> readline (editing, history with the arrows, completion) -> lines · answers -> stdout · notes -> stderr
Answers alone are on stdout, so that a script may keep them.
"""

from __future__ import annotations

import glob
import locale
import os
import shlex
import stat
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vistune.files import user_cache

LONGEST_HISTORY = 1000  # lines


class Keyboard:
    """Reads from stdin and writes to stdout and stderr; `words` are the commands that Tab completes."""

    def __init__(self, words: Sequence[str] = ()) -> None:
        self.is_interactive = sys.stdin.isatty() and sys.stdout.isatty()
        self.is_typed = sys.stdin.isatty()
        self._words = words
        self._history: Path | None = None
        self._readline: Any = self._edited() if self.is_interactive else None

    def read(self, prompt: str) -> str:
        """The next line, composed (NFC) as the models' training text is. Raises EOFError where the input ends."""
        if self._readline is not None:
            line = input(prompt)
            self._remember(line)
        else:
            if self.is_typed:
                self.note(prompt, end="")
            line = sys.stdin.readline()
            if not line:
                raise EOFError
        line.encode()  # UnicodeEncodeError, as UnicodeDecodeError from above: bytes that are no text
        return unicodedata.normalize("NFC", line).strip()

    def say(self, text: str) -> None:
        """A piece of an answer."""
        sys.stdout.write(shown(text))
        sys.stdout.flush()

    def note(self, text: str, *, end: str = "\n") -> None:
        """Anything else: what a command did, what went wrong."""
        sys.stdout.flush()
        sys.stderr.write(shown(text) + end)
        sys.stderr.flush()

    def _edited(self) -> Any:
        """readline with the user's history, or None where this Python was built without it."""
        if locale.nl_langinfo(locale.CODESET) != "UTF-8":
            # In the C locale readline would count bytes, and a backspace leave a third of a Korean letter behind. It
            # asks the environment when it is imported, then the process.
            os.environ["LC_ALL"] = "C.UTF-8"
            try:
                locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
            except locale.Error:
                self.note("the locale is not UTF-8: Korean text may not edit properly (set LC_ALL=C.UTF-8)")
        try:
            import readline
        except ImportError:
            self.note("lines cannot be edited: this Python has no readline")
            return None
        readline.set_completer_delims(" \t\n")
        readline.set_completer(self._complete)
        is_libedit = "libedit" in (readline.__doc__ or "")
        readline.parse_and_bind("bind ^I rl_complete" if is_libedit else "tab: complete")
        readline.set_auto_history(True)
        try:
            self._history = private_file(user_cache() / "chat_history")
            readline.read_history_file(self._history)
        except (OSError, UnicodeDecodeError) as error:
            self.note(f"the history is not kept: {error}")
            self._history = None
        readline.set_history_length(LONGEST_HISTORY)
        return readline

    def _remember(self, line: str) -> None:
        """Write the line to the history now: a kill later loses nothing."""
        if self._history is None or not line.strip():
            return
        try:
            self._readline.append_history_file(1, self._history)
        except OSError as error:
            self.note(f"the history is not kept: {error}")
            self._history = None

    def _complete(self, begun: str, number: int) -> str | None:
        """readline's question for the `number`th way to end a word: commands, and behind a command files."""
        if self._readline.get_begidx() == 0:
            found = [f"{word} " for word in self._words if begun and word.startswith(begun)]
        elif self._readline.get_line_buffer().startswith("/"):
            paths = sorted(glob.glob(glob.escape(os.path.expanduser(begun)) + "*"))
            found = [f"{path}/" if os.path.isdir(path) else path for path in paths]
        else:
            found = []
        return found[number] if number < len(found) else None


def private_file(path: Path) -> Path:
    """A file that its owner alone reads and writes, made where it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if stat.S_IMODE(os.fstat(handle).st_mode) != 0o600:
            os.fchmod(handle, 0o600)
    finally:
        os.close(handle)
    return path


def shown(text: str) -> str:
    """Text of a model or a file for a terminal: a control character is shown, not obeyed."""
    return "".join(
        letter if letter in "\n\t" or unicodedata.category(letter) not in ("Cc", "Cs") else "\N{REPLACEMENT CHARACTER}"
        for letter in text
    )


def paths_in(text: str) -> list[Path]:
    """The files that a line names: one with its blanks as it stands, or several quoted as a shell wants them.

    Raises ValueError for a quote that does not end.
    """
    whole = Path(text).expanduser()
    if whole.exists():
        return [whole]
    return [Path(word).expanduser() for word in shlex.split(text)]

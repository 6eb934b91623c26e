"""Read lines from a terminal or a pipe, with editing, history and completion; print answers and notes.

Only answers go to stdout, so that a script can save them. Notes go to stderr.
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
from types import ModuleType

from vistune.files import user_cache

LONGEST_HISTORY = 1000  # lines


class Keyboard:
    """Reads from stdin and writes to stdout and stderr; `words` are the commands that Tab completes."""

    def __init__(self, words: Sequence[str] = ()) -> None:
        self.is_interactive = sys.stdin.isatty() and sys.stdout.isatty()
        self.is_typed = sys.stdin.isatty()
        self._words = words
        self._history: Path | None = None
        self._readline: ModuleType | None = self._edited() if self.is_interactive else None

    def read(self, prompt: str) -> str:
        """Return the next line in Unicode form NFC, like the text that models are trained on.

        Raises EOFError at the end of the input, and UnicodeError for bytes that are not UTF-8.
        """
        if self._readline is not None:
            line = input(prompt)
            self._remember(line)
        else:
            if self.is_typed:
                self.note(prompt, end="")
            line = sys.stdin.readline()
            if not line:
                raise EOFError
        line.encode()  # raises UnicodeEncodeError for bytes that are not text
        return unicodedata.normalize("NFC", line).strip()

    def say(self, text: str) -> None:
        """Print a piece of an answer."""
        sys.stdout.write(printable(text))
        sys.stdout.flush()

    def note(self, text: str, *, end: str = "\n") -> None:
        """Print anything else, such as the result of a command or an error."""
        sys.stdout.flush()
        sys.stderr.write(printable(text) + end)
        sys.stderr.flush()

    def _edited(self) -> ModuleType | None:
        """Return readline with the user's history, or None if this Python was built without it."""
        if locale.nl_langinfo(locale.CODESET) != "UTF-8":
            # In the C locale readline counts bytes: a backspace would leave a third of a Korean letter. It reads the
            # locale from the environment when it is imported, and from the process later.
            os.environ["LC_ALL"] = "C.UTF-8"
            try:
                locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
            except locale.Error:
                self.note("the locale is not UTF-8; to edit Korean text, set LC_ALL=C.UTF-8")
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
            self.note(f"the history is not saved: {error}")
            self._history = None
        readline.set_history_length(LONGEST_HISTORY)
        return readline

    def _remember(self, line: str) -> None:
        """Append the line to the history file at once, so that a kill loses nothing."""
        if self._readline is None or self._history is None or not line.strip():
            return
        try:
            self._readline.append_history_file(1, self._history)
        except OSError as error:
            self.note(f"the history is not saved: {error}")
            self._history = None

    def _complete(self, begun: str, number: int) -> str | None:
        """Return the `number`th completion, of a command at the start of a line or of a file name after a command."""
        if self._readline is None:
            return None
        if self._readline.get_begidx() == 0:
            completions = [f"{word} " for word in self._words if begun and word.startswith(begun)]
        elif self._readline.get_line_buffer().startswith("/"):
            paths = sorted(glob.glob(glob.escape(os.path.expanduser(begun)) + "*"))
            completions = [f"{path}/" if os.path.isdir(path) else path for path in paths]
        else:
            completions = []
        return completions[number] if number < len(completions) else None


def private_file(path: Path) -> Path:
    """Return the path of a file that only its owner can read and write; create it if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if stat.S_IMODE(os.fstat(handle).st_mode) != 0o600:
            os.fchmod(handle, 0o600)
    finally:
        os.close(handle)
    return path


def printable(text: str) -> str:
    """Return a text for the terminal, with its control characters replaced."""
    return "".join(
        letter if letter in "\n\t" or unicodedata.category(letter) not in ("Cc", "Cs") else "\N{REPLACEMENT CHARACTER}"
        for letter in text
    )


def paths_in(text: str) -> list[Path]:
    """Return the files that a line names: one file whose name may have spaces, or several, quoted as in a shell.

    Raises ValueError for an unclosed quote.
    """
    whole = Path(text).expanduser()
    if whole.exists():
        return [whole]
    return [Path(word).expanduser() for word in shlex.split(text)]

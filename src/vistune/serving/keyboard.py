"""Read questions from a terminal or a pipe, with editing, history and completion; print answers and notes.

Only answers go to stdout, so that a script can save them. Notes go to stderr.
"""

from __future__ import annotations

import glob
import os
import shlex
import stat
import sys
import termios
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.shortcuts import CompleteStyle

from vistune.errors import DataError
from vistune.files import user_cache

BLOCK = '"""'  # begins and ends a text of several lines, as in Ollama


class Keyboard:
    """Reads from stdin and writes to stdout and stderr.

    Args:
        commands: The commands that Tab completes, each with the endings of the files that it takes: none if it takes
            no file, `("",)` for any file.
    """

    def __init__(self, commands: Mapping[str, Sequence[str]] | None = None) -> None:
        self.is_typed = sys.stdin.isatty() and (sys.stdout.isatty() or sys.stderr.isatty())
        self._session = self._prompt_session(commands or {}) if self.is_typed else None

    def read(self, prompt: str, draft: str = "") -> str:
        '''Return the next text in Unicode form NFC, like the text that models are trained on.

        A text is a line, a pasted block, or everything between two `"""`. In a terminal, `draft` is there to be edited.

        Raises:
            EOFError: The input has ended.
            UnicodeError: Bytes are not UTF-8.
            DataError: The input ended in an open block.
        '''
        text = self._piped() if self._session is None else self._session.prompt(prompt, default=draft)
        text.encode()  # raises UnicodeEncodeError for bytes that are not text
        text = text.strip()
        if text.startswith(BLOCK):
            text = text.removeprefix(BLOCK).removesuffix(BLOCK).strip()
        return unicodedata.normalize("NFC", text)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was typed when the last prompt was left."""
        return self._session is None or not self._session.default_buffer.text

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Keep what is typed in this context for the next prompt, and do not show it between the words of an answer."""
        if self._session is None:
            yield
            return
        terminal = sys.stdin.fileno()
        before = termios.tcgetattr(terminal)
        changed = termios.tcgetattr(terminal)
        changed[0] &= ~termios.ICRNL
        changed[3] = changed[3] & ~(termios.ECHO | termios.ICANON) | termios.NOFLSH
        termios.tcsetattr(terminal, termios.TCSANOW, changed)
        try:
            yield
        finally:
            termios.tcsetattr(terminal, termios.TCSANOW, before)

    def say(self, text: str) -> None:
        """Print a piece of an answer."""
        sys.stdout.write(printable(text))
        sys.stdout.flush()

    def note(self, text: str, *, end: str = "\n") -> None:
        """Print anything else, such as the result of a command or an error."""
        sys.stdout.flush()
        sys.stderr.write(printable(text) + end)
        sys.stderr.flush()

    def _piped(self) -> str:
        lines = [_line()]
        while _is_open(lines):
            try:
                lines.append(_line())
            except EOFError:
                raise DataError(f"the text that begins with {BLOCK} does not end", f"end it with {BLOCK}") from None
        return "".join(lines)

    def _prompt_session(self, commands: Mapping[str, Sequence[str]]) -> PromptSession[str]:
        keys = KeyBindings()
        keys.add("enter")(_enter)
        keys.add("escape", "enter")(lambda event: event.current_buffer.newline(copy_margin=False))
        output = Vt100_Output.from_pty(sys.stdout if sys.stdout.isatty() else sys.stderr)
        output.enable_cpr = False  # not every terminal answers where its cursor is
        return PromptSession(
            multiline=True,
            key_bindings=keys,
            history=self._history(),
            completer=_Completer(commands),
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,
            prompt_continuation="",
            output=output,
        )

    def _history(self) -> History:
        try:
            return FileHistory(private_file(user_cache() / "chat_history"))
        except OSError as error:
            self.note(f"the history is not saved: {error}")
            return InMemoryHistory()


def _line() -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line


def _is_open(lines: Sequence[str]) -> bool:
    """Return whether these lines begin a block that has not ended."""
    text = "".join(lines).strip()
    return text.startswith(BLOCK) and (len(text) < 2 * len(BLOCK) or not text.endswith(BLOCK))


def _enter(event: KeyPressEvent) -> None:
    """Send the text, or continue in a new line if a block is open."""
    buffer = event.current_buffer
    if _is_open([buffer.text]):
        buffer.newline(copy_margin=False)
    else:
        buffer.validate_and_handle()


class _Completer(Completer):
    """Completes a command at the start of a text, and the files that the command takes."""

    def __init__(self, commands: Mapping[str, Sequence[str]]) -> None:
        self._commands = commands

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        begun = document.text_before_cursor
        command, space, files = begun.partition(" ")
        if not space:
            names = [name for name in self._commands if begun and name.startswith(begun)]
            yield from (Completion(f"{name} ", start_position=-len(begun)) for name in names)
            return
        endings = tuple(self._commands.get(command, ()))
        for begun in dict.fromkeys(
            [files.lstrip(), files.rpartition(" ")[2]]
        ):  # a name with spaces, or the last of several
            if paths := _paths(begun, endings):
                yield from (Completion(path, start_position=-len(begun)) for path in paths)
                return


def _paths(begun: str, endings: tuple[str, ...]) -> list[str]:
    """Return the folders, and the files with one of the endings, whose path begins so."""
    paths = sorted(glob.glob(glob.escape(os.path.expanduser(begun)) + "*"))
    folders = {path for path in paths if os.path.isdir(path)}
    return [
        f"{path}/" if path in folders else path for path in paths if path in folders or path.lower().endswith(endings)
    ]


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

"""A program of ours in a terminal of its own, with someone who presses keys and reads the screen (drawn by pyte)."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyte

# Whoever leads a session and opens a terminal owns it: Ctrl-C then comes as a signal, as it does for a person. A shell
# that starts the tests behind its back has them ignore that signal, and what they start with them.
OWNED = (
    "import os, signal, sys; os.close(os.open(os.ttyname(0), os.O_RDWR)); "
    "signal.signal(signal.SIGINT, signal.default_int_handler); "
)
CHAT = "from vistune.cli import main; main()"
ECHO = """
from vistune.serving.keyboard import Keyboard
keyboard = Keyboard({"/image": [".png"], "/help": []})
while True:
    try:
        keyboard.say(f"<{keyboard.read('> ')}>\\n")
    except KeyboardInterrupt:
        keyboard.note("<stopped>")
"""
PATIENCE = 60.0  # seconds; only a hang takes as long
UP, BACKSPACE, TAB, CTRL_C, CTRL_D, ALT_ENTER = "\x1b[A", "\x7f", "\t", "\x03", "\x04", "\x1b\r"
PASTE = "\x1b[200~{}\x1b[201~"  # what a terminal sends for a pasted text


LINES, COLUMNS = 200, 200


class Terminal:
    """Each wait looks at the screen from the line on which the last one ended."""

    def __init__(self, program: str, *arguments: str | Path, **environment: str) -> None:
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNED + program, *map(str, arguments)],
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm", **environment},
        )  # fmt: skip
        os.close(theirs)
        self.screen = pyte.Screen(COLUMNS, LINES)
        self._stream = pyte.ByteStream(self.screen)
        self._first = 0

    def press(self, keys: str) -> None:
        os.write(self.ours, keys.encode())

    def lines(self) -> list[str]:
        """The screen from the line on which the last wait ended, to the cursor."""
        return [line.rstrip() for line in self.screen.display[self._first : self.screen.cursor.y + 1]]

    def until(self, *words: str) -> None:
        """Wait until lines with these words are there, in this order."""
        for each in words:
            self._wait(each, lambda each=each: self._find(each) is not None)
            self._first += self._find(each) or 0

    def until_prompt(self) -> None:
        """Wait for an empty prompt in the last line, and look at later lines only."""
        self._wait("a prompt", lambda: self.lines()[-1] == ">")
        self._first += len(self.lines()) - 1

    def more(self) -> None:
        """Wait until something more appears."""
        before = self.screen.display
        self._wait("more", lambda: self.screen.display != before)

    def end(self) -> tuple[int, str]:
        """The exit code, and the whole screen."""
        while select.select([self.ours], [], [], PATIENCE)[0] and (part := self._read()):
            self._stream.feed(part)
        return self.process.wait(PATIENCE), "\n".join(self.screen.display)

    def _find(self, words: str) -> int | None:
        return next((number for number, line in enumerate(self.lines()) if words in line), None)

    def _wait(self, words: str, is_there: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not is_there():
            assert time.monotonic() < end, f"{words!r} never came: {self.lines()}"
            if select.select([self.ours], [], [], 0.1)[0]:
                self._stream.feed(self._read())

    def _read(self) -> bytes:
        try:
            return os.read(self.ours, 1 << 16)
        except OSError:  # the other side is closed
            return b""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        os.close(self.ours)

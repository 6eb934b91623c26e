"""A program of ours in a pseudo-terminal of its own, with someone who presses keys and reads what appears."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# Whoever leads a session and opens a terminal owns it: Ctrl-C then comes as a signal, as it does for a person. A shell
# that starts the tests behind its back has them ignore that signal, and what they start with them.
OWNED = (
    "import os, signal, sys; os.close(os.open(os.ttyname(0), os.O_RDWR)); "
    "signal.signal(signal.SIGINT, signal.default_int_handler); "
)
CHAT = "from vistune.cli import main; main()"
ECHO = """
from vistune.serving.keyboard import Keyboard
keyboard = Keyboard(["/image", "/help"])
while True:
    try:
        keyboard.say(f"<{keyboard.read('> ')}>\\n")
    except KeyboardInterrupt:
        keyboard.note("<stopped>")
"""
PATIENCE = 60.0  # seconds; only a hang takes as long
UP, BACKSPACE, TAB, CTRL_C, CTRL_D = "\x1b[A", "\x7f", "\t", "\x03", "\x04"


class Terminal:
    def __init__(self, program: str, *arguments: str | Path, **environment: str) -> None:
        self.ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNED + program, *map(str, arguments)],
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm", "COLUMNS": "200", **environment},
        )  # fmt: skip
        os.close(theirs)
        self.seen = b""

    def press(self, keys: str) -> None:
        os.write(self.ours, keys.encode())

    def interrupt(self, words: str) -> None:
        """Ctrl-C, again after a second as a person does, until these words appear.

        Python's readline sleeps through a signal that comes between two keys, until the next one.
        """
        pressed = 0.0
        end = time.monotonic() + PATIENCE
        while words.encode() not in self.seen and time.monotonic() < end:
            if time.monotonic() - pressed > 1:
                self.press(CTRL_C)
                pressed = time.monotonic()
            if select.select([self.ours], [], [], 0.1)[0]:
                self.seen += self._read()
        self.until(words)

    def until(self, words: str) -> str:
        """What appears up to and with these words."""
        end = time.monotonic() + PATIENCE
        while words.encode() not in self.seen:
            assert time.monotonic() < end, f"{words!r} never came: {self.seen.decode(errors='replace')[-2000:]!r}"
            if select.select([self.ours], [], [], 0.1)[0]:
                self.seen += self._read()
        found, _, self.seen = self.seen.partition(words.encode())
        return (found + words.encode()).decode()

    def more(self) -> None:
        """Waits until something more appears."""
        assert self.seen or select.select([self.ours], [], [], PATIENCE)[0], "nothing more came"

    def end(self) -> tuple[int, str]:
        """The exit code, and what appeared last."""
        while select.select([self.ours], [], [], PATIENCE)[0] and (part := self._read()):
            self.seen += part
        return self.process.wait(PATIENCE), self.seen.decode()

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

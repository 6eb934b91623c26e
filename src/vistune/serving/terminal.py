"""Talk to a model in a terminal: one picture, many questions, answers as they are written.

lines from a person -> messages -> pieces of an answer on stdout
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from vistune.errors import DataError
from vistune.generation import Assistant, Sampling
from vistune.processor import open_picture
from vistune.types import Message, Part, Picture

HELP = "/image FILE  show a picture · /reset  start anew · /quit  leave · Ctrl-C  stop an answer"


def chat(assistant: Assistant, *, picture: Path | None, read: Callable[[], str], write: Callable[[str], None]) -> None:
    """Ask and answer until the input ends or /quit; a picture that cannot be read is said, not fatal."""
    messages: list[Message] = []
    waiting: Picture | None = None

    shown_last: Picture | None = None

    def take(path: Path) -> None:
        nonlocal waiting, messages, shown_last
        try:
            shown = open_picture(Picture(path))
        except DataError as error:
            write(f"{error}\n")
            return
        waiting = shown_last = Picture(path)
        messages = []
        write(f"[{path.name}, {shown.width}x{shown.height}]\n")

    write(f"{HELP}\n")
    if picture is not None:
        take(picture)
    for line in _lines(read):
        if line == "/quit":
            return
        if line == "/reset":
            messages, waiting = [], shown_last
            write("[anew]\n")
        elif line.startswith("/image "):
            take(Path(line.removeprefix("/image").strip()))
        elif line.startswith("/"):
            write(f"{HELP}\n")
        else:
            parts: tuple[Part, ...] = (line,) if waiting is None else (waiting, line)
            waiting = None
            messages.append(Message("user", parts))
            messages.append(Message("assistant", (_answer(assistant, messages, write),)))


def _lines(read: Callable[[], str]) -> Iterator[str]:
    while True:
        try:
            line = read().strip()
        except (EOFError, KeyboardInterrupt):
            return
        if line:
            yield line


def _answer(assistant: Assistant, messages: list[Message], write: Callable[[str], None]) -> str:
    said = ""
    try:
        for piece in assistant.stream(None, messages, max_tokens=256, sampling=Sampling()):
            said += piece
            write(piece)
    except KeyboardInterrupt:  # stops the answer, not the program
        write(" …")
    write("\n")
    return said or "…"

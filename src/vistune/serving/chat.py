"""Chat with a model in a terminal, in English or Korean.

A line is a command or a question. Answers are streamed to stdout. An error is one line, and the chat continues.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vistune.errors import DataError, VistuneError
from vistune.files import write_atomic
from vistune.generation import Assistant, Sampling
from vistune.processor import open_image
from vistune.records.image_files import SUFFIXES
from vistune.serving.keyboard import BLOCK, Keyboard, paths_in
from vistune.translations import in_language
from vistune.types import ImageRef, Message

MAX_TOKENS = 1024  # per answer


class ChatSession:
    """One conversation: its messages, the images for the next question, and the sampling temperature."""

    def __init__(self, assistant: Assistant, keyboard: Keyboard, *, language: str = "en") -> None:
        self.language = language
        self.assistant = assistant
        self.keyboard = keyboard
        self.messages: list[Message] = []
        self.images: list[ImageRef] = []
        self.system: str | None = None
        self.temperature = 0.0
        self.answers = 0
        self.last: Message | None = None  # the last question, also if it got no answer
        self.draft = ""  # the text of the next prompt, to be edited

    def text(self, english: str) -> str:
        """Return a text in the user's language."""
        return in_language(english, self.language)

    def note(self, english: str, **values: object) -> None:
        """Print a line of the program itself in the user's language."""
        self.keyboard.note(self.text(english).format(**values))

    def take(self, line: str) -> None:
        """Run a command, or ask a question. Raises VistuneError for a command that cannot be run."""
        name, _, argument = line.partition(" ")
        if not line.startswith("/"):
            self.ask(line)
        elif name in COMMANDS:
            COMMANDS[name].run(self, argument.strip())
        else:
            raise DataError(f"{name}: no such command", "see /help")

    def ask(self, question: str) -> None:
        """Stream the answer to a question about the images that wait for it."""
        self._answer(Message("user", (*self.images, question)))

    def retry(self, _: str) -> None:
        """Answer the last question again, in place of its answer."""
        self._answer_again(self._last_question())

    def edit(self, text: str) -> None:
        """Ask the last question with another text, in place of it; without a text, put it at the next prompt."""
        question = self._last_question()
        if text:
            self._answer_again(Message("user", (*question.images, text)))
        elif self.keyboard.is_typed:
            self.draft = "\n".join(part for part in question.parts if isinstance(part, str))
        else:
            raise DataError("/edit needs the new question", "write /edit QUESTION")

    def _last_question(self) -> Message:
        if self.last is None:
            raise DataError("there is no earlier question in this conversation", "ask something first")
        return self.last

    def _answer_again(self, question: Message) -> None:
        """Answer in place of the last question and its answer. If there is no new answer, they stay."""
        messages, last = self.messages, self.last
        if len(messages) > 1 and messages[-2] is last:
            self.messages = messages[:-2]
        count = len(self.messages)
        try:
            self._answer(question)
        finally:
            if len(self.messages) == count:
                self.messages, self.last = messages, last

    def _answer(self, question: Message) -> None:
        """Stream the answer. An interrupted answer is kept as it is; if there is none, the question is dropped."""
        self.last = question
        prompt = self.assistant.processor.encode_prompt([*self._system_messages(), *self.messages, question])
        sampling = Sampling(temperature=self.temperature, seed=self.answers)
        answer = self.assistant.engine.submit(prompt, max_tokens=MAX_TOKENS, sampling=sampling)
        text = ""
        try:
            with self.keyboard.answering():
                for piece in answer:
                    text += piece
                    self.keyboard.say(piece)
        finally:
            answer.cancel()
            if text or answer.finish_reason == "stop":
                self.keyboard.say("\n")
                self.messages = [*self.messages, question, Message("assistant", (text,))]
                self.images = [image for image in self.images if image not in question.images]
                self.answers += 1
        if answer.finish_reason == "length":
            self.note("[cut after {tokens} tokens]", tokens=answer.completion_tokens)

    def show(self, files: str) -> None:
        """Put images before the next question. If one of them cannot be read, none is used."""
        try:
            paths = paths_in(files)
        except ValueError as error:
            raise DataError(f"/image {files}: {error}", "close the quotes") from None
        if not paths:
            raise DataError("/image needs a file", "write /image FILE; separate several files by spaces")
        descriptions = [describe_image(path) for path in paths]
        self.images += [ImageRef(path) for path in paths]
        count = sum(len(message.images) for message in self.messages) + len(self.images)
        self.keyboard.note("\n".join(descriptions))
        if count > 1:
            self.note("[{count} images are in the conversation; /reset all removes them]", count=count)

    def reset(self, scope: str) -> None:
        """Start a new conversation. Its images are kept for the next question, unless the scope is `all`."""
        if scope not in ("", "all"):
            raise DataError(f"/reset {scope}: unknown", "write /reset, or /reset all to remove the images too")
        earlier = [image for message in self.messages for image in message.images]
        self.images = [] if scope else [*earlier, *self.images]
        self.messages, self.last = [], None
        names = [image.source.name if isinstance(image.source, Path) else "?" for image in self.images]
        self.note("[new conversation; images: {names}]", names=", ".join(names) or self.text("none"))

    def set_system(self, text: str) -> None:
        """Set the system message; empty = the one of the template."""
        self.system = text or None
        self.note("[system message of the template]" if self.system is None else "[system message: {text}]", text=text)

    def set_temperature(self, text: str) -> None:
        """Set the sampling temperature; without a number, only show it."""
        if text:
            try:
                self.temperature = Sampling(temperature=float(text)).temperature
            except ValueError:
                raise DataError(f"/temperature {text}: not a number", "write a number from 0 (greedy) to 2") from None
        self.note("[temperature {number}]", number=f"{self.temperature:g}")

    def save(self, file: str) -> None:
        """Write the conversation to a new file."""
        if not file:
            raise DataError("/save needs a file", "write /save FILE.md, or FILE.jsonl to train on it")
        path = Path(file).expanduser()
        save_transcript([*self._system_messages(), *self.messages], path)
        self.note("[saved to {path}]", path=path)

    def help(self, _: str) -> None:
        """List the commands and the keys."""
        for command in COMMANDS.values():
            self.keyboard.note(f"  {command.form:<{WIDTH}}  {self.text(command.about)}")
        for form, about in KEYS.items():
            self.keyboard.note(f"  {form:<{WIDTH}}  {self.text(about)}")

    def quit(self, _: str) -> None:
        """End the chat."""
        raise EOFError

    def _system_messages(self) -> list[Message]:
        return [] if self.system is None else [Message("system", (self.system,))]


@dataclass(frozen=True, slots=True)
class Command:
    """A command of the chat: how it is written, its help, and the method that runs it."""

    form: str
    about: str
    run: Callable[[ChatSession, str], None]
    files: tuple[str, ...] = ()  # endings of the files that Tab completes


COMMANDS: Mapping[str, Command] = {
    "/image": Command("/image FILE …", "put images before the next question", ChatSession.show, SUFFIXES),
    "/retry": Command("/retry", "answer the last question again", ChatSession.retry),
    "/edit": Command("/edit [QUESTION]", "change the last question and ask it again", ChatSession.edit),
    "/reset": Command("/reset [all]", "start a new conversation; all: remove the images too", ChatSession.reset),
    "/system": Command(
        "/system [TEXT]", "set the system message; empty = that of the template", ChatSession.set_system
    ),
    "/temperature": Command(
        "/temperature [N]", "set the sampling temperature; 0 = greedy", ChatSession.set_temperature
    ),
    "/save": Command(
        "/save FILE", "save the conversation as .md to read or .jsonl to train on", ChatSession.save, ("",)
    ),
    "/help": Command("/help", "show this list", ChatSession.help),
    "/quit": Command("/quit", "quit (also Ctrl-D)", ChatSession.quit),
}
KEYS = {
    "Ctrl-C": "stop an answer, or clear the line",
    "Ctrl-D": "quit",
    "Tab": "complete a command or the path of an image",
    "Up": "recall an earlier line",
    "Alt-Enter": "begin a new line",
    BLOCK: "begin and end a question of several lines",
}
WIDTH = max(len(command.form) for command in COMMANDS.values())


def chat(
    assistant: Assistant, *, images: Sequence[Path] = (), keyboard: Keyboard | None = None, language: str = "en"
) -> None:
    """Chat until the input ends or /quit; `language` (en or ko) is that of the program's own texts."""
    keyboard = keyboard or Keyboard({name: command.files for name, command in COMMANDS.items()})
    session = ChatSession(assistant, keyboard, language=language)
    for path in images:
        keyboard.note(describe_image(path))
        session.images.append(ImageRef(path))
    if keyboard.is_typed:
        session.note("Ask a question. /help lists the commands.")
    while run_line(session):
        pass
    if keyboard.is_typed:
        keyboard.note("")


def run_line(session: ChatSession) -> bool:
    """Read one line and run it; return whether to continue."""
    keyboard = session.keyboard
    draft, session.draft = session.draft, ""
    is_read = False
    try:
        line = keyboard.read("> ", draft)
        is_read = True
        if line and draft and not line.startswith("/"):
            session.edit(line)
        elif line:
            session.take(line)
    except EOFError:
        return False
    except KeyboardInterrupt:
        if not keyboard.is_typed:
            raise
        if is_read:
            session.note("[stopped]")
        elif keyboard.is_empty:
            session.note("To leave, press Ctrl-D or write /quit.")
    except UnicodeError:
        session.note("this line is not UTF-8 text")
    except VistuneError as error:
        keyboard.note(session.text(str(error)))
    except (MemoryError, torch.OutOfMemoryError):
        session.note("out of memory. Fix: shorten the conversation with /reset, or remove the images too (/reset all)")
    return True


def describe_image(path: Path) -> str:
    """Return the name of an image, its size in pixels and in kB. Raises DataError if it is not an image."""
    width, height = open_image(ImageRef(path)).size
    size = path.stat().st_size
    return f"[{unicodedata.normalize('NFC', path.name)}, {width}x{height}, {size / 1000:,.0f} kB]"


def save_transcript(messages: Sequence[Message], path: Path) -> None:
    """Write a conversation to a new file: FILE.md to read, or FILE.jsonl as a record of messages data.

    Raises DataError if there is no answer yet, if the file exists, or for another ending.
    """
    if not any(message.role == "assistant" for message in messages):
        raise DataError("nothing to save yet", "ask something first")
    if path.suffix not in TRANSCRIPTS:
        raise DataError(f"{path}: unknown file type", f"name a file that ends in {' or '.join(TRANSCRIPTS)}")
    if path.exists():
        raise DataError(f"{path}: the file exists", "give another name")
    write_atomic(path, TRANSCRIPTS[path.suffix](messages, path))


def _markdown(messages: Sequence[Message], path: Path) -> str:
    blocks = []
    for message in messages:
        parts = [part if isinstance(part, str) else f"![]({_relative(part, path)})" for part in message.parts]
        blocks.append(f"**{message.role}**\n\n" + "\n\n".join(parts))
    return "\n\n".join(blocks) + "\n"


def _messages_record(messages: Sequence[Message], path: Path) -> str:
    images = [_relative(image, path) for message in messages for image in message.images]
    listed: list[dict[str, object]] = [
        {
            "role": message.role,
            "content": [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in message.parts
            ],
        }
        for message in messages
    ]
    return json.dumps({"id": path.stem, "images": images, "messages": listed}, ensure_ascii=False) + "\n"


TRANSCRIPTS = {".md": _markdown, ".jsonl": _messages_record}


def _relative(image: ImageRef, path: Path) -> str:
    """Return the image's path relative to the folder of the transcript."""
    assert isinstance(image.source, Path)
    return os.path.relpath(image.source.resolve(), path.resolve().parent)

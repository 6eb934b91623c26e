"""Talk to a model in a terminal: pictures, questions, answers as they are written.

lines from a person -> commands, or a question -> messages -> pieces of an answer on stdout
Whatever goes wrong is one line, and the chat goes on. Its own words are the reader's: terminal_ko.json.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vistune.errors import DataError, VistuneError
from vistune.generation import Assistant, Sampling
from vistune.processor import open_image
from vistune.serving.chat.keyboard import Keyboard, paths_in
from vistune.serving.chat.transcript import save
from vistune.translations import catalogue
from vistune.types import ImageRef, Message

MOST_TOKENS = 1024  # of one answer


class Talk:
    """One conversation: what was said, the pictures that wait for the next question, and how answers are chosen."""

    def __init__(self, assistant: Assistant, keyboard: Keyboard, *, language: str = "en") -> None:
        self.words = words_of(language)
        self.assistant = assistant
        self.keyboard = keyboard
        self.messages: list[Message] = []
        self.waiting: list[ImageRef] = []
        self.system: str | None = None
        self.temperature = 0.0
        self.answers = 0

    def note(self, english: str, **values: object) -> None:
        """A line of the program's own, in the reader's language."""
        self.keyboard.note(self.words.get(english, english).format(**values))

    def take(self, line: str) -> None:
        """A command, or a question. Raises VistuneError for what cannot be done."""
        verb, _, rest = line.partition(" ")
        if not line.startswith("/"):
            self.ask(line)
        elif verb in COMMANDS:
            COMMANDS[verb].act(self, rest.strip())
        else:
            raise DataError(f"{verb}: no such command", "see /help")

    def ask(self, question: str) -> None:
        """Stream the answer; one that is interrupted stays as far as it came, one that never began was not asked."""
        asked = Message("user", (*self.waiting, question))
        system = [] if self.system is None else [Message("system", (self.system,))]
        prompt = self.assistant.processor.encode_prompt([*system, *self.messages, asked])
        sampling = Sampling(temperature=self.temperature, seed=self.answers)
        answer = self.assistant.engine.submit(prompt, max_tokens=MOST_TOKENS, sampling=sampling)
        said = ""
        try:
            for piece in answer:
                said += piece
                self.keyboard.say(piece)
        finally:
            answer.cancel()
            if said or answer.finish_reason == "stop":
                self.keyboard.say("\n")
                self.messages += [asked, Message("assistant", (said,))]
                self.waiting = []
                self.answers += 1
        if answer.finish_reason == "length":
            self.note("[cut after {tokens} tokens]", tokens=answer.completion_tokens)

    def show(self, files: str) -> None:
        """Put pictures before the next question; none of them where one cannot be read."""
        try:
            paths = paths_in(files)
        except ValueError as error:
            raise DataError(f"/image {files}: {error}", "end the quotes") from None
        if not paths:
            raise DataError("/image: no file is named", "write /image FILE, several with blanks between them")
        notes = [described(path) for path in paths]
        self.waiting += [ImageRef(path) for path in paths]
        earlier = sum(len(message.images) for message in self.messages)
        many = earlier + len(self.waiting)
        self.keyboard.note("\n".join(notes))
        if many > 1:
            self.note("[{count} pictures are in the conversation; /reset all forgets them]", count=many)

    def reset(self, what: str) -> None:
        """Forget what was said; the pictures stay, before the next question, unless all is forgotten."""
        if what not in ("", "all"):
            raise DataError(f"/reset {what}: no such thing", "write /reset, or /reset all to forget the pictures too")
        shown = [image for message in self.messages for image in message.images]
        self.waiting = [] if what else [*shown, *self.waiting]
        self.messages = []
        names = ", ".join(self._name(image) for image in self.waiting)
        self.note("[anew; pictures: {names}]", names=names or self.words.get("none", "none"))

    def _name(self, image: ImageRef) -> str:
        return image.source.name if isinstance(image.source, Path) else self.words.get("picture", "picture")

    def instruct(self, text: str) -> None:
        """What the model is told before everything; empty = what it was trained with."""
        self.system = text or None
        self.note("[system: as trained]" if self.system is None else "[system: {text}]", text=text)

    def warm(self, text: str) -> None:
        """How freely it answers; without a number the setting is shown."""
        if text:
            try:
                self.temperature = Sampling(temperature=float(text)).temperature
            except ValueError:
                raise DataError(f"/temperature {text}: not a number", "give 0 (always the likeliest) to 2") from None
        self.note("[temperature {number}]", number=f"{self.temperature:g}")

    def save(self, file: str) -> None:
        if not file:
            raise DataError("/save: no file is named", "write /save FILE.md, or FILE.jsonl to train on it")
        system = [] if self.system is None else [Message("system", (self.system,))]
        path = Path(file).expanduser()
        save([*system, *self.messages], path)
        self.note("[saved: {path}]", path=path)

    def help(self, _: str) -> None:
        for command in COMMANDS.values():
            self.keyboard.note(f"  {command.form:<{WIDTH}}  {self.words.get(command.about, command.about)}")
        keys = "Ctrl-C stops an answer, Ctrl-D ends; the arrow keys bring back what was typed, Tab completes"
        self.keyboard.note(f"  {self.words.get(keys, keys)}")

    def quit(self, _: str) -> None:
        raise EOFError


@dataclass(frozen=True, slots=True)
class Command:
    form: str
    about: str
    act: Callable[[Talk, str], None]


COMMANDS: Mapping[str, Command] = {
    "/image": Command("/image FILE …", "show pictures before the next question", Talk.show),
    "/reset": Command("/reset [all]", "forget what was said; all: the pictures too", Talk.reset),
    "/system": Command("/system [TEXT]", "what the model is told first; empty = as trained", Talk.instruct),
    "/temperature": Command("/temperature [N]", "0 = always the likeliest word; 1 = as the model thinks", Talk.warm),
    "/save": Command("/save FILE", "the conversation as .md to read or .jsonl to train on", Talk.save),
    "/help": Command("/help", "this list", Talk.help),
    "/quit": Command("/quit", "end, as Ctrl-D does", Talk.quit),
}
WIDTH = max(len(command.form) for command in COMMANDS.values())


def words_of(language: str) -> Mapping[str, str]:
    """The terminal's own words: English -> those of the language; empty for English."""
    return catalogue("serving/chat/terminal", language)


def chat(
    assistant: Assistant, *, images: Sequence[Path] = (), keyboard: Keyboard | None = None, language: str = "en"
) -> None:
    """Ask and answer until the input ends or /quit; `language` of the program's own words: en or ko."""
    keyboard = keyboard or Keyboard(list(COMMANDS))
    talk = Talk(assistant, keyboard, language=language)
    for path in images:
        keyboard.note(described(path))
        talk.waiting.append(ImageRef(path))
    if keyboard.is_typed:
        talk.note("Ask something; /help lists the commands.")
    while turn(talk):
        pass
    if keyboard.is_typed:
        keyboard.note("")


def turn(talk: Talk) -> bool:
    """One line and what follows of it; whether there is more to come."""
    keyboard = talk.keyboard
    is_read = False
    try:
        line = keyboard.read("> ")
        is_read = True
        if line:
            talk.take(line)
    except EOFError:
        return False
    except KeyboardInterrupt:
        if not keyboard.is_typed:
            raise
        talk.note("[stopped]" if is_read else "")
    except UnicodeError:
        talk.note("that line is not UTF-8 text")
    except VistuneError as error:
        keyboard.note(str(error))
    except (MemoryError, torch.OutOfMemoryError):
        talk.note("out of memory. Fix: /reset shortens the conversation, /reset all leaves its pictures too")
    return True


def described(path: Path) -> str:
    """A picture's name, pixels and bytes. Raises DataError for what is no picture."""
    width, height = open_image(ImageRef(path)).size
    size = path.stat().st_size
    return f"[{unicodedata.normalize('NFC', path.name)}, {width}x{height}, {size / 1000:,.0f} kB]"

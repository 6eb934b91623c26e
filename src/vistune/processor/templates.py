"""How a conversation is written for a language model, and which of its pieces are learnt.

messages -> pieces: text (learnt or not), control tokens, picture slots
In every turn that is trained on, only the answer and its end token are supervised (LLaVA: `preprocess_v1`,
`preprocess_llama_2`, `preprocess_plain`). A style is a function of a few lines; templates are rows of one table.

Promised of a user's text: it becomes no special token, no picture slot and no control token of the template. A
separator that is itself text (`ASSISTANT:`, `###`, `[INST]`) can be typed by anyone and then reads as in the template;
where that matters choose a template whose turns end with control tokens (`chatml`, `llama_3`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from vistune.errors import DataError
from vistune.registry import lookup
from vistune.types import ImageRef, Message

BOS, EOS = "bos", "eos"  # the tokenizer's own; any other control is a token's literal name


@dataclass(frozen=True, slots=True)
class Text:
    """A stretch of text; what is `learnt` carries loss."""

    text: str
    learnt: bool = False


@dataclass(frozen=True, slots=True)
class Control:
    """A token of the template's own, which no user text can become."""

    token: str
    learnt: bool = False


Piece = Text | Control | ImageRef
Turns = Sequence[tuple[Message, Message | None]]  # (question, answer); the last answer may be the model's to give
Style = Callable[[str, Turns], list[Piece]]


@dataclass(frozen=True, slots=True)
class Template:
    """A style and the system sentence used when a conversation brings none."""

    name: str
    style: Style
    system: str
    end: Control | Text = Control(EOS)  # what ends an answer

    def render(self, messages: Sequence[Message], *, origin: str = "") -> list[Piece]:
        """All pieces of a conversation; a last user message is left open for the model to answer."""
        system, turns = split_turns(messages, origin)
        return self.style(self.system if system is None else system, turns)


def split_turns(messages: Sequence[Message], origin: str) -> tuple[str | None, Turns]:
    """The system sentence, and the turns; raises DataError where roles do not alternate or another than the user
    shows a picture."""
    system, rest = None, list(messages)
    if rest and rest[0].role == "system":
        system = rest.pop(0).text
    roles = [message.role for message in rest]
    if not roles or roles != ["user" if k % 2 == 0 else "assistant" for k in range(len(roles))]:
        raise DataError(
            f"{origin or 'conversation'}: roles are {', '.join(roles) or 'none'}; user and assistant must alternate",
            "begin with the user and let each question have one answer",
        )
    for message in messages:
        if message.role != "user" and message.images:
            raise DataError(
                f"{origin or 'conversation'}: a picture stands in a message of the {message.role}",
                "move it to the user's message",
            )
    answers: list[Message | None] = [*rest[1::2], None]
    return system, [(question, answers[k]) for k, question in enumerate(rest[0::2])]


def question_pieces(message: Message) -> list[Piece]:
    """A question with the template's newline after each picture; a lone picture moves to the front of its turn."""
    if len(message.images) == 1:
        return [message.images[0], Text(f"\n{message.text.strip()}")]
    pieces: list[Piece] = []
    for part in message.parts:
        pieces += [Text(part)] if isinstance(part, str) else [part, Text("\n")]
    return pieces


def _plain(system: str, turns: Turns) -> list[Piece]:
    """Stage 1: the picture, then its caption; the instruction is not shown (arXiv 2304.08485, 4.2)."""
    pieces: list[Piece] = []
    for question, answer in turns:
        pieces += question.images
        if answer is not None:
            pieces.append(Text(f"{answer.text}\n", answer.supervised))
    return pieces


def _vicuna(system: str, turns: Turns) -> list[Piece]:
    pieces: list[Piece] = [Text(f"{system} " if system else "")]
    for question, answer in turns:
        pieces += [Text("USER: "), *question_pieces(question), Text(" ASSISTANT:")]
        if answer is not None:
            pieces += [Text(f" {answer.text}", answer.supervised), Control(EOS, answer.supervised)]
    return pieces


def _vicuna_v0(system: str, turns: Turns) -> list[Piece]:
    pieces: list[Piece] = [Text(f"{system}###" if system else "")]
    for question, answer in turns:
        pieces += [Text("Human: "), *question_pieces(question), Text("###Assistant:")]
        if answer is not None:
            pieces.append(Text(f" {answer.text}###", answer.supervised))
    return pieces


def _llama_2(system: str, turns: Turns) -> list[Piece]:
    pieces: list[Piece] = []
    for number, (question, answer) in enumerate(turns):
        if number:
            pieces.append(Control(BOS))
        opening = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if system and not number else ""
        pieces += [Text(f"[INST] {opening}"), *question_pieces(question), Text(" [/INST]")]
        if answer is not None:
            pieces += [Text(f" {answer.text} ", answer.supervised), Control(EOS, answer.supervised)]
    return pieces


def _chatml(system: str, turns: Turns) -> list[Piece]:
    start, end = Control("<|im_start|>"), Control("<|im_end|>")
    pieces: list[Piece] = [start, Text(f"system\n{system}"), end, Text("\n")] if system else []
    for number, (question, answer) in enumerate(turns):
        pieces += [Text("\n")] * bool(number)  # after the last answer's end: not the model's to write
        pieces += [start, Text("user\n"), *question_pieces(question), end, Text("\n"), start, Text("assistant\n")]
        if answer is not None:
            pieces += [Text(answer.text, answer.supervised), Control(end.token, answer.supervised)]
    return pieces


def _llama_3(system: str, turns: Turns) -> list[Piece]:
    end = Control("<|eot_id|>")

    def header(role: str) -> list[Piece]:
        return [Control("<|start_header_id|>"), Text(role), Control("<|end_header_id|>"), Text("\n\n")]

    pieces: list[Piece] = [*header("system"), Text(system), end] if system else []
    for question, answer in turns:
        pieces += [*header("user"), *question_pieces(question), end, *header("assistant")]
        if answer is not None:
            pieces += [Text(answer.text, answer.supervised), Control(end.token, answer.supervised)]
    return pieces


@cache
def system_strings() -> Mapping[str, str]:
    """The system sentences that released checkpoints were trained with."""
    return json.loads((resources.files("vistune.processor") / "system_strings.json").read_text(encoding="utf-8"))


@cache
def templates() -> Mapping[str, Template]:
    """All templates by name."""
    strings = system_strings()
    rows = (
        Template("plain", _plain, "", end=Text("\n")),
        Template("v0", _vicuna_v0, strings["v0"], end=Text("###")),
        Template("v1", _vicuna, strings["v1"]),
        Template("llama_2", _llama_2, strings["llama_2"]),
        Template("llava_llama_2", _llama_2, strings["llava_llama_2"]),
        Template("mistral", _llama_2, ""),
        Template("chatml", _chatml, "You are a helpful assistant.", end=Control("<|im_end|>")),
        Template("llama_3", _llama_3, "", end=Control("<|eot_id|>")),
    )
    return {row.name: row for row in rows}


def template_named(name: str) -> Template:
    return lookup(name, templates(), "template")

"""Write a conversation for a language model: chat templates as lists of pieces, and as Jinja source for exports.

A template turns messages into pieces: text (supervised or not), control tokens, images. Only the answer and its end
token are supervised in every turn that is trained on (LLaVA: `preprocess_v1`, `preprocess_llama_2`,
`preprocess_plain`). Each template is a short function, its style, which writes the messages as pieces. `templates`
lists the templates.

A user's text never becomes a special token, an image slot or a control token of the template. A separator that is
plain text (`ASSISTANT:`, `###`, `[INST]`) can be typed by anyone and is then read as the template's own; where that
matters, choose a template whose turns end with control tokens (`chatml`, `llama_3`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from vistune.errors import DataError
from vistune.registry import lookup
from vistune.types import ImageRef, Message

BOS, EOS = "bos", "eos"  # stand for the tokenizer's tokens; any other control token is named literally


@dataclass(frozen=True, slots=True)
class TextPiece:
    """A stretch of text; `supervised`: whether its tokens have labels."""

    text: str
    supervised: bool = False


@dataclass(frozen=True, slots=True)
class Control:
    """A token that the template writes and that no user text can become."""

    token: str
    supervised: bool = False


Piece = TextPiece | Control | ImageRef
Turns = Sequence[tuple[Message, Message | None]]  # (question, answer); None: the model gives the last answer
Style = Callable[[str, Turns], list[Piece]]


@dataclass(frozen=True, slots=True)
class Template:
    """A style, the default system sentence, the style's file in chat_templates/, and the end of an answer."""

    name: str
    style: Style
    system: str
    jinja: str
    end: Control | TextPiece = Control(EOS)

    def render(self, messages: Sequence[Message], *, origin: str = "") -> list[Piece]:
        """Return the pieces of a conversation. If the user's message is last, they end where the answer begins."""
        system, turns = split_turns(messages, origin)
        return self.style(self.system if system is None else system, turns)


def split_turns(messages: Sequence[Message], origin: str) -> tuple[str | None, Turns]:
    """Return the system sentence (None if the conversation has none) and the turns.

    Raises:
        DataError: If user and assistant do not alternate, or a message of another role than user has an image.
    """
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
                f"{origin or 'conversation'}: the {message.role}'s message contains an image",
                "move it to the user's message",
            )
    answers: list[Message | None] = [*rest[1::2], None]
    return system, [(question, answers[k]) for k, question in enumerate(rest[0::2])]


def question_pieces(message: Message) -> list[Piece]:
    """Return a question's pieces: a newline after each image; a single image moves to the front of its turn."""
    if len(message.images) == 1:
        return [message.images[0], TextPiece(f"\n{message.text.strip()}")]
    pieces: list[Piece] = []
    for part in message.parts:
        pieces += [TextPiece(part)] if isinstance(part, str) else [part, TextPiece("\n")]
    return pieces


def _plain(system: str, turns: Turns) -> list[Piece]:
    """Stage 1: the image, then its caption, without the instruction (arXiv 2304.08485, section 4.2)."""
    pieces: list[Piece] = []
    for question, answer in turns:
        pieces += question.images
        if answer is not None:
            pieces.append(TextPiece(f"{answer.text}\n", answer.supervised))
    return pieces


def _vicuna(system: str, turns: Turns) -> list[Piece]:
    pieces: list[Piece] = [TextPiece(f"{system} " if system else "")]
    for question, answer in turns:
        pieces += [TextPiece("USER: "), *question_pieces(question), TextPiece(" ASSISTANT:")]
        if answer is not None:
            pieces += [TextPiece(f" {answer.text}", answer.supervised), Control(EOS, answer.supervised)]
    return pieces


def _vicuna_v0(system: str, turns: Turns) -> list[Piece]:
    pieces: list[Piece] = [TextPiece(f"{system}###" if system else "")]
    for question, answer in turns:
        pieces += [TextPiece("Human: "), *question_pieces(question), TextPiece("###Assistant:")]
        if answer is not None:
            pieces.append(TextPiece(f" {answer.text}###", answer.supervised))
    return pieces


def _llama_2(system: str, turns: Turns) -> list[Piece]:
    pieces: list[Piece] = []
    for number, (question, answer) in enumerate(turns):
        if number:
            pieces.append(Control(BOS))
        opening = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if system and not number else ""
        pieces += [TextPiece(f"[INST] {opening}"), *question_pieces(question), TextPiece(" [/INST]")]
        if answer is not None:
            pieces += [TextPiece(f" {answer.text} ", answer.supervised), Control(EOS, answer.supervised)]
    return pieces


def _chatml(system: str, turns: Turns) -> list[Piece]:
    start, end = Control("<|im_start|>"), Control("<|im_end|>")
    pieces: list[Piece] = [start, TextPiece(f"system\n{system}"), end, TextPiece("\n")] if system else []
    for number, (question, answer) in enumerate(turns):
        pieces += [TextPiece("\n")] * bool(number)  # belongs to the next turn: the model does not write it
        pieces += [
            start,
            TextPiece("user\n"),
            *question_pieces(question),
            end,
            TextPiece("\n"),
            start,
            TextPiece("assistant\n"),
        ]
        if answer is not None:
            pieces += [TextPiece(answer.text, answer.supervised), Control(end.token, answer.supervised)]
    return pieces


def _llama_3(system: str, turns: Turns) -> list[Piece]:
    end = Control("<|eot_id|>")

    def header(role: str) -> list[Piece]:
        return [Control("<|start_header_id|>"), TextPiece(role), Control("<|end_header_id|>"), TextPiece("\n\n")]

    pieces: list[Piece] = [*header("system"), TextPiece(system), end] if system else []
    for question, answer in turns:
        pieces += [*header("user"), *question_pieces(question), end, *header("assistant")]
        if answer is not None:
            pieces += [TextPiece(answer.text, answer.supervised), Control(end.token, answer.supervised)]
    return pieces


@cache
def system_strings() -> Mapping[str, str]:
    """Return the system sentences with which released checkpoints were trained."""
    path = resources.files("vistune.processor") / "system_strings.json"
    strings: Mapping[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return strings


@cache
def templates() -> Mapping[str, Template]:
    """Return all templates by name."""
    strings = system_strings()
    listed = (
        Template("plain", _plain, "", "plain", end=TextPiece("\n")),
        Template("v0", _vicuna_v0, strings["v0"], "v0", end=TextPiece("###")),
        Template("v1", _vicuna, strings["v1"], "v1"),
        Template("llama_2", _llama_2, strings["llama_2"], "llama_2"),
        Template("llava_llama_2", _llama_2, strings["llava_llama_2"], "llama_2"),
        Template("mistral", _llama_2, "", "llama_2"),
        Template("chatml", _chatml, "You are a helpful assistant.", "chatml", end=Control("<|im_end|>")),
        Template("llama_3", _llama_3, "", "llama_3", end=Control("<|eot_id|>")),
    )
    return {template.name: template for template in listed}


def chat_template(name: str, *, tokenization: str, begin: str = "<s>", spaced: bool = True, hides: bool = True) -> str:
    """Return the Jinja source with `{% generation %}` that renders what `Template.render` renders.

    The rendered string is meant to be tokenised as a whole and without further special tokens, with `<image>` as a
    special token, as transformers does. It then has the same ids as our pieces, except that text which spells a
    special token becomes that token. `Processor.chat_template` passes the values that fit its tokenizer; the defaults
    are the Llama tokenizer's.

    Args:
        name: Name of one of `templates`.
        tokenization: `whole` or `chunks`, as in `Spec`.
        begin: Tokens that the tokenizer puts before every text.
        spaced: Whether the tokenizer puts a space before text, as SentencePiece does. The space is then written after
            `begin`, and with `chunks` after each image, where our encoder begins a string and this one does not.
        hides: Whether the tokenizer takes a first space of the text for that space. With `chunks` it is then doubled.

    Raises:
        RecipeError: If there is no template of this name.
    """
    template = lookup(name, templates(), "chat template")
    values = {
        "begin": begin,
        "lead": " " if begin and spaced else "",
        "picture": "<image>",
        "gap": " " if spaced and tokenization == "chunks" else "",
        "again": " " if hides and tokenization == "chunks" else "",
        "system": template.system,
    }
    return _jinja_source(values, "parts", template.jinja)


def taking_parts(source: str, string_roles: Collection[str]) -> str:
    """Return a chat template that takes content as a list of parts also for roles for which `source` takes strings."""
    return _jinja_source({"picture": "<image>", "strings": sorted(string_roles)}, "strings") + source


def _jinja_source(values: Mapping[str, str | list[str]], *files: str) -> str:
    """Return the values as Jinja assignments, followed by files of chat_templates/."""
    assignments = "".join(
        f"{{%- set {key} = {json.dumps(value, ensure_ascii=False)} -%}}\n" for key, value in values.items()
    )
    folder = resources.files("vistune.processor") / "chat_templates"
    return assignments + "".join((folder / f"{name}.jinja").read_text(encoding="utf-8") for name in files)

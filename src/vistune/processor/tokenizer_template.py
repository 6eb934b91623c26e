"""Use a tokenizer's own chat template (Jinja) like one of our templates.

A conversation is reduced to its shape: roles, and where texts and images are. The Jinja source renders each shape once,
with private-use characters in place of the texts, and the result is cut at these marks. The source never sees a user's
text, so no text can become a control token or end a turn. What the template itself writes becomes TextPiece, or Control
if it is an added token of the tokenizer. Whatever is inside `{% generation %}` is supervised; without such marks the
template can be used for inference only. transformers renders, in its sandbox.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from jinja2.exceptions import TemplateError

from vistune.errors import DataError, RecipeError
from vistune.processor.templates import (
    EOS,
    Control,
    Piece,
    Template,
    TextPiece,
    split_turns,
    taking_parts,
    templates,
)
from vistune.processor.tokenizer_files import TokenizerLike
from vistune.registry import lookup
from vistune.types import ImageRef, Message

OWN = "tokenizer"
IMAGE = "<image>"
OPEN, CLOSE, SLOT = "\ue000", "\ue001", "\ue002"  # private use: a text's number is written between the first two
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
# Roles whose content is given as a list of parts, as vision templates read it; the others' is a string. The first set
# that works is used.
ROLES_WITH_PARTS = (frozenset({"system", "user", "assistant"}), frozenset({"user"}), frozenset[str]())
REMEDY = (
    "put each answer and its end between {% generation %} and {% endgeneration %} in the tokenizer's chat_template, "
    "or choose one of our templates, such as template=v1"
)

Shape = tuple[tuple[str, str], ...]  # (role, parts) of each message; parts: t is a text, i an image
Spans = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class TextSlot:
    """Where the conversation's text with this number is inserted."""

    number: int
    supervised: bool


ShapePiece = TextPiece | Control | TextSlot | None  # None: an image, in the conversation's order


def template_for(name: str, tokenizer: TokenizerLike) -> Template | TokenizerTemplate:
    """Return the template called `name`; the name `tokenizer` stands for the tokenizer's own.

    Raises:
        RecipeError: If there is no such template.
    """
    known: dict[str, Template | None] = {**templates(), OWN: None}
    return lookup(name, known, "template") or TokenizerTemplate(tokenizer)


class TokenizerTemplate:
    """Render like `tokenizer.apply_chat_template`, into pieces.

    Outer whitespace of each message's text is stripped, as many templates do. If the template takes strings only,
    images are placed as in our templates: a single image first, a newline after each image. A space that the template
    writes before an answer is supervised, because the prompt ends before it.
    """

    name = OWN

    def __init__(self, tokenizer: TokenizerLike) -> None:
        try:
            self.source = tokenizer.get_chat_template()
        except ValueError:
            names = ", ".join(templates())
            raise RecipeError("this tokenizer has no chat template of its own", f"choose one of {names}") from None
        self._special_tokens = dict(tokenizer.special_tokens_map)
        self._has_generation_marks = GENERATION.search(self.source) is not None
        self._pattern = _pattern(tokenizer, self.source)
        self._pieces: dict[Shape, list[ShapePiece]] = {}
        self._roles_with_parts: dict[Shape, frozenset[str]] = {}
        probe = self._pieces_of((("user", "t"), ("assistant", "t")))
        self.end, self.refusal = _end_of(probe)

    def render(self, messages: Sequence[Message], *, origin: str = "") -> list[Piece]:
        """Return the pieces of a conversation. If the user's message is last, they end where the answer begins."""
        split_turns(messages, origin)
        shape, texts = _shape_of(messages)
        images = (image for message in messages for image in message.images)
        pieces: list[Piece] = []
        for piece in self._pieces.get(shape) or self._pieces_of(shape):
            if isinstance(piece, TextSlot):
                pieces.append(TextPiece(texts[piece.number], piece.supervised))
            else:
                pieces.append(next(images) if piece is None else piece)
        answers = [message for message in messages if message.role == "assistant"]
        if all(answer.supervised for answer in answers):
            return pieces
        return _without_unsupervised(pieces, answers, origin)

    @property
    def source_for_parts(self) -> str:
        """The source in a form that takes all content as parts, as transformers' processors and vLLM give it."""
        shape: Shape = (("system", "t"), ("user", "it"), ("assistant", "t"))
        try:
            self._pieces_of(shape)
        except RecipeError:  # many templates take no system message
            shape = shape[1:]
            self._pieces_of(shape)
        string_roles = ROLES_WITH_PARTS[0] - self._roles_with_parts[shape]
        return taking_parts(self.source, string_roles) if string_roles else self.source

    def require_learnable(self) -> None:
        """Raise RecipeError if the template does not mark what an answer is and where it ends."""
        if self.refusal:
            raise RecipeError(f"the tokenizer's chat template cannot be trained with: {self.refusal}", REMEDY)

    def _pieces_of(self, shape: Shape) -> list[ShapePiece]:
        """Render a shape and cut it. Raises RecipeError if the template loses a text or an image in every form."""
        texts = "".join(kinds for _, kinds in shape).count("t")
        images = "".join(kinds for _, kinds in shape).count("i")
        reason = ""
        for roles_with_parts in ROLES_WITH_PARTS:
            try:
                rendered, spans = self._rendered(_conversation(shape, roles_with_parts), shape[-1][0] == "user")
            except (TemplateError, TypeError, ValueError, AttributeError, LookupError) as error:
                reason = f"{type(error).__name__}: {error}"
                continue
            pieces = self._cut(rendered, spans)
            numbers = sorted(piece.number for piece in pieces if isinstance(piece, TextSlot))
            if numbers == list(range(texts)) and pieces.count(None) == images:
                self._roles_with_parts[shape] = roles_with_parts
                return self._pieces.setdefault(shape, _with_leading_spaces(pieces))
            reason = "it leaves out or repeats a text or an image"
        roles = ", ".join(role + " with an image" * ("i" in kinds) for role, kinds in shape)
        raise RecipeError(
            f"the tokenizer's chat template does not take a conversation of {roles}: {reason}",
            "remove what it does not take, or choose one of our templates, such as template=v1",
        )

    def _rendered(self, conversation: list[dict[str, Any]], open_ended: bool) -> tuple[str, Spans]:
        """Return the rendered text and its supervised spans, in characters."""
        from transformers.utils.chat_template_utils import render_jinja_template

        texts, spans = render_jinja_template(
            conversations=[conversation],
            chat_template=self.source,
            return_assistant_tokens_mask=self._has_generation_marks,
            add_generation_prompt=open_ended,
            **self._special_tokens,
        )
        return texts[0], spans[0] if self._has_generation_marks else ()

    def _cut(self, rendered: str, spans: Spans) -> list[ShapePiece]:
        edges = [edge for span in spans for edge in span]  # supervised text is between an even edge and the next
        pieces: list[ShapePiece] = []

        def supervised(index: int) -> bool:
            return bisect_right(edges, index) % 2 == 1

        def add_text(begin: int, end: int) -> None:
            inside = sorted({begin, end, *(edge for edge in edges if begin < edge < end)})
            pieces.extend(TextPiece(rendered[a:b], supervised(a)) for a, b in pairwise(inside))

        done = 0
        for match in self._pattern.finditer(rendered):
            add_text(done, match.start())
            done = match.end()
            if match["number"]:
                pieces.append(TextSlot(int(match["number"]), supervised(match.start())))
            elif match["image"]:
                pieces.append(None)
            else:
                token_start = done - len(match["control"].lstrip())
                pieces.append(Control(match["control"].strip(), supervised(token_start)))
        add_text(done, len(rendered))
        return pieces


def _without_unsupervised(pieces: list[Piece], answers: Sequence[Message], origin: str) -> list[Piece]:
    """Unmark the answers that are not trained on; each run of marked pieces is one answer.

    Raises DataError if the template does not mark as many answers as the conversation has.
    """
    number, within = -1, False
    changed: list[Piece] = []
    for piece in pieces:
        is_marked = not isinstance(piece, ImageRef) and piece.supervised
        number += is_marked and not within
        within = is_marked
        if is_marked and number < len(answers) and not answers[number].supervised:
            assert not isinstance(piece, ImageRef)
            piece = replace(piece, supervised=False)
        changed.append(piece)
    if number + 1 != len(answers):
        raise DataError(
            f"{origin}: the chat template marks {number + 1} answers of {len(answers)}, so those that are not trained "
            "on cannot be told apart",
            "choose one of our templates, such as template=v1, or train on all answers",
        )
    return changed


def _pattern(tokenizer: TokenizerLike, source: str) -> re.Pattern[str]:
    """Match our marks, the template's mark for an image, and control tokens: special ones, and added ones it names.

    A token with `lstrip` or `rstrip` takes whitespace next to it along, as when a string is tokenised whole.
    """
    controls = [
        r"\s*" * token.lstrip + re.escape(token.content) + r"\s*" * token.rstrip
        for token in sorted(tokenizer.added_tokens_decoder.values(), key=lambda token: -len(token.content))
        if token.special or (token.content in source and not token.content.isspace())
    ]
    mark = re.escape(getattr(tokenizer, "image_token", None) or IMAGE)
    return re.compile(
        f"{OPEN}(?P<number>[0-9]+){CLOSE}|(?P<image>{SLOT}|{mark})|(?P<control>{'|'.join(controls) or '(?!)'})"
    )


def _shape_of(messages: Sequence[Message]) -> tuple[Shape, list[str]]:
    """Return the shape of a conversation and its texts in order. Outer whitespace and empty texts are omitted."""
    shape: list[tuple[str, str]] = []
    texts: list[str] = []
    for message in messages:
        parts: list[str | ImageRef] = list(message.parts)
        strip: Callable[[str], str]
        for order, strip in ((range(len(parts)), str.lstrip), (range(len(parts) - 1, -1, -1), str.rstrip)):
            for k in order:
                part = parts[k]
                if isinstance(part, str):
                    parts[k] = strip(part)
                    if parts[k]:
                        break
        kinds = ""
        for part in parts:
            if not isinstance(part, str):
                kinds += "i"
            elif part:
                kinds += "t"
                texts.append(part)
        shape.append((message.role, kinds))
    return tuple(shape), texts


def _conversation(shape: Shape, roles_with_parts: frozenset[str]) -> list[dict[str, Any]]:
    """Return the shape as messages for a chat template, with marks for the texts."""
    conversation: list[dict[str, Any]] = []
    number = 0
    for role, kinds in shape:
        marks = []
        for kind in kinds:
            marks.append(f"{OPEN}{number}{CLOSE}" if kind == "t" else SLOT)
            number += kind == "t"
        content: str | list[dict[str, str]]
        if role in roles_with_parts:
            content = [{"type": "image"} if mark == SLOT else {"type": "text", "text": mark} for mark in marks]
            content = content or [{"type": "text", "text": ""}]
        elif kinds.count("i") == 1:
            content = f"{SLOT}\n" + "".join(mark for mark in marks if mark != SLOT)
        else:
            content = "".join(f"{SLOT}\n" if mark == SLOT else mark for mark in marks)
        conversation.append({"role": role, "content": content})
    return conversation


def _with_leading_spaces(pieces: list[ShapePiece]) -> list[ShapePiece]:
    """Make the template's space before an answer a part of the answer."""
    moved: list[ShapePiece] = []
    for piece in pieces:
        before = moved[-1] if moved else None
        is_answer = isinstance(piece, TextPiece | TextSlot) and piece.supervised
        if is_answer and isinstance(before, TextPiece) and not before.supervised and before.text.endswith(" "):
            moved[-1:] = [TextPiece(before.text[:-1]), TextPiece(" ", True)]
        moved.append(piece)
    return moved


def _end_of(pieces: list[ShapePiece]) -> tuple[Control | TextPiece, str]:
    """Return what ends an answer, and why the template cannot be trained with ("" if it can)."""
    last = max(k for k, piece in enumerate(pieces) if isinstance(piece, TextSlot))
    answer, after = pieces[last], pieces[last + 1 :]
    control = next((piece for piece in after if isinstance(piece, Control)), None)
    text = "".join(piece.text for piece in after if isinstance(piece, TextPiece) and piece.supervised).strip()
    end = Control(control.token) if control else TextPiece(text) if text else Control(EOS)
    if not any(piece is not None and piece.supervised for piece in pieces):
        return end, "it marks no answer by {% generation %}"
    if not (isinstance(answer, TextSlot) and answer.supervised):
        return end, "its {% generation %} block does not contain the answer"
    if not (control.supervised if control else text):
        return end, "its {% generation %} block lacks the token that ends an answer, so the model would never stop"
    return end, ""

"""Use a tokenizer's own chat template (Jinja) like one of our templates.

A conversation is reduced to its shape: roles, and where texts and images are. The Jinja source renders each shape once,
with private-use characters in place of the texts, and the result is cut at these marks. The source never sees a user's
text, so no text can become a control token or end a turn. The template's own text becomes TextPiece, or Control
if it is an added token of the tokenizer. transformers renders, in its sandbox.

An answer and its end are supervised. A template may mark them by `{% generation %}`. Without these marks they are found
by rendering (answer_spans.py). Thinking is off, and the date is fixed (template_defaults.py).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from jinja2.exceptions import TemplateError

from vistune.errors import DataError, RecipeError
from vistune.processor.answer_spans import AnswerSpans, Roles, prompt_fault
from vistune.processor.shapes import CLOSE, ONE_TURN, OPEN, SLOT, Shape, as_messages, count_texts, shape_of
from vistune.processor.template_defaults import GENERATION, with_defaults
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
# Roles whose content is given as a list of parts, as vision templates read it; the others' is a string. The first set
# that works is used, in this order for a conversation with images, in reverse for one of texts only.
ALL_ROLES = frozenset({"system", "user", "assistant"})
ROLES_WITH_PARTS = (frozenset({"user"}), ALL_ROLES, frozenset[str]())
PRINTED_PARTS = re.compile(r"""['"]type['"]: ?['"]text['"]""")  # a template of strings writes a list as Python or JSON
REMEDY = (
    "choose one of our templates, such as template=v1, or put each answer and its end between {% generation %} and "
    "{% endgeneration %} in the tokenizer's chat_template"
)

MOST_SHAPES = 1024  # kept; a server would otherwise keep one for each form of conversation that a client sends

Spans = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class TextSlot:
    """Where the conversation's text with this number is inserted."""

    number: int
    supervised: bool


ShapePiece = TextPiece | Control | TextSlot | None  # None: an image, in the conversation's order


@dataclass(frozen=True, slots=True)
class Rendering:
    """A rendered shape: its text, the supervised spans in characters, and the roles whose content was parts."""

    text: str
    spans: Spans
    roles_with_parts: Roles


def template_for(name: str, tokenizer: TokenizerLike) -> Template | TokenizerTemplate:
    """Return the template called `name`; the name `tokenizer` stands for the tokenizer's own.

    Raises:
        RecipeError: If there is no such template.
    """
    known: dict[str, Template | None] = {**templates(), OWN: None}
    return lookup(name, known, "template") or TokenizerTemplate(tokenizer)


def default_template(tokenizer: TokenizerLike) -> str:
    """Return the template of a recipe that names none: the tokenizer's own if it has one."""
    return OWN if tokenizer.chat_template else "v1"


class TokenizerTemplate:
    """Render like `tokenizer.apply_chat_template`, into pieces.

    Outer whitespace of each message's text is stripped, as many templates do. If the template takes strings only,
    images are placed as in our templates: a single image first, a newline after each image. A space that the template
    writes before an answer is supervised, because the prompt ends before it.

    Attributes:
        source: The Jinja source, with thinking off and the date fixed.
        tokenizer: The tokenizer with this source.
        end: The end of an answer.
        refusal: Why the template cannot be trained with; "" if it can.
        takes_system: Whether the template takes a system message.
        shows_images: Whether the template writes images itself, as those of vision models.
        special_tokens: The tokenizer's special tokens by name, as the source uses them.
    """

    name = OWN

    def __init__(self, tokenizer: TokenizerLike) -> None:
        try:
            self.source = with_defaults(tokenizer.get_chat_template())
        except ValueError:
            names = ", ".join(templates())
            raise RecipeError("this tokenizer has no chat template of its own", f"choose one of {names}") from None
        self.tokenizer = copy(tokenizer)
        self.tokenizer.chat_template = self.source
        self.special_tokens = dict(tokenizer.special_tokens_map)
        self._has_generation_marks = GENERATION.search(self.source) is not None
        controls = control_pattern(tokenizer, self.source)
        mark = re.escape(getattr(tokenizer, "image_token", None) or IMAGE)
        self._pattern = re.compile(f"{OPEN}(?P<number>[0-9]+){CLOSE}|(?P<image>{SLOT}|{mark})|(?P<control>{controls})")
        self._pieces: dict[Shape, list[ShapePiece]] = {}
        self._roles_with_parts: dict[Shape, Roles] = {}
        self._answers: AnswerSpans | None = None
        if not self._has_generation_marks:
            two_turns = self._rendering(ONE_TURN * 2).text
            self._answers = AnswerSpans(two_turns, self._text_of, controls, self.special_tokens.get("eos_token", ""))
        self.end, self.refusal = _end_of(self._pieces_of(ONE_TURN), self._has_generation_marks)
        if not self.refusal:
            finished = self._rendering(ONE_TURN)
            prompt = self._text_of(ONE_TURN[:1], finished.roles_with_parts)
            self.refusal = prompt_fault(prompt, finished.text, re.compile(controls))
        self.takes_system = self._takes((("system", "t"), *ONE_TURN))
        with_image: Shape = (("user", "it"), ONE_TURN[1])
        self.shows_images = self._takes(with_image) and "user" in self._roles_with_parts[with_image]

    def render(self, messages: Sequence[Message], *, origin: str = "") -> list[Piece]:
        """Return the pieces of a conversation. If the user's message is last, they end where the answer begins."""
        split_turns(messages, origin)
        shape, texts = shape_of(messages)
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

    def cut(self, rendered: str) -> list[TextPiece | Control | None]:
        """Cut a rendered prompt into text, the template's tokens, and None for each image."""
        return [piece for piece in self._cut(rendered, ()) if not isinstance(piece, TextSlot)]

    def chat(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Return a conversation without images as the messages from which `apply_chat_template` renders the same."""
        shape, texts = shape_of(messages)
        self._pieces_of(shape)
        return as_messages(shape, self._roles_with_parts[shape], texts)

    @property
    def source_for_parts(self) -> str:
        """The source in a form that takes all content as parts, as transformers' processors and vLLM give it."""
        shape: Shape = (("user", "it"), ONE_TURN[1])
        if self.takes_system:
            shape = (("system", "t"), *shape)
        self._pieces_of(shape)
        roles = self._roles_with_parts[shape]
        if self._text_of(shape, roles) == self._text_of(shape, ALL_ROLES):
            return self.source
        return taking_parts(self.source, ALL_ROLES - roles)

    def require_learnable(self) -> None:
        """Raise RecipeError if an answer's beginning or end is unknown."""
        if self.refusal:
            raise RecipeError(f"the tokenizer's chat template cannot be trained with: {self.refusal}", REMEDY)

    def _pieces_of(self, shape: Shape) -> list[ShapePiece]:
        """Render a shape and cut it. Raises RecipeError if the template loses a text or an image in every form."""
        rendering = self._rendering(shape)
        if len(self._pieces) >= MOST_SHAPES:
            self._pieces.clear()
            self._roles_with_parts.clear()
        self._roles_with_parts[shape] = rendering.roles_with_parts
        pieces = _with_leading_spaces(self._cut(rendering.text, rendering.spans))
        return self._pieces.setdefault(shape, pieces)

    def _rendering(self, shape: Shape) -> Rendering:
        images = "".join(kinds for _, kinds in shape).count("i")
        reason = ""
        for roles in ROLES_WITH_PARTS if images else ROLES_WITH_PARTS[::-1]:
            text, spans, refusal = self._render(shape, roles)
            if refusal:
                reason = refusal
                continue
            pieces = self._cut(text, spans)
            numbers = sorted(piece.number for piece in pieces if isinstance(piece, TextSlot))
            complete = numbers == list(range(count_texts(shape))) and pieces.count(None) == images
            if complete and not (roles and PRINTED_PARTS.search(text)):
                if self._answers is not None:
                    text, spans = self._answers.find(shape, text, roles)
                return Rendering(text, spans, roles)
            reason = "it leaves out or repeats a text or an image"
        listed = ", ".join(role + " with an image" * ("i" in kinds) for role, kinds in shape)
        raise RecipeError(
            f"the tokenizer's chat template does not take a conversation of {listed}: {reason}",
            "remove what it does not take, or choose one of our templates, such as template=v1",
        )

    def _render(self, shape: Shape, roles: Roles) -> tuple[str, Spans, str]:
        """Return a shape's text, the spans between its generation marks, in characters, and the source's refusal."""
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            texts, spans = render_jinja_template(
                conversations=[as_messages(shape, roles)],
                chat_template=self.source,
                return_assistant_tokens_mask=self._has_generation_marks,
                add_generation_prompt=shape[-1][0] == "user",
                **self.special_tokens,
            )
        except (TemplateError, TypeError, ValueError, AttributeError, LookupError) as error:
            return "", (), f"{type(error).__name__}: {error}"
        return texts[0], spans[0] if self._has_generation_marks else (), ""

    def _text_of(self, shape: Shape, roles: Roles) -> str:
        return self._render(shape, roles)[0]

    def _takes(self, shape: Shape) -> bool:
        try:
            self._pieces_of(shape)
        except RecipeError:
            return False
        return True

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
            "on cannot be distinguished",
            "choose one of our templates, such as template=v1, or train on all answers",
        )
    return changed


def control_pattern(tokenizer: TokenizerLike, source: str) -> str:
    """Match the tokens that the template writes: special ones, and other added ones that look like markup.

    A token with `lstrip` or `rstrip` takes whitespace next to it along, as when a string is tokenised whole.
    """
    controls = [
        r"\s*" * token.lstrip + re.escape(token.content) + r"\s*" * token.rstrip
        for token in sorted(tokenizer.added_tokens_decoder.values(), key=lambda token: -len(token.content))
        if token.special or _looks_like_markup(token.content, source)
    ]
    return "|".join(controls) or "(?!)"


def _looks_like_markup(content: str, source: str) -> bool:
    """Return whether an added token that is not special is part of the template rather than of text."""
    return not content.isspace() and (content in source or not content[0].isalnum())


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


def _end_of(pieces: list[ShapePiece], marked: bool) -> tuple[Control | TextPiece, str]:
    """Return the end of an answer, and why the template cannot be trained with ("" if it can).

    `marked`: whether the template marks its answers by `{% generation %}`.
    """
    last = max(k for k, piece in enumerate(pieces) if isinstance(piece, TextSlot))
    answer, after = pieces[last], pieces[last + 1 :]
    control = next((piece for piece in after if isinstance(piece, Control)), None)
    text = "".join(piece.text for piece in after if isinstance(piece, TextPiece) and piece.supervised).strip()
    is_ended = bool(text) if control is None else control.supervised
    end = Control(control.token) if control else TextPiece(text) if text else Control(EOS)
    if not marked:
        return end, "" if is_ended else "nothing ends an answer, so the model would never stop"
    if not any(piece is not None and piece.supervised for piece in pieces):
        return end, "it marks no answer by {% generation %}"
    if not (isinstance(answer, TextSlot) and answer.supervised):
        return end, "its {% generation %} block does not contain the answer"
    if not is_ended:
        return end, "its {% generation %} block lacks the token that ends an answer, so the model would never stop"
    return end, ""

"""Use a tokenizer's own chat template (Jinja) like one of our templates.

A conversation is reduced to its shape: roles, and where texts and images are. The Jinja source renders each shape once,
with private-use characters in place of the texts, and the result is cut at these marks. The source never sees a user's
text, so no text can become a control token or end a turn. What the template itself writes becomes TextPiece, or Control
if it is an added token of the tokenizer. transformers renders, in its sandbox.

Answers are supervised from the end of their generation prompt to the end of the turn. A template says where they are
by `{% generation %}`. Without these marks they are found by rendering: the prompt is the conversation up to the
question with `add_generation_prompt`, and an answer's end is what follows both a middle and a last answer.

Thinking is off, and the date is that of the day on which the template was read, unless the source sets
`enable_thinking` or `strftime_now` itself. Both are written into the source, so a saved model keeps them.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from datetime import date, datetime
from itertools import pairwise, takewhile
from typing import Any

from jinja2 import meta
from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

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
GENERATION = re.compile(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}")
THINKING = "{% set enable_thinking = false %}\n"
DATE_DIRECTIVES = ("%Y", "%y", "%m", "%-m", "%d", "%-d", "%j", "%B", "%b", "%A", "%a")
# Roles whose content is given as a list of parts, as vision templates read it; the others' is a string. The first set
# that works is used, in this order for a conversation with images, in reverse for one of texts only.
ALL_ROLES = frozenset({"system", "user", "assistant"})
ROLES_WITH_PARTS = (frozenset({"user"}), ALL_ROLES, frozenset[str]())
PRINTED_PARTS = re.compile(r"""['"]type['"]: ?['"]text['"]""")  # a template of strings writes a list as Python or JSON
TAG = re.compile(r"<[^<>\s]+>|\[/?[A-Z_]+\]")
REMEDY = (
    "choose one of our templates, such as template=v1, or put each answer and its end between {% generation %} and "
    "{% endgeneration %} in the tokenizer's chat_template"
)

Shape = tuple[tuple[str, str], ...]  # (role, parts) of each message; parts: t is a text, i an image
Spans = Sequence[tuple[int, int]]
ONE_TURN: Shape = (("user", "t"), ("assistant", "t"))


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
    roles_with_parts: frozenset[str]


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
        end: What ends an answer.
        refusal: Why the template cannot be trained with; "" if it can.
        takes_system: Whether the template takes a system message.
        shows_images: Whether the template writes images itself, as those of vision models.
    """

    name = OWN

    def __init__(self, tokenizer: TokenizerLike) -> None:
        try:
            self.source = _with_defaults(tokenizer.get_chat_template())
        except ValueError:
            names = ", ".join(templates())
            raise RecipeError("this tokenizer has no chat template of its own", f"choose one of {names}") from None
        self.tokenizer = copy(tokenizer)
        self.tokenizer.chat_template = self.source
        self._special_tokens = dict(tokenizer.special_tokens_map)
        self._has_generation_marks = GENERATION.search(self.source) is not None
        controls = _control_pattern(tokenizer, self.source)
        mark = re.escape(getattr(tokenizer, "image_token", None) or IMAGE)
        self._pattern = re.compile(f"{OPEN}(?P<number>[0-9]+){CLOSE}|(?P<image>{SLOT}|{mark})|(?P<control>{controls})")
        self._first_control = re.compile(rf"\s*(?:{controls})")
        self._first_controls = re.compile(rf"\s*(?:{controls})+")
        self._pieces: dict[Shape, list[ShapePiece]] = {}
        self._roles_with_parts: dict[Shape, frozenset[str]] = {}
        self._end, self._missing_end = "", ""
        if not self._has_generation_marks:
            self._end, self._missing_end = self._find_end()
        self.end, self.refusal = _end_of(self._pieces_of(ONE_TURN), self._has_generation_marks)
        self.refusal = self.refusal or self._refused_prompt()
        self.takes_system = self._takes((("system", "t"), *ONE_TURN))
        with_image: Shape = (("user", "it"), ONE_TURN[1])
        self.shows_images = self._takes(with_image) and "user" in self._roles_with_parts[with_image]

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

    def chat(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Return a conversation without images as the messages from which `apply_chat_template` renders the same."""
        shape, texts = _shape_of(messages)
        self._pieces_of(shape)
        return _conversation(shape, self._roles_with_parts[shape], texts)

    @property
    def source_for_parts(self) -> str:
        """The source in a form that takes all content as parts, as transformers' processors and vLLM give it."""
        shape: Shape = (("user", "it"), ONE_TURN[1])
        if self.takes_system:
            shape = (("system", "t"), *shape)
        self._pieces_of(shape)
        roles = self._roles_with_parts[shape]
        if self._render(shape, roles) == self._render(shape, ALL_ROLES):
            return self.source
        return taking_parts(self.source, ALL_ROLES - roles)

    def require_learnable(self) -> None:
        """Raise RecipeError if an answer's beginning or end is unknown."""
        if self.refusal:
            raise RecipeError(f"the tokenizer's chat template cannot be trained with: {self.refusal}", REMEDY)

    def _pieces_of(self, shape: Shape) -> list[ShapePiece]:
        """Render a shape and cut it. Raises RecipeError if the template loses a text or an image in every form."""
        rendering = self._rendering(shape)
        self._roles_with_parts[shape] = rendering.roles_with_parts
        pieces = _with_leading_spaces(self._cut(rendering.text, rendering.spans))
        return self._pieces.setdefault(shape, pieces)

    def _rendering(self, shape: Shape) -> Rendering:
        texts = "".join(kinds for _, kinds in shape).count("t")
        images = "".join(kinds for _, kinds in shape).count("i")
        reason = ""
        for roles in ROLES_WITH_PARTS if images else ROLES_WITH_PARTS[::-1]:
            text, spans, refusal = self._render(shape, roles)
            if refusal:
                reason = refusal
                continue
            pieces = self._cut(text, spans)
            numbers = sorted(piece.number for piece in pieces if isinstance(piece, TextSlot))
            complete = numbers == list(range(texts)) and pieces.count(None) == images
            if complete and not (roles and PRINTED_PARTS.search(text)):
                if not self._has_generation_marks:
                    text, spans = self._find_answers(shape, text, roles)
                return Rendering(text, spans, roles)
            reason = "it leaves out or repeats a text or an image"
        listed = ", ".join(role + " with an image" * ("i" in kinds) for role, kinds in shape)
        raise RecipeError(
            f"the tokenizer's chat template does not take a conversation of {listed}: {reason}",
            "remove what it does not take, or choose one of our templates, such as template=v1",
        )

    def _render(self, shape: Shape, roles: frozenset[str]) -> tuple[str, Spans, str]:
        """Return a shape's text, the spans between its generation marks, in characters, and the source's refusal."""
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            texts, spans = render_jinja_template(
                conversations=[_conversation(shape, roles)],
                chat_template=self.source,
                return_assistant_tokens_mask=self._has_generation_marks,
                add_generation_prompt=shape[-1][0] == "user",
                **self._special_tokens,
            )
        except (TemplateError, TypeError, ValueError, AttributeError, LookupError) as error:
            return "", (), f"{type(error).__name__}: {error}"
        return texts[0], spans[0] if self._has_generation_marks else (), ""

    def _find_answers(self, shape: Shape, text: str, roles: frozenset[str]) -> tuple[str, Spans]:
        """Return a rendered shape and the spans of its answers, each from its prompt's end to the end of its turn.

        The last answer begins with its prompt, and it has an end, if necessary one that the template does not write.
        """
        spans: list[tuple[int, int]] = []
        number = -1
        for index, (role, kinds) in enumerate(shape):
            number += kinds.count("t")
            if role != "assistant":
                continue
            prompt = self._prompt(shape[:index], roles)
            start, after = _answer_in(text, number) if kinds else self._empty_answer(shape[:index], text, prompt, roles)
            if index + 1 == len(shape):
                place, block = self._empty_block(prompt, text[:start])
                text = text[:place] + block + text[place:]
                start, after = start + len(block), after + len(block)
            stop = after + self._end_length(text[after:])
            if text.startswith(prompt) and len(prompt) <= start:
                start = len(prompt)
            spans.append((start, stop))
        if self._missing_end and shape[-1][0] == "assistant":
            begin, stop = spans[-1]
            text = text[:stop] + self._missing_end
            spans[-1] = (begin, len(text))
        return text, spans

    def _empty_answer(self, before: Shape, text: str, prompt: str, roles: frozenset[str]) -> tuple[int, int]:
        """Return the place of an empty answer: where one with text would be, or the prompt's end.

        Raises:
            RecipeError: If the template leaves an empty answer's turn out.
        """
        number = "".join(kinds for _, kinds in before).count("t")
        answered, _, _ = self._render((*before, ONE_TURN[1]), roles)
        start, mark, _ = answered.partition(f"{OPEN}{number}{CLOSE}")
        if not (mark and text.startswith(start)):
            start = prompt
        if not text.startswith(start):
            raise RecipeError("the tokenizer's chat template has no turn for an empty answer", "remove the record")
        return len(start), len(start)

    def _difference(self, prompt: str, finished: str) -> tuple[int, str]:
        """Return where a prompt differs from a finished conversation, and its text from there; no token is cut."""
        start = len(_common_beginning(prompt, finished))
        for match in self._pattern.finditer(prompt):
            if match.start() < start < match.end():
                start = match.start()
        return start, prompt[start:]

    def _empty_block(self, prompt: str, before_answer: str) -> tuple[int, str]:
        """Return the thoughts that only the prompt has, opened and closed at once, and where they belong.

        They are "" if there are none. Thoughts that the prompt leaves open are none: the model would not close them.
        """
        start, extra = self._difference(prompt, before_answer)
        tags = TAG.findall(extra)
        is_block = len(tags) == 2 and extra.strip().startswith(tags[0]) and extra.strip().endswith(tags[1])
        return start, extra if is_block and not any(tag in before_answer[start:] for tag in tags) else ""

    def _prompt(self, shape: Shape, roles: frozenset[str]) -> str:
        """Return the generation prompt of a conversation; "\0", which begins no text, if the template refuses it."""
        text, _, refusal = self._render(shape, roles)
        return "\0" if refusal else text

    def _find_end(self) -> tuple[str, str]:
        """Return what follows each answer, and what is appended to the last answer if nothing follows it.

        Appended is the token that follows earlier answers (for GLM the beginning of the next turn), or the tokenizer's
        end token. Both are "" if there is nothing of the kind.
        """
        text = self._rendering(ONE_TURN * 2).text
        (_, first), (_, last) = _answer_in(text, 1), _answer_in(text, 3)
        middle, tail = text[first : text.index(OPEN, first)], text[last:]
        common = _common_beginning(middle, tail)
        if ends := self._first_controls.match(common):
            before, eos, _ = ends.group().partition(self._special_tokens.get("eos_token", "\0"))
            return before + eos, ""
        if self._first_control.match(tail):  # the last turn ends with another token than earlier ones
            return "", ""
        if common.strip():  # text, such as "###"
            return common.rstrip(), ""
        ends = self._first_control.match(middle)
        return "", ends.group().strip() if ends else self._special_tokens.get("eos_token", "")

    def _end_length(self, following: str) -> int:
        """Return how many characters of the text after an answer end it."""
        if self._end and following.startswith(self._end):
            return len(self._end)
        control = self._first_control.match(following)
        return control.end() if control else 0

    def _refused_prompt(self) -> str:
        """Return why the generation prompt does not fit a finished conversation; "" if it does."""
        finished = self._rendering(ONE_TURN)
        prompt = self._prompt(ONE_TURN[:1], finished.roles_with_parts)
        answer, _ = _answer_in(finished.text, 1)
        if not finished.text.startswith(prompt):
            _, extra = self._difference(prompt, finished.text)
            return f"its generation prompt ends with {extra!r}, which a finished conversation does not contain"
        header = self._pattern.sub("", finished.text[len(prompt) : answer]).strip()
        if header:
            return f"the model would have to write {header!r} before each answer, because its prompt ends earlier"
        return ""

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
            "on cannot be told apart",
            "choose one of our templates, such as template=v1, or train on all answers",
        )
    return changed


def _with_defaults(source: str) -> str:
    """Return the source with thinking off and today's date, unless it sets them itself.

    Raises:
        RecipeError: If the source is not valid Jinja.
    """
    try:
        tree = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(GENERATION.sub("", source))
    except TemplateError as error:
        raise RecipeError(
            f"the tokenizer's chat template is not valid Jinja: {error}", "correct it, or choose one of our templates"
        ) from None
    free = meta.find_undeclared_variables(tree)
    if "strftime_now" in free:
        source = fixed_date(datetime.now().astimezone().date()) + source
    return THINKING + source if "enable_thinking" in free else source


def fixed_date(today: date) -> str:
    """Return Jinja source that defines `strftime_now` as the function of a fixed date."""
    values = {directive: today.strftime(directive) for directive in DATE_DIRECTIVES}
    return (
        "{% macro strftime_now(format) %}{% set date = namespace(text=format) %}"
        f"{{% for directive, value in {json.dumps(values)}.items() %}}"
        "{% set date.text = date.text | replace(directive, value) %}{% endfor %}{{ date.text }}{% endmacro %}\n"
    )


def _control_pattern(tokenizer: TokenizerLike, source: str) -> str:
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


def _common_beginning(left: str, right: str) -> str:
    return left[: sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))]


def _answer_in(text: str, number: int) -> tuple[int, int]:
    """Return where the mark of the text with this number begins and ends in a rendered shape."""
    mark = f"{OPEN}{number}{CLOSE}"
    start = text.index(mark)
    return start, start + len(mark)


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


def _conversation(
    shape: Shape, roles_with_parts: frozenset[str], texts: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Return the shape as messages for a chat template, with the texts, or else with marks for them."""
    conversation: list[dict[str, Any]] = []
    number = 0
    for role, kinds in shape:
        marks = []
        for kind in kinds:
            text = texts[number] if texts is not None and kind == "t" else f"{OPEN}{number}{CLOSE}"
            marks.append(text if kind == "t" else SLOT)
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


def _end_of(pieces: list[ShapePiece], marked: bool) -> tuple[Control | TextPiece, str]:
    """Return what ends an answer, and why the template cannot be trained with ("" if it can).

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

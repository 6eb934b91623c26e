"""A tokenizer's own chat template (Jinja) as a template of ours.

messages -> their shape, texts and pictures -> the shape rendered with marks for them, once a shape -> cut at the marks
The Jinja source never sees a text: private-use characters stand for it, so nothing a user writes can become a control
token or end a turn. What the template itself wrote becomes Text, and Control where it is an added token of the
tokenizer. Learnt is what stands inside `{% generation %}`. Rendering is transformers' own, in its sandbox.
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
from vistune.processor.chat_templates import taking_parts
from vistune.processor.templates import EOS, Control, Piece, Template, Text, split_turns, templates
from vistune.registry import lookup
from vistune.types import ImageRef, Message

OWN = "tokenizer"
IMAGE = "<image>"
OPEN, CLOSE, SLOT = "\ue000", "\ue001", "\ue002"  # private use: a text's number stands between the first two
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
# Whose content is a list of parts, as vision templates read it; the rest is a string. The first that works is taken.
WAYS = (frozenset({"system", "user", "assistant"}), frozenset({"user"}), frozenset[str]())
REMEDY = (
    "put each answer and its end between {% generation %} and {% endgeneration %} in the tokenizer's chat_template, "
    "or choose one of our templates, such as template=v1"
)

Shape = tuple[tuple[str, str], ...]  # of each message the role and its parts: t a text, i a picture
Spans = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Gap:
    """Where a text of the conversation goes, by its number."""

    number: int
    learnt: bool


Cut = Text | Control | Gap | None  # None: a picture, in the conversation's order


def template_for(name: str, tokenizer: Any) -> Template | TokenizerTemplate:
    """The template called `name`; `tokenizer` is the tokenizer's own. Raises RecipeError where there is none."""
    rows: dict[str, Template | None] = {**templates(), OWN: None}
    return lookup(name, rows, "template") or TokenizerTemplate(tokenizer)


class TokenizerTemplate:
    """Renders like `tokenizer.apply_chat_template`, into pieces.

    Outer whitespace of each message's text is stripped (many templates do so, and those that do not differ only in
    it). Where the template takes strings only, pictures stand as in our templates: a lone one first, a newline
    after each. A space that the template writes before an answer is learnt with it, for the prompt ends before it.
    """

    name = OWN

    def __init__(self, tokenizer: Any) -> None:
        try:
            self.source = tokenizer.get_chat_template()
        except ValueError:
            names = ", ".join(templates())
            raise RecipeError("this tokenizer has no chat template of its own", f"choose one of {names}") from None
        self.values = dict(tokenizer.special_tokens_map)
        self.tracked = GENERATION.search(self.source) is not None
        self.pattern = _pattern(tokenizer, self.source)
        self.cuts: dict[Shape, list[Cut]] = {}  # texts are opaque to the template: one rendering serves a shape
        self.ways: dict[Shape, frozenset[str]] = {}  # the roles whose content it was given in parts for that
        probe = self._cut_of((("user", "t"), ("assistant", "t")))
        self.end, self.refusal = _end_of(probe)

    def render(self, messages: Sequence[Message], *, origin: str = "") -> list[Piece]:
        """All pieces of a conversation; a last user message is left open for the model to answer."""
        split_turns(messages, origin)
        shape, texts = _outline(messages)
        cuts = self.cuts.get(shape) or self._cut_of(shape)
        images = (image for message in messages for image in message.images)
        pieces: list[Piece] = []
        for cut in cuts:
            if isinstance(cut, Gap):
                pieces.append(Text(texts[cut.number], cut.learnt))
            else:
                pieces.append(next(images) if cut is None else cut)
        answers = [message for message in messages if message.role == "assistant"]
        return (
            pieces if all(answer.supervised for answer in answers) else _without_unsupervised(pieces, answers, origin)
        )

    @property
    def source_for_parts(self) -> str:
        """The source for whoever gives all content in parts, as transformers' processors and vLLM do."""
        shape: Shape = (("system", "t"), ("user", "it"), ("assistant", "t"))
        try:
            self._cut_of(shape)
        except RecipeError:  # many know no system
            shape = shape[1:]
            self._cut_of(shape)
        strings = WAYS[0] - self.ways[shape]
        return taking_parts(self.source, strings) if strings else str(self.source)

    def require_learnable(self) -> None:
        """Raise RecipeError where the template does not say what an answer is and where it ends."""
        if self.refusal:
            raise RecipeError(f"the tokenizer's chat template cannot be trained with: {self.refusal}", REMEDY)

    def _cut_of(self, shape: Shape) -> list[Cut]:
        """The shape rendered and cut. Raises RecipeError where no way of giving content brings all of it back."""
        texts = "".join(kinds for _, kinds in shape).count("t")
        images = "".join(kinds for _, kinds in shape).count("i")
        reason = ""
        for listed in WAYS:
            try:
                rendered, spans = self._rendered(_conversation(shape, listed), shape[-1][0] == "user")
            except (TemplateError, TypeError, ValueError, AttributeError, LookupError) as error:
                reason = f"{type(error).__name__}: {error}"
                continue
            cuts = self._cut(rendered, spans)
            found = sorted(cut.number for cut in cuts if isinstance(cut, Gap))
            if found == list(range(texts)) and cuts.count(None) == images:
                self.ways[shape] = listed
                return self.cuts.setdefault(shape, _with_leading_spaces(cuts))
            reason = "it leaves out or repeats a text or a picture"
        roles = ", ".join(role + " with a picture" * ("i" in kinds) for role, kinds in shape)
        raise RecipeError(
            f"the tokenizer's chat template does not take a conversation of {roles}: {reason}",
            "leave out what it does not take, or choose one of our templates, such as template=v1",
        )

    def _rendered(self, conversation: list[dict[str, Any]], asked: bool) -> tuple[str, Spans]:
        """The text, and the stretches of it that are learnt."""
        from transformers.utils.chat_template_utils import render_jinja_template

        texts, spans = render_jinja_template(
            conversations=[conversation],
            chat_template=self.source,
            return_assistant_tokens_mask=self.tracked,
            add_generation_prompt=asked,
            **self.values,
        )
        return texts[0], spans[0] if self.tracked else ()

    def _cut(self, rendered: str, spans: Spans) -> list[Cut]:
        edges = [edge for span in spans for edge in span]  # learnt lies between an even edge and an odd one
        cuts: list[Cut] = []

        def learnt(place: int) -> bool:
            return bisect_right(edges, place) % 2 == 1

        def own(begin: int, end: int) -> None:
            inside = sorted({begin, end, *(edge for edge in edges if begin < edge < end)})
            cuts.extend(Text(rendered[a:b], learnt(a)) for a, b in pairwise(inside))

        at = 0
        for match in self.pattern.finditer(rendered):
            own(at, match.start())
            at = match.end()
            if match["number"]:
                cuts.append(Gap(int(match["number"]), learnt(match.start())))
            elif match["picture"]:
                cuts.append(None)
            else:
                cuts.append(Control(match["control"].strip(), learnt(at - len(match["control"].lstrip()))))
        own(at, len(rendered))
        return cuts


def _without_unsupervised(pieces: list[Piece], answers: Sequence[Message], origin: str) -> list[Piece]:
    """Unmark the answers that are not trained on; each run of marked pieces is one answer.

    Raises DataError if the template does not mark as many answers as the conversation has.
    """
    number, within = -1, False
    changed: list[Piece] = []
    for piece in pieces:
        is_marked = not isinstance(piece, ImageRef) and piece.learnt
        number += is_marked and not within
        within = is_marked
        if is_marked and number < len(answers) and not answers[number].supervised:
            assert not isinstance(piece, ImageRef)
            piece = replace(piece, learnt=False)
        changed.append(piece)
    if number + 1 != len(answers):
        raise DataError(
            f"{origin}: the chat template marks {number + 1} answers of {len(answers)}, so those that are not trained "
            "on cannot be told apart",
            "choose one of our templates, such as template=v1, or train on all answers",
        )
    return changed


def _pattern(tokenizer: Any, source: str) -> re.Pattern[str]:
    """Our marks, the template's mark for a picture, and its control tokens: special ones, and added ones it names.

    A token may take the whitespace beside it along (`lstrip`, `rstrip`), as it does when a string is tokenised whole.
    """
    controls = [
        r"\s*" * token.lstrip + re.escape(token.content) + r"\s*" * token.rstrip
        for token in sorted(tokenizer.added_tokens_decoder.values(), key=lambda token: -len(token.content))
        if token.special or (token.content in source and not token.content.isspace())
    ]
    mark = re.escape(getattr(tokenizer, "image_token", None) or IMAGE)
    return re.compile(
        f"{OPEN}(?P<number>[0-9]+){CLOSE}|(?P<picture>{SLOT}|{mark})|(?P<control>{'|'.join(controls) or '(?!)'})"
    )


def _outline(messages: Sequence[Message]) -> tuple[Shape, list[str]]:
    """The shape of a conversation, and its texts in order without outer whitespace; empty ones are left out."""
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


def _conversation(shape: Shape, listed: frozenset[str]) -> list[dict[str, Any]]:
    """The shape as chat templates take it: marks for texts, content of the `listed` roles in parts."""
    conversation: list[dict[str, Any]] = []
    number = 0
    for role, kinds in shape:
        marks = []
        for kind in kinds:
            marks.append(f"{OPEN}{number}{CLOSE}" if kind == "t" else SLOT)
            number += kind == "t"
        content: str | list[dict[str, str]]
        if role in listed:
            content = [{"type": "image"} if mark == SLOT else {"type": "text", "text": mark} for mark in marks]
            content = content or [{"type": "text", "text": ""}]
        elif kinds.count("i") == 1:
            content = f"{SLOT}\n" + "".join(mark for mark in marks if mark != SLOT)
        else:
            content = "".join(f"{SLOT}\n" if mark == SLOT else mark for mark in marks)
        conversation.append({"role": role, "content": content})
    return conversation


def _with_leading_spaces(cuts: list[Cut]) -> list[Cut]:
    """A space of the template's own before an answer goes over to the answer."""
    moved: list[Cut] = []
    for cut in cuts:
        before = moved[-1] if moved else None
        opens = isinstance(cut, Text | Gap) and cut.learnt
        if opens and isinstance(before, Text) and not before.learnt and before.text.endswith(" "):
            moved[-1:] = [Text(before.text[:-1]), Text(" ", True)]
        moved.append(cut)
    return moved


def _end_of(cuts: list[Cut]) -> tuple[Control | Text, str]:
    """What ends an answer, and why the template cannot be trained with ("" where it can)."""
    last = max(k for k, cut in enumerate(cuts) if isinstance(cut, Gap))
    answer, after = cuts[last], cuts[last + 1 :]
    control = next((cut for cut in after if isinstance(cut, Control)), None)
    text = "".join(cut.text for cut in after if isinstance(cut, Text) and cut.learnt).strip()
    end = Control(control.token) if control else Text(text) if text else Control(EOS)
    if not any(isinstance(cut, Text | Control | Gap) and cut.learnt for cut in cuts):
        return end, "it marks no answer by {% generation %}"
    if not (isinstance(answer, Gap) and answer.learnt):
        return end, "its {% generation %} block does not hold the answer"
    if not (control.learnt if control else text):
        return end, "its {% generation %} block lacks the token that ends an answer, so the model would never stop"
    return end, ""

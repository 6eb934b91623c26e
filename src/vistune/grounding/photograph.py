"""What the boxes of a photograph say, as a paragraph: how many, where, how large, and how they lie to each other.

Scene -> kinds of things, the most prominent first -> a sentence each for some, a list of the others, relations
Wordings are data (`paragraphs.json`): by language and form, several sentences.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from vistune.grounding import lexicon as words
from vistune.grounding.scene import CLEAR_GAP, LARGEST_PLACED_AREA, PLACES, Scene, extent_of, place_of
from vistune.types import Box

MOST_TOLD = 5  # kinds that get a sentence of their own; the others are listed
MOST_NAMED = 4  # kinds in a caption of one sentence
FEW = 2  # kinds: where there are no more, how large each is is said too
FEWEST_SENTENCES = 3
FILLING_AREA = 0.4
MUCH_LARGER = 3.0  # times the area
SPREAD_COUNT = 4


@dataclass(frozen=True, slots=True)
class Kind:
    """All boxes of one label; a crowd is more than its boxes."""

    label: str
    boxes: tuple[Box, ...]
    crowd: bool

    def things(self, language: str) -> str:
        """ "two dogs" · "개 두 마리"."""
        if self.crowd:
            return words.many(self.label, language)
        if len(self.boxes) > 1:
            return words.counted(len(self.boxes), self.label, language)
        name = words.name(self.boxes[0], language)
        return f"{name} {words.amount(1, self.label)}" if language == "ko" else words.one(name, self.label)

    def bare(self, language: str) -> str:
        """ "dogs" or "a dog" · "개"."""
        if language == "ko":
            return words.noun(self.label, "ko")
        single = len(self.boxes) == 1 and not self.crowd
        return words.one(words.noun(self.label, "en"), self.label) if single else words.plural(self.label, "en")


@cache
def paragraphs() -> Mapping[str, Any]:
    return json.loads((resources.files("vistune.grounding") / "paragraphs.json").read_text(encoding="utf-8"))


def kinds_of(scene: Scene) -> list[Kind]:
    """The kinds of things in a picture, those that take up most of it first."""
    labels = [*scene.labels, *(label for label in scene.crowds if label not in scene.labels)]
    found = [
        Kind(label, tuple(box for box in scene.boxes if box.label == label), label in scene.crowds) for label in labels
    ]
    return sorted(found, key=lambda kind: -sum(box.area for box in kind.boxes))


def listing(scene: Scene, language: str, rng: random.Random, setting: str = "") -> str:
    """A caption of one sentence: the most prominent kinds with their numbers."""
    kinds = kinds_of(scene)
    named = [kind.things(language) for kind in kinds[:MOST_NAMED]]
    forms = paragraphs()[language]["caption_in" if setting else "caption"]
    things = _joined(named, language, more=len(kinds) > MOST_NAMED)
    return finished(rng.choice(forms).format(things=things, setting=setting), language)


def paragraph(scene: Scene, language: str, rng: random.Random, *, setting: str = "", opening: str = "") -> str:
    """Several sentences: the opening, or where it is and what stands out; then kind by kind; then relations."""
    kinds = kinds_of(scene)
    say = _Phrases(language, rng)
    lines = [opening or _opening(kinds, say, setting)]
    lines += [_told(kind, say) for kind in kinds[:MOST_TOLD]]
    if rest := [kind.things(language) for kind in kinds[MOST_TOLD:]]:
        lines.append(say("rest", things=_joined(rest, language)))
    if len(kinds) <= FEW:
        lines += [_extent(box, say) for box in scene.unique]
    lines += _relations(scene, kinds[:MOST_TOLD], say, rng)
    lines = [line for line in lines if line]
    if len(lines) < FEWEST_SENTENCES:
        lines += [line for kind in kinds for line in _measured(kind, say)][: FEWEST_SENTENCES - len(lines)]
    return " ".join(lines)


class _Phrases:
    """Sentences of the wordings' forms; no wording again before all of its form have been used."""

    def __init__(self, language: str, rng: random.Random) -> None:
        self.language = language
        self._rng = rng
        self._left: dict[str, list[str]] = {}

    def __call__(self, form: str, **fill: str) -> str:
        left = self._left.setdefault(form, [])
        if not left:
            left.extend(paragraphs()[self.language][form])
            self._rng.shuffle(left)
        return finished(left.pop().format(**fill), self.language)


def _opening(kinds: Sequence[Kind], say: _Phrases, setting: str) -> str:
    names = _joined([kind.bare(say.language) for kind in kinds[:3]], say.language)
    if setting:
        return say("opening_in", setting=setting, names=names)
    return say("opening", names=names) if len(kinds) > 1 else ""


def _told(kind: Kind, say: _Phrases) -> str:
    """One sentence on the number of a kind and where it is."""
    form, where = _layout(kind)
    if form == "one" and words.group(kind.label) == "furniture":
        form = "one_standing"
    first, second = [*(words.at_place(place, say.language) for place in where), "", ""][:2]
    are = "is" if len(kind.boxes) == 1 and not kind.crowd else "are"
    counter = words.counter(kind.label)
    return say(form, things=kind.things(say.language), at=first, other_at=second, are=are, counter=counter)


def _layout(kind: Kind) -> tuple[str, tuple[str, ...]]:
    """The form of sentence and the places that it names."""
    boxes = sorted(kind.boxes, key=lambda box: box.x0)
    places = [place_of(box) for box in boxes]
    if kind.crowd:
        return "crowd", ()
    if len(boxes) == 1:
        area = boxes[0].area
        form = "filling" if area >= FILLING_AREA else "large" if area > LARGEST_PLACED_AREA else "one"
        return form, tuple(places) if form == "one" else ()
    if any(box.area > LARGEST_PLACED_AREA for box in boxes):
        return "several", ()
    if len(set(places)) == 1:
        return "together", (places[0],)
    if len(boxes) == 2:
        return "pair", tuple(places)
    columns = {PLACES.index(place) % 3 for place in places}
    if len(columns) == 1:
        return "together", (("left", "center", "right")[columns.pop()],) if columns != {1} else ()
    if len(boxes) >= SPREAD_COUNT and len(columns) == 3:
        return "spread", ()
    return "several", ()


def _extent(box: Box, say: _Phrases) -> str:
    """How much of the picture's width and height a box takes."""
    wide, high = extent_of(box)
    return say("extent", a=words.name(box, say.language), wide=str(wide), high=str(high))


def _measured(kind: Kind, say: _Phrases) -> list[str]:
    """What can be measured of every kind without a crowd: where its only one is, or how far its several reach."""
    if kind.crowd:
        return []
    is_one, first = len(kind.boxes) == 1, kind.boxes[0]
    x0, y0 = min(box.x0 for box in kind.boxes), min(box.y0 for box in kind.boxes)
    x1, y1 = max(box.x1 for box in kind.boxes), max(box.y1 for box in kind.boxes)
    wide, high = (str(share) for share in extent_of(Box(kind.label, x0, y0, x1, y1)))
    noun = words.noun(kind.label, say.language)
    many = noun if is_one else words.plural(kind.label, say.language)
    said = [] if is_one and words.is_plain(kind.label) else [say("reach", many=many, wide=wide, high=high)]
    if is_one:
        x, y = (str(min(max(5, round(20 * middle) * 5), 95)) for middle in first.center)
        return [*said, say("middle", a=noun, x=x, y=y)]
    large, small = (max(1, round(100 * pick(box.area for box in kind.boxes))) for pick in (max, min))
    form = "alike" if large == small else "sizes_of_two" if len(kind.boxes) == 2 else "sizes"
    counter = words.counter(kind.label)
    return [*said, say(form, many=many, counter=counter, share=str(large), other_share=str(small))]


def _relations(scene: Scene, kinds: Sequence[Kind], say: _Phrases, rng: random.Random) -> list[str]:
    """At most two: which of two is further left or further up, and which looks much larger."""
    shown = {kind.label for kind in kinds}
    boxes = [box for box in scene.unique if box.label in shown]
    rng.shuffle(boxes)
    found = []
    for form, holds in _RELATIONS.items():
        pair = next(((a, b) for a in boxes for b in boxes if holds(a, b)), None)
        if pair:
            a, b = (words.name(box, say.language) for box in pair)
            found.append(say(form, a=a, b=b))
    rng.shuffle(found)
    return found[:2]


def _placed(a: Box, b: Box) -> bool:
    return max(a.area, b.area) <= LARGEST_PLACED_AREA


_RELATIONS = {
    "left_of": lambda a, b: _placed(a, b) and a.center[0] <= b.center[0] - CLEAR_GAP,
    "above": lambda a, b: _placed(a, b) and a.center[1] <= b.center[1] - CLEAR_GAP,
    "larger": lambda a, b: a.area >= MUCH_LARGER * b.area,
}


def _joined(things: Sequence[str], language: str, *, more: bool = False) -> str:
    """A list in words; `more`: there is more than is named."""
    if language == "ko":
        if more:
            return f"{', '.join(things)} 등"
        return ", ".join(things) if len(things) != 2 else "[과/와] ".join(things)
    named = [*things, "more"] if more else list(things)
    return f"{', '.join(named[:-1])} and {named[-1]}" if len(named) > 1 else named[0]


def finished(text: str, language: str) -> str:
    """A sentence with its particles chosen, or its first letter large."""
    return words.particles(text) if language == "ko" else text[:1].upper() + text[1:]

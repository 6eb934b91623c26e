"""A fact about boxes in words: a question in one of its wordings, the short answer and the same as a sentence.

Fact + language + random generator -> Asked
Wordings are data (`wordings.json`): by language and form, several questions and several sentences.
"""

from __future__ import annotations

import json
import random
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from vistune.grounding import lexicon as words
from vistune.types import Box


@dataclass(frozen=True, slots=True)
class QuestionAnswer:
    """A question with its exact short answer, and the same answer as a sentence.

    about: what is asked of which objects, the same in every wording of a question · labels: what the question and its
    answer name.
    """

    type: str
    question: str
    answer: str
    sentence: str
    about: Hashable
    labels: frozenset[str]


@dataclass(frozen=True, slots=True)
class Fact:
    """A form of wording and what fills it: boxes, labels, colours, places, numbers and a truth value."""

    form: str
    fill: Mapping[str, Any]

    @property
    def about(self) -> Hashable:
        """Two facts about the same are one question: of a pair the order, of a box how it is named makes none."""
        slots = ("a", "b") if "a" in self.fill else ("box",) if "box" in self.fill else ("color", "label", "other")
        subjects = (self.fill[slot] for slot in slots if slot in self.fill)
        return _TOPICS.get(self.form, self.form), frozenset(
            (value.label, value.x0, value.y0, value.x1, value.y1) if isinstance(value, Box) else value
            for value in subjects
        )


_TOPICS = {
    **dict.fromkeys(("colour_label", "colour_place"), "colour"),
    **dict.fromkeys(("shape_color", "shape_place", "object_color"), "shape"),
    **dict.fromkeys(("object_place", "position", "position_seen"), "place"),
}


@cache
def wordings() -> Mapping[str, Any]:
    return json.loads((resources.files("vistune.grounding") / "wordings.json").read_text(encoding="utf-8"))


def word(fact: Fact, kind: str, language: str, rng: random.Random) -> QuestionAnswer:
    fill = {slot: text for slot, value in fact.fill.items() for slot, text in _say(slot, value, language)}
    if "an" in fill and not fill["color"]:  # without a colour the label itself decides: "an airplane"
        fill["an"] = words.one(fill["label"], fact.fill["label"]).split()[0]
    fill |= _counts(fact.fill, language)
    forms = wordings()[language][fact.form]
    truth = fact.fill.get("truth")
    sentences: Sequence[str] = forms["sentences"] if truth is None else forms["yes" if truth else "no"]
    return QuestionAnswer(
        type=kind,
        question=_finish(rng.choice(forms["questions"]).format(**fill), language),
        answer=_short(fact, fill, language),
        sentence=_finish(rng.choice(sentences).format(**fill), language),
        about=fact.about,
        labels=frozenset(
            value.label if isinstance(value, Box) else value
            for slot, value in fact.fill.items()
            if slot in ("a", "b", "box", "label", "other")
        ),
    )


def _counts(fill: Mapping[str, Any], language: str) -> dict[str, str]:
    """Numbers with what they count, as words: "two dogs" and "two" · "개 두 마리" and "두 마리"; 0: nobody counted."""
    said = {}
    for slot, label, number in (
        ("", "label", "number"),
        ("other_", "other", "other_number"),
        ("all_", "label", "total"),
    ):
        if label in fill and number in fill:
            name, count = fill[label], fill[number]
            said[f"{slot}things"] = words.counted(count, name, language) if count else words.many(name, language)
            said[f"{slot}amount"] = words.amount(count, name) if language == "ko" else words.number(count)
            said[f"{slot}are"] = "is" if count == 1 else "are"
            said[f"{slot}counted"] = (
                f"one {words.one(words.noun(name, 'en'), name).split(' ', 1)[1]}"
                if (count == 1 and language == "en")
                else said[f"{slot}things"]
            )
    return said


def _say(slot: str, value: Any, language: str) -> list[tuple[str, str]]:
    """What a slot's value is called; a box also has its article."""
    if isinstance(value, Box):
        text = words.name(value, language)
        return [(slot, text), (f"one_{slot}", words.one(text, value.label) if language == "en" else text)]
    if slot in ("label", "other"):
        text = words.noun(value, language)
        article = words.one(text, value) if language == "en" else text
        plural, counter = words.plural(value, language), words.counter(value)
        said = [(slot, text), (f"one_{slot}", article), (f"{slot}s", plural)]
        return [*said, ("counter", counter)] if slot == "label" else said
    if slot == "color":
        text = words.color_word(value, language) if value else ""
        return [
            (slot, text),
            ("colored", f"{text} " if text else ""),
            ("an", "an" if text[:1] in tuple("aeiou") else "a"),
        ]
    if slot == "at":
        return [(slot, words.at_place(value, language)), ("place", words.place_word(value, language))]
    if slot == "place":
        return [(slot, words.place_word(value, language))]
    if slot == "size":
        return [
            (slot, words.size_word(value, language)),
            ("size_answer", words.size_word(value, language, answer=True)),
        ]
    return [(slot, str(value))]


def _short(fact: Fact, fill: Mapping[str, str], language: str) -> str:
    """The answer in a word or a phrase."""
    if "truth" in fact.fill:
        return wordings()[language]["yes" if fact.fill["truth"] else "no"]
    return wordings()[language][fact.form]["short"].format(**fill)


def _finish(text: str, language: str) -> str:
    text = words.particles(text) if language == "ko" else text
    return text[:1].upper() + text[1:] if language == "en" else text


def brief_cue(language: str) -> str:
    """The line that asks for a short answer; in English LLaVA-1.5's response-format prompt (arXiv 2310.03744, 3.2)."""
    return str(wordings()[language]["brief"])

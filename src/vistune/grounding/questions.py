"""Ask questions about boxes whose answers are certain, by type, in several wordings.

A question type picks content that the boxes decide; the content is then worded with the sentence forms of the language.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from vistune.grounding import lexicon as words
from vistune.grounding.scene import CLEAR_GAP, CLEAR_RATIO, LARGEST_PLACED_AREA, Scene, name_key, place_of
from vistune.types import Box


@dataclass(frozen=True, slots=True)
class QuestionAnswer:
    """A question with its exact short answer, and the same answer as a sentence.

    - topic: the question and its objects; equal for every wording of the same question
    - labels: the labels that the question and its answer name
    """

    type: str
    question: str
    answer: str
    sentence: str
    topic: Hashable
    labels: frozenset[str]


@dataclass(frozen=True, slots=True)
class Content:
    """The sentence form of a question and its slots: boxes, labels, colours, places, numbers and a truth value."""

    form: str
    slots: Mapping[str, object]

    @property
    def topic(self) -> Hashable:
        """Identify the question. The order of a pair and the name of a box make no difference."""
        slots = self.slots
        named = ("a", "b") if "a" in slots else ("box",) if "box" in slots else ("color", "label", "other")
        subjects = (slots[slot] for slot in named if slot in slots)
        return _TOPICS.get(self.form, self.form), frozenset(
            (value.label, value.x0, value.y0, value.x1, value.y1) if isinstance(value, Box) else value
            for value in subjects
        )


_TOPICS = {
    **dict.fromkeys(("colour_label", "colour_place"), "colour"),
    **dict.fromkeys(("shape_color", "shape_place", "object_color"), "shape"),
    **dict.fromkeys(("object_place", "position", "position_seen"), "place"),
}


def ask(scene: Scene, kind: str, language: str, rng: random.Random) -> QuestionAnswer | None:
    """Return a question of a type with its answer, or None if the boxes decide none."""
    content = QUESTION_TYPES[kind](scene, rng)
    return None if content is None else _word(content, kind, language, rng)


def brief_cue(language: str) -> str:
    """Return the line that asks for a short answer; English uses LLaVA-1.5's prompt (arXiv 2310.03744, 3.2)."""
    return str(words.sentences(language)["brief"])


def _word(content: Content, kind: str, language: str, rng: random.Random) -> QuestionAnswer:
    slots = content.slots
    texts = {name: text for slot, value in slots.items() for name, text in _slot_texts(slot, value, language).items()}
    if "an" in texts and not texts["color"]:  # without a colour the label decides the article: "an airplane"
        texts["an"] = words.one(texts["label"], str(slots["label"])).split()[0]
    texts |= _count_texts(slots, language)
    forms = words.sentences(language)
    form = forms["questions"][content.form]
    truth = slots.get("truth")
    sentences: Sequence[str] = form["sentences"] if truth is None else form["yes" if truth else "no"]
    return QuestionAnswer(
        type=kind,
        question=words.finished(rng.choice(form["questions"]).format(**texts), language),
        answer=form["short"].format(**texts) if truth is None else forms["yes" if truth else "no"],
        sentence=words.finished(rng.choice(sentences).format(**texts), language),
        topic=content.topic,
        labels=frozenset(
            value.label if isinstance(value, Box) else str(value)
            for slot, value in slots.items()
            if slot in ("a", "b", "box", "label", "other")
        ),
    )


def _count_texts(slots: Mapping[str, object], language: str) -> dict[str, str]:
    """Word the numbers with their objects: "two dogs" and "two", "개 두 마리" and "두 마리". 0 stands for a crowd."""
    texts = {}
    for prefix, label_slot, number_slot in (
        ("", "label", "number"),
        ("other_", "other", "other_number"),
        ("all_", "label", "total"),
    ):
        label, count = slots.get(label_slot), slots.get(number_slot)
        if isinstance(label, str) and isinstance(count, int):
            things = words.counted(count, label, language) if count else words.many(label, language)
            counted = things
            if count == 1 and language == "en":  # "one dog", not "a dog"
                counted = f"one {words.one(words.noun(label, 'en'), label).split(' ', 1)[1]}"
            texts[f"{prefix}things"], texts[f"{prefix}counted"] = things, counted
            texts[f"{prefix}amount"] = words.amount(count, label) if language == "ko" else words.number(count)
            texts[f"{prefix}are"] = "is" if count == 1 else "are"
    return texts


def _slot_texts(slot: str, value: object, language: str) -> dict[str, str]:
    """Word the value of a slot, with the forms that sentences need: article, plural, counter, place."""
    if isinstance(value, Box):
        text = words.name(value, language)
        return {slot: text, f"one_{slot}": words.one(text, value.label) if language == "en" else text}
    name = str(value)
    if slot in ("label", "other"):
        text = words.noun(name, language)
        article = words.one(text, name) if language == "en" else text
        counter = {"counter": words.counter(name)} if slot == "label" else {}
        return {slot: text, f"one_{slot}": article, f"{slot}s": words.plural(name, language), **counter}
    if slot == "color":
        text = words.color_word(name, language)
        return {slot: text, "colored": f"{text} " if text else "", "an": "an" if text[:1] in tuple("aeiou") else "a"}
    if slot == "at":
        return {slot: words.at_place(name, language), "place": words.place_word(name, language)}
    if slot == "place":
        return {slot: words.place_word(name, language)}
    if slot == "size":
        answer = words.size_word(name, language, answer=True)
        return {slot: words.size_word(name, language), "size_answer": answer}
    return {slot: name}


def _colour(scene: Scene, rng: random.Random) -> Content | None:
    by_label = [box for box in scene.boxes if scene.labels[box.label] == 1 and "color" in box.attributes]
    by_place = [
        place for place, box in scene.places.items() if "color" in box.attributes and not words.is_person(box.label)
    ]
    forms = ["label"] * bool(by_label) + ["place"] * bool(by_place)
    if not forms:
        return None
    if rng.choice(forms) == "label":
        box = rng.choice(by_label)
        return Content("colour_label", {"box": box, "color": box.attributes["color"], "label": box.label})
    place = rng.choice(by_place)
    box = scene.places[place]
    return Content("colour_place", {"box": box, "color": box.attributes["color"], "label": box.label, "place": place})


def _shape(scene: Scene, rng: random.Random) -> Content | None:
    by_color = [
        box
        for box in scene.boxes
        if scene.colored and scene.colors[box.attributes["color"]] == 1 and not words.is_person(box.label)
    ]
    by_place = list(scene.places)
    forms = ["color"] * bool(by_color) + ["place"] * bool(by_place)
    if not forms:
        return None
    if rng.choice(forms) == "color":
        box = rng.choice(by_color)
        return Content(_shape_form("color", box), {"box": box, "color": box.attributes["color"], "label": box.label})
    place = rng.choice(by_place)
    box = scene.places[place]
    return Content(_shape_form("place", box), {"box": box, "label": box.label, "place": place})


def _shape_form(form: str, box: Box) -> str:
    return f"{'shape' if words.is_shape(box.label) else 'object'}_{form}"


def _existence(scene: Scene, rng: random.Random) -> Content | None:
    present = [name_key(box) for box in scene.boxes if words.has_singular(box.label) and box.label not in scene.vague]
    if not present:
        return None
    truth = rng.random() < 0.5
    color, label = rng.choice(present) if truth else _absent(scene, rng)
    slots = {"color": color, "label": label, "truth": truth}
    if color or scene.drawn:
        return Content("existence", slots)
    return Content("existence_seen", {**slots, "number": scene.countable[label]})


def _absent(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """Return a colour and label that are not in the image; in a coloured scene mostly a mix of those that are."""
    if not scene.colored:
        present = {words.class_of(label) for label in (*scene.labels, *scene.crowds, *scene.also_present)}
        absent = [
            label
            for label, entry in words.objects().items()
            if not (entry.shape or entry.of or label in present) and words.has_singular(label)
        ]
        return "", rng.choice(absent)
    colors = list(words.colors())
    labels = [label for label in words.objects() if words.is_shape(label)]
    for _ in range(8):
        mixed = rng.random() < 0.6
        color = rng.choice(list(scene.colors) if mixed else colors)
        label = rng.choice(list(scene.labels) if mixed and rng.random() < 0.5 else labels)
        if (color, label) not in scene.names:
            return color, label
    return next((color, label) for color in colors for label in labels if (color, label) not in scene.names)


def _count(scene: Scene, rng: random.Random) -> Content | None:
    if not scene.boxes:
        return None
    with_objects = scene.colored and not scene.has_people  # people are not counted as objects
    forms = ["label", "label"] + ["color"] * with_objects + ["all"] * with_objects
    form = rng.choice(forms)
    if form == "all":
        return Content("count_all", {"number": len(scene.boxes)})
    if form == "color":
        color = _of_any_number(scene.colors, rng)
        return Content("count_color", {"color": color, "number": scene.colors[color]})
    if not scene.countable:
        return None
    label = _of_any_number(scene.countable, rng)
    return Content("count_label" if scene.drawn else "count_seen", {"label": label, "number": scene.countable[label]})


def _of_any_number(counts: Mapping[str, int], rng: random.Random) -> str:
    """Choose a number first, then a name with it; otherwise "one" would be the answer to guess."""
    number = rng.choice(sorted(set(counts.values())))
    return rng.choice([name for name, count in counts.items() if count == number])


def _position(scene: Scene, rng: random.Random) -> Content | None:
    boxes = [box for box in scene.unique if box.area <= LARGEST_PLACED_AREA]
    if not boxes:
        return None
    box = rng.choice(boxes)
    if scene.drawn:
        return Content("position", {"box": box, "place": place_of(box)})
    return Content("position_seen", {"box": box, "at": place_of(box)})


def _size(scene: Scene, rng: random.Random) -> Content | None:
    boxes = [box for box in scene.unique if "size" in box.attributes]
    if not boxes:
        return None
    box = rng.choice(boxes)
    return Content("size", {"box": box, "size": box.attributes["size"]})


def _comparison(scene: Scene, rng: random.Random) -> Content | None:
    forms = [_larger, _relative_position, _relative_position, _more]
    rng.shuffle(forms)
    return next((content for form in forms if (content := form(scene, rng))), None)


def _pairs(scene: Scene, is_clear: Callable[[Box, Box], bool]) -> list[tuple[Box, Box]]:
    return [(a, b) for a in scene.unique for b in scene.unique if a is not b and is_clear(a, b)]


def _larger(scene: Scene, rng: random.Random) -> Content | None:
    pairs = _pairs(scene, lambda a, b: a.area >= CLEAR_RATIO * b.area)
    if not pairs:
        return None
    a, b = rng.choice(pairs)
    first, second = (a, b) if rng.random() < 0.5 else (b, a)
    return Content("larger" if scene.drawn else "larger_seen", {"a": first, "b": second, "box": a})


def _relative_position(scene: Scene, rng: random.Random) -> Content | None:
    axis = rng.choice((0, 1))
    pairs = _pairs(scene, lambda a, b: a.center[axis] <= b.center[axis] - CLEAR_GAP)
    if not pairs:
        return None
    first, second = rng.choice(pairs)
    truth = rng.random() < 0.5
    a, b = (first, second) if truth else (second, first)
    return Content(("left_of", "above" if scene.drawn else "above_seen")[axis], {"a": a, "b": b, "truth": truth})


def _more(scene: Scene, rng: random.Random) -> Content | None:
    counts = scene.countable
    pairs = [(a, b) for a in counts for b in counts if counts[a] > counts[b]]
    if not pairs:
        return None
    more, fewer = rng.choice(pairs)
    truth = rng.random() < 0.5
    first, second = (more, fewer) if truth else (fewer, more)
    numbers = {"number": scene.labels[first], "other_number": scene.labels[second]}
    return Content("more" if scene.drawn else "more_seen", {"label": first, "other": second, "truth": truth, **numbers})


def _removal(scene: Scene, rng: random.Random) -> Content | None:
    if not scene.drawn:
        return _one_less(scene, rng)
    if len(scene.labels) < 2 or scene.crowds:
        return None
    label = rng.choice(list(scene.labels))
    removed, total = scene.labels[label], len(scene.boxes)
    return Content("removal", {"label": label, "removed": removed, "total": total, "number": total - removed})


def _one_less(scene: Scene, rng: random.Random) -> Content | None:
    """Ask how many of one label remain; the number of all objects in a photograph is not known."""
    several = [label for label, count in scene.countable.items() if count > 1]
    if not several:
        return None
    label = rng.choice(several)
    total = scene.countable[label]
    form = "leaving" if words.group(label) in ("person", "animal", "vehicle") else "taking"
    return Content(form, {"label": label, "total": total, "number": total - 1})


QUESTION_TYPES: Mapping[str, Callable[[Scene, random.Random], Content | None]] = {
    "colour": _colour,
    "shape": _shape,
    "existence": _existence,
    "count": _count,
    "position": _position,
    "size": _size,
    "comparison": _comparison,
    "removal": _removal,
}

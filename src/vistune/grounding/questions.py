"""Ask questions about boxes whose answers are certain, by type, in several wordings.

A question type chooses something that follows from the boxes, such as a count, and words it with the sentence forms of
the language.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

from vistune.grounding import lexicon as words
from vistune.grounding.scene import CLEAR_GAP, CLEAR_RATIO, LARGEST_PLACED_AREA, Scene, place_of
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
    """The sentence form of a question and its slots: boxes, labels, colours, places, numbers and a truth value.

    - names: the labels, colours and positions in the question, in their order
    - answer: the same word for the same answer in both languages; "first" or "second" for a choice between two objects
    """

    form: str
    slots: Mapping[str, object]
    names: tuple[str, ...]
    answer: str

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

    @property
    def labels(self) -> frozenset[str]:
        """Return the labels that the question and its answer name."""
        return frozenset(
            value.label if isinstance(value, Box) else str(value)
            for slot, value in self.slots.items()
            if slot in ("a", "b", "box", "label", "other")
        )


_TOPICS = {
    **dict.fromkeys(("colour_label", "colour_place"), "colour"),
    **dict.fromkeys(("shape_color", "shape_place", "object_color"), "shape"),
    **dict.fromkeys(("object_place", "position", "position_seen"), "place"),
}


def ask(scene: Scene, kind: str, language: str, rng: random.Random) -> QuestionAnswer | None:
    """Return a question of a type with its answer, or None if no question of this type has a certain answer."""
    return draw(QUESTION_TYPES[kind](scene), kind, language, rng)


def draw(contents: Sequence[Content], kind: str, language: str, rng: random.Random) -> QuestionAnswer | None:
    """Write one of the contents as a question. The form is drawn first, then the answer, so rare answers occur too."""
    if not contents:
        return None
    forms = list(dict.fromkeys(content.form for content in contents))
    [form] = rng.choices(forms, [_FORM_WEIGHTS.get(form, 1) for form in forms])
    answer = rng.choice(list(dict.fromkeys(content.answer for content in contents if content.form == form)))
    content = rng.choice([content for content in contents if (content.form, content.answer) == (form, answer)])
    return word(content, kind, language, rng)


_FORM_WEIGHTS = {"count_label": 2}


def brief_cue(language: str) -> str:
    """Return the line that asks for a short answer; English uses LLaVA-1.5's prompt (arXiv 2310.03744, 3.2)."""
    return str(words.sentences(language)["brief"])


def word(content: Content, kind: str, language: str, rng: random.Random) -> QuestionAnswer:
    """Write a question and its answer in one of the wordings of its form."""
    slots = content.slots
    texts = {name: text for slot, value in slots.items() for name, text in _slot_texts(slot, value, language).items()}
    if "an" in texts and not texts["color"]:  # without a colour the label decides the article: "an airplane"
        texts["an"] = words.one(texts["label"], str(slots["label"])).split()[0]
    texts |= _count_texts(slots, language)
    forms = words.sentences(language)
    form = forms["questions"][content.form]
    truth = slots.get("truth")
    which = "sentences" if truth is None else "yes" if truth else "no"
    sentences: Sequence[str] = form["none" if "none" in form and slots["number"] == 0 else which]
    return QuestionAnswer(
        type=kind,
        question=words.finished(rng.choice(form["questions"]).format(**texts), language),
        answer=form["short"].format(**texts) if truth is None else forms["yes" if truth else "no"],
        sentence=words.finished(rng.choice(sentences).format(**texts), language),
        topic=content.topic,
        labels=content.labels,
    )


def _count_texts(slots: Mapping[str, object], language: str) -> dict[str, str]:
    """Return the texts of the numbers with their objects: "two dogs" and "two", "개 두 마리" and "두 마리".

    0 stands for a crowd. With None, the number is not known: "a dog", "개".
    """
    texts: dict[str, str] = {}
    for prefix, label_slot, number_slot in (
        ("", "label", "number"),
        ("other_", "other", "other_number"),
        ("all_", "label", "total"),
    ):
        label, count = slots.get(label_slot), slots.get(number_slot)
        if isinstance(label, str) and number_slot in slots and count is None:
            noun = words.noun(label, language)
            texts |= {f"{prefix}things": words.one(noun, label) if language == "en" else noun, f"{prefix}are": "is"}
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
    """Return the texts of a slot's value, with the forms that sentences need: article, plural, counting word, place."""
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


def _colour(scene: Scene) -> Iterator[Content]:
    for box in scene.boxes:
        if scene.labels[box.label] == 1 and "color" in box.attributes:
            color = box.attributes["color"]
            yield Content("colour_label", {"box": box, "color": color, "label": box.label}, (box.label,), color)
    for place, box in scene.places.items():
        if "color" in box.attributes and not words.is_person(box.label):
            color = box.attributes["color"]
            slots = {"box": box, "color": color, "label": box.label, "place": place}
            yield Content("colour_place", slots, (place,), color)


def _shape(scene: Scene) -> Iterator[Content]:
    for box in scene.boxes if scene.colored else ():
        color = box.attributes["color"]
        if scene.colors[color] == 1 and not words.is_person(box.label):
            slots = {"box": box, "color": color, "label": box.label}
            yield Content(_shape_form("color", box), slots, (color,), box.label)
    for place, box in scene.places.items():
        slots = {"box": box, "label": box.label, "place": place}
        yield Content(_shape_form("place", box), slots, (place,), box.label)


def _shape_form(form: str, box: Box) -> str:
    return f"{'shape' if words.is_shape(box.label) else 'object'}_{form}"


def _existence(scene: Scene) -> Iterator[Content]:
    known = [*scene.names, *(("", label) for label in scene.named)]
    present = [name for name in known if words.has_singular(name[1]) and name[1] not in scene.vague]
    for truth, names in ((True, present), (False, _absent(scene) if present else ())):
        for color, label in names:
            slots: dict[str, object] = {"color": color, "label": label, "truth": truth}
            form = "existence"
            if not (color or scene.drawn):
                form = "existence_seen"
                slots["number"] = None if label in scene.named else scene.countable[label]
            yield Content(form, slots, (color, label) if color else (label,), "yes" if truth else "no")


def _absent(scene: Scene) -> Iterator[tuple[str, str]]:
    """Yield colours and labels that are not in the image; in a drawing mostly with a colour that is."""
    if scene.colored and scene.others is None:
        shapes = words.shapes()
        for color in (*words.colors(), *scene.colors, *scene.colors):
            for label in shapes:
                if (color, label) not in scene.names:
                    yield color, label
        return
    yield from (("", label) for label in scene.absent if words.has_singular(label))
    for color in scene.colors if scene.others is not None else ():
        yield from ((color, label) for label in scene.labels if (color, label) not in scene.names)


def _count(scene: Scene) -> Iterator[Content]:
    if scene.colored and not scene.has_people:  # people are not counted as objects
        yield Content("count_all", {"number": len(scene.boxes)}, (), str(len(scene.boxes)))
        for color, number in scene.colors.items():
            yield Content("count_color", {"color": color, "number": number}, (color,), str(number))
    counts = dict(scene.countable) | (dict.fromkeys(scene.absent, 0) if scene.others is not None else {})
    for label, number in counts.items():
        form = "count_label" if scene.drawn else "count_seen"
        yield Content(form, {"label": label, "number": number}, (label,), str(number))


def _position(scene: Scene) -> Iterator[Content]:
    for box in scene.unique:
        if box.area <= LARGEST_PLACED_AREA:
            place = place_of(box)
            form, slot = ("position", "place") if scene.drawn else ("position_seen", "at")
            yield Content(form, {"box": box, slot: place}, (box.label,), place)


def _size(scene: Scene) -> Iterator[Content]:
    for box in scene.unique:
        if "size" in box.attributes:
            size = box.attributes["size"]
            yield Content("size", {"box": box, "size": size}, (box.label,), size)


def _comparison(scene: Scene) -> Iterator[Content]:
    seen = "" if scene.drawn else "_seen"
    for a, b in permutations(scene.unique, 2):
        pair = (a.label, b.label)
        if a.area >= CLEAR_RATIO * b.area:
            yield Content(f"larger{seen}", {"a": a, "b": b, "box": a}, pair, "first")
            yield Content(f"larger{seen}", {"a": b, "b": a, "box": a}, pair[::-1], "second")
        for form, axis in (("left_of", 0), (f"above{seen}", 1)):
            if a.center[axis] <= b.center[axis] - CLEAR_GAP:
                yield Content(form, {"a": a, "b": b, "truth": True}, pair, "yes")
                yield Content(form, {"a": b, "b": a, "truth": False}, pair[::-1], "no")
    for first, second in permutations(scene.countable, 2):
        numbers = {"number": scene.countable[first], "other_number": scene.countable[second]}
        if numbers["number"] != numbers["other_number"]:
            truth = numbers["number"] > numbers["other_number"]
            slots = {"label": first, "other": second, "truth": truth, **numbers}
            yield Content(f"more{seen}", slots, (first, second), "yes" if truth else "no")


def _removal(scene: Scene) -> Iterator[Content]:
    if scene.drawn:
        for label, removed in scene.labels.items() if len(scene.labels) > 1 and not scene.crowds else ():
            total = len(scene.boxes)
            slots = {"label": label, "removed": removed, "total": total, "number": total - removed}
            yield Content("removal", slots, (label,), str(total - removed))
        return
    for label, total in scene.countable.items():  # the number of all objects in a photograph is not known
        if total > 1:
            form = "leaving" if words.group(label) in ("person", "animal", "vehicle") else "taking"
            yield Content(form, {"label": label, "total": total, "number": total - 1}, (label,), str(total - 1))


def _listed(contents: Callable[[Scene], Iterator[Content]]) -> Callable[[Scene], list[Content]]:
    return lambda scene: list(contents(scene))


# For each question type, a function that returns all contents whose answers follow from the boxes of a scene.
QUESTION_TYPES: Mapping[str, Callable[[Scene], Sequence[Content]]] = {
    "colour": _listed(_colour),
    "shape": _listed(_shape),
    "existence": _listed(_existence),
    "count": _listed(_count),
    "position": _listed(_position),
    "size": _listed(_size),
    "comparison": _listed(_comparison),
    "removal": _listed(_removal),
}

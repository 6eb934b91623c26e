"""Make preference pairs from boxes: two answers to one question that differ in one claim; the boxes support one.

Every wrong answer is the right answer about another image. `match_pairs` couples two questions with the same form and
labels but different answers, and each gets the answer of the other one as its rejected answer. So every answer to a
question is chosen as often as it is rejected, and the text does not show which side is which.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from itertools import chain
from typing import Any

from vistune.grounding.balance import AnswerBalance, count_labels
from vistune.grounding.lexicon import class_of
from vistune.grounding.questions import QUESTION_TYPES, Content, QuestionAnswer, word
from vistune.grounding.scene import Scene
from vistune.types import Box

PAIRS_PER_IMAGE = 6
PAIRS_PER_ASPECT = 2  # of an image
CANDIDATES_PER_ASPECT = 8  # of an image
MOST_COUNTED = 10  # a larger number is rarely exact
BLOCK = 4000  # images that are matched with each other
WORDINGS = 24  # draws that find every wording of an answer
TRIES = 8  # to find two images that fit together


@dataclass(frozen=True, slots=True)
class PairForm:
    """The claim of a sentence form.

    Attributes:
        aspect: existence, count, attribute, position, size or relation.
        subjects: Slots that the question names.
        answers: Slots that only the answer names.
    """

    aspect: str
    subjects: tuple[str, ...]
    answers: tuple[str, ...]


def _read_forms() -> Mapping[str, PairForm]:
    text = (resources.files("vistune.grounding") / "pair_forms.json").read_text(encoding="utf-8")
    return {
        name: PairForm(entry["aspect"], tuple(entry["subjects"]), tuple(entry["answers"]))
        for name, entry in json.loads(text).items()
    }


PAIR_FORMS = _read_forms()
ASPECTS = tuple(dict.fromkeys(form.aspect for form in PAIR_FORMS.values()))


@dataclass(frozen=True, slots=True)
class Claim:
    """The claim in which the two answers of a pair differ.

    Attributes:
        aspect: existence, count, attribute, position, size or relation.
        form: The form of the question, a key of PAIR_FORMS.
        about: The names, colours and positions in the question.
        chosen, rejected: The answer of each side, the same word in every language.
    """

    aspect: str
    form: str
    about: tuple[str, ...]
    chosen: str
    rejected: str

    def to_dict(self) -> dict[str, Any]:
        """Return the claim as JSON values."""
        return {**asdict(self), "about": list(self.about)}


@dataclass(frozen=True, slots=True)
class MatchedPair:
    """A question about an image with its true and its false answer, before it is written as text."""

    kind: str
    chosen: Content
    rejected: Content

    @property
    def claim(self) -> Claim:
        form = self.chosen.form
        answers = self.chosen.answer, self.rejected.answer
        return Claim(PAIR_FORMS[form].aspect, form, subjects_of(self.chosen), *answers)


def subjects_of(content: Content) -> tuple[str, ...]:
    """Return the names, colours and positions that a question is about."""
    values = (content.slots[slot] for slot in PAIR_FORMS[content.form].subjects)
    return tuple(
        " ".join(filter(None, (value.attributes.get("color", ""), value.label)))
        if isinstance(value, Box)
        else str(value)
        for value in values
    )


def word_pair(pair: MatchedPair, language: str, rng: random.Random) -> tuple[QuestionAnswer, QuestionAnswer]:
    """Write both answers in the same wording; the questions are equal."""
    seed = rng.random()
    chosen, rejected = (
        word(content, pair.kind, language, random.Random(seed)) for content in (pair.chosen, pair.rejected)
    )
    assert chosen.question == rejected.question
    return chosen, rejected


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A question about an image whose answer is certain; `image`: index of the scene."""

    image: int
    kind: str
    content: Content


Couple = tuple[_Candidate, _Candidate]


def match_pairs(scenes: Sequence[tuple[str, Scene]], most: int = PAIRS_PER_IMAGE) -> list[list[MatchedPair]]:
    """Return the pairs of each scene, in the order of the scenes; their order makes no difference to the pairs.

    Args:
        scenes: (seed, scene) of each image.
        most: Largest number of pairs of an image.
    """
    order = sorted(range(len(scenes)), key=lambda k: hashlib.sha256(scenes[k][0].encode()).digest())
    labels = count_labels(scene for _, scene in scenes)
    pairs: list[list[MatchedPair]] = [[] for _ in scenes]
    for begin in range(0, len(order), BLOCK):
        block = order[begin : begin + BLOCK]
        candidates = {k: _candidates(k, scenes[k][0], scenes[k][1], labels) for k in block}
        by_index = {k: _with_others(scenes[k][1], labels) for k in block}
        rng = random.Random("/".join(scenes[k][0] for k in block[:1]))
        for image, pair in _chosen_couples(list(chain.from_iterable(candidates.values())), by_index, rng, most):
            pairs[image].append(pair)
    return pairs


def _with_others(scene: Scene, labels: AnswerBalance) -> Scene:
    """Let questions deny the labels of other images; a drawing denies its own colours and shapes."""
    return scene if scene.drawn else replace(scene, others=tuple(labels.others(scene)))


def _candidates(image: int, seed: str, scene: Scene, labels: AnswerBalance) -> list[_Candidate]:
    """Return some questions of each aspect about an image, drawn at random."""
    rng = random.Random(f"{seed}/pairs")
    others = {} if scene.drawn else labels.others(scene)
    count = len({*scene.labels, *scene.named}) + 1
    denied = set(rng.choices(list(others), list(others.values()), k=count)) if any(others.values()) else set()
    scene = scene if scene.drawn else replace(scene, others=tuple(label for label in others if label in denied))
    by_answer: dict[tuple[str, str], list[_Candidate]] = defaultdict(list)
    for kind, contents_of in QUESTION_TYPES.items():
        for content in contents_of(scene):
            if content.form in PAIR_FORMS and not _is_large(content):
                aspect = PAIR_FORMS[content.form].aspect
                truth = content.answer if content.answer in ("yes", "no") else ""
                by_answer[aspect, truth].append(_Candidate(image, kind, content))
    drawn: dict[str, list[_Candidate]] = defaultdict(list)
    for (aspect, _), listed in sorted(by_answer.items()):
        rng.shuffle(listed)
        drawn[aspect] += listed[:CANDIDATES_PER_ASPECT]
    return list(chain.from_iterable(drawn.values()))


def _is_large(content: Content) -> bool:
    numbers = (content.slots.get(slot) for slot in ("number", "other_number"))
    return PAIR_FORMS[content.form].aspect == "count" and any(
        isinstance(value, int) and value > MOST_COUNTED for value in numbers
    )


def _chosen_couples(
    candidates: Sequence[_Candidate], scenes: dict[int, Scene], rng: random.Random, most: int
) -> Iterator[tuple[int, MatchedPair]]:
    """Yield the pairs of all images. A couple gives a pair to both of its images, or to none."""
    couples = list(_couples(candidates, scenes, rng))
    rng.shuffle(couples)
    pairs_of, aspects_of = Counter[int](), Counter[tuple[int, str]]()
    topics: set[tuple[int, object]] = set()
    for couple in couples:
        aspect = PAIR_FORMS[couple[0].content.form].aspect
        images = Counter(candidate.image for candidate in couple)
        keys = {(candidate.image, candidate.content.topic) for candidate in couple}
        if len(keys) < len(couple) or not topics.isdisjoint(keys):
            continue
        if any(
            pairs_of[image] + count > most or aspects_of[image, aspect] + count > PAIRS_PER_ASPECT
            for image, count in images.items()
        ):
            continue
        topics |= keys
        for one, other in (couple, couple[::-1]):
            pairs_of[one.image] += 1
            aspects_of[one.image, aspect] += 1
            yield one.image, MatchedPair(one.kind, one.content, _with_answer_of(one.content, other.content))


def _couples(candidates: Sequence[_Candidate], scenes: dict[int, Scene], rng: random.Random) -> Iterator[Couple]:
    """Couple candidates of the same form and names; a candidate whose names are unique, of the same form only.

    Each level passes a candidate without a partner on to the next one.
    """
    left = list(candidates)
    for level in range(4):
        groups: dict[object, list[_Candidate]] = defaultdict(list)
        for candidate in left:
            groups[_key(candidate.content, level)].append(candidate)
        left = []
        for key in sorted(groups, key=str):
            group = groups[key]
            if len(group) == 1 and level < 3:
                left += group
            else:
                yield from _couple_group(group, scenes, rng)


def _key(content: Content, level: int) -> tuple[object, ...]:
    """Return the key by which a level compares questions: all names, the first one, the second one, or the form."""
    names = content.names
    if level == 0:
        return content.form, names
    if level == 3 or len(names) < level:
        return (content.form,)
    return content.form, level, names[level - 1]


def _couple_group(group: Sequence[_Candidate], scenes: dict[int, Scene], rng: random.Random) -> Iterator[Couple]:
    """Couple as many candidates as possible: always one with the most frequent answer that is left."""
    by_answer: dict[str, list[_Candidate]] = defaultdict(list)
    for candidate in group:
        by_answer[candidate.content.answer].append(candidate)
    for listed in by_answer.values():
        rng.shuffle(listed)
    while len(by_answer) > 1:
        ranked = sorted(by_answer, key=lambda answer: (-len(by_answer[answer]), answer))
        couple = next(
            (c for other in ranked[1:] if (c := _fitting(by_answer[ranked[0]], by_answer[other], scenes))), None
        )
        if couple is None:
            del by_answer[ranked[0]]
            continue
        for candidate in couple:
            by_answer[candidate.content.answer].remove(candidate)
            if not by_answer[candidate.content.answer]:
                del by_answer[candidate.content.answer]
        yield couple


def _fitting(ones: Sequence[_Candidate], others: Sequence[_Candidate], scenes: dict[int, Scene]) -> Couple | None:
    """Return two candidates; the answer of each is false for the image of the other one."""
    for one in ones[:TRIES]:
        for other in others[:TRIES]:
            if is_false(scenes[one.image], one.content, other.content) and is_false(
                scenes[other.image], other.content, one.content
            ):
                return one, other
    return None


def is_false(scene: Scene, content: Content, other: Content) -> bool:
    """Return whether the answer of another question of the same form is certainly false for this scene."""
    slots = PAIR_FORMS[content.form].answers
    if content.answer == other.answer:
        return False
    if PAIR_FORMS[content.form].aspect == "position":
        return are_opposite(content.answer, other.answer)
    if "label" in slots:
        label = str(other.slots["label"])
        is_other_class = class_of(label) != class_of(str(content.slots["label"]))
        return is_other_class and (scene.drawn or label in scene.absent)
    if "color" in slots:
        return not ({*content.answer.split()} & {*other.answer.split()})
    return True


def are_opposite(position: str, other: str) -> bool:
    """Return whether two positions cannot be confused: opposite sides, or the centre and a corner."""
    sides, others = set(position.split()), set(other.split())
    if "center" in (position, other):
        return len(sides | others) == 3
    return any({a, b} in ({"left", "right"}, {"top", "bottom"}) for a in sides for b in others)


def _with_answer_of(content: Content, other: Content) -> Content:
    """Return a question with the answer of another one of its form."""
    slots, form = dict(content.slots), PAIR_FORMS[content.form]
    if "a" in slots and "box" in form.answers:
        slots["box"] = slots["b"] if slots["box"] is slots["a"] else slots["a"]
    elif "other_number" in slots:
        slots |= {"truth": not slots["truth"], "number": slots["other_number"], "other_number": slots["number"]}
    elif "label" in form.answers:
        box = slots["box"]
        assert isinstance(box, Box)
        slots |= {"label": other.slots["label"], "box": replace(box, label=str(other.slots["label"]))}
    else:
        slots |= {slot: other.slots[slot] for slot in form.answers if slot in other.slots}
    return replace(content, slots=slots, answer=other.answer)


def contradiction(scene: Scene, claim: Claim) -> str:
    """Return how a claim disagrees with the boxes; "" if they support the chosen answer and not the rejected one."""
    if claim.form not in PAIR_FORMS:
        return f"unknown form {claim.form!r}"
    answers = [content.answer for _, content in _true_contents(scene, claim)]
    subject = f"{claim.form} of {', '.join(claim.about)}" if claim.about else claim.form
    if not answers:
        return f"the boxes do not decide {subject}"
    if claim.rejected in answers:
        return f"swapped: the boxes support the rejected answer {claim.rejected!r} ({subject})"
    if claim.chosen not in answers:
        return f"the boxes say {answers[0]!r}, not {claim.chosen!r} ({subject})"
    return ""


def true_answers(scene: Scene, claim: Claim, language: str) -> frozenset[str]:
    """Return every wording of the true answer to the question of a claim."""
    written = (
        word(content, kind, language, random.Random(seed))
        for kind, content in _true_contents(scene, claim)
        for seed in range(WORDINGS)
    )
    return frozenset(text for item in written for text in (item.answer, item.sentence))


def _true_contents(scene: Scene, claim: Claim) -> list[tuple[str, Content]]:
    """Return (question type, content) of the question of a claim, with the answer that the boxes support."""
    if not scene.drawn:
        scene = replace(scene, others=claim.about)
    contents = ((kind, content) for kind, contents_of in QUESTION_TYPES.items() for content in contents_of(scene))
    return [
        (kind, content)
        for kind, content in contents
        if content.form == claim.form and subjects_of(content) == claim.about
    ]

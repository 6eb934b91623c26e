"""Choose questions about photographs so that their answers cannot be guessed without the image.

Three things could reveal an answer: the label ("Is there a toaster?" is mostly answered with "no"), the wording, and
the turns before it ("Where is the dog?" reveals that there is one dog). `AnswerBalance` is fitted to the images of a
data set. Then `choose` chooses questions about one image, independently of all other images.

1. `_Candidates.choose` draws questions that ask for different properties of objects. The draw does not depend
   on the rates.
2. Each question is kept with the probability `rate` of its label and answer. A question that is not kept is not
   replaced, so the expected number of questions with each answer is proportional to the rate of the answer.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp, log, prod

from vistune.grounding.lexicon import class_of
from vistune.grounding.questions import QUESTION_TYPES, Content
from vistune.grounding.scene import Scene

OPPOSITE = {"yes": "no", "no": "yes", "first": "second", "second": "first", "large": "small", "small": "large"}
FIRST_ANSWERS = ("yes", "first", "large")
MARGIN = 0.05  # by which the share of the most frequent answer may exceed an equal share, unless there are two answers
KEPT_WRONG = 1 / 2
LEAST_PREFERENCE = 0.02
FITTED = 4000  # conversations that the rates are fitted to
MOST_DRAWS = 40  # of questions for each of them
PASSES = 3
SWEEPS = 30  # over all keys, when rare questions are balanced for several keys at once
DAMPING = 0.7
CLOSE = 0.01  # the logarithm of a ratio of two counts that are even enough
TINY = 1e-9
Key = tuple[str | int, ...]
Rates = Mapping[Key, Mapping[str, float]]  # for each answer; `_rate` combines them
Cell = tuple[tuple[Key, ...], str]  # all keys of a question, and its answer
Item = tuple[str, Content]  # a question type and the content of a question

# The aspect of an object that a question asks for; the position, if its form is not listed. A conversation asks for
# each aspect of an object once, in this order: no earlier turn names the object on the left before a question asks for
# it, and questions about size or position say that there is one such object.
_ORDER = ("name", "number", "size", "look", "position")
_ASPECTS = {
    **dict.fromkeys(("object_place", "object_color", "shape_place", "shape_color"), "name"),
    **dict.fromkeys(("existence", "existence_seen", "count_all", "count_color", "count_seen"), "number"),
    **dict.fromkeys(("more_seen", "leaving", "taking"), "number"),
    **dict.fromkeys(("size", "larger_seen"), "size"),
    **dict.fromkeys(("colour_label", "colour_place"), "look"),
}


@dataclass(frozen=True, slots=True)
class AnswerBalance:
    """How often each question with each answer is kept, and which labels of the data set a question may deny.

    The default keeps every question and denies no label.

    - labels: number of images that show each label
    - boxed: labels that have a box in some image; only they are looked for in every image with boxes
    - together: for each label, the number of images that show it with each other label
    - rates: for a key of the question (see `_keys`) and each answer, the share of questions to keep, or a factor of it
    - preferences: rates of earlier fits; questions that would be rejected are picked less often
    - draw: which of several draws of all conversations is used; in a small data set, few draws are balanced
    """

    labels: Mapping[str, int] = field(default_factory=dict)
    boxed: frozenset[str] = frozenset()
    together: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    rates: Rates = field(default_factory=dict)
    preferences: tuple[Rates, ...] = ()
    draw: int = 0

    def others(self, scene: Scene) -> dict[str, float]:
        """Return the labels that the image does not show, with weights: POPE's three ways (arXiv 2305.10355) at once.

        A label is drawn at random, by its frequency (popular), or by how often it is seen with the labels of this
        image (adversarial). `rates` then leave as many "no" as "yes" for each label.
        """
        has_boxes = bool(scene.boxes or scene.crowds)
        others = tuple(label for label in self.labels if label in self.boxed or not has_boxes)
        absent = replace(scene, others=others).absent
        adversarial: dict[str, float] = defaultdict(float)
        for label in (*scene.labels, *scene.named):
            for other, count in self.together.get(label, {}).items():
                adversarial[other] += count / self.labels[label]
        weights = dict.fromkeys(absent, 0.0)
        ways: tuple[Mapping[str, float], ...] = (dict.fromkeys(absent, 1.0), self.labels, adversarial)
        for way in ways:
            total = sum(way.get(label, 0) for label in absent)
            for label in absent if total else ():
                weights[label] += way.get(label, 0) / total
        questions = {label: Content("existence_seen", {"label": label}, (label,), "no") for label in absent}
        return {label: weight * self.preference(questions[label]) for label, weight in weights.items()}

    def rate(self, content: Content) -> float:
        """Return the share of questions with this content that are kept."""
        return _rate(self.rates, content)

    def preference(self, content: Content) -> float:
        """Return the weight with which a question is picked."""
        return max(LEAST_PREFERENCE, prod(_rate(rates, content) for rates in self.preferences))


def choose(scene: Scene, balance: AnswerBalance, rng: random.Random, most: int) -> list[Item]:
    """Return (question type, content) for at most `most` questions of a conversation, in the order of their aspects."""
    return _Candidates(scene, balance).draw(balance, rng.random(), most)


class _Candidates:
    """All questions that could be asked about an image."""

    def __init__(self, scene: Scene, balance: AnswerBalance) -> None:
        self.others = balance.others(scene)
        self.drawn = 2 * len({*scene.labels, *scene.named}) + 1 if any(self.others.values()) else 0
        if self.others:
            scene = replace(scene, others=tuple(self.others))
        items = [(kind, content) for kind, contents in QUESTION_TYPES.items() for content in contents(scene)]
        present = Counter(content.form for _, content in items if self.others.keys().isdisjoint(content.labels))
        self.items = [
            (item, item[1].labels & self.others.keys(), _claims(item[1]), self._weight(item[1], balance, present))
            for item in items
        ]

    @staticmethod
    def _weight(content: Content, balance: AnswerBalance, present: Mapping[str, int]) -> float:
        """Return how early a question is considered: equally early for every form, earlier if it is preferred."""
        return balance.preference(content) / max(1, present[content.form])

    def draw(self, balance: AnswerBalance, seed: float, most: int) -> list[Item]:
        """Choose questions, and keep them at the rates of the balance."""
        rng = _rng(balance.draw, seed)
        accepted = [item for item in self.choose(rng) if rng.random() < balance.rate(item[1])]
        rng.shuffle(accepted)
        return sorted(accepted[:most], key=lambda item: min(_ORDER.index(_aspect(item[1])), 2))

    def choose(self, rng: random.Random) -> list[Item]:
        """Choose questions in random order; no two ask about the same aspect of an object."""
        drawn = set(rng.choices(list(self.others), list(self.others.values()), k=self.drawn)) if self.drawn else set()
        times = [
            (rng.expovariate(weight), number)
            for number, (_, absent, _, weight) in enumerate(self.items)
            if absent <= drawn
        ]
        chosen: list[Item] = []
        used: set[tuple[str, str]] = set()
        for _, number in sorted(times):
            item, _, claims, _ = self.items[number]
            if used.isdisjoint(claims):
                used |= claims
                chosen.append(item)
        return _toss(chosen, rng)


def _claims(content: Content) -> frozenset[tuple[str, str]]:
    aspect = _aspect(content)
    aspects = ("name", "number", "position") if aspect == "name" else (aspect,)
    names = {*content.labels, *content.names}
    if content.form == "existence_seen":  # "a man" answers "a person"
        names |= {class_of(label) for label in content.labels}
    return frozenset((each, name) for each in aspects for name in names)


def _aspect(content: Content) -> str:
    return _ASPECTS.get(content.form, "position")


def _toss(items: list[Item], rng: random.Random) -> list[Item]:
    """Draw the answer of each "is there" question at random, so that earlier answers do not help to guess it.

    With a fixed number of "yes" per image, "no" would be more likely after a "yes".
    """
    questions = [item for item in items if item[0] == "existence"]
    by_answer = {answer: [item for item in questions if item[1].answer == answer] for answer in ("yes", "no")}
    tosses = min(map(len, by_answer.values()))
    tossed = [by_answer[rng.choice(("yes", "no"))].pop() for _ in range(tosses)]
    return [item for item in items if item[0] != "existence"] + tossed


def count_labels(scenes: Iterable[Scene]) -> AnswerBalance:
    """Count the labels of a data set and how often they appear together; the balance keeps every question."""
    labels, together = Counter[str](), defaultdict[str, Counter[str]](Counter)
    boxed: set[str] = set()
    for scene in scenes:
        boxed |= {*scene.labels, *scene.crowds}
        present = sorted({*scene.labels, *scene.crowds, *scene.named})
        labels.update(present)
        for label in present:
            together[label].update(other for other in present if class_of(other) != class_of(label))
    return AnswerBalance(dict(sorted(labels.items())), frozenset(boxed), together)


def fit_balance(conversations: Sequence[tuple[str, Scene]], most: int) -> AnswerBalance:
    """Fit a balance to all conversations of a data set; their order makes no difference.

    Args:
        conversations: (seed, scene). The seed is that of the generator which `choose` is called with.
        most: Questions of a conversation.
    """
    scenes = sorted(conversations, key=lambda item: hashlib.sha256(item[0].encode()).digest())
    sample = scenes[:FITTED]
    balance = count_labels(scene for _, scene in sample)
    draws = min(MOST_DRAWS, FITTED // max(1, len(sample)))
    for chosen_from in (*[sample] * (PASSES - 1), scenes):  # the last fit gives the rates, the others the preferences
        balance = replace(balance, preferences=(*balance.preferences, balance.rates))
        balance = replace(balance, rates=_fit_rates(_chosen(chosen_from, balance, draws), draws))
    if draws == 1:
        return balance
    items = [(_seed_of(name), _Candidates(scene, balance)) for name, scene in scenes]
    numbered = [replace(balance, draw=number) for number in range(draws)]
    return min(numbered, key=lambda each: _imbalance(c for s, of in items for _, c in of.draw(each, s, most)))


def _imbalance(contents: Iterable[Content]) -> float:
    """Return how far the counts of opposite answers are apart, summed over the forms in standard deviations squared."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for content in contents:
        if content.answer in OPPOSITE:
            counts[content.form][content.answer] += 1
    return sum(
        (answers[answer] - answers[OPPOSITE[answer]]) ** 2 / answers.total()
        for answers in counts.values()
        for answer in answers
    )


def _chosen(scenes: Sequence[tuple[str, Scene]], balance: AnswerBalance, draws: int) -> Counter[Cell]:
    """Count how often each cell is chosen, with the random numbers of the conversations themselves.

    With other random numbers, the counts of a rare key would differ from those of the conversations, so its rates would
    favour one answer. A small data set needs several draws.
    """
    counts = Counter[Cell]()
    for name, scene in scenes:
        candidates, seed = _Candidates(scene, balance), _seed_of(name)
        for number in range(draws):
            chosen = candidates.choose(_rng(number, seed))
            counts.update((tuple(_keys(content)), content.answer) for _, content in chosen)
    return counts


def _seed_of(name: str) -> float:
    """Return the seed that `choose` takes from the generator of a conversation."""
    return random.Random(name).random()


def _rng(draw: int, seed: float) -> random.Random:
    return random.Random(f"{draw}/{seed}")


def _keys(content: Content) -> Iterator[Key]:
    """Yield the keys that may help a guesser: the pair of labels, each label at its position, the form."""
    if len(content.names) > 1:
        yield (content.form, *content.names)
    for position, name in enumerate(content.names):
        yield content.form, position, name
    yield (content.form,)


def _fewest(key: Key, answer: str) -> int:
    """Return how many questions a key must have to be balanced; a guesser gains little from fewer.

    "Is there" can always be balanced, with another image.
    """
    if key[0] == "existence_seen" and key[1:2] == (0,):
        return 0
    return 2 if answer in OPPOSITE else 4


def _rate(rates: Rates, content: Content) -> float:
    """Return the share of questions with this content that are kept."""
    if not rates:
        return 1.0
    keys = [key for key in _keys(content) if key in rates]
    if not any(len(key) > 1 for key in keys) and content.form == "existence_seen":
        return 0.0
    if content.answer not in OPPOSITE or (keys and _is_pair(keys[0])):
        return rates[keys[0]].get(content.answer, 0.0) if keys else 1.0  # the most specific key that has a rate
    return min(1.0, prod(rates[key].get(content.answer, 0.0) for key in keys))


def _fit_rates(cells: Mapping[Cell, int], draws: int) -> dict[Key, dict[str, float]]:
    """Return rates that balance the answers of every key.

    The pairs that are asked often enough come first, then the labels, with their rare pairs only, then the forms. If
    all pairs are balanced, so are their labels. Rare questions with two opposite answers are balanced for both labels
    and the form at once.
    """
    members: dict[Key, list[Cell]] = defaultdict(list)
    for cell in cells:
        for key in cell[0]:
            if _is_pair(key) or cell[1] not in OPPOSITE:
                members[key].append(cell)
    balanced: set[Cell] = set()
    rates: dict[Key, dict[str, float]] = {}
    for key in sorted(members, key=lambda key: (not _is_pair(key), -len(key), str(key))):
        counts = Counter[str]()
        for cell in members[key]:
            if cell not in balanced:
                counts[cell[1]] += cells[cell]
        if counts and counts.total() >= draws * _fewest(key, next(iter(counts))):
            rates[key] = _balanced(counts)
            balanced.update(members[key])
    rare = {cell: count for cell, count in cells.items() if cell[1] in OPPOSITE and cell not in balanced}
    return rates | _fit_jointly(rare, draws)


def _is_pair(key: Key) -> bool:
    return len(key) > 1 and isinstance(key[1], str)


def _fit_jointly(cells: Mapping[Cell, int], draws: int) -> dict[Key, dict[str, float]]:
    """Return factors of two opposite answers. The rate of a question is its factors multiplied, and at most 1.

    "Are there more forks than people?" is rare, but most questions that end in "than people" have the answer "no". So
    both labels and the form need as many kept questions with one answer as with the other. A key whose questions all
    have the same answer keeps none.
    """
    rates: dict[Key, dict[str, float]] = {}
    while True:
        members: dict[Key, list[tuple[tuple[Key, ...], int, int]]] = defaultdict(list)  # (keys, side, count)
        for (keys, answer), count in cells.items():
            single = tuple(key for key in keys if not _is_pair(key))
            for key in single:
                members[key].append((single, 1 if answer in FIRST_ANSWERS else -1, count))
        totals = {key: sum(count for _, _, count in members[key]) for key in members}
        fitted = [key for key in sorted(members, key=str) if totals[key] >= draws * _fewest(key, "yes")]
        one_sided = {key for key in fitted if len({side for _, side, _ in members[key]}) == 1}
        if not one_sided:
            break
        rates |= {key: {} for key in one_sided}
        cells = {cell: count for cell, count in cells.items() if one_sided.isdisjoint(cell[0])}
    logs = dict.fromkeys(fitted, 0.0)
    for _ in range(SWEEPS):
        largest_step = 0.0
        for key in fitted:
            sums = {1: TINY, -1: TINY}  # of kept questions
            for keys, side, count in members[key]:
                sums[side] += count * exp(min(0.0, -side * sum(logs.get(each, 0.0) for each in keys)))
            step = log(sums[1] / sums[-1])
            logs[key] += DAMPING * step
            largest_step = max(largest_step, abs(step))
        if largest_step < CLOSE:
            break
    for key, value in logs.items():
        rates[key] = {answer: exp(-value if answer in FIRST_ANSWERS else value) for answer in OPPOSITE}
    return rates


def _balanced(counts: Mapping[str, float]) -> dict[str, float]:
    """Return the share of each answer to keep.

    Of two opposite answers, equally many are kept. Otherwise the most frequent answers are kept up to a limit at which
    none of them exceeds an equal share by more than MARGIN: as many different answers as possible without losing more
    than half of the questions that a guess of the most frequent answer gets wrong.
    """
    if any(answer in OPPOSITE for answer in counts):
        limit = min(min(count, counts.get(OPPOSITE.get(answer, ""), 0.0)) for answer, count in counts.items())
        return {answer: limit / count if count else 0.0 for answer, count in counts.items()}
    ranked = sorted(filter(counts.__getitem__, counts), key=lambda answer: (-counts[answer], answer))
    limits: dict[int, float] = {}
    wrong: dict[int, float] = {}
    for number in range(2, len(ranked) + 1):
        highest = [counts[answer] for answer in ranked[:number]]
        if number > 2 or "0" not in ranked[:2]:  # "none or one" is a question about existence
            limits[number] = _limit(highest)
            wrong[number] = sum(min(count, limits[number]) for count in highest) - limits[number]
    if not wrong:
        return dict.fromkeys(counts, 0.0)
    number = max(number for number in wrong if wrong[number] >= KEPT_WRONG * max(wrong.values()))
    limited = {answer: min(1.0, limits[number] / counts[answer]) for answer in ranked[:number]}
    return dict.fromkeys(counts, 0.0) | limited


def _limit(counts: Sequence[float]) -> float:
    """Return the largest limit on all counts at which none exceeds an equal share by more than MARGIN."""
    share = 1 / len(counts) + MARGIN
    ranked = [*sorted(counts, reverse=True), 0.0]
    for capped in range(1, len(ranked)):  # the number of counts at the limit
        rest = 1 - share * capped
        limit = min(ranked[capped - 1], share * sum(ranked[capped:]) / rest) if rest > 0 else ranked[capped - 1]
        if limit >= ranked[capped]:
            return limit
    return 0.0

"""Measure how many answers can be guessed from the questions of a data set, without any image.

A model uses the image only if this lowers its loss. The guesser is trained on the questions of four fifths of the
images and answers those of the last fifth, five times. It is the better of two: the most frequent answer to a question
with the same rare words (the labels), and naive Bayes over words, pairs of words and the turns before. Only questions
with a short answer are measured: yes or no, a number, or a few words.

For preference pairs, the guesser sees the prompt and both answers, and guesses which one is chosen.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from vistune.grounding.claims import grammar

T = TypeVar("T")

FOLDS = 5
FEWEST_QUESTIONS = 50  # of a type and language; fewer say nothing
MOST_RECORDS = 20_000  # that are read; more change nothing
MOST_WORDS = 4  # of a short answer
MOST_WORDS_OF_SENTENCE = 8  # with a number or a choice: "There are two dogs in this photograph."
MOST_ANSWERS = 50  # different answers to one type of question; the rest is one answer
RARE_ANSWER = 0.01  # answers below this share do not lower the uniform guess
COMMON_WORD = 0.3  # words in more questions than this belong to the wording
MARGINS = {True: 0.05, False: 0.15}  # by which the guesser may exceed a uniform guess: yes-no questions, others

# The first pattern that matches names the type. A question and its translation have the same type, so only types that
# both languages distinguish are used: "what colour" and "which colour" are one in Korean.
_TWO = r"[가-힣][과와] \S.* (?:가운데|중에?서?) .*(?:더|어느)"
_QUESTION_TYPES = (
    ("how_many", re.compile(r"\bhow (?:many|much)\b|몇 |몇[가-힣]|얼마나 많")),
    ("where", re.compile(r"^(?:where|at which place|in which part)\b|어디|어느 쪽에 ")),
    ("which", re.compile(rf"^(?:which|is|are|do|does|did|can|would) .*\bor\b|{_TWO}|가요, .*가요|아니면|또는")),
    ("why", re.compile(r"^why\b|왜|까닭|이유(?!와 함께)")),
    ("who", re.compile(r"^who(?:se|m)?\b|누구|누가")),
    ("what", re.compile(r"^(?:what|which|in a few words, what)\b|무엇|뭐|뭘|어느|어떤|무슨")),
    ("how", re.compile(r"^how\b|어떻게|어떠")),
    ("more_than", re.compile(
        r"^(?:(?:is|are) there|(?:can|do) you see|does the \w+ show) (?:more|fewer|less) (?!than\b).*\bthan\b"
        r"|보다 .*(?:많|적)(?:은가요|나요|습니까|이 (?:있|보))"
    )),
    ("is_there", re.compile(
        r"^(?:is|are) there\b|^(?:can|do) you see\b|^does the \w+ show\b"
        r"|(?:이|가|도) (?:있나요|있습니까|보이나요|보입니까)"
    )),
    ("yes_no", re.compile(r"^(?:is|are|was|were|do|does|did|can|could|has|have|will)\b|(?:나요|까요?|가요)\s*\?")),
    ("request", re.compile(r"^\w+|세요|시오|줘|주십시오")),
)  # fmt: skip
QUESTION_TYPES = tuple(name for name, _ in _QUESTION_TYPES)
YES_NO = ("more_than", "is_there", "yes_no")
PREFERENCE = "preference"  # the type of a pair; its guesses are right or wrong like those of a yes-no question


def question_type(question: str) -> str | None:
    """Return the type of a question by simple rules for English and Korean; None if no rule matches."""
    text = question.strip().lower()
    return next((name for name, pattern in _QUESTION_TYPES if pattern.search(text)), None)


@dataclass(frozen=True, slots=True)
class Conversation:
    """The (question, answer) turns about one image."""

    image: str
    language: str
    turns: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """A prompt about an image with the chosen and the rejected answer."""

    image: str
    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True, slots=True)
class GuessedAnswers:
    """How well the questions of one type and language are answered without the image; shares from 0 to 1.

    Attributes:
        questions: Number of questions with a short answer.
        uniform_guess: Share of right answers if all answers that occur are guessed equally often.
        guessed: Share of right answers of the better guesser.
        interval: Its 95 % interval, over images.
        guesser: `label` (the most frequent answer to a question with the same rare words) or `words` (naive Bayes).
        is_guessable: Whether the whole interval is above the uniform guess and a margin.
    """

    type: str
    language: str
    questions: int
    uniform_guess: float
    guessed: float
    interval: tuple[float, float]
    guesser: str
    is_guessable: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the values as JSON."""
        return asdict(self)


def answer_pairs_of(records: Sequence[Mapping[str, Any]]) -> list[AnswerPair]:
    """Return the preference pairs of records in LLaVA's form."""
    pairs = []
    for record in spread([record for record in records if "rejected" in record]):
        prompt = [turn["value"] for turn in record["conversations"] if turn["from"] == "human"][-1]
        pairs.append(AnswerPair(str(record["image"]), prompt, record["chosen"], record["rejected"]))
    return pairs


def conversations_of(records: Sequence[Mapping[str, Any]]) -> list[Conversation]:
    """Return the conversations about an image of records in LLaVA's form, without preference pairs."""
    conversations = []
    for record in spread([record for record in records if "rejected" not in record]):
        turns = [(turn["from"], turn["value"]) for turn in record["conversations"]]
        pairs = [(a[1], b[1]) for a, b in pairwise(turns) if (a[0], b[0]) == ("human", "gpt")]
        if record.get("image"):
            conversations.append(Conversation(str(record["image"]), language_of(pairs), pairs))
    return conversations


def language_of(turns: Sequence[tuple[str, str]]) -> str:
    """Return "ko" for turns with Korean letters, else "en"; short answers are alike in most other languages."""
    return "ko" if any(re.search("[가-힣]", text) for turn in turns for text in turn) else "en"


def spread(records: Sequence[T]) -> Sequence[T]:
    """Return at most MOST_RECORDS records, evenly spaced."""
    return records[:: max(1, -(-len(records) // MOST_RECORDS))]


def measure_guessing(conversations: Iterable[Conversation]) -> list[GuessedAnswers]:
    """Measure the guessers on every type of question and language with enough questions."""
    groups: dict[tuple[str, str], list[_Question]] = defaultdict(list)
    for conversation in conversations:
        for question in _closed_questions(conversation):
            groups[question.type, conversation.language].append(question)
    return [
        _measure(kind, language, questions)
        for (kind, language), questions in sorted(groups.items())
        if len(questions) >= FEWEST_QUESTIONS
    ]


def measure_pair_guessing(pairs: Iterable[AnswerPair]) -> list[GuessedAnswers]:
    """Measure how often the chosen answer of a pair is guessed from the texts, for each language."""
    groups: dict[str, list[_Question]] = defaultdict(list)
    for pair in pairs:
        groups[language_of([(pair.prompt, pair.chosen)])].append(_pair_question(pair))
    return [
        _measure(PREFERENCE, language, questions)
        for language, questions in sorted(groups.items())
        if len(questions) >= FEWEST_QUESTIONS
    ]


def _pair_question(pair: AnswerPair) -> _Question:
    """Ask which answer is chosen: "first" or "second" in alphabetical order, which does not depend on the truth."""
    prompt = _words(pair.prompt.replace("<image>", ""))
    sides = sorted((pair.chosen, pair.rejected))
    first, second = (_words(side) for side in sides)
    features = {*prompt, *(f"1 {word}" for word in first), *(f"2 {word}" for word in second)}
    features |= {f"{number} {a} {b}" for number, side in ((1, first), (2, second)) for a, b in pairwise(side)}
    features.add(f"longer {(len(sides[0]) > len(sides[1])) - (len(sides[0]) < len(sides[1]))}")
    differing = [word for word in (*first, *second) if (word in first) != (word in second)]
    features |= {f"{word} of {other}" for word in differing for other in prompt}
    answer = "first" if sides[0] == pair.chosen else "second"
    order = zlib.crc32(pair.image.rsplit("/", 1)[-1].encode())
    return _Question(PREFERENCE, (*prompt, *first, *second), frozenset(features), answer, order)


def _words(text: str) -> tuple[str, ...]:
    """Return the words of a text in lower case, Korean ones without the particle at the end."""
    return tuple(_ENDINGS.sub("", word) for word in re.findall(r"\w+", text.lower()))


def _forms(words: Iterable[str]) -> set[str]:
    """Return words unchanged and without a Korean particle: the end of "고양이" may be one."""
    unchanged = set(words)
    return unchanged | {_ENDINGS.sub("", word) for word in unchanged}


def guessing_lines(results: Sequence[GuessedAnswers]) -> list[str]:
    """Describe the result: a warning for each type of question that can be guessed, or one line for all."""
    guessable = [result for result in results if result.is_guessable]
    lines = [
        f"warning: {result.guessed:.0%} of the {result.questions:,} answers of type {result.type} ({result.language}) "
        f"can be guessed without the image; a uniform guess gets {result.uniform_guess:.0%}"
        for result in guessable
    ]
    if results and not guessable:
        worst = max(results, key=lambda result: result.guessed - result.uniform_guess)
        lines.append(
            f"answers guessed without the image: {worst.guessed:.0%} for questions of type {worst.type} "
            f"({worst.language}), the easiest to guess; a uniform guess gets {worst.uniform_guess:.0%}"
        )
    return lines


@dataclass(frozen=True, slots=True)
class _Question:
    """A question as the guessers see it; `order` is a checksum that splits by image."""

    type: str
    words: tuple[str, ...]
    features: frozenset[str]
    answer: str
    order: int


_YES = re.compile(r"^\s*(?:yes|yeah|yep|네|예|그렇습니다|맞습니다)\b", re.IGNORECASE)
_NO = re.compile(r"^\s*(?:no\b(?! \w+s\b)|아니)", re.IGNORECASE)
_NONE = re.compile(r"\b(?:no|none|zero|not any|cannot see any)\b|없|않")
_OR = re.compile(r"\bor\b|(?:인가|가)요,|[과와] |아니면|또는")  # between the two options of a choice
_ENDINGS = re.compile(r"(?<=[가-힣])(?:은|는|이|가|을|를|과|와|의|보다|인가요|입니다)$")


def _closed_questions(conversation: Conversation) -> Iterable[_Question]:
    order = zlib.crc32(conversation.image.rsplit("/", 1)[-1].encode())
    before: set[str] = set()
    previous = "-"
    for number, (text, reply) in enumerate(conversation.turns):
        question = text.replace("<image>", "").strip().split("\n")[0]
        kind = question_type(question)
        words = _words(question)
        answer = _short_answer(question, reply, kind, conversation.language)
        if kind is not None and answer:
            is_choice = answer in ("first", "second")
            kind = "which" if is_choice else kind if answer in ("yes", "no") or kind not in YES_NO else "what"
            known = before.intersection(words)
            features = {*words, *(f"{a} {b}" for a, b in pairwise(words))}
            features |= {f"turn {number}", f"after {previous}", *(f"again {word}" for word in known)}
            option = _OR.search(question.lower())
            middle = option.start() if option else len(question) // 2
            features |= {f"1 {word}" for word in re.findall(r"\w+", question.lower()[:middle])}
            yield _Question(kind, words, frozenset(features), answer, order)
        before.update(words)
        previous = answer or "text"


def _short_answer(question: str, reply: str, kind: str | None, language: str) -> str:
    """Return yes, no, a number, first or second, or the words of a short answer; "" for a long one."""
    text = reply.strip().lower()
    words = re.findall(r"\w+", text)
    if kind == "how_many" and len(words) <= MOST_WORDS_OF_SENTENCE:
        rules = grammar(language)
        numbers = [match.group() for match in rules.FIRST_NUMBER.finditer(text)]
        if len(numbers) == 1:
            return str(rules.number(numbers[0]))
        return "0" if not numbers and _NONE.search(text) else ""
    if _YES.search(text):
        return "yes"
    if _NO.search(text):
        return "no"
    lowered = question.lower()
    if kind == "which" and len(words) <= MOST_WORDS_OF_SENTENCE and (option := _OR.search(lowered)):
        second = re.findall(r"\w+", lowered[option.end() :])
        first = re.findall(r"\w+", lowered[: option.start()])[-len(second) :]  # without the words before the option
        sides = {"first": _forms(first), "second": _forms(second)}
        matches = [{side for side in sides if sides[side] & _forms([word])} for word in words]
        named = [side for match in matches if len(match) == 1 for side in match]
        if named:
            return named[0]
    is_sentence = text.endswith((".", "다", "요")) and len(words) > 1
    return "" if is_sentence or len(words) > MOST_WORDS else " ".join(words)


def _measure(kind: str, language: str, questions: Sequence[_Question]) -> GuessedAnswers:
    counts = Counter(question.answer for question in questions)
    answers = [answer for answer, _ in counts.most_common(MOST_ANSWERS)]
    index = {answer: number for number, answer in enumerate(answers)}
    truth = np.array([index.get(question.answer, len(answers)) for question in questions])
    folds = np.array([question.order % FOLDS for question in questions])
    right = {
        "label": _by_label(questions, truth, folds) == truth,
        "words": _by_words(questions, truth, folds) == truth,
    }
    guesser = max(right, key=lambda name: float(right[name].mean()))
    guessed = float(right[guesser].mean())
    is_binary = kind in (*YES_NO, PREFERENCE)
    frequent = sum(count >= RARE_ANSWER * len(questions) for count in counts.values())
    uniform_guess = 0.5 if is_binary else 1 / max(frequent, 1)
    _, images = np.unique([question.order for question in questions], return_inverse=True)
    surplus = np.bincount(images, weights=right[guesser] - guessed)  # answers about one image are not independent
    half = 1.96 * float((surplus**2).sum()) ** 0.5 / len(questions)
    interval = (round(max(0.0, guessed - half), 4), round(min(1.0, guessed + half), 4))
    above = interval[0] > uniform_guess + MARGINS[is_binary]
    return GuessedAnswers(
        kind, language, len(questions), round(uniform_guess, 4), round(guessed, 4), interval, guesser, above
    )


def _by_label(questions: Sequence[_Question], truth: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Guess the most frequent answer to the questions of the other folds that have the same rare words."""
    frequency = Counter(word for question in questions for word in set(question.words))
    common = {word for word, count in frequency.items() if count > COMMON_WORD * len(questions)}
    keys = [tuple(word for word in question.words if word not in common) for question in questions]
    by_fold: dict[object, Counter[tuple[int, int]]] = defaultdict(Counter)
    for key, answer, fold in zip(keys, truth.tolist(), folds.tolist(), strict=True):
        by_fold[key][fold, answer] += 1
        by_fold[None][fold, answer] += 1
    guesses: dict[tuple[object, int], int | None] = {}

    def guess(key: object, fold: int) -> int | None:
        if (key, fold) not in guesses:
            others = Counter[int]()
            for (of, answer), count in by_fold[key].items():
                others[answer] += count * (of != fold)
            best, count = max(others.items(), key=lambda item: (item[1], -item[0]))
            guesses[key, fold] = best if count else None
        return guesses[key, fold]

    guessed = ((guess(key, fold), guess(None, fold)) for key, fold in zip(keys, folds.tolist(), strict=True))
    return np.array([default if best is None else best for best, default in guessed], dtype=object)


def _by_words(questions: Sequence[_Question], truth: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Guess with naive Bayes over the presence of features, fitted to the other folds."""
    numbers: dict[str, int] = {}
    features = [[numbers.setdefault(name, len(numbers)) for name in sorted(q.features)] for q in questions]
    lengths = np.array([len(each) for each in features])
    flat = np.array([number for each in features for number in each])
    answers = int(truth.max()) + 1
    cells = flat * answers + np.repeat(truth, lengths)
    guessed = np.zeros(len(questions), np.int64)
    for fold in range(FOLDS):
        inside = folds == fold
        if not inside.any() or inside.all():
            continue
        of_answer = np.bincount(truth[~inside], minlength=answers) + 0.5
        counts = np.bincount(cells[~np.repeat(inside, lengths)], minlength=len(numbers) * answers)
        scores = np.log((counts.reshape(-1, answers) + 0.5) / (of_answer + 0.5)).astype(np.float32)
        starts = np.concatenate([[0], np.cumsum(lengths[inside])[:-1]])
        total = np.add.reduceat(scores[flat[np.repeat(inside, lengths)]], starts) + np.log(of_answer)
        guessed[inside] = total.argmax(axis=1)
    return guessed

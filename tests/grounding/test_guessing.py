"""The guesser without the image: it finds what labels, wordings and earlier turns give away, and nothing else."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vistune import grounding
from vistune.files import read_json
from vistune.grounding.guessing import Conversation, guessing_lines, measure_guessing, question_type

LABELS = ("dog", "cat", "bus", "kite", "bowl", "oven")
Turns = list[tuple[str, str]]


def conversations(write: Callable[[random.Random], Turns], language: str = "en") -> list[Conversation]:
    rng = random.Random(0)
    return [Conversation(f"{number}.jpg", language, write(rng)) for number in range(600)]


def fair(rng: random.Random) -> Turns:
    return [(f"Is there a {rng.choice(LABELS)}?", rng.choice(("yes", "no"))) for _ in range(2)]


def by_label(rng: random.Random) -> Turns:
    label = rng.choice(LABELS)
    return [(f"Is there a {label}?", "yes" if label in LABELS[:3] else "no")]


def by_wording(rng: random.Random) -> Turns:
    answer = rng.choice(("Yes, there is.", "No, there is not."))
    start = "Is there a" if answer[0] == "Y" else "Are there any signs of a"
    return [(f"{start} {rng.choice(LABELS)}?", answer)]


def by_turn_before(rng: random.Random) -> Turns:
    first = rng.choice(("yes", "no"))
    other = "no" if first == "yes" else "yes"
    return [(f"Is there a {rng.choice(LABELS)}?", first), (f"Is there a {rng.choice(LABELS)}?", other)]


def mostly_one(rng: random.Random) -> Turns:
    return [
        (f"How many {rng.choice(LABELS)}s are there?", rng.choice(("One.", "1", "one", "two", "There are 3 here.")))
    ]


def larger_of_two(rng: random.Random) -> Turns:
    a, b = rng.sample(LABELS, 2)
    return [(f"Which looks larger, the {a} or the {b}?", a if LABELS.index(a) > LABELS.index(b) else b)]


@pytest.mark.parametrize(
    ("write", "least"),
    [(by_label, 0.95), (by_wording, 0.95), (by_turn_before, 0.65), (mostly_one, 0.55), (larger_of_two, 0.8)],
)
def test_what_gives_an_answer_away_is_found(write: Callable[[random.Random], Turns], least: float) -> None:
    [result] = measure_guessing(conversations(write))
    assert result.guessed > least
    assert result.is_guessable
    assert result.interval[0] < result.guessed < result.interval[1] or result.guessed == 1
    [line] = guessing_lines([result])
    assert line.startswith("warning: ")
    assert "can be guessed without the image" in line


def test_fair_answers_are_not_guessed() -> None:
    [result] = measure_guessing(conversations(fair))
    assert abs(result.guessed - 0.5) < 0.06
    assert (result.uniform_guess, result.questions, result.is_guessable) == (0.5, 1200, False)
    assert "the easiest to guess" in guessing_lines([result])[0]


def test_images_are_not_split_over_the_folds() -> None:
    """The same answer about the same image, asked many times, is no guess."""
    rng = random.Random(0)
    repeated = []
    for number in range(200):
        answer = rng.choice(("yes", "no"))
        repeated += [Conversation(f"{number}.jpg", "en", [(f"Is there a thing{number}?", answer)])] * 5
    [result] = measure_guessing(repeated)
    assert result.guessed < 0.65
    assert result.interval[0] < 0.55
    assert not result.is_guessable


def test_korean_questions_are_measured() -> None:
    def write(rng: random.Random) -> Turns:
        label = rng.choice(("사슴", "개구리", "말"))
        particle = "가" if label == "개구리" else "이"
        return [(f"{label}{particle} 있나요?", "네" if label == "말" else "아니요, 없습니다.")]

    [result] = measure_guessing(conversations(write, "ko"))
    assert (result.type, result.language) == ("is_there", "ko")
    assert result.guessed > 0.95


def test_korean_choices_are_read_from_short_answers_and_sentences() -> None:
    """The words of a sentence that repeat the question name no option."""

    def write(rng: random.Random) -> Turns:
        first, second = rng.sample(("사슴", "개", "말", "고양이"), 2)
        answer = rng.choice((first, second))
        both = f"{first}{'과' if first in ('사슴', '말') else '와'} {second}"
        question = rng.choice(
            (f"{both} 가운데 어느 쪽이 더 크게 보이나요?", f"더 크게 보이는 쪽은 {first}인가요, {second}인가요?")
        )
        particle = "이" if answer in ("사슴", "말") else "가"
        return [(question, rng.choice((answer, f"{answer}{particle} 더 크게 보입니다.", f"{answer}입니다.")))]

    [result] = measure_guessing(conversations(write, "ko"))
    assert (result.type, result.questions, result.uniform_guess) == ("which", 600, 0.5)
    assert result.guessed < 0.55


def test_open_answers_and_small_groups_are_not_measured() -> None:
    long = "The man walks along the beach because he wants to look at the waves in the morning."
    assert measure_guessing(conversations(lambda rng: [("Why does the man walk?", long)])) == []
    assert measure_guessing(conversations(by_label)[:20]) == []
    assert guessing_lines([]) == []


@pytest.mark.parametrize("section", ["questions", "reasoning"])
def test_a_question_and_its_translation_have_the_same_type(section: str) -> None:
    english, korean = (
        read_json(Path(grounding.__file__).parent / language / "sentences.json")[section] for language in ("en", "ko")
    )

    def types(entry: Any, noun: str) -> set[str | None]:
        forms = entry["questions"] if section == "questions" else entry[:1]
        filled = (re.sub(r"\[[^/\]]*/([^\]]*)\]", r"\1", re.sub(r"\{\w+\}", noun, form)) for form in forms)
        return {question_type(form) for form in filled}

    asked = [kind for kind in english if section == "questions" or english[kind][0].endswith("?")]
    found = {kind: (types(english[kind], "apple"), types(korean[kind], "사과")) for kind in asked}
    assert {kind: sets for kind, sets in found.items() if sets[0] != sets[1]} == {}
    assert all(len(sets[0]) == 1 for kind, sets in found.items() if kind != "size"), "paraphrases have one type"


@pytest.mark.parametrize(
    ("english", "korean", "expected"),
    [
        ("Which colour is the dog?", "개는 무슨 색인가요?", "what"),
        ("What is on the table?", "탁자 위에는 무엇이 있나요?", "what"),
        ("Is it a cat or a dog?", "고양이인가요, 개인가요?", "which"),
        ("Which is larger, the cat or the dog?", "고양이와 개 가운데 어느 쪽이 더 큰가요?", "which"),
        ("What is the object in the middle?", "가운데에 있는 물체는 무엇인가요?", "what"),
        ("Who is running?", "누가 달리고 있나요?", "who"),
        ("Why is it wet?", "왜 젖어 있나요?", "why"),
        ("How is the weather?", "날씨는 어떠한가요?", "how"),
        ("Are there more dogs than cats?", "개가 고양이보다 더 많은가요?", "more_than"),
        ("Do you see fewer dogs than cats?", "고양이보다 개가 더 적나요?", "more_than"),
        ("Is the dog to the left of the cat?", "개는 고양이의 왼쪽에 있나요?", "yes_no"),
        ("Describe the picture.", "사진을 설명해 주세요.", "request"),
        ("If one dog left, how many would remain?", "개 한 마리가 떠나면 몇 마리가 남나요?", "how_many"),
    ],
)
def test_types_agree_between_the_languages(english: str, korean: str, expected: str) -> None:
    assert (question_type(english), question_type(korean)) == (expected, expected)


def test_a_number_in_a_comparison_is_not_another_object() -> None:
    assert question_type("Are there more than two dogs?") == "is_there"

"""Every parse rule on 20,000 replies: no exception, the same result twice, nothing evaluated, linear time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hostile import ENDLESS, REPLIES
from hypothesis import given, settings

from vistune.evaluation.judge import read_verdict
from vistune.evaluation.parsing import (
    evalai_form,
    first_character,
    lenient_letter,
    letter_in,
    matched,
    one_line,
    option_in,
    vqa_form,
    yes_or_no,
)
from vistune.evaluation.tasks.judged import read_grade, read_pair, read_two_numbers
from vistune.evaluation.tasks.korean import is_korean, read_score

OPTIONS = {"A": "고양이", "B": "the dog", "C": "", "D": "1,000"}
PARSERS: dict[str, tuple[Callable[[str], object], Callable[[object], bool]]] = {
    "letter": (lambda reply: letter_in(reply, OPTIONS), lambda said: said is None or said in "ABCDZ"),
    "option": (lambda reply: option_in(reply, OPTIONS), lambda said: said is None or said in OPTIONS),
    "matched": (lambda reply: matched(reply, OPTIONS), lambda said: said is None or said in "ABCDZ"),
    "choice": (lambda reply: lenient_letter(reply, OPTIONS), lambda said: said is None or said in "ABCDZ"),
    "first character": (first_character, lambda said: said is None or "A" <= str(said) <= "Z"),
    "yes or no": (yes_or_no, lambda said: said in ("yes", "no", None)),
    "koffvqa": (read_score, lambda said: isinstance(said, int) and 0 <= said <= 10),
    "mmvet": (read_grade, lambda said: said is None or 0 <= float(str(said)) <= 1),
    "llava-bench": (read_pair, lambda said: said is None or len(said) == 2),  # type: ignore[arg-type]
    "two numbers": (read_two_numbers, lambda said: said is None or len(said) == 2),  # type: ignore[arg-type]
    "verdict": (read_verdict, lambda said: said in (0.0, 1.0, None)),
    "vqa": (lambda reply: vqa_form(one_line(reply)), lambda said: isinstance(said, str)),
    "evalai": (evalai_form, lambda said: isinstance(said, str)),
}


def read_all(replies: list[str]) -> None:
    for name, (parse, fits) in PARSERS.items():
        for reply in replies:
            said = parse(reply)
            assert fits(said), f"{name} reads {said!r} in {reply!r}"
            assert said == parse(reply)


@settings(max_examples=20, deadline=None)
@given(replies=REPLIES)
def test_any_reply_can_be_read(replies: list[str]) -> None:
    read_all(replies)


@pytest.mark.soak
@settings(max_examples=200, deadline=None)
@given(replies=REPLIES)
def test_any_of_20_000_replies_can_be_read(replies: list[str]) -> None:
    read_all(replies)
    assert all(isinstance(is_korean(reply), bool) for reply in replies)


@pytest.mark.parametrize("name", PARSERS)
def test_a_long_reply_is_read_in_linear_time(name: str) -> None:
    """A parser that backtracks would not come back within the suite's patience."""
    parse, fits = PARSERS[name]
    for piece in ENDLESS:
        assert fits(parse(piece * (200_000 // len(piece))))

"""Every text that a user reads exists in Korean: errors and hints, printed lines, notes, tables, progress, chat."""

from __future__ import annotations

import re

import pytest
from user_texts import UserText, user_texts

from vistune.cli.plan_tables import PARTS
from vistune.cli.progress import EVENT_VALUES, GREY_LOSS, VALUES
from vistune.interop import verify_stages as stages
from vistune.serving.chat import COMMANDS
from vistune.translations import PLACEHOLDER, korean_texts, translate

ENGLISH = re.compile(r"(?<![\w`'\"./-])(?:[a-z]{2,} ){3,}[a-z]{2,}")  # a phrase of four words or more
FIRST_VALUE = 101  # the values of templates are numbers, which no text contains


def filled(text: str) -> tuple[str, list[str]]:
    """Return a template with a number for each value, and the numbers."""
    numbers = iter(range(FIRST_VALUE, FIRST_VALUE + 100))
    shown = PLACEHOLDER.sub(lambda _: str(next(numbers)), text)
    return shown, [str(number) for number in range(FIRST_VALUE, next(numbers))]


def fault_of(text: UserText) -> str | None:
    """Return what is wrong with the Korean form of a text."""
    shown, values = filled(text.text)
    korean = translate(shown)
    if korean is None or not re.search("[가-힣]", korean):
        return f"{text.place}: {text.text!r} has no Korean text"
    if english := ENGLISH.search(korean):
        return f"{text.place}: {text.text!r} keeps English words: {english.group()!r}"
    lost = [value for value in values if value not in korean]
    return f"{text.place}: {text.text!r} loses a value: {korean!r}" if lost else None


def test_every_text_of_the_source_has_a_korean_one() -> None:
    faults = [fault for text in user_texts() if (fault := fault_of(text))]
    assert not faults, "write them into src/vistune/ko.json:\n" + "\n".join(faults)


def test_the_walk_finds_the_texts() -> None:
    """So that the test above does not pass because it finds nothing."""
    texts = {text.text for text in user_texts()}
    assert len(texts) > 1200
    assert "train needs a run folder" in texts
    assert "steps unknown (give --samples)" in {part for text in texts for part in text.split("; ")}


def test_the_words_in_tables_are_korean() -> None:
    """Progress and tables take these words from constants, which the walk does not see."""
    statuses = (stages.EQUAL, stages.DIFFERS, stages.KNOWN, stages.UNSEEN, stages.NOT_JUDGED)
    words = (*PARTS, *VALUES.values(), *EVENT_VALUES.values(), GREY_LOSS, *statuses)
    assert [word for word in words if word not in korean_texts()] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_chat_has_its_korean_help(name: str) -> None:
    assert COMMANDS[name].about in korean_texts()


def test_a_translation_has_the_values_of_its_key() -> None:
    for key, korean in korean_texts().items():
        assert set(PLACEHOLDER.findall(key)) == set(PLACEHOLDER.findall(korean)), key

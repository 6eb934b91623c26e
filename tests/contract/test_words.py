"""Test that the words to avoid become fewer, and that the check prints where a new one is and what to write."""

from __future__ import annotations

import json
from pathlib import Path

import check_words
import pytest

WORDS = check_words.read_words()


def hits(tmp_path: Path, text: str) -> list[check_words.Hit]:
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    return check_words.find_hits(WORDS, [page], tmp_path)


def test_no_word_to_avoid_becomes_more_frequent() -> None:
    allowed = json.loads(check_words.ALLOWED.read_text(encoding="utf-8"))
    found = check_words.faults(WORDS, check_words.find_hits(WORDS, check_words.checked_files()), allowed)
    assert not found, "\n".join(found)


def test_a_new_use_is_named_with_its_line_and_a_replacement(tmp_path: Path) -> None:
    (fault, use) = check_words.faults(WORDS, hits(tmp_path, "An image.\nThe picture_size.\n"), {})
    assert "'picture' is used 1 times, 0 are allowed" in fault
    assert use.startswith("page.md:2: 'picture', write: image")


def test_a_recorded_count_that_is_too_high_is_an_error(tmp_path: Path) -> None:
    (fault,) = check_words.faults(WORDS, hits(tmp_path, "A picture.\n"), {"picture": 2})
    assert "run `make words`" in fault


def test_recording_lowers_counts_and_never_raises_them() -> None:
    counts = {"picture": 5, "told": 2, "beside": 3}
    assert check_words.lowered(counts, {"picture": 4, "told": 7, "gone": 1}) == {"beside": 3, "picture": 4, "told": 2}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Rows that are learnt.", "learnt"),
        ('"""What a stage costs."""', "what-clause"),
        ("It stands in the ids.", "stand"),
        ("The list beside it.", "beside"),
        ("The run goes on.", "go-on"),
        ("None where there is no file.", "where-if"),
        ("A path that is no folder.", "is-no"),
        ("It reads 4 rows a step.", "a-for-per"),
        ("Of its last stage, the checkpoint.", "fronted-of"),
        ("one · two · three", "dots"),
        ("for found in rows:", "variable-names"),
    ],
)
def test_a_sentence_that_needs_a_second_reading_is_found(tmp_path: Path, text: str, name: str) -> None:
    assert name in {hit.word.name for hit in hits(tmp_path, text)}


@pytest.mark.parametrize(
    "text",
    [
        "What is packing?",
        "There is no file.",
        "The multiple choice task.",
        "in place",
        "random.choice(rows)",
        "path.stem",
    ],
)
def test_a_plain_sentence_is_not_flagged(tmp_path: Path, text: str) -> None:
    assert hits(tmp_path, text) == []

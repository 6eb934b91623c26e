"""Preference pairs in every public form, and one line for each pair that is wrong."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vistune.records import ImageFolders, RecordError, read_sample
from vistune.types import Sample

ASK = "<image>\nWhat?"
USER = {"role": "user", "content": ASK}
PARTS = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}
FORMS: dict[str, dict[str, Any]] = {
    "generate": {"conversations": [{"from": "human", "value": ASK}], "chosen": "A.", "rejected": "B."},
    "LLaMA-Factory": {
        "conversations": [{"from": "human", "value": ASK}],
        "chosen": {"from": "gpt", "value": "A."},
        "rejected": {"from": "gpt", "value": "B."},
    },
    "messages": {
        "messages": [PARTS],
        "chosen": {"role": "assistant", "content": "A."},
        "rejected": {"role": "assistant", "content": [{"type": "text", "text": "B."}]},
    },
    "TRL": {
        "prompt": [PARTS],
        "chosen": [{"role": "assistant", "content": "A."}],
        "rejected": [{"role": "assistant", "content": "B."}],
    },
    "TRL, implicit prompt": {
        "chosen": [USER, {"role": "assistant", "content": "A."}],
        "rejected": [USER, {"role": "assistant", "content": "B."}],
    },
    "RLAIF-V": {"question": "What?", "chosen": "A.", "rejected": "B."},
    "ms-swift": {"messages": [USER, {"role": "assistant", "content": "A."}], "rejected_response": "B."},
    "VLFeedback": {
        "prompt": "What?",
        "completions": [
            {"model": "x", "response": "B.", "annotations": {"Help": {"Rating": "1"}, "Safety": {"Rating": "N/A"}}},
            {"model": "y", "response": "C.", "annotations": {"Helpfulness": {"Rating": "3"}}},
            {"model": "z", "response": "A.", "annotations": {"Helpfulness": {"Rating": "5"}}},
        ],
    },
    "VLFeedback, parquet": {
        "prompt": "What?",
        "completions": {
            "response": ["A.", "B."],
            "annotations": [{"Helpfulness": {"Rating": "4"}}, {"Helpfulness": {"Rating": "2"}}],
        },
    },
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "p.jpg")
    return tmp_path


def read(folder: Path, record: dict[str, Any], unread: Counter[str] | None = None) -> Sample:
    return read_sample(record, "data.jsonl:1", ImageFolders([folder]), Counter(), unread)


@pytest.mark.parametrize("name", FORMS)
def test_a_pair_of_every_form_is_read(folder: Path, name: str) -> None:
    unread = Counter[str]()
    sample = read(folder, {"id": "1", "image": "p.jpg", **FORMS[name]}, unread)
    assert [(message.role, message.text) for message in sample.messages] == [("user", "What?"), ("assistant", "A.")]
    assert sample.rejected is not None
    assert (sample.rejected.role, sample.rejected.text) == ("assistant", "B.")
    assert (len(sample.images), sample.kind) == (1, "preference")
    assert not unread


def test_turns_before_the_answers_and_fields_that_are_not_read(folder: Path) -> None:
    turns = [{"role": "system", "content": "S"}, USER, {"role": "assistant", "content": "1"}]
    turns.append({"role": "user", "content": "And?"})
    unread = Counter[str]()
    record = {"id": "1", "images": ["p.jpg"], "messages": turns, "chosen": "A.", "rejected": "B.", "kind": "own"}
    sample = read(folder, {**record, "margin": 2}, unread)
    assert [message.text for message in sample.messages] == ["S", "What?", "1", "And?", "A."]
    assert sample.kind == "own"
    assert unread == {"margin": 1}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"rejected": "A. "}, "rejected: equals the chosen answer"),
        ({"chosen": None}, "chosen: a pair has `rejected` but no `chosen`"),
        ({"rejected": " "}, "rejected: an empty answer"),
        ({"image": None}, "a preference pair without an image"),
        ({"conversations": None}, "a pair without a prompt"),
        ({"rejected": 7}, "rejected: expected text, got 7"),
        ({"rejected": "<image> B."}, "rejected: an image in an answer"),
        ({"rejected": {"from": "human", "value": "B."}}, "rejected: expected a turn of the assistant"),
        ({"rejected_images": ["q.jpg"]}, "rejected_images: both sides of a pair need the same prompt and images"),
        (
            {"conversations": [{"from": "human", "value": ASK}, {"from": "gpt", "value": "C."}]},
            "the conversation ends with an answer although `chosen` is given",
        ),
        (
            {"chosen": FORMS["TRL, implicit prompt"]["chosen"], "rejected": FORMS["TRL"]["rejected"]},
            "rejected: has another prompt than `chosen`",
        ),
    ],
)  # fmt: skip
def test_a_wrong_pair_is_refused_in_one_line(folder: Path, change: dict[str, Any], problem: str) -> None:
    with pytest.raises(RecordError) as caught:
        read(folder, {"id": "1", "image": "p.jpg", **FORMS["generate"], **change})
    assert problem in caught.value.message
    assert caught.value.message.startswith("data.jsonl:1")
    assert "\n" not in str(caught.value)


def test_answers_with_equal_ratings_make_no_pair(folder: Path) -> None:
    record: dict[str, Any] = {"id": "1", "image": "p.jpg", **FORMS["VLFeedback"]}
    record["completions"] = record["completions"][:1] * 2
    with pytest.raises(RecordError, match="2 answers have no different ratings"):
        read(folder, record)

"""POPE's files as other projects write them: other ids, and questions with an instruction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vistune.errors import DataError
from vistune.evaluation import TASKS, ScoreResult, score
from vistune.evaluation.tasks.pope import bare_question
from vistune.files import write_json, write_jsonl

SPLITS = ("adversarial", "random", "popular")
THINGS = ("cat", "dog", "snowboard")
LABELS = ("yes", "no", "yes")


def question(thing: str) -> str:
    return f"Is there a {thing} in the image?"


def labels(folder: Path, first: dict[str, int], text: str = "{}", label: str = "{}") -> list[dict[str, Any]]:
    """Three label files; their rows with the split of each."""
    folder.mkdir(exist_ok=True)
    found = []
    for split in SPLITS:
        rows = [
            {"question_id": first[split] + k, "image": f"{split}.jpg", "text": text.format(question(thing)),
             "label": label.format(LABELS[k])}
            for k, thing in enumerate(THINGS)
        ]  # fmt: skip
        write_jsonl(folder / f"coco_pope_{split}.json", rows)
        found += [{**row, "category": split} for row in rows]
    return found


def scored(folder: Path, said: list[dict[str, Any]], name: str = "said.jsonl") -> ScoreResult:
    if name.endswith(".json"):
        write_json(folder / name, {str(row["question_id"]): row["text"] for row in said})
    else:
        write_jsonl(folder / name, said)
    return score("pope", TASKS["pope"](folder), folder / name)


def right(rows: list[dict[str, Any]], **fields: Any) -> list[dict[str, Any]]:
    return [{"question_id": row["question_id"], "text": str(row["label"]).strip(), **fields} for row in rows]


SPLIT_BY_10000 = {"adversarial": 10001, "random": 20001, "popular": 30001}
AGAIN = dict.fromkeys(SPLITS, 1)


@pytest.mark.parametrize("name", ["said.jsonl", "said.json"])
@pytest.mark.parametrize("first", [SPLIT_BY_10000, {"random": 1, "popular": 4, "adversarial": 7}])
def test_ids_that_are_unique_over_the_splits_are_taken(tmp_path: Path, first: dict[str, int], name: str) -> None:
    rows = labels(tmp_path, first)
    found = scored(tmp_path, right(rows), name).scored
    assert (found.metrics["mean_f1"], found.missing, found.count) == (100, 0, 9)
    said = right(rows)
    said[3]["text"] = "no"  # the first of random
    assert scored(tmp_path, said, name).scored.metrics["random_recall"] == 50
    with pytest.raises(DataError, match="'99' is not in the data"):
        scored(tmp_path, [*said, {"question_id": 99, "text": "yes"}])


def test_ids_that_each_split_counts_anew_need_the_split(tmp_path: Path) -> None:
    rows = labels(tmp_path, AGAIN)
    with pytest.raises(DataError, match=r"said\.jsonl:1:question_id: '1' is a question of each of .*add `category`"):
        scored(tmp_path, right(rows))
    for field in ("category", "split"):
        said = [{**line, field: row["category"]} for line, row in zip(right(rows), rows, strict=True)]
        found = scored(tmp_path, said).scored
        assert (found.metrics["mean_f1"], found.missing) == (100, 0)
    shifted = {"adversarial": 0, "random": 10_000_000, "popular": 20_000_000}
    said = [{**line, "question_id": shifted[row["category"]] + row["question_id"]} for line, row in
            zip(right(rows), rows, strict=True)]  # fmt: skip
    assert scored(tmp_path, said).scored.metrics["mean_f1"] == 100


def test_an_id_that_is_in_one_split_alone_or_a_prompt_tells_the_split(tmp_path: Path) -> None:
    labels(tmp_path, AGAIN)
    extra = {"question_id": 4, "image": "x.jpg", "text": question("kite"), "label": "yes"}
    path = tmp_path / "coco_pope_popular.json"
    path.write_text(path.read_text() + json.dumps(extra) + "\n")
    assert scored(tmp_path, [{"question_id": 4, "text": "yes"}]).scored.missing == 9
    changed = [json.loads(line) for line in path.read_text().splitlines()]
    changed[0]["text"] = question("zebra")
    write_jsonl(path, changed)
    prompt = f"{question('zebra')}\\nAnswer the question using a single word or phrase."
    assert scored(tmp_path, [{"question_id": 1, "text": "yes", "prompt": prompt}]).scored.metrics["popular_recall"] > 0
    with pytest.raises(DataError, match="'2' is a question of each"):
        scored(tmp_path, [{"question_id": 2, "text": "yes", "prompt": question("dog")}])


SUFFIXES = (
    "\nAnswer the question using a single word or phrase.",
    "\\nAnswer the question using a single word or phrase.",
    "\\r\\nAnswer the question using a single word or phrase.",
    " Please answer yes or no.",
    "\r\nPlease answer yes or no.",
    "  ",
    "\n",
    "\nAnswer in one word.\n",
)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("before", ["", "<image>\n", " "])
def test_questions_are_compared_without_what_is_written_around_them(tmp_path: Path, before: str, suffix: str) -> None:
    rows = labels(tmp_path, SPLIT_BY_10000)
    asked = [
        {**row, "question_id": k, "image": f"val2014/{row['image']}", "text": f"{before}{row['text']}{suffix}"}
        for k, row in enumerate(rows)
    ]
    write_jsonl(tmp_path / "llava_pope_test.jsonl", asked)
    said = [{**line, "prompt": row["text"]} for line, row in zip(right(asked), asked, strict=True)]
    found = scored(tmp_path, said).scored
    assert (found.metrics["mean_f1"], found.missing) == (100, 0)
    prompts = {q.sample.messages[0].text for q in TASKS["pope"](tmp_path).questions()}
    assert prompts == {f"{question(t)}\nAnswer the question using a single word or phrase." for t in THINGS}
    labels(tmp_path / "alone", SPLIT_BY_10000, f"{before}{{}}{suffix}")
    prompts = {q.sample.messages[0].text for q in TASKS["pope"](tmp_path / "alone").questions()}
    assert prompts == {f"{question(t)}\nAnswer the question using a single word or phrase." for t in THINGS}


@given(st.sampled_from(THINGS), st.sampled_from(SUFFIXES), st.sampled_from(SUFFIXES))
def test_the_bare_question_is_the_same_however_it_is_written(thing: str, first: str, second: str) -> None:
    assert bare_question(question(thing) + first + second) == question(thing)
    assert bare_question(bare_question(question(thing) + first)) == question(thing)


def test_labels_in_capitals_are_the_same_and_others_are_refused(tmp_path: Path) -> None:
    rows = labels(tmp_path, SPLIT_BY_10000)
    for split in SPLITS:
        path = tmp_path / f"coco_pope_{split}.json"
        path.write_text(path.read_text().replace('"yes"', '"Yes"').replace('"no"', '"NO "'))
    assert scored(tmp_path, right(rows)).scored.metrics["mean_f1"] == 100
    labels(tmp_path, SPLIT_BY_10000, label="{}!")
    with pytest.raises(DataError, match=r"coco_pope_adversarial\.json:1:label: 'yes!'"):
        scored(tmp_path, right(rows))


def test_a_question_about_something_else_is_refused_all_the_same(tmp_path: Path) -> None:
    rows = labels(tmp_path, SPLIT_BY_10000)
    with pytest.raises(DataError, match="differs from that of question '10001' in the data"):
        scored(tmp_path, right(rows, prompt=question("car")))

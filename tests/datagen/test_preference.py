"""`generate --kinds preference`: pairs with their claims, which `check` compares with the boxes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from vistune.cli.app import app
from vistune.data import all_samples, check
from vistune.errors import RecipeError
from vistune.recipe import DataSource


def split_of(folder: Path) -> str:
    return sorted(path.stem for path in (folder / "annotations").glob("instances_*"))[0].removeprefix("instances_")


@pytest.fixture(scope="module")
def pairs(coco_mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pairs") / "out"
    options = ["--out", str(out), "--kinds", "preference", "--language", "en,ko", "--split", split_of(coco_mini)]
    done = CliRunner().invoke(app, ["generate", str(coco_mini), *options])
    if done.exception is not None:
        raise done.exception
    return out


def records(folder: Path) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads((folder / "samples.json").read_text(encoding="utf-8"))
    return listed


def test_both_files_have_the_same_pairs(pairs: Path) -> None:
    rows = records(pairs)
    assert {row["language"] for row in rows} == {"en", "ko"}
    for row in rows:
        assert [turn["from"] for turn in row["conversations"]] == ["human"]
        assert row["chosen"] != row["rejected"]
        assert set(row["claim"]) == {"aspect", "form", "about", "chosen", "rejected"}
    for name in ("samples.json", "messages.jsonl"):
        samples = all_samples(DataSource(file=pairs / name))
        assert [(each.messages[-1].text, each.rejected and each.rejected.text) for each in samples] == [
            (row["chosen"], row["rejected"]) for row in rows
        ]


def test_check_finds_nothing_wrong_with_them(pairs: Path) -> None:
    report = check([DataSource(file=pairs)], None)
    assert (report.faults, report.notes) == ([], [])
    assert report.kinds == {"preference": len(records(pairs))}
    assert all(result.guessed < 0.6 for result in report.guessing)


Change = Callable[[dict[str, Any]], dict[str, Any]]


def _swap_texts(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "chosen": row["rejected"], "rejected": row["chosen"]}


def _swap_claim(row: dict[str, Any]) -> dict[str, Any]:
    claim = row["claim"]
    return {**row, "claim": {**claim, "chosen": claim["rejected"], "rejected": claim["chosen"]}}


@pytest.mark.parametrize(
    ("change", "reason", "problem"),
    [
        (_swap_texts, "bad_rejected", "swapped: "),
        (_swap_claim, "bad_claim", "swapped: the boxes support the rejected answer"),
        (lambda row: {**row, "claim": {**row["claim"], "chosen": "77"}}, "bad_claim", "not '77'"),
        (lambda row: {**row, "claim": "yes"}, "bad_claim", "expected an object with aspect, form, about"),
        (lambda row: {**row, "rejected": row["chosen"]}, "bad_rejected", "equals the chosen answer"),
        (lambda row: {**row, "image": None}, "bad_image", "a preference pair without an image"),
    ],
)
def test_a_pair_that_is_wrong_is_one_fault(
    pairs: Path, tmp_path: Path, change: Change, reason: str, problem: str
) -> None:
    row = next(row for row in records(pairs) if row["claim"]["aspect"] == "count")
    (tmp_path / "pictures.jsonl").write_bytes((pairs / "pictures.jsonl").read_bytes())
    (tmp_path / "mine.json").write_text(json.dumps([change(row)]), encoding="utf-8")
    report = check([DataSource(file=tmp_path / "mine.json")], None, images=False)
    [fault] = report.faults
    assert (fault.reason, fault.origin) == (reason, f"{tmp_path / 'mine.json'}:1")
    assert problem in fault.detail


ODD: list[Any] = [5, "fr", [], ["x"], [5], {"a": 1}, True]


@pytest.mark.parametrize("name", ["language", "images", "claim", "aspect", "form", "about", "chosen", "rejected"])
def test_values_of_other_types_are_faults_of_their_record(pairs: Path, tmp_path: Path, name: str) -> None:
    row = next(row for row in records(pairs) if row["claim"]["aspect"] == "count")
    (tmp_path / "pictures.jsonl").write_bytes((pairs / "pictures.jsonl").read_bytes())
    for boxes in (True, False):
        for value in ODD:
            changed = {**row, "claim": {**row["claim"], name: value}} if name in row["claim"] else {**row, name: value}
            if name == "images":
                del changed["image"]
            (tmp_path / "mine.json").write_text(json.dumps([changed]), encoding="utf-8")
            report = check([DataSource(file=tmp_path / "mine.json")], None, images=False)
            assert report.rows == 1
            has_type = value in ([], ["x"]) if name == "about" else value == "fr"
            if name in row["claim"] and boxes and not has_type:
                assert [fault.reason for fault in report.faults] == ["bad_claim"]
        (tmp_path / "pictures.jsonl").unlink(missing_ok=True)


@pytest.mark.parametrize(
    "change",
    [{"image": 5}, {"captions": [5]}, {"crowds": [{}]}, {"label": None}, {"x0": "a"}, {"attributes": [1]},
     {"attributes": {"color": 5}}],
)  # fmt: skip
def test_boxes_of_another_form_are_a_fault_of_the_file(pairs: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    [name] = change
    row = records(pairs)[0]
    lines = [json.loads(line) for line in (pairs / "pictures.jsonl").read_text(encoding="utf-8").splitlines()]
    line = next(line for line in lines if line["boxes"])
    changed = {**line, **change} if name in ("image", "captions", "crowds") else {
        **line, "boxes": [{**line["boxes"][0], **change}]
    }  # fmt: skip
    (tmp_path / "pictures.jsonl").write_text(json.dumps(changed) + "\n", encoding="utf-8")
    (tmp_path / "mine.json").write_text(json.dumps([row]), encoding="utf-8")
    [fault] = check([DataSource(file=tmp_path / "mine.json")], None, images=False).faults
    assert (fault.reason, "pictures.jsonl:1: no boxes of an image (unexpected value" in fault.detail) == (
        "bad_file",
        True,
    )


def test_an_answer_about_an_object_without_a_box_is_found_in_other_pairs(pairs: Path, tmp_path: Path) -> None:
    row = next(row for row in records(pairs) if row["claim"]["aspect"] == "count" and row["language"] == "en")
    (tmp_path / "pictures.jsonl").write_bytes((pairs / "pictures.jsonl").read_bytes())
    del row["claim"]
    row |= {"chosen": "There are twelve zebras and a toaster.", "rejected": "It is empty."}
    (tmp_path / "mine.json").write_text(json.dumps([row]), encoding="utf-8")
    [fault] = check([DataSource(file=tmp_path / "mine.json")], None, images=False).faults
    assert "the boxes contradict the chosen answer (" in fault.detail


def test_claims_without_boxes_are_noted_once(pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps(records(pairs)[:3]), encoding="utf-8")
    report = check([DataSource(file=tmp_path / "mine.json")], None, images=False)
    assert [note.reason for note in report.notes] == ["claim_unchecked"]


def test_a_model_does_not_write_pairs(coco_mini: Path, tmp_path: Path) -> None:
    options = [
        "--split",
        split_of(coco_mini),
        "--out",
        str(tmp_path / "out"),
        "--kinds",
        "preference",
        "--teacher",
        "openai",
        "--model",
        "m",
    ]
    done = CliRunner().invoke(app, ["generate", str(coco_mini), "--limit", "2", *options])
    assert isinstance(done.exception, RecipeError)
    assert "preference pairs are written from boxes by rules" in str(done.exception)

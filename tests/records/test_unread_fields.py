"""No field of a record is dropped without a word: wherever it is added, it is read, refused by name, or reported."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from vistune.cli.app import app
from vistune.data import check
from vistune.data.stages import plan_stages
from vistune.model import read_spec
from vistune.processor import Processor, load_tokenizer
from vistune.progress import no_progress
from vistune.recipe import DataSource, Model, load_recipe
from vistune.records import ImageFolders, RecordError, lines_of, read_sample, unread_fields
from vistune.records.conversations import EVERY_FORM, PART_FIELDS, SUPERVISION, TURN_FIELDS
from vistune.types import ImageRef, Sample

RECORDS: tuple[dict[str, Any], ...] = (
    {"id": "1", "image": "a.png", "kind": "detail", "conversations": [
        {"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "A."}]},
    {"id": "2", "images": [{"path": "a.png"}], "messages": [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]},
        {"role": "assistant", "content": "A."}]},
    {"id": "3", "messages": [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}, {"type": "text", "text": "?"}
        ]},
        {"role": "assistant", "content": [{"type": "text", "text": "A."}]}]},
    {"id": "4", "images": ["a.png"], "texts": [{"user": "?", "assistant": "A."}]},
)  # fmt: skip
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.text(max_size=8), st.lists(st.text(max_size=3), max_size=2),
    st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
)  # fmt: skip


def objects(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object in a record, itself first, with its path as unread fields are named."""
    if isinstance(value, dict):
        yield path, value
        for name, inner in value.items():
            yield from objects(inner, f"{path}{name}{'[]' if isinstance(inner, list) else ''}.")
    elif isinstance(value, list):
        for inner in value:
            yield from objects(inner, path)


def content(sample: Sample) -> Any:
    return [
        (m.role, m.supervised, ["image" if isinstance(p, ImageRef) else p for p in m.parts]) for m in sample.messages
    ], (sample.id, sample.kind)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    return folder


def test_the_records_themselves_have_no_unread_field(folder: Path) -> None:
    for record in RECORDS:
        unread: Counter[str] = Counter()
        read_sample(record, "x:1", ImageFolders([folder]), Counter(), unread)
        assert not unread


@settings(max_examples=400)
@given(st.sampled_from(RECORDS), st.integers(0, 20), st.text(min_size=1, max_size=12), VALUES)
def test_a_field_added_anywhere_is_used_refused_or_reported(
    folder: Path, record: dict[str, Any], where: int, name: str, value: Any
) -> None:
    changed = deepcopy(record)
    places = list(objects(changed))
    path, place = places[where % len(places)]
    if name in place:
        return
    place[name] = value
    images = ImageFolders([folder])
    unread: Counter[str] = Counter()
    try:
        sample = read_sample(changed, "x:1", images, Counter(), unread)
    except RecordError:
        return
    is_reported = f"{path}{name}" in unread
    is_used = content(sample) != content(read_sample(record, "x:1", images, Counter()))
    is_known = name in EVERY_FORM | TURN_FIELDS | PART_FIELDS
    is_empty = is_known and value in (None, "", [], {})  # such as `videos: []`
    is_turn = not {"from", "role"}.isdisjoint(place)
    says_the_usual = (name in SUPERVISION and is_turn) or (name == "detail" and "url" in place)
    is_used = is_used or says_the_usual or (name == "language" and place is changed)
    assert is_reported or is_used or is_empty


KNOWN = (
    "image",
    "images",
    "system",
    "videos",
    "audio",
    "image_path",
    "loss",
    "weight",
    "role",
    "content",
    "bytes",
    "index",
)


@settings(max_examples=300)
@given(st.sampled_from(RECORDS), st.integers(0, 20), st.sampled_from(KNOWN), st.text(min_size=1, max_size=6))
def test_a_known_field_in_an_unusual_place_is_used_refused_or_reported(
    folder: Path, record: dict[str, Any], where: int, name: str, value: str
) -> None:
    test_a_field_added_anywhere_is_used_refused_or_reported.hypothesis.inner_test(folder, record, where, name, value)  # type: ignore[attr-defined]


def test_each_field_is_named_once_with_its_count_and_the_nearest_known_name() -> None:
    fields = unread_fields("d.jsonl", {"imge": 3, "messages[].score": 1200, "difficulty": 1}, ["image", "id"])
    assert lines_of(fields) == [
        'd.jsonl: field "messages[].score" is not read: 1,200 times',
        'd.jsonl: field "imge" is not read: 3 records (did you mean `image`?)',
        'd.jsonl: field "difficulty" is not read: 1 record',
    ]
    many = lines_of(unread_fields("d.jsonl", {f"field{k}": 1 for k in range(50)}))
    assert len(many) == 21
    assert many[-1] == "d.jsonl: 30 more fields are not read; --json names them all"


@pytest.fixture
def data(folder: Path, tmp_path: Path) -> Path:
    (tmp_path / "a.png").write_bytes((folder / "a.png").read_bytes())
    records = [{**RECORDS[0], "id": str(k), "difficulty": k} for k in range(4)]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_check_prints_the_account_and_strict_makes_it_an_error(data: Path) -> None:
    run = CliRunner().invoke
    plain = run(app, ["check", str(data)])
    assert plain.exit_code == 0
    assert f'{data}: field "difficulty" is not read: 4 records' in plain.output
    found = json.loads(run(app, ["check", str(data), "--json"]).stdout)
    assert found["unread_fields"] == [{"file": str(data), "field": "difficulty", "count": 4, "near": ""}]
    strict = run(app, ["check", str(data), "--strict"])
    assert strict.exit_code != 0
    assert '"difficulty" is not read' in str(strict.exception)


def test_training_says_which_fields_it_does_not_read(data: Path, tiny_backbones: Path) -> None:
    model = Model(vision=str(tiny_backbones / "vision"), language=str(tiny_backbones / "language"))
    processor = Processor(load_tokenizer(tiny_backbones / "language"), read_spec(model))
    recipe = load_recipe("quickstart", [f"data={data}", "stages.align.kinds=null", "stages.tune.kinds=null"])
    for _ in range(2):  # the second time from the index that was kept
        planned, _ = plan_stages(recipe, processor, no_progress)
        assert {remark for item in planned for remark in item.remarks} == {
            f'{data}: field "difficulty" is not read: 4 records'
        }


def test_large_files_count_over_all_processes(data: Path, tiny_backbones: Path) -> None:
    model = Model(vision=str(tiny_backbones / "vision"), language=str(tiny_backbones / "language"))
    processor = Processor(load_tokenizer(tiny_backbones / "language"), read_spec(model))
    record = {**RECORDS[0], "difficulty": "x" * 2000}
    data.write_text("".join(json.dumps({**record, "id": k}) + "\n" for k in range(1200)), encoding="utf-8")
    assert data.stat().st_size > 2 << 20  # large enough for several processes
    [field] = check([DataSource(file=data)], processor, images=False).unread_fields
    assert (field.field, field.count) == ("difficulty", 1200)


def test_show_names_unread_fields_on_stderr(data: Path) -> None:
    done = CliRunner().invoke(app, ["show", str(data), "--json"])
    assert len(json.loads(done.stdout)) == 4
    assert '"difficulty" is not read: 4 records' in done.stderr

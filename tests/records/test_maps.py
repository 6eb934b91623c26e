"""JSON objects of records by id, and the lines of a list without its brackets."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from vistune.errors import DataError
from vistune.records import RecordError, read_records

FIELDS = ("question_id", "text")


def read(path: Path, content: str, unread: Counter[str] | None = None) -> list[tuple[str, object]]:
    path.write_text(content, encoding="utf-8")
    found = read_records(path, own_fields=FIELDS, by_id=FIELDS, unread=unread)
    return [(record.location.removeprefix(f"{path}:"), record.value) for record in found]


@pytest.mark.parametrize("name", ["said.json", "said.jsonl"])
def test_an_object_of_ids_is_a_record_for_each_entry_with_its_line(tmp_path: Path, name: str) -> None:
    records = [{"question_id": "7", "text": "a cat"}, {"question_id": "x 8", "text": "a dog", "score": 1}]
    dense = '{"7": "a cat", "x 8": {"text": "a dog", "score": 1}}'
    assert read(tmp_path / name, dense) == [("1", records[0]), ("1[1]", records[1])]
    open_ = '{\n "7": "a cat",\n "x 8":\n  {"text": "a dog", "score": 1}\n}'
    assert read(tmp_path / name, open_) == [("2", records[0]), ("4", records[1])]


def test_an_entry_with_another_id_than_its_key_and_a_key_twice_are_bad_records(tmp_path: Path) -> None:
    (_, first), (_, second), (_, third) = read(
        tmp_path / "said.json", '{"7": {"question_id": 8}, "9": "a", "9": {"text": "b"}}'
    )
    assert isinstance(first, RecordError)
    assert "8 in the record of '7'" in first.message
    assert second == {"question_id": "9", "text": "a"}
    assert isinstance(third, RecordError)
    assert "'9' occurs twice" in third.message


def test_a_record_or_a_list_in_an_object_is_not_an_object_of_ids(tmp_path: Path) -> None:
    assert read(tmp_path / "one.json", '{"text": "a", "extra": "b"}') == [("1", {"text": "a", "extra": "b"})]
    unread: Counter[str] = Counter()
    wrapped = '{"predictions": [{"question_id": 1}], "model": "m"}'
    assert read(tmp_path / "list.json", wrapped, unread) == [("1", {"question_id": 1})]
    assert unread == {"model": 1}


def test_the_lines_of_a_list_without_its_brackets_are_read(tmp_path: Path) -> None:
    assert read(tmp_path / "said.json", '{"text": "a"},\n{"text": "b"}, \n{"text": "c"}\n') == [
        (str(k), {"text": text}) for k, text in enumerate("abc", start=1)
    ]
    content = (tmp_path / "said.json").read_bytes()
    first = next(read_records(tmp_path / "said.json"))
    assert content[first.begin :][: first.size] == b'{"text": "a"}', "the bytes by which it is read again"


def test_a_broken_object_of_ids_is_refused_by_its_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"said\.json:3: not JSON"):
        read(tmp_path / "said.json", '{\n "7": "a",\n "8" "b"\n}')

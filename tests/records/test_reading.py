"""Files of every format hold the same records, located in the user's own file, and read in bounded memory."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vistune.errors import DataError
from vistune.records import Record, RecordError, TableFormat, read_records, read_values
from vistune.records.json_window import CHUNK_BYTES

TEXT = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0\r"), max_size=30)
RECORDS = st.lists(st.fixed_dictionaries({"id": TEXT, "caption": TEXT}), min_size=1, max_size=6)


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    """The records in the format of the path's suffix."""
    name = path.name.removesuffix(".gz")
    if name.endswith((".csv", ".tsv")):
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(records[0]), delimiter="," if name.endswith("csv") else "\t")
            writer.writeheader()
            writer.writerows(records)
    elif name.endswith(".parquet"):
        import pyarrow
        import pyarrow.parquet as parquet

        parquet.write_table(pyarrow.Table.from_pylist(records), path)
    else:
        text = {
            "list.json": json.dumps(records, ensure_ascii=False),
            "indented.json": json.dumps(records, ensure_ascii=False, indent=1),
            "wrapped.json": json.dumps({"info": 1, "data": records}, indent=1),
            "lines.jsonl": "".join(json.dumps(record) + "\n" for record in records),
        }[name]
        path.write_text(text, encoding="utf-8")
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(path.read_bytes()))
    return path


TEXTS = ("list.json", "indented.json", "wrapped.json", "lines.jsonl", "a.csv", "a.tsv")
NAMES = (*TEXTS, "lines.jsonl.gz", "a.csv.gz", "a.parquet")


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25)
@given(records=RECORDS)
def test_every_format_gives_the_same_records(
    tmp_path_factory: pytest.TempPathFactory, name: str, records: list[dict[str, Any]]
) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    path = write(tmp_path_factory.mktemp("file") / name, records)
    found = list(read_records(path, own_fields=("id",)))
    assert [record.value for record in found] == records
    assert len({record.location for record in found}) == len(found)
    for record in found:
        assert record.location.startswith(f"{path}:")


@pytest.mark.parametrize("name", TEXTS)
@settings(max_examples=25)
@given(records=RECORDS)
def test_a_record_can_be_read_again_by_its_bytes(
    tmp_path_factory: pytest.TempPathFactory, name: str, records: list[dict[str, Any]]
) -> None:
    path = write(tmp_path_factory.mktemp("file") / name, records)
    content = path.read_bytes()
    for record in read_records(path, own_fields=("id",)):
        own = content[record.begin : record.begin + record.size]
        assert zlib.crc32(own) == record.crc
        line = content[: record.begin].count(b"\n") + 1
        assert record.location.removeprefix(f"{path}:").split("[")[0] == str(line)
        if not name.startswith("a."):
            assert json.loads(own) == record.value


def test_a_list_is_read_piece_by_piece_with_every_place_right(tmp_path: Path) -> None:
    """Values, letters of several bytes and numbers fall on the edges of the pieces that are read."""
    records: list[Any] = [{"text": "가" * (k * 997 % 5000), "number": k * 1234567} for k in range(700)] + [
        12345678901234
    ]
    path = tmp_path / "data.json"
    path.write_text("[\n" + ",\n".join(json.dumps(record, ensure_ascii=False) for record in records) + "]", "utf-8")
    assert path.stat().st_size > 4 * CHUNK_BYTES
    content = path.read_bytes()
    found = list(read_records(path))
    assert [record.value for record in found] == records
    assert [record.number for record in found] == list(range(2, len(records) + 2))
    assert all(json.loads(content[r.begin : r.begin + r.size]) == r.value for r in found)


def faults(path: Path) -> list[Record]:
    return [record for record in read_records(path) if isinstance(record.value, RecordError)]


def test_one_bad_row_of_a_table_is_its_own_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(
        'id,text\n1,"a\nb"\n2,c,d\n3,\xff\n4,가\n'.encode("latin-1", "replace").replace(b"?", "가".encode())
    )
    found = list(read_records(path))
    assert [record.location for record in found] == [f"{path}:{line}" for line in (2, 4, 5, 6)]
    assert [str(record.value) for record in faults(path)] == [
        f"{path}:4: 3 cells in 2 columns. Fix: quote cells that hold commas",
        f"{path}:5: not UTF-8. Fix: save the file as UTF-8 (of Excel: CSV UTF-8)",
    ]
    with pytest.raises(RecordError, match=r"a\.csv:4: 3 cells"):
        list(read_values(path))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", "id,id\n1,2\n", r"a\.csv:1: the column 'id' occurs twice"),
        ("a.csv", 'id,text\n1,"open\n', r"a\.csv:2: not CSV: .*quotation mark"),
        ("a.json", "", "is empty"),
        ("a.json", "[{}, {}", r"a\.json:1: the list is cut off"),
        ("a.json", '{"a": 1,\n "b": }', r"a\.json:2: not JSON"),
        ("a.jsonl.gz", "not gzip", "cannot be unpacked"),
        ("a.xlsx", "x", "save it as CSV UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_error_with_what_to_do(
    tmp_path: Path, name: str, content: str, words: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=words) as caught:
        list(read_records(tmp_path / name))
    assert caught.value.hint


def test_a_table_without_a_header_takes_the_names_given(tmp_path: Path) -> None:
    path = tmp_path / "cc3m.tsv"
    path.write_text('a "quoted dog\thttp://x\nsecond "\thttp://y\n', encoding="utf-8")
    found = [record.value for record in read_records(path, table=TableFormat(quotes=False, header=("caption", "url")))]
    assert found == [{"caption": 'a "quoted dog', "url": "http://x"}, {"caption": 'second "', "url": "http://y"}]
    path.write_text("caption\turl\na\tb\n", encoding="utf-8")
    named = TableFormat(header=("caption", "url"))
    assert [record.value for record in read_records(path, table=named)] == [{"caption": "a", "url": "b"}]


def test_columns_that_nobody_wants_are_counted_and_not_decoded(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = write(tmp_path / "a.parquet", [{"id": "1", "caption": "a", "embedding": [0.0] * 9} for _ in range(5)])
    unread: Counter[str] = Counter()
    found = list(read_records(path, columns=("id", "caption"), unread=unread))
    assert found[4].value == {"id": "1", "caption": "a"}
    assert found[4].location == f"{path}:5"
    assert unread == {"embedding": 5}


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    import os

    path = tmp_path / "data.jsonl"
    os.mkfifo(path) if kind == "pipe" else path.mkdir()
    with pytest.raises(DataError, match="expected a file"):
        list(read_records(path))


def test_two_tables_with_long_cells_can_be_read_side_by_side(tmp_path: Path) -> None:
    paths = []
    for name in ("a.csv", "b.csv"):
        path = tmp_path / name
        path.write_text("id,text\n1,short\n2," + "x" * 200_000 + "\n3,end\n", encoding="utf-8")
        paths.append(path)
    first, second = (read_records(path) for path in paths)
    next(first), next(second)
    assert len(list(first)) == 2  # ends before the other has come to its long cell
    assert len(list(second)) == 2


def test_a_table_in_another_encoding_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("image;캡션\n1;개\n".encode("utf-16"))
    with pytest.raises(DataError, match=r"a\.csv:1: the column names are not UTF-8"):
        list(read_records(tmp_path / "a.csv"))


def test_a_gzipped_table_is_still_a_table(tmp_path: Path) -> None:
    from vistune.records import open_data

    path = write(tmp_path / "a.csv.gz", [{"id": "1", "caption": "개"}])
    [record] = open_data(path).records()
    assert (record.value, record.location) == ({"id": "1", "caption": "개"}, f"{path}:2")


def test_a_long_object_on_one_line_is_read_and_a_long_first_record_is_one_fault(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    record = {"id": "1", "caption": "{" * 1000}
    path.write_text(json.dumps({"data": [record] * 18_000}), encoding="utf-8")  # cut at any byte, it goes on by "{"
    assert path.stat().st_size > 16 << 20
    assert sum(1 for record in read_records(path, own_fields=("id",)) if isinstance(record.value, dict)) == 18_000
    path.write_text(json.dumps({"id": "x" * (17 << 20)}) + '\n{"id": "2"}\n', encoding="utf-8")
    first, second = read_records(path, own_fields=("id",))
    assert "larger than 16 MB" in str(first.value)
    assert second.value == {"id": "2"}

"""JSON lists are read piece by piece: memory is bounded by the largest record, also where the list is broken."""

from __future__ import annotations

import json
from io import BytesIO

import pytest

from vistune.errors import DataError
from vistune.records.json_text import read_json
from vistune.records.json_window import CHUNK_BYTES, LARGEST_WINDOW_BYTES


class Counting(BytesIO):
    """A file that knows how much of it was read."""

    read_so_far = 0

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(size)
        self.read_so_far += len(piece)
        return piece


def test_a_json_list_is_read_piece_by_piece() -> None:
    rows = [{"caption": "a dog" * (CHUNK_BYTES // 10 * k), "n": k} for k in (1, 30, 2, 7, 0)] * 2
    content = json.dumps(rows, indent=1).encode()
    assert len(content) > 4 * CHUNK_BYTES
    file = Counting(content)
    records = read_json(file, "x.json")
    first = next(records)
    assert (first.number, first.value) == (2, rows[0])
    assert json.loads(content[first.begin : first.begin + first.size]) == rows[0]
    assert file.read_so_far < 2 * CHUNK_BYTES
    rest = list(records)
    assert [record.number for record in rest] == [2 + 4 * k for k in range(1, 10)]
    assert [json.loads(content[record.begin : record.begin + record.size]) for record in rest] == rows[1:]


def test_numbers_at_the_edge_of_a_piece_stay_whole() -> None:
    for pad in range(4):
        content = "[" + " " * (CHUNK_BYTES - 3 - pad) + "1234, 5]"
        assert [record.value for record in read_json(BytesIO(content.encode()), "x.json")] == [1234, 5]


def test_a_broken_list_is_not_read_to_its_end() -> None:
    """An unclosed quotation mark would otherwise pull the whole file into memory."""
    file = Counting(b'[\n"unclosed' + b"x" * (4 * LARGEST_WINDOW_BYTES))
    with pytest.raises(DataError, match=r"x\.json:2: not JSON"):
        next(read_json(file, "x.json"))
    assert file.read_so_far <= 3 * LARGEST_WINDOW_BYTES

"""Files are whole or absent, and a bad one is named with its line."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from vistune.errors import DataError, RecipeError
from vistune.files import committed_folder, read_json, read_jsonl, write_atomic, write_jsonl
from vistune.registry import lookup


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_atomic(path, "old")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_killed_writer_leaves_the_old_folder(tmp_path: Path) -> None:
    with committed_folder(tmp_path / "saved") as draft:
        (draft / "a").write_text("old")
    child = os.fork()
    if child == 0:
        with committed_folder(tmp_path / "saved") as draft:
            (draft / "a").write_text("new")
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert (tmp_path / "saved" / "a").read_text() == "old"


def test_a_failed_block_leaves_nothing(tmp_path: Path) -> None:
    def fill() -> None:
        with committed_folder(tmp_path / "saved") as draft:
            (draft / "a").write_text("new")
            raise KeyError("a mistake while filling")

    with pytest.raises(KeyError):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_json_lines_keep_their_numbers_and_unicode(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"a": "원"}, {"a": 2}])
    assert list(read_jsonl(tmp_path / "a.jsonl")) == [(1, {"a": "원"}), (2, {"a": 2})]
    (tmp_path / "b.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n{"a": }\n')
    with pytest.raises(DataError, match=r"b\.jsonl:3: not JSON"):
        list(read_jsonl(tmp_path / "b.jsonl"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"a":\n 1,\n}', r":3: not JSON"),
        (b'{"a": Infinity}', "Infinity"),
        (b"\n\xff", r":2: not UTF-8"),
        (b"", ":1: not"),
    ],
)
def test_bad_json_names_its_line(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_json(tmp_path / "a.json")


def test_a_folder_or_nothing_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder"):
        read_json(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        read_json(tmp_path / "gone.json")


def test_names_are_looked_up_exactly_or_imported() -> None:
    assert lookup("a", {"a": 1}, "thing") == 1
    assert lookup("json:dumps", {}, "thing")({}) == "{}"
    with pytest.raises(RecipeError, match="unknown thing 'circel'") as caught:
        lookup("circel", {"circle": 1, "star": 2}, "thing")
    assert "did you mean 'circle'" in caught.value.hint
    with pytest.raises(RecipeError, match="cannot be imported"):
        lookup("no.such:thing", {}, "thing")

"""Files are whole or absent, and a bad one is named with its line."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vistune.errors import DataError, DiskError
from vistune.files import committed_folder, read_json, read_jsonl, read_text, sha256_of, write_atomic, write_jsonl


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


def test_a_full_disk_is_named_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomic(path, "old")
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        try:
            write_atomic(path, "x" * 100_000)
        except DiskError as error:
            os._exit(
                7 if str(error).startswith(f"{path}: cannot be written: ") and "free disk space" in error.hint else 8
            )
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_place_that_is_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match=r"file/a.txt: cannot be written"):
        write_atomic(tmp_path / "file" / "a.txt", "new")


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


WRITES = ("open", "os.", "shutil.", "tempfile.")


def killed_at(write: Callable[[], None], call: int) -> bool:
    """Run `write` in a child that dies without warning before its `call`-th touch of the disk; was it killed?"""
    child = os.fork()
    if child == 0:
        left = call

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if event.startswith(WRITES):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(hook)
            write()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_a_writer_killed_at_any_call_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    path, call, seen = tmp_path / "a.txt", 0, []
    path.write_text("old" * 1000)
    while killed_at(lambda: write_atomic(path, "new" * 1000), call := call + 1):
        seen.append(path.read_text()[:3])
        assert path.read_text() in ("old" * 1000, "new" * 1000)
    assert seen.count("old") >= 4
    assert path.read_text() == "new" * 1000


@pytest.mark.parametrize("before", [True, False])
def test_a_folder_whose_writer_is_killed_at_any_call_is_whole_or_absent(tmp_path: Path, before: bool) -> None:
    def fill(text: str) -> None:
        with committed_folder(tmp_path / "saved") as draft:
            (draft / "deep").mkdir()
            for name in ("a", "b", "deep/c"):
                (draft / name).write_text(text)

    def content() -> list[str]:
        return [(tmp_path / "saved" / name).read_text() for name in ("a", "b", "deep/c")]

    call, seen = 0, set()
    while True:
        shutil.rmtree(tmp_path / "saved", ignore_errors=True)
        if before:
            fill("old")
        if not killed_at(lambda: fill("new"), call := call + 1):
            break
        seen.add("absent" if not (tmp_path / "saved").exists() else "".join(sorted(set(content()))))
    assert content() == ["new"] * 3
    assert call > 15
    assert {"old", "new"} <= seen <= {"old", "new", "absent"} if before else seen == {"absent", "new"}


def test_a_folder_that_cannot_take_its_name_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with committed_folder(tmp_path / "saved") as draft:
        (draft / "a").write_text("old")
    real, calls = os.replace, []

    def once_full(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:  # the new folder's turn
            raise OSError(28, "No space left on device")
        real(source, target)

    def fill() -> None:
        with committed_folder(tmp_path / "saved") as draft:
            (draft / "a").write_text("new")

    monkeypatch.setattr(os, "replace", once_full)
    with pytest.raises(OSError, match="No space"):
        fill()
    assert [entry.name for entry in tmp_path.iterdir()] == ["saved"]
    assert (tmp_path / "saved" / "a").read_text() == "old"


def test_a_folder_does_not_replace_a_file(tmp_path: Path) -> None:
    def fill() -> None:
        with committed_folder(tmp_path / "saved"):
            pass

    (tmp_path / "saved").write_text("a file")
    with pytest.raises(NotADirectoryError):
        fill()
    assert (tmp_path / "saved").read_text() == "a file"
    assert [entry.name for entry in tmp_path.iterdir()] == ["saved"]


def test_a_new_folder_holds_nothing_of_the_old(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with committed_folder(tmp_path / "deep" / "saved") as draft:
            (draft / name).write_bytes(b"")
    assert [entry.name for entry in (tmp_path / "deep").iterdir()] == ["saved"]
    assert [entry.name for entry in (tmp_path / "deep" / "saved").iterdir()] == ["new"]


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, '{"a": NaN}', "[1, -Infinity]", "{'a': 1}", "// a\n1"])
def test_what_json_does_not_hold_is_an_error_with_its_place(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=r"a\.json:1: ") as caught:
        read_json(tmp_path / "a.json")
    assert caught.value.hint
    (tmp_path / "a.jsonl").write_text(f"1\n\n{text.splitlines()[0]}\n")
    with pytest.raises(DataError, match=r"a\.jsonl:3: "):
        list(read_jsonl(tmp_path / "a.jsonl"))


def test_text_is_utf_8_with_or_without_its_mark(tmp_path: Path) -> None:
    for mark in (b"", b"\xef\xbb\xbf"):
        (tmp_path / "a.json").write_bytes(mark + '{"원": "é😀"}'.encode())
        assert read_json(tmp_path / "a.json") == {"원": "é😀"}
    (tmp_path / "a.json").write_bytes('{"a": "원"}'.encode("utf-16"))
    with pytest.raises(DataError, match=r"a\.json:1: not UTF-8 \(byte 0\)"):
        read_json(tmp_path / "a.json")


def test_lines_end_at_newlines_only(tmp_path: Path) -> None:
    """U+2028 and U+0085 are text inside a JSON string, though `str.splitlines` would cut there."""
    rows = [{"a": "x\u2028y\u0085z\x0c"}, {"b": None}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    assert list(read_jsonl(tmp_path / "a.jsonl")) == [(1, rows[0]), (2, rows[1])]


def test_a_path_through_a_file_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(DataError, match="cannot be read: Not a directory"):
        read_text(tmp_path / "a" / "b.json")


def test_a_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    write_atomic(tmp_path / "deep" / "a", b"abc" * 100_000)
    assert sha256_of(tmp_path / "deep" / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()
    assert (tmp_path / "deep" / "a").stat().st_mode & 0o777 == 0o644

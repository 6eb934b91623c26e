"""Caption files: records are selected, copied byte for byte and read in bounded memory; errors name file and line."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from vistune.datagen import FilterOptions, filter_captions
from vistune.errors import DataError, RecipeError

ROWS = [("red dog", "a"), ("a cat", "b"), ("red dogs, at home", "c"), ('the red dog "Rex"', "d"), ("an owl", "e")]
KEPT = [0, 2, 3]  # "red dog" is in three captions, everything else in fewer


def lines_of(suffix: str) -> tuple[str, list[str], str]:
    """Return the text before the records, the records, and the text after them, with spacing as in real files."""
    if suffix == ".jsonl":
        return "", [json.dumps({"caption": c, "url": u}) + "\n" for c, u in ROWS], ""
    if suffix == ".json":
        turns = '{"id": "%s",\n  "conversations": [{"from":"human","value":"<image>"}, {"from":"gpt","value":%s}]}'
        return "[", ["\n" + turns % (u, json.dumps(c)) for c, u in ROWS], "\n]\n"
    if suffix == ".tsv":
        return "", [f"{c}\t{u}\n" for c, u in ROWS], ""
    return '"url",caption\n', [f'"{u}","{c.replace(chr(34), chr(34) * 2)}"\n' for c, u in ROWS], ""


def joined(suffix: str, rows: Iterable[str]) -> str:
    before, _, after = lines_of(suffix)
    return before + (",".join(rows) if suffix == ".json" else "".join(rows)) + after


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".tsv", ".csv"])
def test_selected_records_are_copied_byte_for_byte(tmp_path: Path, suffix: str) -> None:
    rows = lines_of(suffix)[1]
    source, out = tmp_path / f"in{suffix}", tmp_path / "made" / f"out{suffix}"
    source.write_bytes(b"\xef\xbb\xbf" + joined(suffix, rows).encode())
    done = filter_captions(source, out)
    assert out.read_bytes().decode() == joined(suffix, [rows[k] for k in KEPT])
    assert (done.captions, done.chosen, done.frequent_enough, done.rejects) == (5, 3, 1, {})
    assert list(out.parent.iterdir()) == [out]


def test_a_csv_cell_may_hold_line_ends_and_a_tsv_may_have_a_header(tmp_path: Path) -> None:
    row = '"a dog,\r\nat ""home""",1\r\n'
    (tmp_path / "in.csv").write_bytes(b"text,n\r\n" + 3 * row.encode())
    filter_captions(tmp_path / "in.csv", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == b"text,n\n" + 3 * (row.rstrip() + "\n").encode()
    (tmp_path / "in.tsv").write_text("id\twords\n" + '1\t"a dog\n' * 3, encoding="utf-8")
    filter_captions(tmp_path / "in.tsv", tmp_path / "out.tsv", FilterOptions(column="words"))
    assert (tmp_path / "out.tsv").read_bytes() == (tmp_path / "in.tsv").read_bytes()


BAD = {
    b'{"caption": "a dog"': "not_json",
    b'{"caption": NaN}': "not_json",
    b'["a dog"]': "not_an_object",
    b'{"url": "x"}': "no_caption",
    b'{"caption": " "}': "no_caption",
    b'{"caption": 3}': "no_caption",
    b'{"conversations": [{"from": "human", "value": "a dog"}]}': "no_caption",
    b'{"caption": "a d\xffg"}': "not_utf8",
    b'{"caption": "a \\ud800 dog"}': "not_utf8",
}


def test_records_without_a_caption_are_rejected_with_their_line(tmp_path: Path) -> None:
    good = b'{"captions": ["a dog", "an animal"]}'
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(b"\n".join([good, *BAD, b"", good, good]))
    done = filter_captions(source, out)
    assert (done.captions, done.chosen, done.rejects) == (3, 3, Counter(BAD.values()))
    assert out.read_bytes() == 3 * (good + b"\n")
    aside = [json.loads(line) for line in (tmp_path / "out.jsonl.rejects.jsonl").read_text("utf-8").splitlines()]
    assert [(row["line"], row["reason"]) for row in aside] == list(enumerate(BAD.values(), start=2))
    assert aside[3]["raw"] == '{"url": "x"}'


def test_table_rows_with_a_wrong_number_of_cells_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("caption,n\n" + "a dog,1\n" * 3 + "a dog, running,1\n\n,2\n", encoding="utf-8")
    done = filter_captions(tmp_path / "in.csv", tmp_path / "out.csv")
    assert (done.captions, done.rejects) == (3, {"other_cells": 1, "no_caption": 1})


REFUSED = {
    ("in.json", '[{"caption": "a dog"},\n {"caption": "a do'): ":2: not JSON: Unterminated string",
    ("in.json", '[{"caption": "a dog"}\n {"caption": "a dog"}]'): ":2: not JSON: expected a comma or ], got '{'",
    ("in.json", '[{"caption": "a dog"},\n]'): ":2: not JSON: Expecting value",
    ("in.json", '[{"caption": "a dog",\n "n": NaN}]'): "has no captions: 1 rows not_json",
    ("in.json", '[{"caption": "a dog"}'): ":1: ",
    ("in.json", '[{"caption": "a dog"}]\n[]'): ":2: more text after the end of the list",
    ("in.json", ""): "is empty",
    ("in.json", "[]"): "has no captions: it is empty",
    ("in.jsonl", '{"words": "a dog"}\n' * 2): "has no captions: 2 rows no_caption",
    ("in.csv", "words,n\na dog,1\n"): ":1: no column of captions. Fix: name one of words, n with --column",
    ("in.csv", 'caption,n\n"a\ndog",1\n"a cat,2\nan owl,3\n'): ":4: not CSV: unexpected end of data",
}


@pytest.mark.parametrize(("name", "text"), REFUSED)
def test_a_file_with_an_unreadable_rest_is_refused_with_its_line(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        filter_captions(tmp_path / name, tmp_path / f"out-{name}")
    assert f"{tmp_path / name}" in str(caught.value)
    assert REFUSED[name, text] in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_request_that_cannot_work_is_refused_before_reading(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"caption": "a dog"}\n', encoding="utf-8")
    out = tmp_path / "out.jsonl"
    for arguments, options, words in [
        ((source, tmp_path / "out.json"), {}, "out.jsonl"),
        ((source, source), {}, "already exists"),
        ((tmp_path / "in.parquet", out), {}, "read from .jsonl, .ndjson, .json, .tsv, .csv, also gzipped"),
        ((source, out), {"finder": "spaccy"}, "did you mean 'spacy'"),
        ((source, out), {"seed": -1}, "seed of at least 0"),
        ((source, source / "below" / "out.jsonl"), {}, "cannot be made"),
        ((source, out), {"finder": f"{__name__}:too_few"}, "0 lists for 1 captions"),
    ]:
        with pytest.raises(RecipeError, match=words):
            filter_captions(*arguments, FilterOptions(**options))
    with pytest.raises(DataError, match=r"nowhere\.csv: no such file"):
        filter_captions(tmp_path / "nowhere.csv", tmp_path / "out.csv")
    assert list(tmp_path.iterdir()) == [source]


def too_few(captions: Iterable[str]) -> Iterator[list[str]]:
    """A finder that does not return one list per caption."""
    list(captions)
    return iter(())


def test_gzipped_captions_are_selected_like_unpacked_ones(tmp_path: Path) -> None:
    for suffix in (".jsonl", ".json", ".tsv", ".csv"):
        rows = lines_of(suffix)[1]
        source, out = tmp_path / f"in{suffix}.gz", tmp_path / f"out{suffix}"
        source.write_bytes(gzip.compress(joined(suffix, rows).encode()))
        filter_captions(source, out)
        assert out.read_text("utf-8") == joined(suffix, [rows[k] for k in KEPT])


def test_records_in_one_indented_object_become_lines_of_their_own(tmp_path: Path) -> None:
    rows = [{"caption": "a red dog", "n": k} for k in range(3)]
    (tmp_path / "in.jsonl").write_text(json.dumps({"info": 1, "data": rows}, indent=2), encoding="utf-8")
    filter_captions(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()] == rows


@pytest.mark.parametrize("word", ["nan", "NaN", "None", "null", "NULL", ""])
def test_a_cell_that_marks_a_missing_caption_is_rejected(tmp_path: Path, word: str) -> None:
    (tmp_path / "in.csv").write_text("caption,n\n" + "a dog,1\n" * 3 + f"{word},2\n", encoding="utf-8")
    done = filter_captions(tmp_path / "in.csv", tmp_path / "out.csv")
    assert (done.captions, done.rejects) == (3, {"no_caption": 1})


def test_a_file_that_changes_between_the_passes_leaves_nothing(tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    row = '{"caption": "a dog"}\n'
    for before, after in ((5, 6), (5, 4)):
        source.write_text(row * before, encoding="utf-8")
        told: list[float] = []

        def rewrite(megabytes: float, after: int = after, told: list[float] = told) -> None:
            told.append(megabytes)
            if len(told) == 1:
                source.write_text(row * after, encoding="utf-8")

        with pytest.raises(DataError, match="changed while it was read"):
            filter_captions(source, out, advance=rewrite)
        assert list(tmp_path.iterdir()) == [source]


# --- the command line ---


def vistune(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from vistune.cli.app import main; main()", "filter", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_the_filter_command_with_its_json_and_exit_codes(tmp_path: Path) -> None:
    rows = [*lines_of(".jsonl")[1], "broken\n"]
    (tmp_path / "in.jsonl").write_text("".join(rows), encoding="utf-8")
    plain = vistune("in.jsonl", "--out", "[one].jsonl", "--log-format", "json", folder=tmp_path)
    assert plain.returncode == 0, plain.stderr
    assert "[one].jsonl: 3 of 5 captions; 1 of 5 noun phrases are in 3 captions or more" in plain.stdout
    assert "rejected: 1 not_json ([one].jsonl.rejects.jsonl)" in plain.stdout
    last = json.loads(plain.stderr.splitlines()[-1])
    assert last["done"] == last["total"] == 2 * (tmp_path / "in.jsonl").stat().st_size
    told = vistune("in.jsonl", "--out", "two.jsonl", "--least", "1", "--most", "1", "--json", "-q", folder=tmp_path)
    assert told.returncode == 0, told.stderr
    assert told.stderr == ""
    report = json.loads(told.stdout)
    assert report["captions"] == 5
    assert report["rejects"] == {"not_json": 1}
    assert report["chosen"] == len((tmp_path / "two.jsonl").read_text(encoding="utf-8").splitlines())
    for arguments, words in [
        (("in.jsonl", "--out", "two.jsonl"), "two.jsonl: already exists"),
        (("in.jsonl", "--out", "x.jsonl", "--column", "nothing"), "5 rows no_caption"),
        (("in.jsonl", "--out", "x.jsonl", "--least", "0"), "--least"),
    ]:
        refused = vistune(*arguments, folder=tmp_path)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert words in " ".join(refused.stderr.split())
        assert "Traceback" not in refused.stderr
    assert not (tmp_path / "x.jsonl").exists()

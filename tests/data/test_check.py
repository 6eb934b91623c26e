"""`vistune check` beyond the corpus: what comes twice or only looks wrong, other forms, the page, several processes."""

from __future__ import annotations

import io
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from vistune.cli.app import app
from vistune.data import all_samples, check, index
from vistune.errors import DataError, RecipeError
from vistune.model import read_spec
from vistune.processor import Processor, load_tokenizer
from vistune.recipe import DataSource, Model
from vistune.records import FORMS
from vistune.records.conversations import Form, Turn, Turns


@pytest.fixture(scope="module")
def processor(tiny_backbones: Path) -> Processor:
    model = Model(vision=str(tiny_backbones / "vision"), language=str(tiny_backbones / "language"))
    return Processor(load_tokenizer(tiny_backbones / "language"), read_spec(model))


def encoded(seed: int, form: str = "PNG", **options: Any) -> bytes:
    """A photograph-like picture: coarse colours, smoothly joined; another one for each seed."""
    import numpy as np

    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((96, 72), Image.Resampling.BICUBIC).save(buffer, form, **options)
    return buffer.getvalue()


def row(name: str, image: str | None = "a.png", *, said: str = "red", **changes: Any) -> dict[str, Any]:
    asked = "<image>\nWhat?" if image else "What?"
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": said}]
    return {"id": name, **({"image": image} if image else {}), "kind": "caption", "conversations": turns, **changes}


def write(folder: Path, *rows: dict[str, Any]) -> DataSource:
    (folder / "d.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return DataSource(file=folder / "d.jsonl")


def test_what_comes_twice_is_noted_with_both_places(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(1))
    source = write(tmp_path, row("1"), row("1", said="blue"), row("2"), row("3", None), row("4", None))
    report = check([source], None)
    assert not report.faults
    assert [(note.reason, note.origin.rsplit(":", 1)[1]) for note in report.notes] == [
        ("same_id", "2"),
        ("same_row", "3"),
        ("same_row", "5"),
    ]
    assert report.notes[0].detail.startswith(f"{source.file}:2:id: ")
    assert report.notes[1].detail.endswith(f"{source.file}:1")
    assert report.warnings == {"same_id": 1, "same_row": 2}


def test_rows_of_no_form_are_not_the_same(tmp_path: Path) -> None:
    report = check([write(tmp_path, {"ask": "What?"}, {"ask": "Who?"})], None)
    assert len(report.faults) == 2
    assert not report.notes


def read_own(record: Mapping[str, Any], location: str, unread: Counter[str]) -> Turns:
    turns = (Turn("ask", "user", (record["ask"]["text"],)), Turn("say", "assistant", (record["say"],)))
    return Turns(turns if record["say"] else (), ())


def test_a_form_of_ones_own_is_compared_and_its_errors_are_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FORMS, "ask", Form(read_own, fields={"ask", "say"}))  # type: ignore[arg-type]
    rows = [{"ask": {"text": text}, "say": "red"} for text in ("What?", "Who?", "What?")]
    report = check([write(tmp_path, *rows, {"ask": ["What?"], "say": "red"}, {"ask": {"text": "?"}, "say": ""})], None)
    assert [(note.reason, note.origin.rsplit(":", 1)[1]) for note in report.notes] == [("same_row", "3")]
    assert [fault.detail.removeprefix(str(tmp_path)) for fault in report.faults] == [
        "/d.jsonl:4:ask: the reader of this form fails: TypeError: list indices must be integers or slices, not str. "
        "Fix: correct the record, or make the reader refuse it",
        "/d.jsonl:5:ask: has no turns. Fix: write a question and an answer",
    ]


def test_rows_of_another_file_are_compared_too(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(1))
    source = write(tmp_path, row("1"))
    other = tmp_path / "other.json"
    other.write_text(json.dumps([row("1")]))
    report = check([source, DataSource(file=other)], None)
    assert Counter(note.reason for note in report.notes) == {"same_id": 1, "same_row": 1}
    assert all(str(source.file) in note.detail and note.origin == f"{other}:1" for note in report.notes)


def test_pictures_that_are_the_same_or_nearly_are_noted_once(tmp_path: Path) -> None:
    files = {
        "a.png": encoded(1),
        "copy.png": encoded(1),
        "pale.jpg": encoded(1, "JPEG", quality=60),
        "b.png": encoded(2),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    source = write(tmp_path, *[row(str(k), name, said=f"{k}") for k, name in enumerate(files)], row("9", "b.png"))
    report = check([source], None)
    assert report.images == 4
    found = {note.reason: note for note in report.notes}
    assert set(found) == {"same_picture", "near_picture"}
    assert "'a.png', 'copy.png' are the same file" in found["same_picture"].detail
    assert "'a.png', 'pale.jpg' are near duplicates" in found["near_picture"].detail
    assert found["same_picture"].detail.startswith(f"{source.file}:1:image: ")


def test_special_tokens_in_what_is_said_are_noted_with_their_field(processor: Processor, tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "see <unk>"}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "no"}]
    source = write(
        tmp_path, row("1", None, said="red</s>"), {"id": "2", "messages": messages}, row("3", None, said="a < b </p>")
    )
    report = check([source], processor)
    assert [(note.reason, note.detail.split(": ")[0].removeprefix(str(source.file))) for note in report.notes] == [
        ("special_token", ":1:conversations[1].value"),
        ("special_token", ":2:messages[0].content[0].text"),
    ]


@pytest.mark.parametrize("cell", ["bytes", "struct", "path"])
def test_parquet_is_read_in_either_form_with_pictures_inside_or_beside(cell: str, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    content = encoded(1)
    (tmp_path / "a.png").write_bytes(content)
    image = {"bytes": content, "struct": {"bytes": content, "path": None}, "path": "a.png"}[cell]
    turns = row("1")["conversations"]
    part = {"type": "image", "text": None}, {"type": "text", "text": "What?"}
    messages = [
        {"role": "user", "content": list(part)},
        {"role": "assistant", "content": [{"type": "text", "text": "no"}]},
    ]
    llava = [
        {"id": "1", "image": image, "conversations": turns},
        {"id": "2", "image": image, "conversations": turns[:1]},
    ]
    chat = [{"id": "3", "images": [image], "messages": messages}]
    for name, rows in (("llava", llava), ("chat", chat)):
        parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / f"{name}.parquet")
    (sample,) = all_samples(DataSource(file=tmp_path / "chat.parquet"))
    assert len(sample.images) == 1
    assert Path(str(sample.images[0].source)).read_bytes() == content
    report = check([DataSource(file=tmp_path / "llava.parquet")], None)
    assert (report.samples, report.images) == (1, 1)
    (fault,) = report.faults
    assert "llava.parquet" in fault.origin
    assert fault.origin.endswith(":2")  # the second row
    (tmp_path / "no.parquet").write_bytes(b"PAR1 and no more")
    assert check([DataSource(file=tmp_path / "no.parquet")], None).faults[0].reason == "bad_file"


def test_several_processes_find_what_one_finds(
    processor: Processor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(encoded(1))
    rows = [row(str(k), None if k % 3 else "a.png", said=f"red {k}") for k in range(1300)]
    rows[700] = row("bad", "gone.png")
    rows[1200]["conversations"] = []
    rows[5].pop("id")
    source = write(tmp_path, *rows)
    alone = index(source.file, [tmp_path], processor)
    monkeypatch.setattr(sys.modules["vistune.data.index"], "PARALLEL_BYTES", 0)
    several = index(source.file, [tmp_path], processor, processes=2)
    assert {name: column.tolist() for name, column in alone.columns.items()} == {
        name: column.tolist() for name, column in several.columns.items()
    }
    assert alone.lengths.tolist() == several.lengths.tolist()
    assert [(fault.reject, str(fault.error), fault.error.hint) for fault in alone.faults] == [
        (fault.reject, str(fault.error), fault.error.hint) for fault in several.faults
    ]
    assert alone.warnings == several.warnings == {"no id: the line number stands in": 1}
    assert alone.folders.missing == several.folders.missing == {".": 1}


def test_the_page_shows_what_is_learnt_and_every_fault_and_no_markup_of_the_data(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(1))
    evil = "<script>alert(1)</script>"
    source = write(tmp_path, row("1", said=evil), row("2", "gone.png"), row("3", None, said="빨간 원"))
    page = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["check", str(source.file), "--page", str(page)])
    assert result.exit_code == 2, result.output
    assert "gone.png" in result.stdout
    assert "missing images by folder: . (1)" in result.stdout
    text = page.read_text(encoding="utf-8")
    assert "<script>" not in text
    assert "data:image/jpeg;base64," in text
    learnt = [piece.split("</mark>")[0] for piece in text.split("<mark>")[1:]]
    assert any("&lt;script&gt;alert(1)&lt;/script&gt;" in piece for piece in learnt)
    assert any("빨간 원" in piece for piece in learnt)
    assert not any("What?" in piece for piece in learnt)
    assert "bad_image: 1" in text
    assert "d.jsonl:2:image: no image" in text


def test_check_is_told_by_its_exit_code_and_one_json_document(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(1))
    good = write(tmp_path, row("1"), row("1"))
    result = CliRunner().invoke(app, ["check", str(good.file), "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert {note["reason"] for note in report["notes"]} == {"same_id", "same_row"}
    assert report["faults"] == []
    bad = CliRunner().invoke(app, ["check", str(tmp_path / "gone.json"), "--json"])
    assert bad.exit_code == 2
    assert json.loads(bad.stdout)["faults"][0]["reason"] == "bad_file"


@pytest.mark.parametrize("name", ["pipe", "folder/", "/dev/zero"])
def test_what_is_no_regular_file_is_not_read(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    path = Path("/dev/zero") if name == "/dev/zero" else tmp_path / name
    (fault,) = check([DataSource(file=path)], None).faults
    assert fault.reason == "bad_file"


def test_anyres_cannot_do_without_pictures(tiny_backbones: Path, tmp_path: Path) -> None:
    model = Model(vision=str(tiny_backbones / "vision"), language=str(tiny_backbones / "language"), image_mode="anyres")
    fitted = Processor(load_tokenizer(tiny_backbones / "language"), read_spec(model))
    with pytest.raises(RecipeError, match="check with the images"):
        check([write(tmp_path, row("1"))], fitted, images=False)


def test_kinds_that_no_stage_selects_are_told_and_a_record_without_one_is_a_fault(tmp_path: Path) -> None:
    from vistune.api import check_data, dry_run
    from vistune.recipe import load_recipe

    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "no"}]
    rows = [{"id": str(k), "conversations": turns, **({"kind": kind} if kind else {})}
            for k, kind in enumerate(("detail", "detial", "", "caption"))]  # fmt: skip
    (tmp_path / "d.json").write_text(json.dumps(rows), encoding="utf-8")
    source = [DataSource(file=tmp_path / "d.json")]
    report = check_data(source, recipe=load_recipe("quickstart"))
    assert report.warnings["of kind 'detial', which no stage selects"] == 1
    [fault] = report.faults
    assert "kind: is missing, but the recipe selects" in fault.detail
    second_stage_selects = load_recipe("quickstart", ["stages.align.kinds=null"])
    assert check_data(source, recipe=second_stage_selects).faults == [fault], "the second stage would refuse it"
    with pytest.raises(DataError) as refused:
        dry_run(load_recipe("quickstart", [f"data={source[0].file}", "stages.align.kinds=null"]))
    assert str(refused.value) == fault.detail
    every = load_recipe("quickstart", ["stages.align.kinds=null", "stages.tune.kinds=null"])
    assert not check_data(source, recipe=every).faults

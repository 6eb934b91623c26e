"""A user's own questions: every file format, several images, unread fields, missing images."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from vistune import api
from vistune.cli.app import app
from vistune.errors import DataError
from vistune.evaluation import TASKS, score
from vistune.evaluation.own_questions import FIELDS, IDS, TEXTS, OwnQuestions, read_questions
from vistune.evaluation.tasks.file import File
from vistune.files import read_jsonl, write_json, write_jsonl
from vistune.generation import Assistant
from vistune.runs.checkpoint import load
from vistune.types import ImageRef, Message

BASE = {"question_id": 1, "text": "What?"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, colour in (("a.jpg", "red"), ("b.jpg", "blue")):
        Image.new("RGB", (40, 40), colour).save(tmp_path / name)
    return tmp_path


def read(folder: Path, *records: Mapping[str, Any], gold: bool = False) -> OwnQuestions:
    write_jsonl(folder / "q.jsonl", records)
    return read_questions(folder / "q.jsonl", [folder], gold=gold)


def parts(found: OwnQuestions, nth: int = 0) -> list[str]:
    """The parts of a question, an image by its file's name."""
    told = found.questions[nth].sample.messages[0].parts
    return [f"[{Path(str(part.source)).name}]" if isinstance(part, ImageRef) else part for part in told]


def as_csv(records: Sequence[Mapping[str, Any]]) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(dict.fromkeys(name for record in records for name in record)))
    writer.writeheader()
    writer.writerows(
        {name: json.dumps(value) if isinstance(value, list) else value for name, value in record.items()}
        for record in records
    )
    return file.getvalue().encode()


def as_parquet(records: Sequence[Mapping[str, Any]]) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    sink = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(list(records)), sink)
    return sink.getvalue()


def as_lines(records: Sequence[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


FORMS: Mapping[str, Callable[[Sequence[Mapping[str, Any]]], bytes]] = {
    "q.jsonl": as_lines,
    "q.json": lambda records: json.dumps(list(records)).encode(),
    "wrapped.json": lambda records: json.dumps({"questions": list(records)}, indent=1).encode(),
    "map.json": lambda records: json.dumps({str(r["question_id"]): r for r in records}).encode(),
    "q.csv": as_csv,
    "q.parquet": as_parquet,
    "q.jsonl.gz": lambda records: gzip.compress(as_lines(records)),
    "q.csv.gz": lambda records: gzip.compress(as_csv(records)),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_same_questions_in_every_form_of_file(folder: Path, name: str) -> None:
    kinds = ("x", "", "x")
    records = [
        {"question_id": 1, "text": "What?", "images": ["a.jpg"], "answer": "red", "match": None, "choices": None},
        {"question_id": 2, "text": "Both?", "images": ["b.jpg", "a.jpg"], "answer": "no", "match": "", "choices": None},
        {"question_id": 3, "text": "1 + 1?", "images": None, "answer": "B", "match": "choice", "choices": ["a", "b"]},
    ]
    records = [{**record, "type": kind} for record, kind in zip(records, kinds, strict=True)]
    (folder / name).write_bytes(FORMS[name](records))
    found = read_questions(folder / name, [folder], gold=True)
    assert [question.id for question in found.questions] == ["1", "2", "3"]
    assert [parts(found, k) for k in range(3)] == [["[a.jpg]", "What?"], ["[b.jpg]", "[a.jpg]", "Both?"], ["1 + 1?"]]
    assert [question.answer for question in found.questions] == ["red", "no", "B"]
    assert [question.tags["type"] for question in found.questions] == ["x", "all", "x"]
    assert found.questions[2].tags["choices"] == ["a", "b"]
    assert (found.unread_fields, found.missing, found.warnings) == ((), (), ())


def test_images_inside_a_parquet_file_are_read(folder: Path) -> None:
    struct = {"bytes": (folder / "a.jpg").read_bytes(), "path": "elsewhere.jpg"}
    records = [{**BASE, "image": struct}, {"question_id": 2, "text": "?", "image": None}]
    (folder / "q.parquet").write_bytes(as_parquet(records))
    found = read_questions(folder / "q.parquet", [folder], gold=False)
    [image] = found.questions[0].sample.images
    assert Path(str(image.source)).read_bytes() == struct["bytes"]
    assert not found.questions[1].sample.images
    assert found.questions[1].sample.origin == f"{folder / 'q.parquet'}:2"


@pytest.mark.parametrize("name", ["q.jsonl", "q.csv", "q.parquet"])
def test_ids_that_pandas_made_floats_are_whole_numbers(folder: Path, name: str) -> None:
    (folder / name).write_bytes(FORMS[name]([{"question_id": 241.0, "text": "?"}, {"question_id": 7.0, "text": "?"}]))
    assert [q.id for q in read_questions(folder / name, [folder], gold=False).questions] == ["241", "7"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("key", ["question_id", "id", "qid", "Question ID"])
def test_other_names_of_text_and_id_are_read(folder: Path, key: str, text: str) -> None:
    found = read(folder, {key: "x 1", text: "What?"}, {key: 2, text: "Who?"})
    assert [question.id for question in found.questions] == ["x 1", "2"]
    assert (parts(found), found.unread_fields) == (["What?"], ())


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"image": "a.jpg"}, ["[a.jpg]", "What?"]),
        ({"image": ["a.jpg"]}, ["[a.jpg]", "What?"]),
        ({"images": "a.jpg"}, ["[a.jpg]", "What?"]),
        ({"images": ["a.jpg", "b.jpg"]}, ["[a.jpg]", "[b.jpg]", "What?"]),
        ({"image": {"path": "a.jpg", "bytes": None}}, ["[a.jpg]", "What?"]),
        ({"image": ""}, ["What?"]),
        ({"image": None}, ["What?"]),
        ({"images": []}, ["What?"]),
        ({"images": [None]}, ["What?"]),
        ({"video": None, "audios": []}, ["What?"]),
        ({"text": "<image>\nWhat?", "image": "a.jpg"}, ["[a.jpg]", "What?"]),
        ({"text": "Is <image> as <image>?", "images": ["a.jpg", "b.jpg"]}, ["Is ", "[a.jpg]", " as ", "[b.jpg]", "?"]),
        ({"text": r"What is \<image>?"}, ["What is <image>?"]),
    ],
)
def test_the_ways_to_name_a_questions_images(folder: Path, fields: dict[str, Any], told: list[str]) -> None:
    found = read(folder, {**BASE, **fields})
    assert (parts(found), found.missing) == (told, ())


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"image_path": "a.jpg"}, "image_path: is not read.*rename `image_path` to `image`"),
        ({"img": "a.jpg"}, "img: is not read.*rename `img` to `image`"),
        ({"picture": "a.jpg"}, "picture: is not read"),
        ({"photo": "a.jpg"}, "photo: is not read"),
        ({"file_name": "a.jpg"}, "file_name: is not read"),
        ({"Image": "a.jpg"}, "Image: is not read"),
        ({"image_1": "a.jpg", "image_2": "b.jpg"}, "image_1: is not read"),
        ({"사진": "a.jpg"}, "사진: is not read"),
        ({"image": "a.jpg", "image2": "b.jpg"}, "image2: is not read.*list all images in `images`"),
        ({"source": "x/a.JPEG"}, "source: is not read.*rename `source` to `image`"),
        ({"video": "a.mp4"}, "video: videos and audio are not read"),
        ({"video_file": "a.mp4", "image": "a.jpg"}, "video_file: videos and audio are not read"),
        ({"audio": {"path": "a.wav"}}, "audio: videos and audio are not read"),
        ({"image": "a.jpg", "images": ["b.jpg"]}, "images: both `image` and `images`"),
        ({"image": 5}, "image: expected a path or a list of paths, got 5"),
        ({"image": {"bytes": "aGVsbG8="}}, "image: holds the image's bytes as text"),
        ({"text": "<image>\nWhat?"}, "images: 1 <image> in the turns but 0 images"),
        ({"text": "<image><image>", "image": "a.jpg"}, "image: 2 <image> in the turns but 1 images"),
        ({"text": " "}, "text: is empty"),
        ({"text": ["What?"]}, "text: expected text"),
        ({"match": "fuzzy"}, "match: unknown value 'fuzzy'"),
        ({"choices": "A, B"}, "choices: expected a list"),
        ({"type": ["x"]}, "type: expected text"),
    ],
)
def test_a_question_that_cannot_be_asked_as_it_is_meant_is_refused(
    folder: Path, fields: dict[str, Any], problem: str
) -> None:
    with pytest.raises(DataError, match=rf"q\.jsonl:2:{problem}"):
        read(folder, {**BASE, "question_id": 0}, {**BASE, **fields})


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"text": "?"}, "question_id: is missing; the record has text"),
        ({"question_id": 1, "questoin": "?"}, "text: is missing; .*rename `questoin` to `text`"),
        ({"question_id": 1, "question": "a?", "prompt": "b?"}, "question: question and prompt may all be the question"),
        ({"id": 1, "conversations": []}, r"conversations: expected a list of turns, got \[\]"),
        ({"question_id": 1, "text": "?", "gold": "red"}, "answer: is missing; .*rename `gold` to `answer`"),
        ({"question_id": 1, "text": "?", "answer": 0.5}, "answer: expected text, got 0.5"),
        ({"question_id": 1, "text": "?", "answer": ["a"]}, r"answer: expected text, got \['a'\]"),
    ],
)
def test_a_record_that_is_no_question_names_what_is_there(folder: Path, record: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError, match=rf"q\.jsonl:1:{problem}"):
        read(folder, record, record, gold=True)


def test_another_name_of_an_image_that_is_read_is_only_reported(folder: Path) -> None:
    found = read(folder, {**BASE, "image": "a.jpg", "original_image": "/mnt/x/a.jpg", "source": "b.jpg"})
    assert [told.field for told in found.unread_fields] == ["original_image", "source"]


def test_an_id_that_comes_twice_names_both_records(folder: Path) -> None:
    with pytest.raises(DataError, match=r"q\.jsonl:2:question_id: '1' occurs twice.*q\.jsonl:1"):
        read(folder, BASE, BASE)


def test_what_looks_like_an_image_marker_is_warned_of(folder: Path) -> None:
    found = read(folder, {**BASE, "text": "<image 1> What?", "image": "a.jpg"})
    assert parts(found) == ["[a.jpg]", "<image 1> What?"]
    [warning] = found.warnings
    assert "'<image 1>' looks like an image marker" in warning


FIELD = st.from_regex(r"[A-Za-z가-힣][A-Za-z0-9_ -]{0,10}", fullmatch=True) | st.sampled_from(
    ["image_path", "img", "imgs", "picture", "video", "id", "question", "query", "imageUrl", "hint", "txt"]
)
VALUE = st.sampled_from(["a.jpg", "x", "", None, 3, True, [], ["a.jpg"], {"path": "a.jpg"}])


@given(field=FIELD, value=VALUE, has_image=st.booleans())
def test_a_field_of_a_question_is_used_rejected_or_reported(
    tmp_path_factory: pytest.TempPathFactory, field: str, value: Any, has_image: bool
) -> None:
    folder = tmp_path_factory.mktemp("fields")
    Image.new("RGB", (8, 8)).save(folder / "a.jpg")
    record = {**BASE, **({"image": "a.jpg"} if has_image else {}), field: value}
    try:
        found = read(folder, record)
    except DataError:
        return
    used = FIELDS | {"question_id", "text"}
    assert [told.field for told in found.unread_fields] == ([] if field in used else [field])
    assert set(IDS) & used == {"question_id"}
    if value == "a.jpg" and field not in used:
        assert found.questions[0].sample.images, "a question about an image would be asked blind"


def test_missing_images_are_named_before_anything_is_answered(folder: Path, model: Path) -> None:
    write_jsonl(
        folder / "q.jsonl",
        [{**BASE, "image": "a.jpg", "answer": "x"}]
        + [
            {"question_id": k, "text": "?", "image": name, "answer": "x"}
            for k, name in enumerate(("A.jpg", "c.jpg"), 2)
        ],
    )
    said = folder / "said.jsonl"
    with pytest.raises(DataError, match=r"q\.jsonl:2:image: no image 'A\.jpg' in .*and 1 more images.*'a\.jpg'\?"):
        api.answer(model, folder / "q.jsonl", said)
    assert not said.exists()
    with pytest.raises(DataError, match=r"q\.jsonl:2:image: no image 'A\.jpg'"):
        api.evaluate(model, task="file", data=folder / "q.jsonl", out=folder / "evals")
    assert not (folder / "evals").exists()
    write_json(said.with_suffix(".json"), {"1": "x", "2": "x", "3": "x"})
    found = score("file", File(folder / "q.jsonl"), said.with_suffix(".json"))
    assert found.scored.metrics == {"accuracy": 1.0}, "answers are scored without the images"


def test_several_images_are_asked_in_order_and_blind(folder: Path, model: Path) -> None:
    records = [
        {"question_id": 1, "text": "The same?", "images": ["a.jpg", "b.jpg"], "answer": "no"},
        {"question_id": 2, "text": "The same?", "images": ["b.jpg", "a.jpg"], "answer": "no"},
        {"question_id": 3, "text": "What?", "image": "a.jpg", "answer": "red"},
    ]
    write_jsonl(folder / "q.jsonl", records)
    found = api.answer(model, folder / "q.jsonl", folder / "said.jsonl", max_tokens=5)
    assert (found.count, found.unread_fields) == (3, ())
    said = [row["text"] for _, row in read_jsonl(folder / "said.jsonl")]
    assistant = Assistant(*load(model))
    both = Message("user", (ImageRef(folder / "a.jpg"), ImageRef(folder / "b.jpg"), "The same?"))
    assert said[0] == assistant.chat([both], max_tokens=5).text
    result = api.evaluate(model, task="file", data=folder / "q.jsonl", out=folder / "evals")
    assert result.wrong_image is not None
    assert result.without_image is not None
    assert result.wrong_image.keys() == result.without_image.keys() == {"accuracy"}


def test_answer_and_evaluate_print_the_account_and_list_it_as_json(folder: Path, model: Path) -> None:
    path = folder / "q.jsonl"
    records = [
        {**BASE, "image": "a.jpg", "answer": "x", "dificulty": 1},
        {"question_id": 2, "text": "?", "answer": "y"},
    ]
    write_jsonl(path, records)
    listed = [{"file": str(path), "field": "dificulty", "count": 1, "near": ""}]
    line = f'{path}: field "dificulty" is not read: 1 record'
    words = ["answer", str(model), str(path), "--out", str(folder / "said.jsonl"), "--max-tokens", "3"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert line in done.stderr
    assert line not in done.stdout
    done = CliRunner().invoke(app, [*words, "--json"])
    assert json.loads(done.stdout) == {"out": str(folder / "said.jsonl"), "count": 2, "unread_fields": listed}
    words = ["evaluate", str(model), "--task", "file", "--data", str(path), "--out", str(folder / "evals"), "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["unread_fields"] == listed
    assert line in done.stderr


def test_a_folder_of_questions_in_another_form_is_found(folder: Path) -> None:
    (folder / "questions.csv").write_text("question_id,text,answer\n1,What?,red\n")
    assert [question.answer for question in TASKS["file"](folder).questions()] == ["red"]
    (folder / "questions.json").write_text("[]")
    with pytest.raises(DataError, match=r"several files match: questions\.csv, questions\.json"):
        TASKS["file"](folder)


def test_choices_that_no_rule_uses_and_members_of_a_tar_are_named(folder: Path) -> None:
    asked = read(folder, {**BASE, "answer": "red", "choices": ["red", "blue"]}, gold=True)
    assert [(field.field, field.count) for field in asked.unread_fields] == [("choices", 1)]
    chosen = read(folder, {**BASE, "answer": "A", "choices": ["red", "blue"], "match": "choice"}, gold=True)
    assert chosen.unread_fields == ()
    with tarfile.open(folder / "q.tar", "w") as tar:
        for name, content in (("k.json", json.dumps(BASE).encode()), ("k.npy", b"x")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    named = [field.field for field in read_questions(folder / "q.tar", [folder], gold=False).unread_fields]
    assert "*.npy" in named

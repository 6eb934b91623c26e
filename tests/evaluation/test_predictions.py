"""Predictions files in the formats that are in use, and the report of unread fields."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from releases import RELEASES
from typer.testing import CliRunner

from vistune.cli.app import app
from vistune.errors import DataError
from vistune.evaluation import TASKS, score
from vistune.evaluation.predictions import OWN_FIELDS, join_predictions, read_predictions, read_sheet, write_sheet
from vistune.evaluation.tasks.file import File
from vistune.files import read_json, write_json, write_jsonl

Records = Sequence[Mapping[str, Any]]


def table(separator: str) -> Callable[[Records], bytes]:
    def written(records: Records) -> bytes:
        file = io.StringIO(newline="")
        writer = csv.DictWriter(file, list(dict.fromkeys(name for r in records for name in r)), delimiter=separator)
        writer.writeheader()
        writer.writerows(records)
        return file.getvalue().encode()

    return written


def parquet(records: Records) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as files

    sink = io.BytesIO()
    files.write_table(pyarrow.Table.from_pylist(list(records)), sink)
    return sink.getvalue()


def lines(records: Records) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


FORMS: Mapping[str, Callable[[Records], bytes]] = {
    "said.jsonl": lines,
    "said.json": lambda records: json.dumps(list(records), indent=1).encode(),
    "wrapped.json": lambda records: json.dumps({"predictions": list(records)}).encode(),
    "map.json": lambda records: json.dumps({r["question_id"]: r["text"] for r in records}).encode(),
    "open_map.json": lambda records: json.dumps({r["question_id"]: dict(r) for r in records}, indent=2).encode(),
    "said.csv": table(","),
    "said.tsv": table("\t"),
    "said.parquet": parquet,
    "said.jsonl.gz": lambda records: gzip.compress(lines(records)),
    "said.csv.gz": lambda records: gzip.compress(table(",")(records)),
}
WORDS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\r"), max_size=12)
NAMES = st.integers(0, 10**12).map(str) | st.from_regex(r"[a-z가-힣]{1,4}[ _/:.-][A-Za-z0-9]{1,6}", fullmatch=True)


@given(said=st.dictionaries(NAMES, WORDS, min_size=1, max_size=6))
def test_the_same_predictions_in_every_form_of_file(
    tmp_path_factory: pytest.TempPathFactory, said: dict[str, str]
) -> None:
    folder = tmp_path_factory.mktemp("said")
    records = [{"question_id": name, "text": text} for name, text in said.items()]
    for name, write in FORMS.items():
        (folder / name).write_bytes(write(records))
        found = read_predictions(folder / name)
        assert [(one.id, one.text) for one in found] == list(said.items()), name
        assert not found.unread


@pytest.mark.parametrize("name", [*FORMS, "said.xlsx"])
def test_an_id_that_pandas_made_a_float_is_the_same_id(tmp_path: Path, name: str) -> None:
    ids = ["241.0", "3.0"] if name in ("said.xlsx", "map.json", "open_map.json") else [241.0, 3.0]
    records: list[dict[str, Any]] = [{"question_id": ids[0], "text": "a"}, {"question_id": ids[1], "text": "b c"}]
    (tmp_path / name).write_bytes({**FORMS, "said.xlsx": write_sheet}[name](records))
    found = read_predictions(tmp_path / name)
    assert [(one.id, one.text) for one in found] == [("241", "a"), ("3", "b c")]
    joined = join_predictions(["241", "3", "7"], found, lambda one: one.id)
    assert {question: one.text for question, one in joined.by_id.items()} == {"241": "a", "3": "b c"}


def test_ids_of_the_data_that_pandas_made_floats_are_the_same_too(tmp_path: Path) -> None:
    write_json(tmp_path / "said.json", {"241": "a", " x 1 ": "b"})
    joined = join_predictions(["241.0", "x 1"], read_predictions(tmp_path / "said.json"), lambda one: one.id)
    assert {question: one.text for question, one in joined.by_id.items()} == {"241.0": "a", "x 1": "b"}
    with pytest.raises(DataError, match=r"'241' is '241' and '241\.0' of the data"):
        join_predictions(["241", "241.0"], read_predictions(tmp_path / "said.json"), lambda one: one.id)


@pytest.mark.parametrize("key", ["question_id", "questionId", "index", "id", "Question ID", "QID", "pid", "idx"])
@pytest.mark.parametrize("said", ["text", "prediction", "response", "answer", "Response"])
def test_the_names_that_people_give_ids_and_texts(tmp_path: Path, key: str, said: str) -> None:
    write_jsonl(tmp_path / "said.jsonl", [{key: "a 1", said: "red"}, {key: 2, said: ""}])
    assert [(one.id, one.text) for one in read_predictions(tmp_path / "said.jsonl")] == [("a 1", "red"), ("2", "")]


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"text": "a", "image_id": 3}, r"2:question_id: is missing; the record has text, image_id.*rename `image_id`"),
        ({"qestion_id": 1, "text": "a"}, r"2:question_id: is missing.*rename `qestion_id` to `question_id`"),
        ({"question_id": 1, "output": "a"}, r"2:text: is missing.*rename `output` to `text`"),
        ({"question_id": 1, "txet": "a"}, r"2:text: is missing.*rename `txet` to `text`"),
        ({"question_id": 1}, r"2:text: is missing; the record has question_id"),
        ({"qid": 1, "pid": 2, "text": "a"}, r"2:qid: both qid and pid may be the id"),
        (
            {"question_id": 1, "answer": "gold", "model_output": "a"},
            r"2:model_output: .* may both be",
        ),
        ({"index": 1, "A": "x", "B": "y", "answer": "A"}, r"2:answer: the record has the question's options"),
        ({"question_id": 1, "text": None}, r"2:text: expected text, got None"),
        ({"question_id": True, "text": "a"}, r"2:question_id: expected text or a number, got True"),
        ("a", r"2: is not an object"),
    ],
)
def test_a_record_that_is_no_prediction_names_what_is_there(tmp_path: Path, record: Any, problem: str) -> None:
    """Also in a file of which no record has an id: it is not taken for a map of ids to texts."""
    write_jsonl(tmp_path / "said.jsonl", [{"question_id": 0, "text": "a"}, record])
    with pytest.raises(DataError, match=problem):
        read_predictions(tmp_path / "said.jsonl")
    write_jsonl(tmp_path / "said.jsonl", [record, record])
    with pytest.raises(DataError, match=problem.replace("2:", "1:", 1)):
        read_predictions(tmp_path / "said.jsonl")


def test_every_task_reads_an_xlsx_of_predictions(tmp_path: Path) -> None:
    said = RELEASES["gqa"](tmp_path)
    rows = [{"index": name, "prediction": text, "hit": "1"} for name, text in said.items()]
    (tmp_path / "said.xlsx").write_bytes(write_sheet(rows, numbers=("index",)))
    found = score("gqa", TASKS["gqa"](tmp_path), tmp_path / "said.xlsx")
    assert found.scored.metrics["accuracy"] == 100
    assert [(field.field, field.count) for field in found.unread_fields] == [("hit", 2)]


LLAVA = {"prompt": "What?", "answer_id": "x", "model_id": "m", "metadata": {}, "shortuuid": "y"}


def test_the_fields_of_llavas_answer_lines_are_no_news(tmp_path: Path) -> None:
    said = RELEASES["file"](tmp_path)
    write_jsonl(tmp_path / "said.jsonl", [{"question_id": name, "text": text, **LLAVA} for name, text in said.items()])
    found = score("file", File(tmp_path), tmp_path / "said.jsonl")
    assert found.unread_fields == ()
    assert found.to_dict()["unread_fields"] == []


FIELD = st.from_regex(r"[A-Za-z가-힣][A-Za-z가-힣0-9_ -]{0,12}", fullmatch=True)
VALUE = st.one_of(WORDS, st.integers(), st.booleans(), st.lists(st.integers(), max_size=2), st.just({"a": 1}))


@given(field=FIELD, value=VALUE, nth=st.integers(0, 2))
def test_a_field_of_a_prediction_is_used_rejected_or_reported(
    tmp_path_factory: pytest.TempPathFactory, field: str, value: Any, nth: int
) -> None:
    folder = tmp_path_factory.mktemp("fields")
    said = RELEASES["file"](folder)
    records = [{"question_id": name, "text": text} for name, text in said.items()]
    records[nth] = {**records[nth], field: value}
    write_jsonl(folder / "said.jsonl", records)
    task = File(folder)
    try:
        found = score("file", task, folder / "said.jsonl")
    except DataError:
        return
    reported = [(told.field, told.count) for told in found.unread_fields]
    assert reported == ([] if field in (*OWN_FIELDS, "type", "language", "match", "choices") else [(field, 1)])


def test_score_prints_the_account_and_lists_it_as_json(tmp_path: Path) -> None:
    said = RELEASES["file"](tmp_path)
    questions = [
        {**json.loads(line), "difficulty": 3} for line in (tmp_path / "questions.jsonl").read_text().splitlines()
    ]
    write_jsonl(tmp_path / "questions.jsonl", questions)
    records = [{"question_id": name, "text": text, "confidnce": 1} for name, text in said.items()]
    write_json(tmp_path / "said.json", {"answers": records, "model": "m"})
    words = ["score", "file", "--data", str(tmp_path), "--predictions", str(tmp_path / "said.json")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert f'{tmp_path / "questions.jsonl"}: field "difficulty" is not read: 3 records' in done.stderr
    assert f'{tmp_path / "said.json"}: field "confidnce" is not read: 3 records' in done.stderr
    assert "not read" not in done.stdout
    done = CliRunner().invoke(app, [*words, "--json"])
    assert json.loads(done.stdout)["unread_fields"] == [
        {"file": str(tmp_path / "questions.jsonl"), "field": "difficulty", "count": 3, "near": ""},
        {"file": str(tmp_path / "said.json"), "field": "confidnce", "count": 3, "near": ""},
        {"file": str(tmp_path / "said.json"), "field": "model", "count": 1, "near": ""},
    ]


def test_fields_that_a_task_uses_are_not_reported(tmp_path: Path) -> None:
    RELEASES["pope"](tmp_path)
    records = [
        {"question_id": k, "category": split, "text": said, "labell": said}
        for split in ("random", "popular", "adversarial")
        for k, said in ((1, "Yes"), (2, "No"))
    ]
    write_jsonl(tmp_path / "said.jsonl", records)
    found = score("pope", TASKS["pope"](tmp_path), tmp_path / "said.jsonl")
    assert found.scored.metrics["mean_f1"] == 100
    assert [(told.field, told.count, told.near) for told in found.unread_fields] == [("labell", 6, "label")]


def test_the_answers_that_evaluate_keeps_have_no_unread_field(tmp_path: Path, model: Path) -> None:
    from PIL import Image

    from vistune import api

    RELEASES["seed"](tmp_path)
    for question in TASKS["seed"](tmp_path).questions():
        place = Path(str(question.sample.images[0].source))
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40)).save(place)
    api.evaluate(model, task="seed", data=tmp_path, out=tmp_path / "evals")
    kept = tmp_path / "evals" / "seed.predictions.jsonl"
    assert score("seed", TASKS["seed"](tmp_path), kept).unread_fields == ()
    assert read_json(tmp_path / "evals" / "seed.json")["unread_fields"] == []


@pytest.mark.parametrize("end", ["\n{}", "\\n{}", " {}"])
@pytest.mark.parametrize("name", ["mme", "textvqa"])
def test_a_prompt_tells_the_question_whichever_way_its_line_break_is_written(
    tmp_path: Path, name: str, end: str
) -> None:
    """LLaVA's ids name the image alone there, so the prompt tells which of its questions was asked."""
    said = RELEASES[name](tmp_path)
    task = TASKS[name](tmp_path)
    records = []
    for question, text in zip(task.questions(), said.values(), strict=True):
        image, _, asked = question.id.partition(": ")
        prompt = asked + end.format("Answer the question using a single word or phrase.")
        records.append({"question_id": image, "prompt": prompt, "text": text})
    write_jsonl(tmp_path / "said.jsonl", records)
    assert score(name, task, tmp_path / "said.jsonl").scored.missing == 0


def test_ids_of_a_benchmarks_own_files_may_be_floats_or_texts(tmp_path: Path) -> None:
    said = RELEASES["vqav2"](tmp_path)
    path = tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json"
    path.write_text(
        path.read_text().replace('"question_id": 1', '"question_id": 1.0').replace('id": 2,', 'id": "2",', 1)
    )
    write_jsonl(tmp_path / "said.jsonl", [{"question_id": float(name), "answer": text} for name, text in said.items()])
    found = score("vqav2", TASKS["vqav2"](tmp_path), tmp_path / "said.jsonl", upload=True)
    assert (found.scored.metrics["overall"], found.scored.missing) == (100, 0)
    assert found.upload is not None
    assert [row["question_id"] for row in json.loads(found.upload[1])] == [1, 2]


def test_rotations_whose_indexes_are_floats_are_the_same_questions(tmp_path: Path) -> None:
    table = "index\tquestion\tA\tB\tanswer\n7.0\tWhat?\tcat\tdog\tA\n1000007.0\tWhat?\tdog\tcat\tB\n"
    (tmp_path / "mmbench_dev_en.tsv").write_text(table)
    (tmp_path / "said.tsv").write_text("index\tprediction\n7.0\tA\n1000007.0\tB\n")
    task = TASKS["mmbench"](tmp_path)
    assert [question.id for question in task.questions()] == ["7", "1000007"]
    assert score("mmbench", task, tmp_path / "said.tsv").scored.metrics["Overall"] == 100


def book_of(path: Path, *sheets: list[list[object]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for rows in sheets:
        sheet = book.create_sheet()
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


HEADER: list[object] = ["index", "prediction"]
UNREAD_CELLS: dict[str, tuple[list[list[list[object]]], str]] = {
    "another sheet": ([[HEADER, [1, "a"]], [HEADER, [2, "b"]]], "only its first sheet 'Sheet' is read, and there are"),
    "an empty first sheet": ([[], [HEADER, [2, "b"]]], "there are cells in 'Sheet1'"),
    "two of a name": ([[[*HEADER, "prediction"], [1, "a", "b"]]], ":1: columns B and C have the same name 'predic"),
    "a name and a space": ([[[*HEADER, "prediction "], [1, "a", "b"]]], ":1: columns B and C have the same name"),
    "no name": ([[["index", None, "prediction"], [1, "a", "b"]]], ":2: column B has a cell but no name"),
    "beyond the names": ([[HEADER, [1, "a"], [2, "b", "c"]]], ":3: column C has a cell but no name"),
    "no names at all": ([[[], [1, "a"]]], ":2: column A has a cell but no name"),
}


@pytest.mark.parametrize("name", UNREAD_CELLS)
def test_cells_of_an_xlsx_that_would_not_be_read_are_refused_with_their_location(tmp_path: Path, name: str) -> None:
    sheets, words = UNREAD_CELLS[name]
    path = book_of(tmp_path / "said.xlsx", *sheets)
    with pytest.raises(DataError) as caught:
        read_predictions(path)
    assert str(path) in caught.value.message
    assert words in caught.value.message
    assert caught.value.hint


def test_empty_sheets_columns_and_rows_of_an_xlsx_are_no_content(tmp_path: Path) -> None:
    rows: list[list[object]] = [["index", None, "prediction", " "], [1, None, "a", " "], [], [2, "", "b"]]
    path = book_of(tmp_path / "said.xlsx", rows, [], [[None, " "]])
    assert [row for _, row in read_sheet(path)] == [{"index": 1, "prediction": "a"}, {"index": 2, "prediction": "b"}]


def test_a_second_reply_that_differs_is_named(tmp_path: Path) -> None:
    said = RELEASES["file"](tmp_path)
    rows = [{"question_id": name, "text": text, "prediction": "other", "answer": "gold"} for name, text in said.items()]
    write_jsonl(tmp_path / "said.jsonl", rows)
    found = score("file", File(tmp_path), tmp_path / "said.jsonl")
    assert [(field.field, field.count) for field in found.unread_fields] == [("prediction", len(said))]

"""Rules for every task: joins, missing and unparsed replies, hostile replies, errors that name the file."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hostile import ENDLESS, REPLIES
from hypothesis import given, settings
from releases import FULL, RELEASES
from typer.testing import CliRunner

import vistune
from vistune.cli.app import app
from vistune.errors import DataError, RecipeError
from vistune.evaluation import TASKS, Benchmark, Facts, score
from vistune.evaluation.parsing import soft_points
from vistune.evaluation.predictions import read_predictions
from vistune.files import read_json, write_json, write_jsonl

NAMES = sorted(RELEASES)


def write_said(path: Path, said: dict[str, str]) -> Path:
    write_jsonl(path, [{"question_id": name, "text": text} for name, text in said.items()])
    return path


@pytest.mark.parametrize("name", sorted(FULL))
def test_right_answers_get_everything(name: str, tmp_path: Path) -> None:
    said = RELEASES[name](tmp_path)
    found = score(name, TASKS[name](tmp_path), write_said(tmp_path / "said.jsonl", said)).scored
    metric, full = FULL[name]
    assert found.metrics[metric] == pytest.approx(full)
    assert (found.missing, found.unparsed) == (0, 0)


@pytest.mark.parametrize("name", sorted(FULL))
def test_a_missing_answer_counts_as_wrong_and_is_reported(name: str, tmp_path: Path) -> None:
    said = RELEASES[name](tmp_path)
    count = len(said)
    del said[next(iter(said))]
    found = score(name, TASKS[name](tmp_path), write_said(tmp_path / "said.jsonl", said)).scored
    metric, full = FULL[name]
    assert (found.count, found.missing) == (count, 1)
    lost = found.metrics["existence"] if name == "mme" else found.metrics[metric]
    assert lost < (200 if name == "mme" else full)


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_to_no_question_of_the_data_is_refused(name: str, tmp_path: Path) -> None:
    said = RELEASES[name](tmp_path) | {"999": "yes"}
    with pytest.raises(DataError, match=rf"said\.jsonl:{len(said)}:question_id: '999' is not in the data"):
        score(name, TASKS[name](tmp_path), write_said(tmp_path / "said.jsonl", said))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_missing_of_a_release_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file|missing") as caught:
        TASKS[name](tmp_path).questions()
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_questions_can_be_asked(name: str, tmp_path: Path) -> None:
    """Every question is one user turn with text, its image in front, ids unique, and twice the same."""
    said = RELEASES[name](tmp_path)
    task = TASKS[name](tmp_path)
    asked = list(task.questions())
    assert len({question.id for question in asked}) == len(asked) == len(said)
    assert all(question.sample.messages[-1].text.strip() for question in asked)
    assert asked == list(task.questions())


@settings(max_examples=20, deadline=None)
@given(replies=REPLIES)
def test_any_reply_can_be_marked(tmp_path_factory: pytest.TempPathFactory, replies: list[str]) -> None:
    mark_all(tmp_path_factory, replies)


@pytest.mark.soak
@settings(max_examples=200, deadline=None)
@given(replies=REPLIES)
def test_any_of_20_000_replies_can_be_marked(tmp_path_factory: pytest.TempPathFactory, replies: list[str]) -> None:
    mark_all(tmp_path_factory, replies)


def mark_all(factory: pytest.TempPathFactory, replies: list[str]) -> None:
    """A hundred replies to every task by every rule: points within 0-1, the same twice, no exception."""
    for name in NAMES:
        task, asked = made(name, factory)
        for number, reply in enumerate(replies):
            question = asked[number % len(asked)]
            for rule in task.rules:
                marked = task.mark(question, reply, rule)
                assert 0 <= marked.points <= 1
                assert marked == task.mark(question, reply, rule)


_MADE: dict[str, tuple[Benchmark, list]] = {}


def made(name: str, factory: pytest.TempPathFactory) -> tuple[Benchmark, list]:
    if name not in _MADE:
        folder = factory.mktemp(name)
        RELEASES[name](folder)
        task = TASKS[name](folder)
        _MADE[name] = (task, list(task.questions()))
    return _MADE[name]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("piece", ENDLESS)
def test_a_reply_of_a_megabyte_is_read_in_linear_time(
    tmp_path_factory: pytest.TempPathFactory, name: str, piece: str
) -> None:
    """A parser that backtracks would not come back within the suite's patience."""
    task, asked = made(name, tmp_path_factory)
    reply = piece * (1_000_000 // len(piece))
    for rule in task.rules:
        assert task.mark(asked[0], reply, rule).text is reply


def test_the_points_of_ten_people() -> None:
    people = ["red"] * 4 + ["blue"] * 3 + ["green"] * 2 + ["white"]
    points = [soft_points(said, people) for said in ("red", "blue", "green", "white", "black")]
    assert points == pytest.approx([1, 0.9, 0.6, 0.3, 0])


def test_unanimous_people_are_compared_as_they_stand(tmp_path: Path) -> None:
    """VQA's quirk: "Yes." to ten times "yes" is wrong, while "2." to a mixed ten goes through the text processor."""
    RELEASES["vqav2"](tmp_path)
    task = TASKS["vqav2"](tmp_path)
    one, two = task.questions()
    assert task.mark(one, "Yes.").points == 0
    assert task.mark(one, "yes\n").points == 1
    assert task.mark(two, "2.").points == 1


@pytest.mark.parametrize(
    ("reply", "answer", "points"),
    [
        ("Yes.", "yes", 1),
        ("Yes, no doubt.", "no", 0),
        ("No", "no", 0),
        ("NO", None, 1),
        ("It is. Not", None, 1),
        ("no\n", None, 1),
        ("", None, 1),
    ],
)
def test_popes_reading(reply: str, answer: str | None, points: float, tmp_path: Path) -> None:
    """Of an object that is there: what is no plain "no" counts as a yes, and is unparsed where it says neither."""
    RELEASES["pope"](tmp_path)
    task = TASKS["pope"](tmp_path)
    marked = task.mark(task.questions()[0], reply)
    assert (marked.answer, marked.points) == (answer, points)


def test_forms_of_prediction_files(tmp_path: Path) -> None:
    wanted = [("1", "red"), ("2", "blue")]
    rows = [{"question_id": int(name), "answer": text} for name, text in wanted]
    write_json(tmp_path / "list.json", rows)
    (tmp_path / "dense.json").write_text(json.dumps(rows))
    write_json(tmp_path / "map.json", dict(wanted))
    (tmp_path / "dense_map.json").write_text(json.dumps(dict(wanted)))
    write_jsonl(tmp_path / "lines.jsonl", [{"questionId": name, "prediction": text} for name, text in wanted])
    ours = [{"question_id": n, "text": t, "answer": "gold", "condition": "with_image"} for n, t in wanted]
    write_jsonl(tmp_path / "ours.jsonl", [*ours, {**ours[0], "text": "blind", "condition": "without_image"}])
    for path in sorted(tmp_path.iterdir()):
        assert [(one.id, one.text) for one in read_predictions(path)] == wanted, path.name


@pytest.mark.parametrize(
    ("line", "field"),
    [('{"text": "a"}', "question_id"), ('{"question_id": 2, "text": 5}', "text"), ("[1]", "is not an object")],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, field: str) -> None:
    path = tmp_path / "said.jsonl"
    path.write_text('{"question_id": 1, "text": "a"}\n' + line + "\n")
    with pytest.raises(DataError, match=rf"said\.jsonl:2:.*{field}"):
        read_predictions(path)


def test_a_rule_that_a_task_has_not_is_refused(tmp_path: Path) -> None:
    said = write_said(tmp_path / "said.jsonl", RELEASES["gqa"](tmp_path))
    with pytest.raises(RecipeError, match="has no such rule"):
        score("gqa", TASKS["gqa"](tmp_path), said, rule="lenient")


def test_both_rules_are_shown_where_they_differ(tmp_path: Path) -> None:
    RELEASES["seed"](tmp_path)
    said = write_said(tmp_path / "said.jsonl", {"7": "정답은 A입니다", "v8": "D"})
    official = score("seed", TASKS["seed"](tmp_path), said).to_dict()
    assert (official["metrics"]["overall"], official["lenient"]["overall"], official["unparsed"]) == (50, 100, 1)
    assert official["examples"] == [{"question_id": "7", "text": "정답은 A입니다"}]
    lenient = score("seed", TASKS["seed"](tmp_path), said, rule="lenient").to_dict()
    assert (lenient["metrics"]["overall"], lenient["official"]["overall"], lenient["unparsed"]) == (100, 50, 0)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_says_what_to_download(name: str) -> None:
    facts = TASKS[name].facts
    assert isinstance(facts, Facts)
    assert all((facts.about, facts.files, facts.source, facts.licence, facts.size))


def test_the_verb_scores_and_writes_the_upload(tmp_path: Path) -> None:
    said = write_said(tmp_path / "said.jsonl", RELEASES["vizwiz"](tmp_path))
    words = [
        "score",
        "vizwiz",
        "--data",
        str(tmp_path),
        "--predictions",
        str(said),
        "--submission",
        str(tmp_path / "up.json"),
    ]
    shown = CliRunner().invoke(app, [*words, "--json"])
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["count"] == 2
    assert read_json(tmp_path / "up.json") == [
        {"image": "a.jpg", "answer": "dog"},
        {"image": "b.jpg", "answer": "unanswerable"},
    ]
    assert CliRunner().invoke(app, words).exit_code == 0


def test_the_list_names_every_task() -> None:
    listed = json.loads(CliRunner().invoke(app, ["evaluate", "--list", "--json"]).stdout)
    assert [entry["task"] for entry in listed] == list(TASKS)
    assert CliRunner().invoke(app, ["evaluate", "--list"]).exit_code == 0


def test_scoring_needs_no_torch(tmp_path: Path) -> None:
    said = write_said(tmp_path / "said.jsonl", RELEASES["pope"](tmp_path))
    code = (
        "import sys, vistune; from pathlib import Path\n"
        f"vistune.score('pope', Path({str(tmp_path)!r}), Path({str(said)!r}))\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_scoring_by_a_call(tmp_path: Path) -> None:
    said = write_said(tmp_path / "said.jsonl", RELEASES["file"](tmp_path))
    assert vistune.score("file", tmp_path, said).to_dict()["metrics"] == {"accuracy": 1.0}


ROWS = ("1", "{}", '{"question_id": 1}', '{"question_id": 1, "answers": [1], "question": "a", "image_id": 2}')
FORMS = ('{"questions": [%s]}', '{"annotations": [%s]}', '{"data": [%s]}', '{"1": %s}', "%s", "[%s]")
DAMAGE = ("", "null", "[]", "[[]]\n{}", '{"test": [7]}', "\x00", "{", *(form % row for form in FORMS for row in ROWS))


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_release_is_refused_by_name(name: str, tmp_path: Path) -> None:
    """Whichever of a release's files holds something else: one line that names it."""
    path = write_said(tmp_path / "said.jsonl", RELEASES[name](tmp_path))
    files = [file for file in tmp_path.rglob("*") if file.suffix in (".json", ".jsonl", ".gz", ".txt") and file != path]
    for file in files[:3]:
        whole = file.read_bytes()
        for text in DAMAGE:
            file.write_bytes(gzip.compress(text.encode()) if file.suffix == ".gz" else text.encode())
            with pytest.raises(DataError) as caught:
                score(name, TASKS[name](tmp_path), path)
            assert str(tmp_path) in str(caught.value), text
        file.write_bytes(whole)


@pytest.mark.parametrize("name", NAMES)
def test_damaged_predictions_are_refused_by_name(name: str, tmp_path: Path) -> None:
    RELEASES[name](tmp_path)
    path = tmp_path / "said.jsonl"
    for text in (*DAMAGE, '{"outputs": {"1": 5}}', '{"outputs": []}', '{"question_id": [], "text": ""}'):
        path.write_text(text)
        with pytest.raises(DataError, match=r"said\.jsonl"):
            score(name, TASKS[name](tmp_path), path)

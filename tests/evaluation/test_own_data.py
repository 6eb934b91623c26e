"""One's own training data as a benchmark: dialogues of every form, matches by kind, the held-out split of a run."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from vistune import api
from vistune.cli.app import app
from vistune.data.stages import plan_stages
from vistune.errors import DataError, RecipeError
from vistune.evaluation import TASKS, score
from vistune.evaluation.matching import MATCHES, anls, edit_distance, only_number, rouge_l
from vistune.evaluation.tasks import open_task
from vistune.evaluation.tasks.file import File
from vistune.files import read_jsonl, write_json, write_jsonl
from vistune.progress import no_progress
from vistune.recipe import Model, Recipe, Stage, Validation, load_recipe
from vistune.runs.checkpoint import load
from vistune.runs.folder import find_model
from vistune.types import ImageRef, Question

TURNS = ("Which animal?", "A dog.", "How many are there?", "There are two dogs.")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, colour in enumerate(("red", "blue", "green")):
        Image.new("RGB", (40, 40), colour).save(tmp_path / f"{number}.jpg")
    return tmp_path


def llava(name: str = "7", image: str = "0.jpg", turns: Sequence[str] = TURNS, **more: Any) -> dict[str, Any]:
    said = [
        {"from": "gpt" if k % 2 else "human", "value": text if k else f"<image>\n{text}"}
        for k, text in enumerate(turns)
    ]
    return {"id": name, "image": image, "conversations": said, **more}


def messages() -> dict[str, Any]:
    roles = ("user", "assistant") * 2
    said = [{"role": role, "content": text} for role, text in zip(roles, TURNS, strict=True)]
    said[0]["content"] = "<image>\n" + said[0]["content"]
    return {"id": "7", "images": ["0.jpg"], "messages": said}


def texts() -> dict[str, Any]:
    return {
        "id": "7",
        "images": ["0.jpg"],
        "texts": [{"user": f"<image>\n{TURNS[0]}", "assistant": TURNS[1]}, {"user": TURNS[2], "assistant": TURNS[3]}],
    }


def write_tar(path: Path, record: Mapping[str, Any]) -> None:
    members = {"7.json": json.dumps({k: v for k, v in record.items() if k != "image"}).encode()}
    members["7.jpg"] = (path.parent / "0.jpg").read_bytes()
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def write_parquet(path: Path, record: dict[str, Any]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    image = {"bytes": (path.parent / "0.jpg").read_bytes(), "path": "x.jpg"}
    parquet.write_table(pyarrow.Table.from_pylist([record | {"images": [image]}]), path)


def asked(question: Question) -> list[tuple[str, list[str]]]:
    return [
        (m.role, ["[image]" if isinstance(part, ImageRef) else part.strip() for part in m.parts])
        for m in question.sample.messages
    ]


@pytest.mark.parametrize("name", ["llava.json", "llava.jsonl", "m.jsonl", "t.parquet", "x.tar"])
def test_each_answer_of_a_dialogue_is_a_question_with_the_dialogue_before_it(folder: Path, name: str) -> None:
    path = folder / name
    if name == "x.tar":
        write_tar(path, llava())
    elif name == "t.parquet":
        write_parquet(path, texts())
    elif name == "llava.json":
        write_json(path, [llava()])
    else:
        write_jsonl(path, [llava() if name == "llava.jsonl" else messages()])
    first, second = TASKS["file"](path).questions()
    assert (first.answer, second.answer) == ("A dog.", "There are two dogs.")
    begin = [("user", ["[image]", "Which animal?"])]
    assert asked(first) == begin
    assert asked(second) == [*begin, ("assistant", ["A dog."]), ("user", ["How many are there?"])]
    assert first.id.endswith("/1")
    assert second.id.endswith("/2")


def test_answers_without_loss_are_given_but_not_asked(folder: Path) -> None:
    record = llava(kind="chat", language="ko", match="contains", note="x")
    record["conversations"][1]["loss"] = False
    write_jsonl(folder / "d.jsonl", [record])
    task = File(folder / "d.jsonl")
    [question] = task.questions()
    assert question.id == "7/2"
    assert {name: question.tags[name] for name in ("type", "language", "match")} == {
        "type": "chat",
        "language": "ko",
        "match": "contains",
    }
    assert [field.field for field in task.unread_fields] == ["note"]
    assert "is given as part of the dialogue, not asked" in task.warnings[0]


def test_dialogues_with_the_same_id_get_their_lines_as_ids(folder: Path) -> None:
    one = llava(turns=TURNS[:2])
    write_jsonl(folder / "d.jsonl", [one, one, {**one, "id": "8"}])
    assert [question.id for question in File(folder / "d.jsonl").questions()] == ["7", "7@2", "8"]


def test_a_folder_that_generate_wrote_is_read(folder: Path) -> None:
    write_json(folder / "samples.json", [llava()])
    assert len(TASKS["file"](folder).questions()) == 2


REPLIES = {
    "exact": [("a DOG", 1.0), ("dog", 0.0)],
    "normalised": [("dog", 1.0), ("The dog!", 1.0), ("two dogs", 0.0)],
    "contains": [("I see a dog here", 1.0), ("dogs", 0.0)],
    "rouge-l": [("a dog", 1.0), ("dog", 2 / 3), ("a big dog", 4 / 5), ("", 0.0), ("cat", 0.0)],
    "anls": [("a dog.", 1.0), ("A fog.", 5 / 6), ("cats", 0.0), ("", 0.0)],
}


@pytest.mark.parametrize("match", REPLIES)
def test_points_by_each_match(folder: Path, match: str) -> None:
    write_jsonl(folder / "d.jsonl", [llava(turns=TURNS[:2])])
    task = open_task("file", folder / "d.jsonl", match=match)
    [question] = task.questions()
    for reply, points in REPLIES[match]:
        assert task.mark(question, reply).points == pytest.approx(points), reply


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("There are two dogs.", "2"),
        ("세 마리가 있습니다.", "3"),
        ("한국 사람 두 명", "2"),
        ("1,234.5 won", "1234.5"),
        ("50%", "50"),
        ("-3 °C", "-3"),
        ("2, so the answer is two", "2"),
        ("twenty", "20"),
        ("None", "0"),
        ("③", "3"),
        ("one or two", None),
        ("1/2", None),
        ("many", None),
        ("", None),
    ],
)
def test_the_only_number_of_a_text(text: str, number: str | None) -> None:
    assert only_number(text) == number


def test_a_reply_with_several_numbers_is_unparsed_and_an_answer_without_one_an_error(folder: Path) -> None:
    write_jsonl(folder / "d.jsonl", [llava()])
    with pytest.raises(DataError, match=r"d\.jsonl:1:match: the answer 'A dog\.' has no number"):
        open_task("file", folder / "d.jsonl", match="number").questions()
    write_jsonl(folder / "d.jsonl", [llava(turns=TURNS[2:])])
    task = open_task("file", folder / "d.jsonl", match="number")
    [question] = task.questions()
    assert [task.mark(question, reply).points for reply in ("2", "two!", "3", "2 or 3")] == [1, 1, 0, 0]
    assert task.mark(question, "2 or 3").answer is None


@pytest.mark.parametrize("gold", ["B", "B.", "(B)", "blue", "The answer is B."])
def test_the_options_of_a_choice_are_those_of_the_question(folder: Path, gold: str) -> None:
    text = "Which colour?\nA. red\nB. blue\nC. green"
    write_jsonl(folder / "d.jsonl", [llava(turns=(text, gold))])
    task = open_task("file", folder / "d.jsonl", match="choice")
    [question] = task.questions()
    assert (question.answer, question.tags["choices"]) == ("B", ["red", "blue", "green"])
    right, wrong = ("B", "정답은 B입니다.", "②", "It is blue"), ("A", "B or C", "")
    assert [task.mark(question, reply).points for reply in (*right, *wrong)] == [1, 1, 1, 1, 0, 0, 0]


def test_a_choice_whose_answer_is_no_option_is_an_error(folder: Path) -> None:
    write_jsonl(folder / "d.jsonl", [llava()])
    with pytest.raises(DataError, match=r"d\.jsonl:1:match: the answer 'A dog\.' is none of the options"):
        open_task("file", folder / "d.jsonl", match="choice").questions()


def test_a_match_per_kind_with_a_figure_each(folder: Path) -> None:
    records = [
        llava("1", turns=TURNS[:2], kind="name"),
        llava("2", turns=TURNS[2:], kind="count"),
        llava("3", turns=("Describe it.", "A red square on white."), kind="caption"),
    ]
    write_jsonl(folder / "d.jsonl", records)
    predictions = folder / "said.json"
    write_json(predictions, {"1": "dog", "2": "2", "3": "a red square"})
    rule = "normalised,count=number,caption=rouge-l"
    result = api.score("file", folder / "d.jsonl", predictions, match=rule)
    assert result.metrics == {"accuracy": 1.0, "rouge_l": pytest.approx(0.75)}
    assert result.scored.tables["by match"]["exact"] == (0.0, 3)
    assert result.scored.tables["by match"]["rouge-l"][1] == 3
    with pytest.raises(RecipeError, match="no question is of this kind") as caught:
        api.score("file", folder / "d.jsonl", predictions, match="captoin=anls")
    assert "did you mean 'caption'" in caught.value.hint
    with pytest.raises(RecipeError, match=r"--match rouge: unknown match 'rouge'"):
        api.score("file", folder / "d.jsonl", predictions, match="rouge")
    with pytest.raises(RecipeError, match=r"--match exact: pope has its own rules"):
        api.score("pope", folder, predictions, match="exact")


def test_answers_of_the_judge_count_by_its_verdict(folder: Path) -> None:
    write_jsonl(folder / "d.jsonl", [llava("1", turns=TURNS[:2]), llava("2", turns=TURNS[2:], match="exact")])
    write_json(folder / "said.json", {"1": "a hound", "2": "two"})
    task = open_task("file", folder / "d.jsonl", match="judge")
    result = score("file", task, folder / "said.json", judge=lambda bodies: ["correct" for _ in bodies])
    assert result.metrics == {"accuracy": 0.5}


def test_a_long_answer_compared_by_exact_match_is_warned_of(folder: Path) -> None:
    write_jsonl(folder / "d.jsonl", [llava(turns=("Describe it.", "word " * 20))])
    task = File(folder / "d.jsonl")
    task.questions()
    assert "--match rouge-l" in task.warnings[0]
    task = open_task("file", folder / "d.jsonl", match="rouge-l")
    task.questions()
    assert task.warnings == ()


def test_answers_that_are_not_compared_need_not_fit_their_match(folder: Path) -> None:
    """`vistune answer` asks the questions of a data file and compares nothing."""
    long = llava("8", turns=("Describe it.", "word " * 20))
    write_jsonl(folder / "d.jsonl", [llava("7", turns=TURNS[:2], match="number"), long])
    task = File(folder / "d.jsonl", gold=False)
    assert [question.id for question in task.questions()] == ["7", "8"]
    assert task.warnings == ()
    with pytest.raises(DataError, match="has no number"):
        File(folder / "d.jsonl").questions()


def test_dialogues_are_asked_under_every_condition_and_by_kind(folder: Path, model: Path) -> None:
    records = [
        llava(str(k), image=f"{k % 3}.jpg", kind=("chat", "count")[k % 2], turns=TURNS[: 2 + k % 2 * 2])
        for k in range(4)
    ]
    write_jsonl(folder / "d.jsonl", records)
    words = ["evaluate", str(model), "--task", "file", "--data", str(folder / "d.jsonl"), "--match", "rouge-l"]
    done = CliRunner().invoke(app, [*words, "--out", str(folder / "out"), "--json"])
    assert done.exit_code == 0, done.output
    tree = json.loads(done.stdout)
    assert tree["count"] == 6
    assert set(tree["intervals"]) == {"with_image", "without_image", "wrong_image"}
    assert tree["metrics"].keys() == tree["wrong_image"].keys() == {"rouge_l"}
    assert set(tree["by_type"]) == {"chat", "count"}
    lines = [row for _, row in read_jsonl(folder / "out" / "file.predictions.jsonl")]
    again = api.score("file", folder / "d.jsonl", folder / "out" / "file.predictions.jsonl", match="rouge-l")
    assert again.metrics == tree["metrics"]
    assert {row["prompt"].strip() for row in lines} == {TURNS[0], TURNS[2]}
    done = CliRunner().invoke(app, [*words[:-1], "anls", "--out", str(folder / "out"), "--json"])
    assert done.exit_code == 0, "another match scores the stored answers"
    assert list(json.loads(done.stdout)["metrics"]) == ["anls"]


@pytest.fixture
def run(folder: Path, tiny_backbones: Path) -> Path:
    """A run of one step over two files, with a third of the images held out."""
    for number in range(12):
        Image.new("RGB", (32, 32), (20 * number, 30, 30)).save(folder / f"{number}.png")
    write_json(folder / "a.json", [llava(f"a{k}", f"{k}.png", TURNS[:2]) for k in range(12)])
    write_json(folder / "b.json", [llava(f"b{k}", f"{k}.png", TURNS[2:], kind="count") for k in range(12)])
    recipe = Recipe(
        model=Model(vision=str(tiny_backbones / "vision"), language=str(tiny_backbones / "language")),
        data=({"file": folder / "a.json"}, {"file": folder / "b.json"}),  # type: ignore[arg-type]
        stages=(Stage(name="align", learn={"projector": 1e-3}, steps=1),),
        validation=Validation(share=0.4),
    )
    return api.train(recipe, folder / "run")


def test_the_held_out_split_of_a_run_is_asked_by_source(folder: Path, run: Path) -> None:
    task = open_task("file", run, match="contains,count=number")
    questions = task.questions()
    sources = {question.id[1:]: [] for question in questions}
    for question in questions:
        sources[question.id[1:]].append(question.tags["source"])
    assert 2 <= len(sources) <= 10
    assert all(named == ["a.json", "b.json"] for named in map(sorted, sources.values())), "split by image"
    planned, _ = plan_stages(load_recipe(str(run / "recipe.yaml")), load(find_model(run))[1], no_progress)
    trained = {sample.id for sample in planned[0].samples}
    assert not trained & {question.id for question in questions}
    assert len(trained) + len(questions) == 24
    result = api.evaluate(run, task="file", data=run, match="contains,count=number", out=folder / "evals")
    assert set(result.by_source) == {"a.json", "b.json"}
    assert set(result.by_type) == {"all", "count"}
    assert result.to_dict()["by_source"]
    scored = api.score("file", run, folder / "evals" / "file.predictions.jsonl", match="contains,count=number")
    assert scored.metrics == result.metrics


def test_data_that_changed_after_the_run_are_refused(folder: Path, run: Path) -> None:
    write_json(folder / "a.json", [llava(f"a{k}", f"{k}.png", TURNS[:2]) for k in range(11)])
    with pytest.raises(DataError, match=r"a\.json: changed after .*run was trained"):
        open_task("file", run).questions()


def test_edit_distance_and_rouge_agree_with_their_definitions() -> None:
    assert [edit_distance(*pair) for pair in (("kitten", "sitting"), ("", "abc"), ("a" * 100, "b"))] == [3, 3, 100]
    # Computed with rouge-score 0.1.2, rougeL without a stemmer. Its default tokenizer drops Korean, so the Korean value
    # was computed with a tokenizer that splits at spaces.
    assert rouge_l("the cat sat on the mat", "the cat is on a mat") == pytest.approx(2 / 3)
    assert rouge_l("빨간 사각형이 있다", "빨간 사각형") == pytest.approx(0.4)
    assert anls("", ["x"]) == 0.0
    assert anls("half", ["ha"]) == 0.5
    assert set(MATCHES) == {"exact", "normalised", "contains", "number", "choice", "rouge-l", "anls", "judge"}

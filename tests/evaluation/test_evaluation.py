"""Estimates, blind conditions and descriptions are exact on small, known cases."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vistune.errors import DataError
from vistune.evaluation import AnsweredQuestion
from vistune.evaluation.conditions import choose_questions, conditions_for, derangement, plan_blocks, prompt_of
from vistune.evaluation.descriptions import named_pairs
from vistune.evaluation.results import (
    TOO_FEW_IMAGES,
    accuracy,
    describe_change,
    describe_gap,
    evaluation_result,
    gap,
    majority,
    share_changed,
)
from vistune.evaluation.runner import ask
from vistune.evaluation.task import same_text
from vistune.evaluation.tasks.file import File
from vistune.evaluation.tasks.scenes import HeldOut
from vistune.files import write_jsonl
from vistune.model import build, read_spec
from vistune.processor import Processor, load_tokenizer
from vistune.recipe import Model
from vistune.scenes import write_world
from vistune.types import ImageRef, Message, Question, Sample


def question(name: str, image: str | None, gold: str = "red", kind: str = "colour") -> Question:
    parts = ((ImageRef(Path(image)),) if image else ()) + ("What?",)
    return Question(name, Sample(name, (Message("user", parts),)), gold, {"type": kind, "language": "en"})


def rows(*rights: bool, condition: str = "with_image", per_image: int = 1) -> list[AnsweredQuestion]:
    texts = {True: "red", False: "blue"}
    return [
        AnsweredQuestion(question(str(k), f"p{k // per_image}"), condition, texts[right], float(right))
        for k, right in enumerate(rights)
    ]


@given(st.lists(st.text(min_size=1, max_size=3), min_size=2, max_size=30), st.integers(0, 9))
def test_a_derangement_moves_every_image_to_another(images: list[str], seed: int) -> None:
    moved = derangement(images, seed)
    distinct = set(images)
    if len(distinct) < 2:
        assert moved == {}
        return
    assert set(moved) == set(moved.values()) == distinct
    assert all(a != b for a, b in moved.items())
    assert moved == derangement(images, seed)


def test_conditions_change_the_image_and_nothing_else() -> None:
    asked = question("1", "a.jpg")
    wrong = {"a.jpg": "b.jpg"}
    assert prompt_of(asked, "with_image", wrong) == list(asked.sample.messages)
    assert prompt_of(asked, "without_image", wrong)[0].parts == ("What?",)
    assert prompt_of(asked, "wrong_image", wrong)[0].parts == (ImageRef(Path("b.jpg")), "What?")


def test_a_wrong_image_needs_two_images() -> None:
    one = [question("1", "a.jpg"), question("2", "a.jpg")]
    possible, left_out = conditions_for(one)
    assert possible == ("with_image", "without_image")
    assert "needs two different" in left_out["wrong_image"]
    assert conditions_for([question("1", None)])[0] == ("with_image",)
    assert conditions_for([*one, question("3", "b.jpg")])[1] == {}


def test_the_interval_is_over_images() -> None:
    score = accuracy(rows(*[True] * 50, *[False] * 50))
    assert score.value == 0.5
    assert score.low == pytest.approx(0.4, abs=0.03)
    assert score.high == pytest.approx(0.6, abs=0.03)
    clustered = accuracy(rows(*[True] * 50, *[False] * 50, per_image=10))
    assert clustered.high - clustered.low > 2 * (score.high - score.low)


def test_the_gap_is_paired_and_said_in_words() -> None:
    same = rows(*[True, False] * 50)
    assert gap(same, same).value == gap(same, same).high == 0
    assert "includes zero" in describe_gap(gap(same, same))
    better = rows(*[True] * 100)
    assert gap(better, same).value == 0.5
    assert "helps" in describe_gap(gap(better, same))


@pytest.mark.parametrize(("images", "per_image"), [(1, 8), (9, 1)])
def test_few_images_give_no_interval_and_no_claim(images: int, per_image: int) -> None:
    count = images * per_image
    right, wrong = rows(*[True] * count, per_image=per_image), rows(*[False] * count, per_image=per_image)
    share, difference = accuracy(right), gap(right, wrong)
    assert (share.value, share.low, share.high, share.has_interval) == (1.0, 0.0, 1.0, False)
    assert (difference.value, difference.low, difference.high) == (1.0, -1.0, 1.0)
    assert describe_gap(difference) == TOO_FEW_IMAGES
    assert describe_change(share_changed(right, wrong)) == TOO_FEW_IMAGES
    assert difference.to_dict()["has_interval"] is False


def test_ten_images_give_an_interval() -> None:
    difference = gap(rows(*[True] * 10), rows(*[False] * 10))
    assert (difference.low, difference.high) == (1.0, 1.0)
    assert "has_interval" not in difference.to_dict()
    assert "helps" in describe_gap(difference)


def test_majority_is_by_type_and_language() -> None:
    asked = [
        question("1", "a", "red"),
        question("2", "b", "red"),
        question("3", "c", "blue"),
        question("4", "d", "2", "count"),
    ]
    assert majority(asked) == 0.75


def test_a_result_holds_every_condition_and_table() -> None:
    found = {c: rows(*[c == "with_image"] * 8, condition=c) for c in ("with_image", "without_image", "wrong_image")}
    result = evaluation_result("scenes", HeldOut(Path()), found)
    assert result.metrics == {"accuracy": 1.0}
    assert result.without_image == {"accuracy": 0.0}
    assert result.gap is not None
    assert result.gap.difference.value == 1.0
    assert result.by_type["colour"].accuracy["wrong_image"].value == 0.0
    assert result.by_language["en"].accuracy["with_image"].count == 8


def test_a_result_as_json_has_its_keys_in_a_fixed_order() -> None:
    found = {c: rows(*[True] * 10, condition=c) for c in ("with_image", "without_image", "wrong_image")}
    tree = evaluation_result("scenes", HeldOut(Path()), found).to_dict()
    assert list(tree) == [
        *("task", "metrics", "count", "unparsed", "missing", "examples", "tables", "majority", "without_image"),
        *("wrong_image", "intervals", "gap", "by_type", "by_language", "model", "asked_with", "unread_fields"),
    ]
    assert list(tree["gap"]) == ["value", "low", "high", "count", "against", "words"]
    assert list(tree["by_type"]["colour"]) == ["with_image", "without_image", "wrong_image", "majority"]


@pytest.mark.parametrize(("reply", "right"), [("Red.", True), (" red ", True), ("reddish", False), ("", False)])
def test_exact_match_forgives_case_space_and_a_stop(reply: str, right: bool) -> None:
    assert same_text(reply, "red") == right


@pytest.mark.parametrize("match", ["exact", "contains"])
def test_hangul_is_the_same_in_syllables_and_in_letters(tmp_path: Path, match: str) -> None:
    gold = unicodedata.normalize("NFD", "빨간색 원")
    write_jsonl(tmp_path / "questions.jsonl", [{"question_id": 1, "text": "?", "answer": gold, "match": match}])
    task = File(tmp_path)
    [question] = task.questions()
    assert task.mark(question, "빨간색  원.").points == 1
    assert task.mark(question, "빨간색 별").points == 0
    write_jsonl(tmp_path / "questions.jsonl", [{"question_id": 1, "text": "?", "answer": " ", "match": match}])
    with pytest.raises(DataError, match="1:answer: is empty"):
        task.questions()


def test_more_choices_than_replies_can_name_are_refused(tmp_path: Path) -> None:
    row = {"question_id": 1, "text": "?", "answer": "A", "match": "choice", "choices": list("abcdef")}
    write_jsonl(tmp_path / "questions.jsonl", [row])
    with pytest.raises(DataError, match="1:choices: 6 options, but only A to E can be chosen"):
        File(tmp_path).questions()


@pytest.mark.parametrize(
    ("text", "language", "pairs"),
    [
        (
            "At the top there is a large red circle. A small Blue star.",
            "en",
            {("red", "circle"): 1, ("blue", "star"): 1},
        ),
        ("Two: a red circle, a red circle.", "en", {("red", "circle"): 2}),
        (
            "왼쪽 위에 큰 빨간색 원이 있습니다. 가운데에는 작은 보라색 십자가가 보입니다.",
            "ko",
            {("red", "circle"): 1, ("purple", "cross"): 1},
        ),
        ("nothing here", "en", {}),
    ],
)
def test_named_pairs(text: str, language: str, pairs: dict[tuple[str, str], int]) -> None:
    assert dict(named_pairs(text, language)) == pairs


def test_a_limit_keeps_whole_images() -> None:
    asked = [question(str(k), f"p{k // 4}") for k in range(40)]
    kept = choose_questions(asked, 10, seed=1)
    assert len(kept) == 12
    assert kept == choose_questions(asked, 10, seed=1)


def test_a_model_is_asked_under_every_condition(tmp_path: Path, tiny_backbones: Path) -> None:
    write_world(tmp_path, count=1, seed=0, tests=3)
    recipe = Model(vision=str(tiny_backbones / "vision"), language=str(tiny_backbones / "language"))
    spec = read_spec(recipe)
    model, processor = build(recipe, spec, seed=0).eval(), Processor(load_tokenizer(tiny_backbones / "language"), spec)
    task = HeldOut(tmp_path)
    asked = task.questions()
    assert len(asked) > 10
    blocks = plan_blocks(asked, asked, ("with_image", "without_image", "wrong_image"))
    heard = []
    for block in blocks:
        found = ask(model, processor, task, block, on_answers=heard.extend)
        assert [row.question.id for row in found] == [q.id for q in block.questions]
    assert len(heard) == 3 * len(asked)
    assert found[0].to_dict()["answer"] == blocks[-1].questions[0].answer
    assert blocks[-1].messages(blocks[-1].questions[0])[0].images[0] != blocks[-1].questions[0].sample.images[0]


def test_a_block_holds_whole_images() -> None:
    asked = [question(f"{k} {split}", f"p{k}") for split in range(6) for k in range(60)]
    blocks = plan_blocks(asked, asked[:120], ("with_image", "without_image"))
    held = [{str(q.sample.images[0].source) for q in b.questions} for b in blocks if b.condition == "with_image"]
    assert sum(map(len, held)) == len(set().union(*held)) == 60
    assert [len(b.questions) for b in blocks if b.condition == "with_image"] == [132, 132, 96]
    assert sum(len(b.questions) for b in blocks if b.condition == "without_image") == 120


def test_an_id_that_comes_twice_is_refused() -> None:
    with pytest.raises(DataError, match="'1' occurs twice"):
        plan_blocks([question("1", "a"), question("1", "b")], (), ("with_image",))


def test_a_file_of_questions_names_its_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"question_id": 1, "text": "a", "answer": "b"}\n{"question_id": 2, "text": "a"}\n')
    with pytest.raises(DataError, match=r"q\.jsonl:2:answer"):
        File(path).questions()

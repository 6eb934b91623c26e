"""Korean benchmarks: published figures from real predictions, the language filter, and a POPE built from boxes."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path
from typing import Any

import pytest

from vistune.errors import DataError, RecipeError
from vistune.evaluation import score
from vistune.evaluation.parsing import first_character, letter_in, yes_or_no
from vistune.evaluation.task import Benchmark, Reply
from vistune.evaluation.tasks.korean import KDtcBench, KLlavaW, KMMBench, Koffvqa, KSeed, is_korean, read_score
from vistune.evaluation.tasks.korean_pope import SPLITS, AbsentThings, KPope, things_of
from vistune.evaluation.tasks.mmbench import ROTATION

MODELS = ("gemma4-31b", "gemma4-26b-a4b")


@pytest.fixture(scope="session")
def vectors(shared: Path) -> Path:
    return shared / "vectors" / "korean" / "open"


@pytest.fixture(scope="session")
def expected(vectors: Path) -> dict[str, Any]:
    return json.loads((vectors / "expected.json").read_text())


@pytest.mark.parametrize("model", MODELS)
def test_k_mmbench_is_circular(vectors: Path, expected: dict[str, Any], model: str) -> None:
    path = vectors / f"k_mmbench_{model}.jsonl"
    wanted = expected[path.name]["vlmevalkit_can_infer_option_letters_only"]
    found = score("k-mmbench", KMMBench(path), path).scored
    assert found.metrics["Overall"] == pytest.approx(wanted["circular_acc"], rel=1e-12)
    assert found.metrics["row_acc"] == pytest.approx(100 * wanted["row_correct"] / wanted["rows"], rel=1e-12)
    table = {name: [round(value * count / 100), count] for name, (value, count) in found.tables["l2-category"].items()}
    assert table == wanted["l2_circular"]
    assert found.count == wanted["rows"]
    lenient = score("k-mmbench", KMMBench(path), path, rule="lenient").scored
    assert lenient.metrics["row_acc"] > found.metrics["row_acc"]
    assert lenient.unparsed < found.unparsed


@pytest.mark.parametrize("model", MODELS)
def test_k_mmbench_by_the_first_character(vectors: Path, expected: dict[str, Any], model: str) -> None:
    path = vectors / f"k_mmbench_{model}.jsonl"
    groups: dict[int, list[bool]] = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        groups.setdefault(row["index"] % ROTATION, []).append(first_character(row["response"]) == row["answer"])
    wanted = expected[path.name]["first_character_rule"]
    assert sum(map(sum, groups.values())) == wanted["row_correct"]
    assert sum(map(all, groups.values())) == wanted["circular_correct"]


@pytest.mark.parametrize("model", MODELS)
def test_k_dtcbench_is_read_by_its_first_character(vectors: Path, expected: dict[str, Any], model: str) -> None:
    path = vectors / f"k_dtcbench_{model}.jsonl"
    wanted = expected[path.name]
    found = score("k-dtcbench", KDtcBench(path), path).scored
    assert found.metrics == {"accuracy": pytest.approx(100 * wanted["first_character_rule"] / wanted["n"], rel=1e-12)}
    table = {name: [round(value * count / 100), count] for name, (value, count) in found.tables["category"].items()}
    assert table == wanted["per_category"]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert sum(letter_in(row["response"], "ABCD") == row["answer"] for row in rows) == wanted["can_infer_option"]


def test_a_choice_is_asked_as_its_publisher_asks(tmp_path: Path) -> None:
    row = {"question_id": "s1", "question": "무엇?", "answer": "B", "data_type": "image", "image": "a.jpg"}
    row |= {f"choice_{letter}": word for letter, word in zip("abcd", ("개", "소", "말", "양"), strict=True)}
    (tmp_path / "k-seed.jsonl").write_text(json.dumps(row))
    (tmp_path / "k_dtcbench.jsonl").write_text(json.dumps(row))
    suffix = "\n주어진 선택지 중 해당 옵션의 문자로 바로 답하세요."
    [asked] = KSeed(tmp_path).questions()
    assert asked.sample.messages[0].text == f"무엇?\nA. 개\nB. 소\nC. 말\nD. 양{suffix}"
    assert asked.sample.images[0].source == tmp_path / "a.jpg"
    [asked] = KDtcBench(tmp_path).questions()
    assert asked.sample.messages[0].text == f"무엇?\nOptions: A: 개, B: 소, C: 말, D: 양{suffix}"
    (tmp_path / "said.json").write_text('{"s1": "정답은 B입니다"}')
    found = score("k-seed", KSeed(tmp_path), tmp_path / "said.json")
    assert (found.scored.metrics, found.scored.unparsed) == ({"accuracy": 0.0}, 1)  # the first character is no letter
    assert found.other == {"accuracy": 100.0}


@pytest.mark.parametrize("model", MODELS)
def test_koffvqas_language_filter_on_real_answers(vectors: Path, expected: dict[str, Any], model: str) -> None:
    path = vectors / f"koffvqa_predictions_{model}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    dropped = [row["index"] for row in rows if not is_korean(row["prediction"])]
    wanted = expected[path.name]
    assert (len(rows), dropped) == (wanted["n"], wanted["dropped"])


def test_koffvqas_language_filter_table(vectors: Path) -> None:
    table = json.loads((vectors / "koffvqa_language_filter_table.json").read_text())
    assert [is_korean(row["s"]) for row in table] == [row["keep"] for row in table]


def test_koffvqas_scores_are_the_last_digits(vectors: Path, expected: dict[str, Any]) -> None:
    name = "koffvqa_judge_reviews_synthetic.jsonl"
    reviews = [json.loads(line)["review"] for line in (vectors / name).read_text().splitlines()]
    assert [read_score(review) for review in reviews] == expected[name]


@pytest.mark.parametrize(
    ("review", "points"), [("5²", 0), ("²", 0), ("9" * 5000, 0), ("0" * 5 + "7", 7), ("점수 8점!", 8)]
)
def test_strange_digits_make_no_error(review: str, points: int) -> None:
    assert read_score(review) == points


KOFFVQA = (
    "index\tquestion\tanswer\tcategory\n1\t몇 개?\t두 개 (10점)\t수\n2\t무슨 색?\t빨강 (10점)\t색\n3\t누구?\t없음\t수\n"
)


def test_koffvqa_from_stored_reviews(tmp_path: Path) -> None:
    (tmp_path / "KOFFVQA.tsv").write_text(KOFFVQA)
    rows = [
        {"index": "1", "prediction": "두 개가 있습니다.", "review": "최종 점수: 10점 만점에 7점"},
        {"index": "2", "prediction": "飛行機は二機です。", "review": "최종 점수: 10점 만점에 10점"},
    ]
    said = tmp_path / "said.jsonl"
    said.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = score("koffvqa", Koffvqa(tmp_path), said).scored
    assert found.metrics == {"overall": pytest.approx(70 / 3)}
    assert found.tables["category"] == {"수": (35.0, 2), "색": (0.0, 1)}
    assert (found.notes["not_korean"], found.missing) == (["2"], 1)
    assert found.notes["language_filter"].startswith("py3langid ")
    said.write_text(json.dumps(rows[0]) + "\n" + '{"index": "2", "prediction": "빨강"}\n')
    with pytest.raises(DataError, match="2: review"):
        score("koffvqa", Koffvqa(tmp_path), said)
    said.write_text('{"index": "2", "prediction": "빨강"}\n')
    with pytest.raises(RecipeError, match="judge"):
        score("koffvqa", Koffvqa(tmp_path), said)


def test_k_llava_w_asks_in_korean(tmp_path: Path) -> None:
    row = {
        "question_id": 3,
        "question": "무엇?",
        "image": "a.jpg",
        "caption": ["개.", "공."],
        "gpt_answer": "개입니다.",
    }
    (tmp_path / "k-llava-w.jsonl").write_text(json.dumps({**row, "category": "conv"}, ensure_ascii=False))
    rule = {"llava_bench_conv": {"role": "어시스턴트", "prompt": "평가하세요."}}
    (tmp_path / "rule_ko.json").write_text(json.dumps(rule))
    task = KLlavaW(tmp_path)
    [question] = task.questions()
    assert task.requests([Reply(question, "고양이입니다.")])["3"] == (
        "[설명]\n개.\n공.\n\n[질문]\n무엇?\n\n[어시스턴트 1]\n개입니다.\n\n[어시스턴트 1 끝]\n\n"
        "[어시스턴트 2]\n고양이입니다.\n\n[어시스턴트 2 끝]\n\n[System]\n평가하세요.\n\n"
    )


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("예", "yes"),
        ("네, 있습니다.", "yes"),
        ("예입니다", "yes"),
        ("**예**", "yes"),
        ("정답은 예입니다", "yes"),
        ("아니오.", "no"),
        ("아니요, 없습니다", "no"),
        ("아뇨", "no"),
        ("정답: 아니오", "no"),
        ("이미지에 개가 보이지 않습니다.", "no"),
        ("개가 있습니다.", "yes"),
        ("Yes", "yes"),
        ("No.", "no"),
        ("예술 작품", None),
        ("네모", None),
        ("개는 없지만 고양이가 있습니다", None),
        ("모르겠습니다", None),
        ("", None),
    ],
)
def test_korean_yes_and_no(reply: str, answer: str | None) -> None:
    assert yes_or_no(reply) == answer


def coco(folder: Path, things: dict[int, list[str]], names: list[str]) -> Path:
    kinds = {name: number for number, name in enumerate(names, start=1)}
    tree = {
        "categories": [{"id": number, "name": name} for name, number in kinds.items()],
        "images": [{"id": image, "file_name": f"{image}.jpg"} for image in things],
        "annotations": [
            {"image_id": image, "category_id": kinds[name], "iscrowd": 0}
            for image, found in things.items()
            for name in found
        ],
    }
    (folder / "annotations").mkdir()
    path = folder / "annotations" / "instances_val2017.json"
    path.write_text(json.dumps(tree))
    return path


THINGS = {
    1: ["dog", "cat", "person"],
    2: ["dog", "cat", "person", "car"],
    3: ["person", "car", "bus"],
    4: ["person", "car", "bus"],
    5: ["person", "kite", "zebra"],
    6: ["car"],
}
NAMES = ["dog", "cat", "person", "car", "bus", "kite", "zebra"]


def test_korean_pope_asks_as_often_about_what_is_there_as_about_what_is_not(tmp_path: Path) -> None:
    path = coco(tmp_path, THINGS, NAMES)
    questions = KPope(tmp_path).questions()
    things, _ = things_of(json.loads(path.read_text()), path)
    assert len(questions) == len({question.id for question in questions}) == 5 * 3 * 6  # image 6 shows too little
    for question in questions:
        split, image, number = question.id.split("-")
        text = question.sample.messages[0].text
        there = {noun for noun in things[int(image)] if text.startswith(f"이 이미지에 {noun}")}
        assert bool(there) == (question.answer == "yes") == (int(number) % 2 == 0)
        assert question.sample.images[0].source == tmp_path / "val2017" / f"{image}.jpg"
        assert split == question.tags["split"]
    texts = {question.sample.messages[0].text for question in questions}
    assert "이 이미지에 사람이 있습니까? 예 또는 아니오로 답하세요." in texts
    assert "이 이미지에 자동차가 있습니까? 예 또는 아니오로 답하세요." in texts
    assert [q.id for q in questions] == [q.id for q in KPope(tmp_path).questions()]
    assert [q.sample for q in questions] == [q.sample for q in KPope(path).questions()]
    assert {question.tags["split"] for question in questions} == set(SPLITS)


def test_what_is_not_there_is_frequent_or_fits(tmp_path: Path) -> None:
    path = coco(tmp_path, THINGS, NAMES)
    absent = AbsentThings(things_of(json.loads(path.read_text()), path)[0])
    rng = random.Random(0)
    assert absent.of(1, "popular", rng) == ["자동차", "버스", "얼룩말"]  # 4, 2 and 1 images, then by name
    assert absent.of(3, "adversarial", rng) == ["개", "고양이", "얼룩말"]  # seen with people and cars three times


def test_korean_pope_is_scored_with_unclear_replies_as_wrong(tmp_path: Path) -> None:
    coco(tmp_path, THINGS, NAMES)
    task = KPope(tmp_path)
    said = {q.id: {"yes": "네, 있습니다.", "no": "아니요."}[q.answer] for q in task.questions()}
    (tmp_path / "said.json").write_text(json.dumps(said))
    found = score("k-pope", task, tmp_path / "said.json").scored
    assert (found.metrics["mean_f1"], found.metrics["random_accuracy"]) == (100.0, 100.0)
    (tmp_path / "said.json").write_text(json.dumps(dict.fromkeys(said, "글쎄요")))
    found = score("k-pope", task, tmp_path / "said.json").scored
    assert (found.metrics["mean_f1"], found.metrics["random_accuracy"], found.unparsed) == (0.0, 0.0, 90)


def test_a_folder_that_cannot_make_questions_says_so(tmp_path: Path) -> None:
    path = coco(tmp_path, {1: ["dog"]}, ["dog"])
    with pytest.raises(DataError, match="no image shows 3 kinds"):
        KPope(tmp_path).questions()
    path.write_text('{"images": [], "categories": [{"id": 1}], "annotations": []}')
    with pytest.raises(DataError, match=r"categories\[0\]:name"):
        KPope(tmp_path).questions()
    path.rename(path.with_name("instances_one.json"))
    path.with_name("instances_two.json").touch()
    with pytest.raises(
        DataError, match=r"several files match: instances_one\.json, instances_two\.json.*instances_one\.json"
    ):
        KPope(tmp_path).questions()
    for listed in path.parent.glob("instances_*"):
        listed.unlink()
    with pytest.raises(DataError, match=r"instances_\*\.json: no such file"):
        KPope(tmp_path).questions()


@pytest.mark.parametrize(
    ("task", "file"),
    [(KSeed, "k-seed.jsonl"), (KLlavaW, "k-llava-w.jsonl"), (Koffvqa, "koffvqa.jsonl"), (KMMBench, "k-mmbench.jsonl")],
)
def test_two_rows_of_one_id_are_refused(tmp_path: Path, task: type[Benchmark], file: str) -> None:
    row = {"index": "7", "question": "무엇인가요?", "answer": "A", "A": "개", "category": "x", "gpt_answer": "개"}
    (tmp_path / file).write_text("\n".join([json.dumps(row, ensure_ascii=False)] * 2) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"{file}:2:\w+: '7' occurs twice"):
        task(tmp_path).questions()


PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def write_shards(folder: Path, rows: list[dict[str, Any]], split: str = "dev") -> None:
    """As the hub keeps a dataset: parquet files of a split, images as structs of bytes and path."""
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    folder.mkdir(exist_ok=True)
    for number, row in enumerate(rows):
        table = pyarrow.Table.from_pylist([row])
        parquet.write_table(table, folder / f"{split}-{number:05d}-of-{len(rows):05d}.parquet")


def test_the_hubs_parquet_files_are_read_as_they_are(tmp_path: Path) -> None:
    image = {"bytes": PIXEL, "path": "0.png"}
    row = {"question_id": "1", "question": "무엇?", "choice_a": "개", "choice_b": "소", "choice_c": "말"}
    row |= {"choice_d": "양", "answer": "B", "data_type": "image", "image": image}
    write_shards(tmp_path / "data", [row, {**row, "question_id": "2", "image": {"bytes": None, "path": "x/b.png"}}])
    one, two = KSeed(tmp_path).questions()
    assert one.sample.messages[0].text.startswith("무엇?\nA. 개\nB. 소")
    assert Path(str(one.sample.images[0].source)).read_bytes() == PIXEL
    assert two.sample.images[0].source == tmp_path / "x" / "b.png"
    assert one.sample.origin.endswith("dev-00000-of-00002.parquet:1")
    assert KDtcBench(tmp_path / "data").questions()[0].sample.messages[0].text.startswith("무엇?\nOptions: A: 개")
    write_shards(tmp_path / "data", [row], split="test")
    with pytest.raises(DataError, match="parquet files of several splits: dev, test"):
        KSeed(tmp_path).questions()


def test_judged_and_circular_sets_are_read_from_parquet_too(tmp_path: Path) -> None:
    image = {"bytes": PIXEL, "path": None}
    talk = {"question_id": 3, "question": "설명?", "caption": "장면", "gpt_answer": "답", "category": "conv"}
    write_shards(tmp_path / "w", [{**talk, "image": image}])
    [asked] = KLlavaW(tmp_path / "w").questions()
    assert (asked.id, asked.tags["caption"], asked.tags["reference"]) == ("3", "장면", "답")
    choice = {"index": 7, "question": "무엇?", "hint": None, "A": "개", "B": "소", "C": None, "D": None, "answer": "A"}
    write_shards(tmp_path / "m", [{**choice, "category": "x", "l2-category": "y", "image": image}])
    [asked] = KMMBench(tmp_path / "m").questions()
    assert asked.tags["options"] == {"A": "개", "B": "소"}
    assert (asked.id, asked.answer, len(asked.sample.images)) == ("7", "A", 1)
    (tmp_path / "m" / "dev-00000-of-00001.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"dev-00000-of-00001\.parquet: cannot be read as parquet"):
        KMMBench(tmp_path / "m").questions()

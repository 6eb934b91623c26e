"""The benchmarks of 2024 and later: small releases in the official form, figures by hand, and the official scorers'.

Expected letters are those of the functions of lmms-eval 0.7.3 (mmmu_mcq_utils.py, mcq_extract.py) on the same replies;
None where the function guesses.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hostile import REPLIES as ANY_REPLIES
from hypothesis import given, settings
from PIL import Image

from vistune import api
from vistune.errors import DataError
from vistune.evaluation import TASKS, ScoreResult, score
from vistune.evaluation.option_rules import (
    MMSTAR_KO_OPENINGS,
    kreta_letter,
    mmmu_letter,
    natural_bench_answer,
    only_yes_or_no,
    opening_letter,
    ranked_letter,
)
from vistune.evaluation.task import Reply
from vistune.evaluation.tasks.documents import relaxed
from vistune.evaluation.tasks.mmmu import is_right
from vistune.files import write_jsonl
from vistune.types import ImageRef

pyarrow = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402

LETTER = "\nAnswer with the option's letter from the given choices directly."
SHORT = "\nAnswer the question using a single word or phrase."
OPTIONS = {"A": "cat", "B": "dog", "C": "red car", "D": "blue"}


def image(number: int = 0) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 30), (20 * number % 256, 90, 40)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def hub(folder: Path, rows: Sequence[Mapping[str, Any]], split: str = "test", shards: int = 1) -> None:
    """Write rows as the hub does, in shards."""
    folder.mkdir(parents=True, exist_ok=True)
    size = -(-len(rows) // shards)
    for number in range(shards):
        table = pyarrow.Table.from_pylist(list(rows[number * size : (number + 1) * size]))
        parquet.write_table(table, folder / f"{split}-{number:05}-of-{shards:05}.parquet")


def scored(name: str, folder: Path, replies: Mapping[str, str], **options: Any) -> ScoreResult:
    path = folder / "said.jsonl"
    write_jsonl(path, [{"question_id": key, "text": text} for key, text in replies.items()])
    return score(name, TASKS[name](folder), path, **options)


def prompts(name: str, folder: Path) -> list[str]:
    return [question.sample.messages[-1].text for question in TASKS[name](folder).questions()]


LETTERS = [  # reply, letter of mmmu_mcq_utils.py, letter of mcq_extract.py
    ("B", "B", "B"),
    ("b", None, None),
    ("(C)", "C", "C"),
    ("B.", "B", "B"),
    ("The answer is C.", "C", "C"),
    ("Because A", "A", "A"),
    ("I choose D", "D", "D"),
    ("A or B", "B", "A"),
    ("정답은 C", "C", "C"),
    ("the red car I think is best here", "C", None),
    ("", None, None),
    ("N/A", "A", "A"),  # MMMU's own function finds no letter
    ("B: dog", None, "B"),
    ("Answer: D", "D", "D"),
    ("A cat and B dog", "B", "A"),
    ("not C but (B)", "B", "B"),
]


@pytest.mark.parametrize(("reply", "of_mmmu", "ranked"), LETTERS)
def test_letters_by_the_rules_of_lmms_eval(reply: str, of_mmmu: str | None, ranked: str | None) -> None:
    assert mmmu_letter(reply, OPTIONS) == of_mmmu
    assert ranked_letter(reply, "ABCD") == ranked


@pytest.mark.parametrize(
    ("reply", "english", "korean"),
    [
        ("B", "B", "B"),
        (" b. cat", "B", "B"),
        ("(C) red", "C", "C"),
        ("Option D", "D", None),
        ("The answer is A.", "A", None),
        ("The answer is (A)", None, None),
        ("옵션 B", None, "B"),
        ("정답은 D입니다", None, "D"),
        ("정답: D", None, None),
        ("Because", "B", "B"),
        ("②", None, None),
        ("", None, None),
    ],
)
def test_letters_that_open_a_reply(reply: str, english: str | None, korean: str | None) -> None:
    assert opening_letter(reply, "ABCD") == english
    assert opening_letter(reply, "ABCD", MMSTAR_KO_OPENINGS) == korean


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("Because it is red.\nAnswer: C", "C"),
        ("Answer: A\nNo. Answer: (B)", "B"),
        ("Answer: A or B", "B"),  # two letters after "Answer:": the rule for MMMU, the last one
        ("C", "C"),
        ("정답은 (D)입니다", "D"),
        ("", None),
    ],
)
def test_kreta_reads_the_last_answer(reply: str, letter: str | None) -> None:
    assert kreta_letter(reply, OPTIONS) == letter


@pytest.mark.parametrize(
    ("reply", "of_natural_bench", "of_vlmevalkit"),
    [
        ("Yes", "yes", "Yes"),
        ("No.", "no", None),  # VLMEvalKit removes a full stop only between signs that are no digits, and finds "no"
        ("Yes, there is no dog.", "yes", None),
        ("nothing", None, None),
        ("예", None, None),
        ("", None, None),
    ],
)
def test_yes_or_no(reply: str, of_natural_bench: str | None, of_vlmevalkit: str | None) -> None:
    assert natural_bench_answer(reply, "yes", "no") == of_natural_bench
    assert only_yes_or_no(reply) == (of_vlmevalkit or ("No" if reply == "No." else None))


@pytest.mark.parametrize(
    ("reply", "answer", "right"),
    [
        ("95", "100", True),
        ("94.9", "100", False),
        ("5%", "0.05", True),
        ("5", "5%", False),
        ("0", "0", True),
        ("0.0", "0", False),
        ("1,000", "1000", False),
        ("YES", "yes", True),
        ("yes.", "yes", False),
        ("", "5", False),
    ],
)
def test_relaxed_accuracy(reply: str, answer: str, right: bool) -> None:
    assert relaxed(reply, answer) is right


@pytest.mark.parametrize(
    ("reply", "answers", "right"),
    [
        ("The answer is 3.14", ["3.1415"], True),
        ("so x = 5", ["5"], True),
        ("1,234", ["1234"], True),
        ("about 7", ["24/7", "7"], True),
        ("24/7", ["24/7", "7"], True),
        ("the result is a cat", ["cat"], True),
        ("x", ["x"], True),
        ("fox", ["x"], False),  # one character needs a space next to it
        ("", ["cat"], False),
    ],
)
def test_open_answers_of_mmmu(reply: str, answers: list[str], right: bool) -> None:
    assert is_right(reply, answers) is right


@settings(max_examples=20, deadline=None)
@given(replies=ANY_REPLIES)
def test_any_reply_can_be_read(replies: list[str]) -> None:
    for reply in replies:
        for letter in (mmmu_letter(reply, OPTIONS), kreta_letter(reply, OPTIONS), ranked_letter(reply, "ABCD")):
            assert letter is None or letter in OPTIONS
        assert only_yes_or_no(reply) in ("Yes", "No", None)
        assert natural_bench_answer(reply, "A", "B") in ("A", "B", None)
        assert not relaxed(reply, "-12.5") or "12" in reply or "13" in reply or "11" in reply
        is_right(reply, ["12", "cat"])


def test_mmstar_and_its_korean_form(tmp_path: Path) -> None:
    question = "Which?\nOptions: A: cat, B: dog, C: car, D: none"
    kinds = [("math", "geometry"), ("math", "geometry"), ("math", "statistical reasoning"), ("coarse perception", "x")]
    rows = [
        {
            "index": k,
            "question": f"{question} ",
            "image": image(k),
            "answer": "ABCD"[k],
            "category": c,
            "l2_category": f,
        }
        for k, (c, f) in enumerate(kinds)
    ]
    hub(tmp_path, rows, "val")
    assert prompts("mmstar", tmp_path)[0] == question + LETTER.removesuffix(".")
    replies = {"0": "A", "1": "Option A", "2": "the answer is c", "3": "정답은 D"}
    result = scored("mmstar", tmp_path, replies)
    assert result.metrics["final score"] == 50
    assert result.metrics["math"] == pytest.approx(200 / 3)
    assert result.metrics["average"] == pytest.approx((50 + 100 + 0) / 3)
    assert result.other is not None
    assert result.other["coarse perception"] == 100, "the lenient rule reads the Korean reply"
    assert scored("k-mmstar", tmp_path, replies).metrics["final score"] == 50


def test_the_tsv_of_vlmevalkit_is_read_by_language(tmp_path: Path) -> None:
    content = base64.b64encode(image()["bytes"]).decode()
    for name, question in (("MMStar.tsv", "Which?"), ("MMStar_KO.tsv", "어느?")):
        header = "index\tquestion\timage\tanswer\tcategory\tl2_category\n"
        (tmp_path / name).write_text(f"{header}7\t{question}\t{content}\tB\tmath\tgeometry\n")
    assert prompts("mmstar", tmp_path)[0].startswith("Which?")
    [question] = TASKS["k-mmstar"](tmp_path).questions()
    assert question.sample.messages[0].text.startswith("어느?")
    assert Path(str(question.sample.images[0].source)).read_bytes() == image()["bytes"]


def test_ai2d(tmp_path: Path) -> None:
    options = ["moon", "sun", "star", "B"]
    hub(
        tmp_path, [{"question": "What?", "options": options, "answer": str(k % 4), "image": image(k)} for k in range(5)]
    )
    assert prompts("ai2d", tmp_path)[0] == f"What?\nA. moon\nB. sun\nC. star\nD. B{LETTER}"
    # "b." and "(C)" without punctuation are letters; " D" keeps its blank, as in the official comparison.
    result = scored("ai2d", tmp_path, {"0": "A", "1": "b.", "2": "(C)", "3": " D", "4": " A. moon"})
    assert result.metrics == {"accuracy": 80}
    assert result.scored.unparsed == 1
    assert scored("ai2d", tmp_path, dict.fromkeys("01234", "The answer is A"), rule="lenient").metrics["accuracy"] == 40


def test_chartqa(tmp_path: Path) -> None:
    rows = [
        {"type": "human_test", "question": "How many?", "answer": "100", "image": image(0)},
        {"type": "human_test", "question": "Which?", "answer": "Red", "image": image(1)},
        {"type": "augmented_test", "question": "Share?", "answer": "1000", "image": image(1)},
    ]
    hub(tmp_path / "data", rows, shards=2)
    assert prompts("chartqa", tmp_path)[1] == "Which?\nAnswer the question with a single word."
    result = scored("chartqa", tmp_path, {"0": "104", "1": "red.", "2": "1,000"})
    assert result.metrics["relaxed_overall"] == pytest.approx(100 / 3)
    assert result.metrics["relaxed_human_split"] == 50
    assert result.metrics["relaxed_augmented_split"] == 0
    assert result.other is not None
    assert result.other["relaxed_overall"] == 100


def test_docvqa_and_the_files_of_its_closed_test_set(tmp_path: Path) -> None:
    row = {"question": "Who?", "question_types": ["layout"], "docId": 1}
    answers = [["Kim Lee", "K. Lee"], ["1992"]]
    rows = [{**row, "questionId": str(k + 5), "answers": a, "image": image(k)} for k, a in enumerate(answers)]
    hub(tmp_path / "val", rows, "validation")
    assert prompts("docvqa", tmp_path / "val")[0] == "Who?" + SHORT
    result = scored("docvqa", tmp_path / "val", {"5": "kim  leo", "6": "1"})
    # Distance 1, divided by the 8 signs of the reply as it is written; 3 of 4 signs differ, which is below one half.
    assert result.metrics == {"anls": pytest.approx((1 - 1 / 8) / 2)}
    hub(tmp_path / "test", [{**r, "answers": None} for r in rows])
    result = scored("infovqa", tmp_path / "test", {"5": "Kim", "6": "2"}, upload=True)
    assert result.metrics == {}
    assert result.upload is not None
    assert json.loads(result.upload.content) == [
        {"questionId": 5, "answer": "Kim"},
        {"questionId": 6, "answer": "2"},
    ]


def test_ocrbench(tmp_path: Path) -> None:
    kinds = [
        ("IIIT5K", "Regular Text Recognition", ["Hello"]),
        ("docVQA", "Doc-oriented VQA", ["12 May", "May 12"]),
        ("HME100k", "Handwritten Mathematical Expression Recognition", ["x ^ 2"]),
        ("HME100k", "Handwritten Mathematical Expression Recognition", ["Y"]),
    ]
    rows = [
        {"dataset": d, "question": " What? ", "question_type": t, "answer": a, "image": image()} for d, t, a in kinds
    ]
    hub(tmp_path, rows)
    assert prompts("ocrbench", tmp_path) == ["What?"] * 4
    result = scored("ocrbench", tmp_path, {"0": "it says HELLO!", "1": "on may\n12", "2": "x^2 + 1", "3": "y"})
    assert result.metrics["Text Recognition"] == 1
    assert result.metrics["Doc-oriented VQA"] == 1
    assert result.metrics["Handwritten Mathematical Expression Recognition"] == 1, "formulas keep their case"
    assert result.metrics["Final Score"] == 3


def test_realworldqa(tmp_path: Path) -> None:
    asked = "Which?\nA. left\nB. right\nPlease answer directly with only the letter of the correct option."
    rows = [
        {"question": asked, "answer": "B", "image": image()},
        {"question": "How many?", "answer": "2", "image": image(1)},
        {"question": "Slope?", "answer": "Downhill", "image": image(2)},
    ]
    hub(tmp_path / "data", rows)
    assert prompts("realworldqa", tmp_path)[0] == asked
    assert scored("realworldqa", tmp_path, {"0": "It is B.", "1": "2.", "2": " downhill"}).metrics == {"accuracy": 100}
    assert scored("realworldqa", tmp_path, {"0": "right", "1": "two", "2": ""}).metrics == {"accuracy": 0}


def test_seed_bench_2_plus(tmp_path: Path) -> None:
    row = {"question": "Which?", "choice_A": "a", "choice_B": "b", "choice_C": "c", "choice_D": "d", "image": image()}
    kinds = ("chart", "map", "web")
    hub(
        tmp_path,
        [{**row, "question_id": k, "answer": "B", "question_image_type": kind} for k, kind in enumerate(kinds)],
    )
    assert prompts("seed2plus", tmp_path)[0] == f"Which?\nA. a\nB. b\nC. c\nD. d{LETTER}"
    result = scored("seed2plus", tmp_path, {"0": " b", "1": "Because", "2": "(B)"})
    assert result.metrics == {"Chart": 100, "Map": 100, "Web": 0, "all": pytest.approx(200 / 3)}


def test_kreta(tmp_path: Path) -> None:
    row = {"question": "무엇?", "A": "고양이", "B": "개", "C": "차", "D": "집", "image": image(), "image_type": "문서"}
    more = {"category": "Medical and Healthcare", "topic_difficulty": "System1"}
    hub(tmp_path, [{**row, **more, "id": f"q{k}", "answer": "B"} for k in range(2)])
    prompt = prompts("kreta", tmp_path)[0]
    assert prompt.startswith(
        "Question: 무엇?\nOptions:\nA. 고양이\nB. 개\nC. 차\nD. 집\nPlease select the correct answer"
    )
    result = scored("kreta", tmp_path, {"q0": "개입니다.\nAnswer: B", "q1": "개"})
    assert (result.metrics, result.scored.unparsed) == ({"accuracy": 50}, 1)
    assert result.scored.tables["topic_difficulty"] == {"System1": (50, 2)}


def test_kreta_as_a_tsv(tmp_path: Path) -> None:
    content = base64.b64encode(image()["bytes"]).decode()
    header = "index\tquestion\tA\tB\tC\tD\tanswer\tcategory\timage\n"
    (tmp_path / "kreta.tsv").write_text(f"{header}3\t무엇?\t고양이\t개\t차\t집\tB\tCSAT Science\t{content}\n")
    result = scored("kreta", tmp_path, {"3": "Answer: B"})
    assert (result.metrics, result.scored.tables["category"]) == ({"accuracy": 100}, {"CSAT Science": (100, 1)})


def test_hallusionbench_counts_figures_and_questions(tmp_path: Path) -> None:
    # set 0: question 0 about figures 0 and 1, question 1 about figure 0
    names = ["x_VD_chart_0_0_0", "x_VD_chart_0_1_0", "x_VD_chart_0_0_1"]
    content = base64.b64encode(image()["bytes"]).decode()
    lines = ["index\tquestion\tanswer\tcategory\tl2-category\timage"]
    lines += [f"{name}\tIs it?\t{a}\tVD\tchart\t{content}" for name, a in zip(names, ("Yes", "No", "Yes"), strict=True)]
    (tmp_path / "HallusionBench.tsv").write_text("\n".join(lines) + "\n")
    result = scored("hallusionbench", tmp_path, dict(zip(names, ("Yes, it is", "It is not", "yes"), strict=True)))
    assert result.metrics["aAcc"] == pytest.approx(200 / 3)
    assert result.metrics["fAcc"] == 50
    assert result.metrics["qAcc"] == 50
    assert result.scored.unparsed == 1
    assert result.other is not None
    assert result.other["aAcc"] == 100


def test_naturalbench_counts_pairs_and_groups(tmp_path: Path) -> None:
    rows = [
        {"Index": k, "Image": image(k % 2), "Question": "Red?", "Answer": "Yes", "Question_Type": kind}
        for k, kind in enumerate(["yes_no"] * 4 + ["multiple_choice"] * 4)
    ]
    hub(tmp_path, rows)
    asked = prompts("naturalbench", tmp_path)
    assert asked[0] == "Red? Please answer Yes or No."
    assert asked[4] == "Red? Please output the letter corresponding to the correct option."
    said = ["Yes.", "no", "No", "yes", "A", "B", "A", "B, not A"]
    result = scored("naturalbench", tmp_path, {str(k): text for k, text in enumerate(said)})
    # Computed with extract_answer and get_scores of lmms-eval 0.7.3 (tasks/naturalbench/utils.py) on the same replies.
    # Group 0 is right; in group 1, both replies to question 1 are wrong.
    assert result.metrics == {"Acc": 75, "Q_Acc": 75, "I_Acc": 50, "G_Acc": 50}


def mmmu_rows(split: str) -> list[dict[str, Any]]:
    empty = {f"image_{k}": None for k in range(1, 8)}
    choice = {"question": "See <image 1>: which?", "options": "['cat', 'the <image 2>']", "answer": "B"}
    rows = [
        {**empty, **choice, "id": f"{split}_Art_1", "question_type": "multiple-choice", "image_1": image(1)},
        {
            **empty,
            "question": "<image 1> How much?",
            "options": "[]",
            "answer": "['24/7', '3.43']",
            "image_1": image(3),
        },
        {**empty, **choice, "question": "Which <image 1>?", "options": "['a', 'b', 'c']", "image_1": image(1)},
    ]
    rows[0] |= {"image_2": image(2)}
    rows[1] |= {"id": f"{split}_Energy_and_Power_7", "question_type": "open"}
    rows[2] |= {"id": f"{split}_Art_2", "question_type": "multiple-choice"}
    return rows


@pytest.mark.parametrize("layout", ["subjects", "one table"])
def test_mmmu(tmp_path: Path, layout: str) -> None:
    rows = mmmu_rows("validation")
    if layout == "subjects":
        hub(tmp_path / "Art", [rows[0], rows[2]], "validation")
        hub(tmp_path / "Energy_and_Power", [rows[1]], "validation")
    else:
        hub(tmp_path / "data", rows, "validation")
    task = TASKS["mmmu"](tmp_path)
    questions = {question.id: question for question in task.questions()}
    parts = questions["validation_Art_1"].sample.messages[0].parts
    assert [part for part in parts if isinstance(part, str)] == ["See ", ": which?\nA. cat\nB. the ", f"\n{LETTER}"]
    shown = [Path(str(part.source)).read_bytes() for part in parts if isinstance(part, ImageRef)]
    assert shown == [image(1)["bytes"], image(2)["bytes"]]
    opened = questions["validation_Energy_and_Power_7"]
    assert opened.sample.messages[0].text == f" How much?\n{SHORT}"
    replies = {"validation_Art_1": "(B)", "validation_Art_2": "?", "validation_Energy_and_Power_7": "It is 3.4300 kWh"}
    result = scored("mmmu", tmp_path, replies)
    assert result.metrics["Overall"] == pytest.approx(200 / 3)
    assert result.metrics["Overall-Art and Design"] == 50
    assert result.metrics["Overall-Tech and Engineering"] == 100
    assert result.scored.unparsed == 1


def test_mmmu_test_set_gives_a_file_and_no_figure(tmp_path: Path) -> None:
    hub(tmp_path, [{**row, "answer": "?"} for row in mmmu_rows("test")])
    task = TASKS["mmmu"](tmp_path)
    rows = [Reply(question, "B") for question in task.questions()]
    assert task.score(rows).metrics == {}
    upload = task.submission(rows)
    assert upload is not None
    assert json.loads(upload.content) == {
        "test_Art_1": "B",
        "test_Energy_and_Power_7": "B",
        "test_Art_2": "B",
    }


def test_a_missing_image_and_two_splits_are_errors(tmp_path: Path) -> None:
    hub(tmp_path, [{**mmmu_rows("validation")[0], "image_2": None}], "validation")
    with pytest.raises(DataError, match="image_2: is missing"):
        TASKS["mmmu"](tmp_path).questions()
    hub(tmp_path, mmmu_rows("test"), "test")
    with pytest.raises(DataError, match="several splits: test, validation"):
        TASKS["mmmu"](tmp_path).questions()


def test_an_incomplete_image_file_is_written_again(tmp_path: Path) -> None:
    hub(tmp_path, [{"question": "What?", "options": ["a", "b"], "answer": "0", "image": image()}])
    [question] = TASKS["ai2d"](tmp_path).questions()
    path = Path(str(question.sample.images[0].source))
    path.write_bytes(b"")
    TASKS["ai2d"](tmp_path).questions()
    assert path.read_bytes() == image()["bytes"]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_images_between_the_words_are_asked_under_every_condition(tmp_path: Path, model: Path) -> None:
    hub(tmp_path, mmmu_rows("validation"), "validation")
    result = api.evaluate(model, task="mmmu", data=tmp_path, out=tmp_path / "evals")
    assert set(result.intervals) == {"with_image", "without_image", "wrong_image"}
    stored = tmp_path / "evals" / "mmmu.predictions.jsonl"
    assert score("mmmu", TASKS["mmmu"](tmp_path), stored).metrics == result.metrics

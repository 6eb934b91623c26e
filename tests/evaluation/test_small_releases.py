"""Figures worked out by hand: a few invented questions in each benchmark's official form, some answered wrongly.

The answers are of the kinds that the official scorers disagree about: half sentences, two words, ids that come twice.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from releases import vqav2

from vistune.errors import DataError
from vistune.evaluation import TASKS, ScoreResult, score
from vistune.evaluation.parsing import evalai_form, first_character, letter_in, matched, one_line, vqa_form
from vistune.evaluation.task import Reply
from vistune.evaluation.tasks.judged import LlavaBench, MMVet, read_pair, request_of
from vistune.evaluation.tasks.korean import KDtcBench, KMMBench, is_korean, read_score
from vistune.evaluation.tasks.mme import COGNITION, PERCEPTION
from vistune.files import write_json, write_jsonl

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."


def scored(name: str, folder: Path, texts: dict[Any, str], **wishes: Any) -> ScoreResult:
    """The figures of a release for answers by question id, in LLaVA's form of an answer file."""
    said = folder / "said.jsonl"
    write_jsonl(said, [{"question_id": key, "text": text} for key, text in texts.items()])
    return score(name, TASKS[name](folder), said, **wishes)


def prompts(name: str, folder: Path) -> dict[str, str]:
    return {question.id: question.sample.messages[-1].text for question in TASKS[name](folder).questions()}


SCIENCE = {
    "1": ("natural science", "grade7", "Look.", "image.png", "B"),
    "2": ("social science", "grade2", "", "image.png", "A"),
    "3": ("language science", "grade3", "", None, "A"),
    "4": ("natural science", "grade9", "Look.", None, "B"),
    "5": ("natural science", "grade6", "", "image.png", "A"),
}


def test_scienceqa(tmp_path: Path) -> None:
    problems = {
        pid: {"question": "Which  one?", "choices": ["cat", "dog"], "hint": hint, "subject": subject, "grade": grade,
              "image": image, "answer": "AB".index(answer), "split": "test", "topic": "pets"}
        for pid, (subject, grade, hint, image, answer) in SCIENCE.items()
    }  # fmt: skip
    write_json(tmp_path / "problems.json", problems)
    texts = {"1": "B", "2": "B. dog", "3": "Well. The answer is A.", "4": "dog", "5": "A"}
    found = scored("scienceqa", tmp_path, texts)
    metrics = found.scored.metrics
    assert metrics["acc"] == 60  # 1, 3, 5 of five
    assert metrics["img_acc"] == pytest.approx(100 * 2 / 3)  # 1, 5 of 1, 2, 5
    assert found.scored.unparsed == 1  # 4: no rule of the original reads it
    assert found.other is not None
    assert found.other["acc"] == 80, "the lenient rule understands the fourth"
    assert dict(found.scored.tables["breakdown"]) == {
        "natural": (pytest.approx(200 / 3), 3),
        "social": (0, 1),
        "language": (100, 1),
        "has_text": (50, 2),
        "has_image": (pytest.approx(200 / 3), 3),
        "no_context": (100, 1),
        "grade_1_6": (pytest.approx(200 / 3), 3),
        "grade_7_12": (50, 2),
        "average": (60, 5),
    }
    assert prompts("scienceqa", tmp_path)["1"] == f"Context: Look.\nWhich one?\nA. cat\nB. dog{LETTER}"
    assert prompts("scienceqa", tmp_path)["3"] == f"Which one?\nA. cat\nB. dog{LETTER}"


def test_scienceqa_reads_llavas_result_file(tmp_path: Path) -> None:
    problems = {pid: {"question": "?", "choices": ["cat", "dog"], "answer": 1, "image": None} for pid in ("1", "2")}
    write_json(tmp_path / "problems.json", problems)
    outputs = {"1": "Assistant: LECTURE: Dogs bark. The answer is B.", "2": "Assistant: The answer is A."}
    write_json(tmp_path / "said.json", {"outputs": outputs, "acc": 1.0})
    assert score("scienceqa", TASKS["scienceqa"](tmp_path), tmp_path / "said.json").scored.metrics == {"acc": 50}


THINGS = ("cat", "dog", "car", "bus")  # the first two are in the image
POPE = {  # in the order in which LLaVA numbers the splits
    "adversarial": ("Yes", "Yes", "no", "A bus. No, a car"),  # TP 2, TN 1, FP 1: read up to the first full stop
    "random": ("Yes", "yes, there is", "No", "There is not a bus"),  # TP 2, TN 2
    "popular": ("Yes", "No", "Yes", "No."),  # TP 1, FN 1, FP 1, TN 1
}


def pope(folder: Path) -> dict[int, str]:
    rows = [
        {"question_id": k, "image": "COCO_val2014_000000000001.jpg", "text": f"Is there a {thing} in the image?",
         "label": "yes" if k <= 2 else "no"}
        for k, thing in enumerate(THINGS, 1)
    ]  # fmt: skip
    for split in POPE:
        write_jsonl(folder / f"coco_pope_{split}.json", rows)
    return {10_000_000 * n + k: text for n, said in enumerate(POPE.values()) for k, text in enumerate(said, 1)}


def test_pope(tmp_path: Path) -> None:
    metrics = scored("pope", tmp_path, pope(tmp_path)).scored.metrics
    f1 = [80, 100, 50]  # adversarial: precision 2/3, recall 1
    assert [metrics[f"{split}_f1"] for split in POPE] == pytest.approx(f1)
    assert metrics["mean_f1"] == pytest.approx(sum(f1) / 3)
    assert metrics["pooled_f1"] == pytest.approx(100 * 10 / 13)  # TP 5, FP 2, FN 1
    assert [metrics[f"{split}_accuracy"] for split in POPE] == pytest.approx([75, 100, 50])
    assert [metrics[f"{split}_yes_ratio"] for split in POPE] == pytest.approx([75, 50, 50])
    assert metrics["adversarial_precision"] == pytest.approx(200 / 3)
    assert metrics["adversarial_recall"] == 100
    assert set(prompts("pope", tmp_path).values()) == {f"Is there a {thing} in the image?{SHORT}" for thing in THINGS}


@pytest.mark.parametrize("with_questions", [False, True])
def test_pope_refuses_the_labels_of_another_release(tmp_path: Path, with_questions: bool) -> None:
    texts = pope(tmp_path)
    asked = [
        {"question_id": key, "image": "COCO_val2014_000000000001.jpg", "text": f"Is there a cow in the image?{SHORT}",
         "category": split, "prompt": f"Is there a cow in the image?{SHORT}"}
        for n, split in enumerate(POPE) for key in range(10_000_000 * n + 1, 10_000_000 * n + 5)
    ]  # fmt: skip
    if with_questions:
        write_jsonl(tmp_path / "llava_pope_test.jsonl", asked)
    write_jsonl(tmp_path / "said.jsonl", [{**row, "text": texts[row["question_id"]]} for row in asked])
    with pytest.raises(
        DataError, match="do not contain the same questions" if with_questions else "differs from that of question"
    ):
        score("pope", TASKS["pope"](tmp_path), tmp_path / "said.jsonl")


def mme_results(folder: Path, *, answered: bool) -> Path:
    """The benchmark's own result files: image, question, gold answer and, with `answered`, the model's.

    `existence` has two images; three of its four answers are right. Elsewhere one of two is.
    """
    folder.mkdir()
    tail = " Please answer yes or no."
    for category in (*PERCEPTION, *COGNITION):
        lines = []
        for image in ("1.jpg", "2.jpg") if category == "existence" else ("1.jpg",):
            second = "no, it is not" if image == "2.jpg" else "Yes"
            for thing, gold, said in (("cat", "Yes", "yes, a cat"), ("dog", "No", second)):
                lines.append("\t".join([image, f"Is it a {thing}?{tail}", gold, *([said] if answered else [])]))
        (folder / f"{category}.txt").write_text("\n".join(lines) + "\n")
    return folder


def mme_questions(path: Path) -> Path:
    """LLaVA's question file: both questions of an image have one id."""
    rows = [
        {"question_id": f"{category}/{image}", "image": f"{category}/{image}", "category": category,
         "text": f"Is it a {thing}?{SHORT}"}
        for category in (*PERCEPTION, *COGNITION)
        for image in (("1.jpg", "2.jpg") if category == "existence" else ("1.jpg",)) for thing in ("cat", "dog")
    ]  # fmt: skip
    write_jsonl(path, rows)
    return path


@pytest.mark.parametrize("form", ["Your_Results", "llava_mme.jsonl"])
def test_mme(tmp_path: Path, form: str) -> None:
    data = tmp_path / "data"
    if form == "Your_Results":
        mme_results(data, answered=False)
    else:
        data.mkdir()
        mme_questions(data / form)
    found = score("mme", TASKS["mme"](data), mme_results(tmp_path / "said", answered=True)).scored
    assert found.metrics["Perception"] == pytest.approx(9 * 50 + 75 + 50)  # acc 50, acc+ 0; existence: 3/4 and 1/2
    assert found.metrics["Cognition"] == pytest.approx(4 * 50)
    assert found.metrics["existence"] == pytest.approx(125)
    assert found.count == 2 * 15


def test_mme_joins_llavas_lines_by_question(tmp_path: Path) -> None:
    """All "Yes" is right once an image, in whatever order the lines are."""
    mme_results(tmp_path / "data", answered=False)
    asked = [json.loads(line) for line in mme_questions(tmp_path / "asked.jsonl").read_text().splitlines()]
    said = [{"question_id": row["question_id"], "prompt": row["text"], "text": "Yes"} for row in reversed(asked)]
    write_jsonl(tmp_path / "said.jsonl", said)
    found = score("mme", TASKS["mme"](tmp_path / "data"), tmp_path / "said.jsonl").scored
    assert (found.missing, found.metrics["Perception"], found.metrics["Cognition"]) == (0, 500, 200)
    assert sorted(prompts("mme", tmp_path / "data").values()) == sorted(row["text"] for row in asked)


def test_seed_reads_the_leaderboards_lines(tmp_path: Path) -> None:
    """Lines with a comma behind; of an id that comes twice the last line counts."""
    golds = {"11": "A", "12": "B", "13": "C", "v21": "D"}
    write_json(
        tmp_path / "SEED-Bench.json",
        {"questions": [{"question_id": name, "answer": gold} for name, gold in golds.items()]},
    )
    said = [("11", "B"), ("11", "A"), ("12", "B"), ("13", "A"), ("v21", "D")]
    rows = [{"question_id": name, "prediction": text, "gt_answer": golds[name]} for name, text in said]
    (tmp_path / "said.json").write_text(",\n".join(json.dumps(row) for row in rows) + ",\n")
    found = score("seed", TASKS["seed"](tmp_path), tmp_path / "said.json")
    assert found.scored.metrics["overall"] == 75
    assert (found.scored.metrics["image"], found.scored.metrics["video"]) == (pytest.approx(200 / 3), 100)
    assert (found.scored.count, found.repeated) == (4, 1)


def gqa(folder: Path) -> None:
    def row(question: str, answer: str, structural: str, group: str | None, *steps: str) -> dict[str, Any]:
        semantic = [{"operation": step.split(":")[0], "argument": step.split(":")[1]} for step in steps]
        types = {"structural": structural, "semantic": "attr", "detailed": "x"}
        return {"imageId": "n1", "isBalanced": True, "types": types, "semantic": semantic, "question": question,
                "answer": answer, "groups": {"global": group}}  # fmt: skip

    questions = {
        "1": row("What color is the cat?", "black", "query", "color", "select:cat", "query:color"),
        "2": row("What color is the dog?", "white", "query", "color", "select:dog", "query:color"),
        "3": row("What color is the old car?", "black", "query", "color", "select:car", "filter:old", "query:color"),
        "4": row("Is there a bus?", "no", "verify", None, "select:bus", "exist:?"),
    }
    write_json(folder / "testdev_balanced_questions.json", questions)


def test_gqa(tmp_path: Path) -> None:
    gqa(tmp_path)
    found = scored("gqa", tmp_path, {"1": "Black.", "2": "black", "3": "Red", "4": "No"}, upload=True)
    metrics = found.scored.metrics
    assert (metrics["accuracy"], metrics["open"], metrics["binary"]) == (50, pytest.approx(100 / 3), 100)
    # Gold: black 2, white 1. Given: black 2, red 1. (2-2)²/2 + (0-1)²/1 = 1, and 3 · 1 / 3 / 100.
    assert metrics["distribution"] == pytest.approx(0.01)
    tables = found.scored.tables
    assert tables["structural"] == {"query": (pytest.approx(100 / 3), 3), "verify": (100, 1)}
    assert tables["steps"] == {"1": (100, 1), "2": (50, 2), "3": (0, 1)}  # an ending `exist` is no step
    assert tables["words"] == {"4": (100, 1), "5": (50, 2), "6": (0, 1)}
    assert found.upload is not None
    assert {row["questionId"]: row["prediction"] for row in json.loads(found.upload[1])} == {
        "1": "black",
        "2": "black",
        "3": "red",
        "4": "no",
    }
    assert prompts("gqa", tmp_path)["4"] == f"Is there a bus?{SHORT}"


def test_textvqa(tmp_path: Path) -> None:
    """Ten people: one, two, three and four of them said it."""
    people = {n: ["Dakota"] * n + [f"other {k}" for k in range(10 - n)] for n in (1, 2, 3, 4)}
    rows = [
        {"image_id": f"i{n}", "question_id": n, "question": "what brand?", "answers": answers}
        for n, answers in people.items()
    ]
    write_json(tmp_path / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "data": rows})
    found = scored("textvqa", tmp_path, {1: "dakota.", 2: "Dakota", 3: "the dakota", 4: "Dakota"}).scored
    assert found.metrics["accuracy"] == pytest.approx(100 * (0.3 + 0.6 + 0.9 + 1) / 4)


def test_textvqas_prompts_have_ocr_tokens_only_with_llavas_file(tmp_path: Path) -> None:
    rows = [{"image_id": "a", "question_id": 1, "question": "what brand?", "answers": ["dakota"] * 10}]
    write_json(tmp_path / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "data": rows})
    assert list(prompts("textvqa", tmp_path).values()) == [f"What brand?{SHORT}"]
    asked = f"What brand?\nReference OCR token: DAKOTA, digital{SHORT}"
    write_jsonl(tmp_path / "llava_textvqa_val_v051_ocr.jsonl", [{"question_id": "a", "image": "a.jpg", "text": asked}])
    assert list(prompts("textvqa", tmp_path).values()) == [asked]


def test_vqav2(tmp_path: Path) -> None:
    """Ten people say yes to the first; of the second 3 say "2", 4 "two", which is the same, and 3 "three"."""
    vqav2(tmp_path)
    for texts, figure in (
        ({1: "yes", 2: "Two."}, 100),
        ({1: "Yes.", 2: "two"}, 50),  # where all agree, the original compares the answer as it is
        ({1: "no", 2: "three"}, 45),  # 0 and 0.9
        ({1: "yes", 2: "Three!"}, 95),
    ):
        found = scored("vqav2", tmp_path, texts).scored
        assert (found.metrics["overall"], found.metrics["other"], found.count) == (figure, figure, 2)


def test_vqav2s_upload_covers_every_question(tmp_path: Path) -> None:
    """Without annotations there is no figure, and what was not asked is an empty answer of the upload."""
    questions = [{"question_id": name, "image_id": name, "question": "Is it?"} for name in (1, 2, 3)]
    release = {"data_type": "mscoco", "data_subtype": "test2015", "questions": questions}
    write_json(tmp_path / "v2_OpenEnded_mscoco_test2015_questions.json", release)
    found = scored("vqav2", tmp_path, {3: "Two.", 1: "A dog"}, upload=True)
    assert (found.scored.metrics, found.scored.missing) == ({}, 1)
    assert found.upload is not None
    assert json.loads(found.upload[1]) == [
        {"question_id": 1, "answer": "dog"},
        {"question_id": 2, "answer": ""},
        {"question_id": 3, "answer": "2"},
    ]


def test_vizwizs_upload(tmp_path: Path) -> None:
    write_json(tmp_path / "test.json", [{"image": f"VizWiz_test_0000000{k}.jpg", "question": "What?"} for k in (0, 1)])
    found = scored("vizwiz", tmp_path, {0: "A black dog.", 1: "Unanswerable"}, upload=True)
    assert found.scored.metrics == {}
    assert found.upload is not None
    assert json.loads(found.upload[1]) == [
        {"image": "VizWiz_test_00000000.jpg", "answer": "black dog"},
        {"image": "VizWiz_test_00000001.jpg", "answer": "unanswerable"},
    ]


@pytest.mark.parametrize(
    ("text", "server", "own"),
    [
        ("It's a dog.", "it 's dog", "it's dog"),
        ("two dogs", "2 dogs", "2 dogs"),
        ("1,000", "1000", "1000"),
        ("3.5 inches", "3.5 inches", "3.5 inches"),
        ("A man, a plan", "man plan", "man plan"),
        ("Dont know", "don't know", "don't know"),
        ("U.S.A.", "usa", "usa"),
        ("black/white", "black white", "black white"),
        ("half-and-half", "half and half", "half and half"),
        ("The (red) car", "red car", "red car"),
        ("none", "0", "0"),
        ("10:30", "10:30", "10:30"),
        ("she's", "she 's", "she's"),
        ("left\n", "left", "left"),
        ("", "", ""),
    ],
)
def test_the_quirks_of_the_two_text_processors(text: str, server: str, own: str) -> None:
    """The evaluation server's, and that of VQA's own evaluation."""
    assert evalai_form(text) == server
    assert vqa_form(one_line(text)) == own


def test_a_half_right_mmbench_has_its_figures_worked_out(tmp_path: Path) -> None:
    """Three questions with two, two and one rotation; the second has one wrong."""
    rows = [("1", "A"), ("1000001", "B"), ("2", "A"), ("1000002", "B"), ("3", "B")]
    lines = [f"{index}\tWhat?\tnan\tcat\tdog\tNone\tNone\t{answer}\tc\tL\t" for index, answer in rows]
    header = "index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\tl2-category\timage\n"
    (tmp_path / "mmbench_dev_en.tsv").write_text(header + "".join(f"{line}\n" for line in lines))
    texts = {1: "A", 1000001: "B.", 2: "A", 1000002: "cat", 3: "The answer is B"}
    found = scored("mmbench", tmp_path, texts).scored
    assert found.metrics["Overall"] == pytest.approx(200 / 3)
    assert found.metrics["vanilla_acc"] == 100  # the first rotation of each
    assert found.metrics["row_acc"] == 80


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("B", "B"),
        ("(b)", None),
        ("The answer is B.", "B"),
        ("B: a very long and winding explanation of it", None),  # the letter is not among the last four words
        ("A or B", None),
        ("a red dog", "B"),
        ("cat and dog", None),
        ("The answer is **B**, since A is no animal at all", "B"),
        ("Cannot determine the answer", "Z"),
    ],
)
def test_the_matcher_of_free_replies(reply: str, letter: str | None) -> None:
    assert matched(reply, {"A": "cat", "B": "dog", "C": "a cup of tea with milk", "D": "another thing"}) == letter


def test_grades_of_mmvet_have_their_figures_worked_out(tmp_path: Path) -> None:
    """Two runs over three questions; a question counts in each of its capabilities."""
    capabilities = {"v1_0": ["ocr", "math"], "v1_1": ["ocr"], "v1_2": ["rec"]}
    questions = {
        name: {"imagename": "a.jpg", "question": "What?", "answer": "x", "capability": listed}
        for name, listed in capabilities.items()
    }
    write_json(tmp_path / "mm-vet.json", questions)
    grades = {"v1_0": [0.5, 0.7], "v1_1": [1.0, 1.0], "v1_2": [0.0, 0.4]}
    stored = {name: {"model": ["gpt-4"] * 2, "content": list(map(str, g)), "score": g} for name, g in grades.items()}
    write_json(tmp_path / "grades.json", stored)
    found = score("mmvet", MMVet(tmp_path), tmp_path / "grades.json").scored
    assert found.metrics == {"math": 60.0, "ocr": 80.0, "rec": 20.0, "total": 60.0, "std": 10.0}
    assert found.notes["runs"] == [50.0, 70.0]
    assert found.tables["capability integration"] == {"math_ocr": (60.0, 1), "ocr": (100.0, 1), "rec": (20.0, 1)}
    assert found.notes["judge"] == {"answered_as": "gpt-4", "stored": True}


def test_reviews_of_llava_bench_have_their_figures_worked_out(tmp_path: Path) -> None:
    """The model's mean over GPT-4's; a mean is rounded to three decimals first, as the original rounds."""
    categories = ("conv", "conv", "detail")
    write_jsonl(
        tmp_path / "questions.jsonl",
        [{"question_id": k, "image": "1.jpg", "text": "What?", "category": c} for k, c in enumerate(categories)],
    )
    reviews = ("8 6\nFine.", "10 9\nGood.", "9,6\nNot all.")
    rows = [
        {"question_id": k, "category": f"llava_bench_{categories[k]}", "content": review}
        for k, review in enumerate(reviews)
    ]
    write_jsonl(tmp_path / "reviews.jsonl", rows)
    found = score("llava-bench", LlavaBench(tmp_path), tmp_path / "reviews.jsonl").scored
    assert (found.metrics["all"], found.metrics["all_gpt4"], found.metrics["all_model"]) == (77.8, 90.0, 70.0)
    assert (found.metrics["llava_bench_conv"], found.metrics["llava_bench_detail"]) == (83.3, 66.7)


def test_the_request_to_llava_benchs_judge_is_laid_out_as_published(tmp_path: Path) -> None:
    write_jsonl(
        tmp_path / "questions.jsonl", [{"question_id": 0, "image": "1.jpg", "text": "What?", "category": "conv"}]
    )
    write_jsonl(tmp_path / "context.jsonl", [{"id": "1", "image": "1.jpg", "caption": "A hill.\nA tree."}])
    write_jsonl(tmp_path / "answers_gpt4.jsonl", [{"question_id": 0, "text": "A hill."}])
    write_json(tmp_path / "rule.json", {"llava_bench_conv": {"role": "Assistant", "prompt": "Rate both."}})
    task = LlavaBench(tmp_path)
    [question] = task.questions()
    assert task.requests([Reply(question, "Hill.")]) == {
        "0": "[Context]\nA hill.\nA tree.\n\n[Question]\nWhat?\n\n"
        "[Assistant 1]\nA hill.\n\n[End of Assistant 1]\n\n[Assistant 2]\nHill.\n\n[End of Assistant 2]\n\n"
        "[System]\nRate both.\n\n"
    }


def test_the_request_to_mmvets_judge_ends_with_the_row_to_grade(tmp_path: Path) -> None:
    row = {"imagename": "a.jpg", "question": "x?", "answer": "-1<AND>-5", "capability": ["ocr"]}
    write_json(tmp_path / "mm-vet.json", {"v1_0": row})
    [question] = MMVet(tmp_path).questions()
    assert request_of("Compare.", question, "-1") == "Compare.\nx? | -1 <AND> -5 | -1 | "


@pytest.mark.parametrize(
    ("review", "pair"),
    [
        ("8 9\ntext", (8, 9)),
        ("8,9\ntext", (8, 9)),
        (" 8 9\ntext", None),
        ("8.5 7\n", (8.5, 7)),
        ("Assistant 1: 8\nAssistant 2: 9", None),
        ("8\t9\n", None),
        ("eight nine\n", None),
        ("7.5, 8\nx", None),
    ],
)
def test_the_official_rule_for_a_review(review: str, pair: tuple[float, float] | None) -> None:
    assert read_pair(review) == pair


def korean(folder: Path, name: str, *rows: tuple[str | int, str, str]) -> Path:
    """The publisher's lines: index, gold answer, the model's reply."""
    path = folder / name
    lines = [
        {"index": index, "category": "c", "l2_category": "L", "answer": answer, "response": reply}
        for index, answer, reply in rows
    ]
    write_jsonl(path, lines)
    return path


def test_k_mmbench_is_circular(tmp_path: Path) -> None:
    rows = ((1, "A", "A"), (1000001, "B", "B"), (2, "A", "A"), (1000002, "B", "정답은 B입니다"), (3, "C", "A"))
    path = korean(tmp_path, "k_mmbench.jsonl", *rows)
    found = score("k-mmbench", KMMBench(path), path).scored
    assert found.metrics["Overall"] == pytest.approx(100 / 3)  # the official rule wants the letter as a word
    assert (found.metrics["row_acc"], found.count, found.unparsed) == (60, 5, 1)
    lenient = score("k-mmbench", KMMBench(path), path, rule="lenient").scored
    assert lenient.metrics["row_acc"] == 80
    assert lenient.metrics["Overall"] == pytest.approx(200 / 3)
    assert lenient.unparsed == 0


def test_k_dtcbench_is_read_by_its_first_character(tmp_path: Path) -> None:
    rows = (("document_0", "B", "B. 둘"), ("document_1", "D", "정답: D"), ("table_0", "A", "a"), ("chart_0", "C", "C"))
    path = korean(tmp_path, "k_dtcbench.jsonl", *rows)
    assert score("k-dtcbench", KDtcBench(path), path).scored.metrics == {"accuracy": 75}
    assert letter_in("정답: D", "ABCD") == "D", "the other rule would read it"
    assert first_character("Because A") == "B"


@pytest.mark.parametrize(
    ("answer", "kept"),
    [("네, 맞습니다.", True), ("두 대가 있습니다.", True), ("12:30", True), ("?", True), ("飛行機は二機です。", False),
     ("There are two airplanes in the picture.", False)],
)  # fmt: skip
def test_koffvqas_language_filter(answer: str, kept: bool) -> None:
    assert is_korean(answer) is kept


@pytest.mark.parametrize(
    ("review", "points"),
    [
        ("점수: 7", 7),
        ("최종 점수: 10점 만점에 8점", 8),
        ("7.5점", 5),
        ("10점입니다. 참고 2", 2),
        ("없음", 0),
        ("15점", 0),
    ],
)
def test_koffvqas_score_is_the_last_digits(review: str, points: int) -> None:
    assert read_score(review) == points

"""Real predictions on official files give the figures of the official scorers."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from vistune.errors import DataError
from vistune.evaluation import TASKS, ScoreResult, score
from vistune.evaluation.parsing import evalai_form, one_line, vqa_form
from vistune.evaluation.task import LETTER
from vistune.files import read_json, read_jsonl, write_json, write_jsonl


@pytest.fixture(scope="session")
def vectors(shared: Path) -> Path:
    if not (shared / "vectors").is_dir():
        pytest.skip("../shared/vectors is absent: official files and real predictions are not here")
    return shared / "vectors"


def scored(name: str, data: Path, predictions: Path, **wishes: Any) -> ScoreResult:
    return score(name, TASKS[name](data), predictions, **wishes)


def figures(measured: ScoreResult, table: str) -> dict[str, float]:
    return {group: value for group, (value, _) in measured.scored.tables[table].items()}


def test_scienceqa_with_lectures(vectors: Path) -> None:
    open_ = vectors / "scienceqa" / "open"
    found = scored("scienceqa", vectors / "scienceqa" / "shared", open_ / "test_sqa_llava_13b_v0.json")
    expected = read_json(open_ / "expected.json")["test_sqa_llava_13b_v0.json"]
    assert found.scored.metrics == {"acc": expected["acc"], "img_acc": expected["img_acc"]}
    assert (found.scored.count, found.scored.unparsed) == (expected["total"], expected["unparsed"])


def test_scienceqa_with_letters_counts_what_it_cannot_parse(vectors: Path) -> None:
    open_ = vectors / "scienceqa" / "open"
    found = scored("scienceqa", vectors / "scienceqa" / "shared", open_ / "answers_llava-v1.5-13b.jsonl")
    expected = read_json(open_ / "expected.json")["answers_llava-v1.5-13b.jsonl"]
    assert found.scored.metrics == {"acc": expected["acc"], "img_acc": expected["img_acc"]}
    assert (found.scored.count, found.scored.unparsed) == (expected["total"], expected["unparsed"])
    assert len(found.scored.examples) == 5
    assert found.other is not None
    assert found.other["acc"] > expected["acc"], "the lenient rule understands some of the five"


def test_scienceqa_breakdown_on_full_problems(vectors: Path, tmp_path: Path) -> None:
    open_ = vectors / "scienceqa" / "open"
    shutil.copy(open_ / "think_test361_problems.json", tmp_path / "problems.json")
    kept = read_json(tmp_path / "problems.json")
    outputs = read_json(open_ / "test_sqa_llava_13b_v0.json")["outputs"]
    write_json(tmp_path / "said.json", {"outputs": {pid: outputs[pid] for pid in kept}})
    found = scored("scienceqa", tmp_path, tmp_path / "said.json").scored
    expected = read_json(open_ / "expected.json")["test_sqa_llava_13b_v0.json"]["breakdown_on_think361"]
    assert {name: found.metrics[name] for name in expected} == {name: row["acc"] for name, row in expected.items()}
    assert {name: found.tables["breakdown"][name][1] for name in expected} == {
        n: row["n"] for n, row in expected.items()
    }


@pytest.mark.parametrize("with_questions", [False, True])
def test_pope(vectors: Path, tmp_path: Path, with_questions: bool) -> None:
    pope = vectors / "pope"
    shutil.copytree(pope / "shared" / "coco_e3e39262", tmp_path / "data")
    if with_questions:
        shutil.copy(pope / "shared" / "llava_pope_test.jsonl", tmp_path / "data")
    found = scored("pope", tmp_path / "data", pope / "open" / "answers_llava-v1.5-13b.jsonl").scored
    (expected,) = read_json(pope / "open" / "expected.json").values()
    assert found.metrics["mean_f1"] == pytest.approx(100 * expected["mean_f1"], rel=1e-12)
    assert found.metrics["pooled_f1"] == pytest.approx(100 * expected["pooled_f1"], rel=1e-12)
    for split in ("random", "popular", "adversarial"):
        cells = {cell: found.tables["confusion"][f"{split} {cell}"][1] for cell in ("TP", "FP", "TN", "FN")}
        assert cells == {cell: expected[split][cell] for cell in cells}
        for name in ("accuracy", "precision", "recall", "f1", "yes_ratio"):
            assert found.metrics[f"{split}_{name}"] == pytest.approx(100 * expected[split][name], rel=1e-12)


@pytest.mark.parametrize("with_questions", [False, True])
def test_pope_refuses_the_other_label_set(vectors: Path, tmp_path: Path, with_questions: bool) -> None:
    pope = vectors / "pope"
    shutil.copytree(pope / "shared" / "coco_head_3df3ba1b", tmp_path / "data")
    if with_questions:
        shutil.copy(pope / "shared" / "llava_pope_test.jsonl", tmp_path / "data")
    with pytest.raises(
        DataError, match="do not contain the same questions" if with_questions else "differs from that of question"
    ):
        scored("pope", tmp_path / "data", pope / "open" / "answers_llava-v1.5-13b.jsonl")


@pytest.mark.parametrize("data", ["shared", "shared/eval_tool/Your_Results", "llava_mme.jsonl"])
def test_mme(vectors: Path, tmp_path: Path, data: str) -> None:
    mme = vectors / "mme"
    folder = mme / data
    if not folder.exists():  # LaVIN's result files hold the gold answers, so LLaVA's questions alone will do
        shutil.copy(mme / "shared" / data, tmp_path)
        folder = tmp_path
    found = scored("mme", folder, mme / "open" / "LaVIN")
    expected = read_json(mme / "open" / "expected.json")["LaVIN"]
    assert found.scored.metrics == pytest.approx(expected, rel=1e-12)
    assert found.scored.count == 2374


def test_mme_joins_llavas_lines_by_question(vectors: Path, tmp_path: Path) -> None:
    """LLaVA gives both questions of a image one id; all "Yes" is right once a image, wherever its lines stand."""
    rows = [row for _, row in read_jsonl(vectors / "mme" / "shared" / "llava_mme.jsonl")]
    said = [{"question_id": r["question_id"], "prompt": r["text"], "text": "Yes"} for r in reversed(rows)]
    write_jsonl(tmp_path / "said.jsonl", said)
    found = scored("mme", vectors / "mme" / "shared", tmp_path / "said.jsonl").scored
    assert found.missing == 0
    assert found.metrics["Perception"] == pytest.approx(500)
    assert found.metrics["Cognition"] == pytest.approx(200)


def test_seed_reads_the_leaderboards_lines(vectors: Path, tmp_path: Path) -> None:
    open_ = vectors / "seedbench" / "open"
    lines = (open_ / "GPT-4V_SEED-Bench-1.json").read_text(encoding="utf-8").splitlines()
    rows = {row["question_id"]: row for row in (json.loads(line.removesuffix(",")) for line in lines)}
    questions = [{"question_id": name, "answer": row["gt_answer"]} for name, row in rows.items()]
    write_json(tmp_path / "SEED-Bench.json", {"questions": questions})
    found = scored("seed", tmp_path, open_ / "GPT-4V_SEED-Bench-1.json")
    expected = read_json(open_ / "expected.json")["last_row_per_id"]
    assert found.scored.metrics["overall"] == expected["all"]["acc"]
    assert {kind: found.scored.metrics[kind] for kind in ("image", "video")} == {
        kind: expected[kind]["acc"] for kind in ("image", "video")
    }
    assert (found.scored.count, found.repeated) == (expected["all"]["n"], 8)


def test_gqa(vectors: Path) -> None:
    open_ = vectors / "gqa" / "open"
    found = scored("gqa", open_, open_ / "answers_llava-v1.5-13b_head.jsonl", upload=True)
    expected = read_json(open_ / "expected.json")
    assert found.scored.metrics["accuracy"] == expected["accuracy"]
    assert printed(found) == [
        line for line in expected["official_printout"] if not line.startswith(("Validity", "Plausibility"))
    ]
    assert found.upload is not None
    uploaded, expected_upload = json.loads(found.upload[1]), read_json(open_ / "expected_head_predictions.json")
    assert len(uploaded) == len(expected_upload)
    assert {r["questionId"]: r["prediction"] for r in uploaded} == {
        r["questionId"]: r["prediction"] for r in expected_upload
    }


def printed(found: ScoreResult) -> list[str]:
    """The benchmark's own printout of these figures."""
    metrics = found.scored.metrics
    lines = [f"{name}: {metrics[name.lower()]:.2f}%" for name in ("Binary", "Open", "Accuracy")]
    lines.append(f"Distribution: {metrics['distribution']:.2f} (lower is better)")
    titles = {
        "structural": "structural type",
        "semantic": "semantic type",
        "steps": "steps number",
        "words": "words number",
    }
    for table, title in titles.items():
        lines += ["", f"Accuracy / {title}:"]
        lines += [f"  {name}: {value:.2f}% ({n} questions)" for name, (value, n) in found.scored.tables[table].items()]
    return lines


def test_textvqa(vectors: Path) -> None:
    textvqa = vectors / "textvqa"
    task = TASKS["textvqa"](textvqa / "shared")
    found = score("textvqa", task, textvqa / "open" / "answers_blip2-t5.jsonl").scored
    (expected,) = read_json(textvqa / "open" / "expected.json").values()
    assert found.metrics["accuracy"] == pytest.approx(expected["accuracy_percent"], rel=1e-12)
    assert found.count == expected["samples"]
    questions = {question.id: question for question in task.questions()}
    said = list(task.read(textvqa / "open" / "answers_blip2-t5.jsonl"))[:20]
    points = [task.mark(questions[task.identify(one)], one.text).points for one in said]
    assert points == expected["per_sample_first_20"]


def test_vizwiz_upload(vectors: Path) -> None:
    open_ = vectors / "vizwiz_submission" / "open"
    found = scored("vizwiz", open_, open_ / "answers_llava-v1.5-13b.jsonl", upload=True)
    assert found.scored.metrics == {}
    assert found.upload is not None
    assert json.loads(found.upload[1]) == read_json(open_ / "expected_upload.json")


VQA_FILES = (
    "results_human_first.json",
    "results_majority.json",
    "results_majority_capital_period.json",
    "results_messy.json",
    "results_messy_evalai_normalised.json",
)


@pytest.mark.parametrize("file", VQA_FILES)
def test_vqav2(vectors: Path, file: str) -> None:
    open_ = vectors / "vqav2" / "open"
    found = scored("vqav2", open_, open_ / file)
    expected: Mapping[str, Any] = read_json(open_ / "expected.json")[file]
    assert found.scored.metrics == {"overall": expected["overall"], **expected["perAnswerType"]}
    assert figures(found, "question_type") == expected["perQuestionType"]
    assert found.scored.count == expected["n"]


def test_vqav2_upload_covers_every_question(vectors: Path, tmp_path: Path) -> None:
    """Without annotations there is no figure, and what was not asked is an empty answer of the upload."""
    open_ = vectors / "vqav2" / "open"
    with gzip.open(open_ / "v2_subset_questions.json.gz", "rt", encoding="utf-8") as file:
        release = json.load(file)
    release["questions"] = release["questions"][:3]
    write_json(tmp_path / "v2_questions.json", release)
    first, second, third = (row["question_id"] for row in release["questions"])
    write_json(
        tmp_path / "said.json", [{"question_id": third, "answer": "Two."}, {"question_id": first, "answer": "A dog"}]
    )
    found = scored("vqav2", tmp_path, tmp_path / "said.json", upload=True)
    assert (found.scored.metrics, found.scored.missing) == ({}, 1)
    assert found.upload is not None
    assert json.loads(found.upload[1]) == [
        {"question_id": first, "answer": "dog"},
        {"question_id": second, "answer": ""},
        {"question_id": third, "answer": "2"},
    ]


def test_every_string_of_the_normaliser_table(vectors: Path) -> None:
    rows = [row for _, row in read_jsonl(vectors / "vqav2" / "open" / "normaliser_table.jsonl")]
    assert len(rows) == 6600
    wrong = [
        row["s"] for row in rows if (vqa_form(one_line(row["s"])), evalai_form(row["s"])) != (row["vqa"], row["evalai"])
    ]
    assert wrong == []


def prompts(name: str, data: Path) -> dict[str, str]:
    return {question.id: question.sample.messages[-1].text for question in TASKS[name](data).questions()}


def test_prompts_are_llavas(vectors: Path) -> None:
    """Each prompt, byte by byte, as in the question files that LLaVA-1.5 was measured with."""
    sqa = {row["id"]: row for row in read_json(vectors / "scienceqa" / "shared" / "llava_test_CQM-A.json")}
    asked = {name: row["conversations"][0]["value"].removeprefix("<image>\n") + LETTER for name, row in sqa.items()}
    assert prompts("scienceqa", vectors / "scienceqa" / "shared") == asked
    imaged = {q.id for q in TASKS["scienceqa"](vectors / "scienceqa" / "shared").questions() if q.sample.images}
    assert imaged == {name for name, row in sqa.items() if "image" in row}

    pope = read_jsonl(vectors / "pope" / "shared" / "llava_pope_test.jsonl")
    asked = {str(row["question_id"]): row["text"] for _, row in pope}
    assert prompts("pope", vectors / "pope" / "shared" / "coco_e3e39262") == asked

    mme = sorted(row["text"] for _, row in read_jsonl(vectors / "mme" / "shared" / "llava_mme.jsonl"))
    assert sorted(prompts("mme", vectors / "mme" / "shared").values()) == mme

    with gzip.open(vectors / "gqa" / "open" / "llava_gqa_testdev_balanced.jsonl.gz", "rt", encoding="utf-8") as file:
        gqa = {row["question_id"]: row["text"] for row in map(json.loads, file)}
    found = prompts("gqa", vectors / "gqa" / "open")
    assert found == {name: gqa[name] for name in found}


def test_textvqas_prompts_have_ocr_tokens_only_with_llavas_file(vectors: Path, tmp_path: Path) -> None:
    shared = vectors / "textvqa" / "shared"
    shutil.copy(shared / "textvqa_val_annotations_minimal.json", tmp_path / "TextVQA_0.5.1_val.json")
    with_tokens, without = prompts("textvqa", shared), prompts("textvqa", tmp_path)
    assert {text.count("\n") for text in with_tokens.values()} == {2}
    assert without == {n: f"{t.splitlines()[0]}\n{t.splitlines()[-1]}" for n, t in with_tokens.items()}

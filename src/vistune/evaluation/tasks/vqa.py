"""Open questions with short answers: VQAv2, TextVQA, VizWiz and GQA.

VQAv2 (https://arxiv.org/abs/1612.00837): the official vqaEval.py with its quirks. If all ten people give the same
answer, answers are compared unchanged, so "Yes." is wrong if all ten answered "yes". Figures are rounded to two digits,
as in vqaEval.py.

TextVQA (https://arxiv.org/abs/1904.08920): replies and right answers are normalised as on the benchmark's server (mmf's
m4c evaluator). LLaVA-1.5 was measured with OCR tokens in the prompt: they are in its question file, and without that
file the prompt has none.

VizWiz (https://arxiv.org/abs/1802.08218): questions of blind people about their photographs. Only the benchmark's
server has the test answers, so vistune writes the file to upload and no figures.

GQA (https://arxiv.org/abs/1902.09506): compositional questions over scene graphs. The figures are those of the
benchmark's eval.py: accuracy over balanced questions; accuracy of yes-no and open questions, by type, steps and words;
and the distance of the answers' distribution from the right one (lower is better). Validity and plausibility need files
that are not released for testdev, so they are omitted; eval.py prints 0.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vistune.errors import DataError
from vistune.evaluation.parsing import evalai_form, one_line, soft_points, vqa_form
from vistune.evaluation.predictions import Prediction, plain_id
from vistune.evaluation.release import (
    DOWNLOAD,
    Fields,
    field_of,
    find_files,
    id_in,
    image_folder,
    matching,
    release_json,
    release_lines,
    release_map,
    release_text,
)
from vistune.evaluation.task import (
    OFFICIAL,
    SHORT,
    Benchmark,
    Facts,
    Judge,
    Marked,
    Reply,
    Table,
    TaskScore,
    Upload,
    make_question,
    mean,
    mean_by,
    prompt_lines,
)
from vistune.types import Question

OCR = "Reference OCR token:"
UNANSWERABLE = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."


class VqaV2(Benchmark):
    """Points as in TextVQA, with VQA's own text processor and its rule for unanimous answers."""

    facts = Facts(
        about="214,354 validation questions with answers; 107,394 test-dev questions for the server",
        files=(
            "v2_mscoco_val2014_annotations.json and v2_OpenEnded_mscoco_val2014_questions.json, images in val2014/",
            "or v2_OpenEnded_mscoco_test-dev2015_questions.json alone (upload only), images in test2015/",
        ),
        source="https://visualqa.org/download.html",
        licence="CC BY 4.0; images: COCO's terms",
        size="0.3 GB, and 6 GB (val2014) or 12 GB (test2015) of images",
        paper="https://arxiv.org/abs/1612.00837",
    )

    def questions(self) -> Sequence[Question]:
        (path,) = find_files(self.folder, ["v2_*questions*.json"])
        annotations = matching(self.folder, "v2_*annotations*.json")
        gold = self._gold() if annotations else {}
        release = read_vqa(path)
        subset = release.get("data_subtype", "val2014")
        split = "test2015" if subset == "test-dev2015" else subset  # test-dev's images are part of test's
        questions = []
        for row in field_of(release, "questions", list, str(path)):
            name = id_in(row, "question_id", str(path))
            location = f"{path}:{name}"
            if annotations and name not in gold:
                problem = f"{location}: has no annotation in {annotations[0].name}"
                raise DataError(problem, "use both files of one split")
            image = self.folder / split / f"COCO_{split}_{field_of(row, 'image_id', int, location):012d}.jpg"
            text = field_of(row, "question", str, location)
            questions.append(make_question(name, text + SHORT, image, origin=location, **gold.get(name, {})))
        return questions

    def _gold(self) -> dict[str, dict[str, Any]]:
        """Return each question's answers as they are compared, its types, and whether all are the same."""
        (path,) = find_files(self.folder, ["v2_*annotations*.json"])
        gold = {}
        for row in field_of(read_vqa(path), "annotations", list, str(path)):
            name = id_in(row, "question_id", str(path))
            location = f"{path}:{name}"
            answers = tuple(sys.intern(one_line(answer)) for answer in _people(row, location))
            alike = len(set(answers)) == 1
            answers = answers if alike else tuple(map(vqa_form, answers))
            types = {key: sys.intern(field_of(row, key, str, location)) for key in ("answer_type", "question_type")}
            usual = row.get("multiple_choice_answer", answers[0])
            gold[name] = {"answer": usual, "answers": answers, "alike": alike, **types}
        return gold

    def points(self, question: Question, answer: str) -> float:
        line = one_line(answer)
        return soft_points(line if question.tags["alike"] else vqa_form(line), question.tags["answers"])

    def score(self, rows: Sequence[Reply], rule: str = OFFICIAL, judge: Judge | None = None) -> TaskScore:
        if rows and "answers" not in rows[0].question.tags:
            return TaskScore({}, len(rows), missing=sum(row.text is None for row in rows))
        return super().score(rows, rule)

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        by_type = {name: round(value, 2) for name, (value, _) in mean_by(rows, "answer_type").items()}
        return {"overall": round(mean(rows), 2), **by_type}

    def tables(self, rows: Sequence[Marked]) -> dict[str, Table]:
        return {
            tag: {k: (round(v, 2), n) for k, (v, n) in mean_by(rows, tag).items()}
            for tag in ("answer_type", "question_type")
        }

    def submission(self, rows: Sequence[Reply]) -> Upload:
        """Return the server's list: every question of the split, in EvalAI's form; empty if it was not asked."""
        names = [row.question.id for row in rows]
        listed = [
            {"question_id": int(name) if name.isdigit() else name, "answer": evalai_form(row.text or "")}
            for name, row in zip(names, rows, strict=True)
        ]
        return Upload("vqav2_upload.json", json.dumps(listed).encode())


def _people(row: Fields, location: str) -> list[str]:
    """Return people's answers to a question."""
    answers = field_of(row, "answers", list, location)
    if not answers or not all(isinstance(answer, str) for answer in answers):
        raise DataError(f"{location}:answers: is not a list of answers", "download the file again")
    return answers


def read_vqa(path: Path) -> Fields:
    """Read a file of the release. Each person's answer is reduced to its text, so that two million fit into memory."""

    def light(row: dict[str, Any]) -> object:
        return sys.intern(row["answer"]) if "answer_id" in row else row

    try:
        value = json.loads(release_text(path), object_hook=light)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: is not a VQA file: {str(error)[:80]}", "download it again") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: is not a JSON object", "download it again")
    return value


class TextVqa(Benchmark):
    """Points are the mean over the ten people of min(1, number of the others who say the same / 3)."""

    facts = Facts(
        about="5,000 validation questions about text in images",
        files=("TextVQA_0.5.1_val.json", "llava_textvqa_val_v051_ocr.jsonl (LLaVA-1.5's prompts)", "train_images/"),
        source="https://textvqa.org/dataset and https://github.com/haotian-liu/LLaVA/blob/main/docs/Evaluation.md",
        licence="CC BY 4.0",
        size="about 7 GB",
        paper="https://arxiv.org/abs/1904.08920",
    )

    def questions(self) -> Sequence[Question]:
        (path,) = find_files(self.folder, ["*TextVQA*val*.json"])
        prompts = matching(self.folder, "llava_textvqa*.jsonl")
        prompt_of = dict(_llava_prompt(*each) for each in (release_lines(prompts[0]) if prompts else ()))
        images = image_folder(self.folder, "train_images", "train_val_images/train_images")
        questions = []
        for number, row in enumerate(field_of(release_map(path), "data", list, str(path)), start=1):
            location = f"{path}:data {number}"
            image, text = field_of(row, "image_id", str, location), field_of(row, "question", str, location)
            answers = _people(row, location)
            name = name_of(image, text)
            prompt = prompt_of.get(name, text[:1].upper() + text[1:] + SHORT)
            tags = {"answers": answers, "also": row.get("question_id")}
            usual = max(answers, key=answers.count)
            questions.append(
                make_question(name, prompt, images / f"{image}.jpg", answer=usual, origin=location, **tags)
            )
        self.numbers = {plain_id(question.tags["also"]): question.id for question in questions}
        return questions

    def identify(self, prediction: Prediction) -> str:
        """Return image and question, because LLaVA's id is only the image's; or the release's question number."""
        prompt = prediction.fields.get("prompt")
        if isinstance(prompt, str) and ": " not in prediction.id and prediction.id not in self.numbers:
            return name_of(prediction.id, question_in(prompt))
        return self.numbers.get(prediction.id, prediction.id)

    def points(self, question: Question, answer: str) -> float:
        return soft_points(evalai_form(answer), list(map(evalai_form, question.tags["answers"])))

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        return {"accuracy": mean(rows)}


def name_of(image: str, question: str) -> str:
    return f"{image}: {question.lower()}"


def question_in(prompt: str) -> str:
    """Return the prompt's first line that is not a list of OCR tokens."""
    line = next((line for line in prompt_lines(prompt) if not line.startswith(OCR)), "")
    asked = line.removesuffix(SHORT.strip())
    return line if asked == line else asked.rstrip()


def _llava_prompt(location: str, row: object) -> tuple[str, str]:
    """Return (question id, prompt) of a line of LLaVA's question file."""
    prompt = field_of(row, "text", str, location)
    return name_of(id_in(row, "question_id", location), question_in(prompt)), prompt


class VizWiz(Benchmark):
    """There are no figures without the server; the upload has the answers in EvalAI's form."""

    facts = Facts(
        about="8,000 test questions; the upload for the evaluation server",
        files=("test.json (or LLaVA's llava_test.jsonl)", "test/ (images)"),
        source="https://vizwiz.org/tasks-and-datasets/vqa/",
        licence="CC BY 4.0",
        size="about 3.5 GB with the test images",
        paper="https://arxiv.org/abs/1802.08218",
    )

    def questions(self) -> Sequence[Question]:
        if listed := matching(self.folder, "test.json"):
            tree = {"test": release_json(listed[0])}
            rows = [(str(k), row) for k, row in enumerate(field_of(tree, "test", list, str(listed[0])))]
            path, suffix = listed[0], UNANSWERABLE + SHORT
        elif listed := matching(self.folder, "llava_test*.jsonl"):
            rows = [(id_in(row, "question_id", location), row) for location, row in release_lines(listed[0])]
            path, suffix = listed[0], ""
        else:
            raise DataError(f"{self.folder / 'test.json'}: no such file, nor llava_test*.jsonl", DOWNLOAD)
        text = "question" if suffix else "text"
        questions = []
        for name, row in rows:
            location = f"{path}:{name}"
            image, prompt = field_of(row, "image", str, location), field_of(row, text, str, location) + suffix
            questions.append(make_question(name, prompt, self.folder / "test" / image, origin=location, image=image))
        return questions

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        return {}

    def submission(self, rows: Sequence[Reply]) -> Upload:
        """Return the server's list, in the order of the questions; a missing reply is an empty answer."""
        listed = [{"image": row.question.tags["image"], "answer": evalai_form(row.text or "")} for row in rows]
        return Upload("vizwiz_upload.json", json.dumps(listed).encode())


class Gqa(Benchmark):
    """The answer is the reply in lower case without final full stops."""

    facts = Facts(
        about="12,578 balanced testdev questions on 398 images",
        files=("testdev_balanced_questions.json (or one other *questions*.json)", "images/"),
        source="https://cs.stanford.edu/people/dorarad/gqa/download.html",
        licence="CC BY 4.0; images: Visual Genome's terms",
        size="1.4 GB of questions, 20 GB of images",
        paper="https://arxiv.org/abs/1902.09506",
    )

    def questions(self) -> Sequence[Question]:
        usual = matching(self.folder, "testdev_balanced_questions.json")
        path = (usual or find_files(self.folder, ["*questions*.json"]))[0]
        questions = []
        for name, row in release_map(path).items():
            location = f"{path}:{name}"
            if not field_of(row, "question", str, location) or row.get("isBalanced") is False:
                continue  # the benchmark's figures are over the balanced questions
            types = row.get("types") or {}
            tags = {
                "structural": types.get("structural"),
                "semantic": types.get("semantic"),
                "steps": f"{_steps(row['semantic']):02d}" if row.get("semantic") else None,
                "words": f"{len(row['question'].split()):02d}",
                "group": (row.get("groups") or {}).get("global"),
                "form": "open" if types.get("structural") == "query" else "binary",
            }
            answer = field_of(row, "answer", str, location)
            image = self.folder / "images" / f"{row.get('imageId', name)}.jpg"
            questions.append(
                make_question(name, row["question"] + SHORT, image, answer=answer, origin=location, **tags)
            )
        if not questions:
            raise DataError(f"{path}: contains no balanced question", "take testdev_balanced_questions.json")
        return questions

    def parse(self, question: Question, reply: str, rule: str) -> str | None:
        return _gqa_form(reply)

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        forms = {form: value for form, (value, _) in mean_by(rows, "form").items()}
        return {"accuracy": mean(rows), **forms, "distribution": distribution(rows)}

    def tables(self, rows: Sequence[Marked]) -> dict[str, Table]:
        numbered = {tag: {k.lstrip("0") or "0": v for k, v in mean_by(rows, tag).items()} for tag in ("steps", "words")}
        return {"structural": mean_by(rows, "structural"), "semantic": mean_by(rows, "semantic"), **numbered}

    def submission(self, rows: Sequence[Reply]) -> Upload:
        """Return the server's list."""
        listed = [{"questionId": row.question.id, "prediction": _gqa_form(row.text or "")} for row in rows]
        return Upload("gqa_submission.json", json.dumps(listed).encode())


def _gqa_form(reply: str) -> str:
    return reply.rstrip(".").lower()


def _steps(semantic: Sequence[Mapping[str, object]]) -> int:
    """Count the operations of a question's programme, except those that only ask the final question."""
    steps = (f"{step['operation']}: {step['argument']}" for step in semantic)
    return sum(not any(end in step for end in ("exist", "query: name", "choose name")) for step in steps)


def distribution(rows: Sequence[Marked]) -> float:
    """Return the mean over groups, weighted by size, of the chi-square distance of given from right answers, / 100."""
    gold: dict[str, Counter[str]] = {}
    given: dict[str, Counter[str]] = {}
    for row in rows:
        group = row.question.tags["group"]
        if group is not None:
            gold.setdefault(group, Counter())[row.question.answer] += 1
            given.setdefault(group, Counter())[row.answer or ""] += 1
    total = sum(counts.total() for counts in gold.values())
    distance = sum(
        counts.total() * sum((given[group][answer] - expected) ** 2 / expected for answer, expected in counts.items())
        for group, counts in gold.items()
    )
    return distance / total / 100 if total else 0.0

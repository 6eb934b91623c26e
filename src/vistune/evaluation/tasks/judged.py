"""Free answers that a judge grades: MM-Vet and LLaVA-Bench (in the wild).

MM-Vet (arXiv 2308.02490): grades from 0 to 1, over six capabilities and their combinations.
mm-vet.json -> questions -> replies -> judge's prompt with question | answer | reply -> grades -> means by capability

LLaVA-Bench (arXiv 2304.08485): the judge rates GPT-4's answer and the model's, side by side.
questions, captions, GPT-4's answers, rule.json -> request -> "8 7" and a review -> 100 x model's mean / GPT-4's mean
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from vistune.errors import DataError, RecipeError
from vistune.evaluation.judge import Body, JudgedBenchmark, judgements, read_prompt, sha256_of_text
from vistune.evaluation.predictions import Prediction
from vistune.evaluation.release import (
    field_of,
    find_files,
    id_in,
    image_folder,
    release_json,
    release_lines,
    release_map,
)
from vistune.evaluation.task import (
    BOTH,
    OFFICIAL,
    Facts,
    Judge,
    Reply,
    Table,
    TaskScore,
    make_question,
)
from vistune.records import kind_of_file
from vistune.types import Question

PROMPT_SHA256 = "d1b3e0a5b4e72c888b77164489d705bba4dd149934fff564dfba6443d81afe3f"  # of MM-Vet's published prompt
AGAIN = "\nPredict the correctness of the answer (digit): "
MMVET_PARAMETERS = {"temperature": 0.0, "max_tokens": 3}
LLAVA_PARAMETERS = {"temperature": 0.2, "max_tokens": 1024}
Pair = tuple[float, float]  # GPT-4's rating and the model's
_PARTING = str.maketrans(dict.fromkeys(",/|*:;()[]", " "))


class MMVet(JudgedBenchmark):
    """The judge of the publication was gpt-4-0613. Other judges give other figures, so the result names the judge."""

    facts = Facts(
        about="free answers to 218 questions that need several capabilities, graded by a judge",
        files=("mm-vet.json", "images/", "mm-vet_evaluator.py or mmvet_judge_prompt.txt (the judge's prompt)"),
        source="https://github.com/yuweihao/MM-Vet (mm-vet.zip)",
        licence="CC BY-NC 4.0",
        size="218 questions, 200 images",
        paper="https://arxiv.org/abs/2308.02490",
    )
    prediction_fields = frozenset({"model", "content", "score"})  # of stored grades
    judge_runs = 1  # grades per answer; the publication took five

    def questions(self) -> Sequence[Question]:
        [path] = find_files(self.folder, ["mm-vet.json"])
        images = image_folder(path.parent, "images", "")
        questions = []
        for name, row in release_map(path).items():
            location = f"{path}:{name}"
            text, image = field_of(row, "question", str, location), field_of(row, "imagename", str, location)
            tags = {"capabilities": sorted(set(field_of(row, "capability", list, location)))}
            answer = field_of(row, "answer", str, location)
            questions.append(make_question(name, text, images / image, answer=answer, origin=location, **tags))
        return questions

    def read(self, path: Path) -> Sequence[Prediction]:
        """Read answers, or the grades that MM-Vet's own scorer wrote: {id: {model, content, score}}."""
        if kind_of_file(path.name) == ".json":
            tree = release_json(path)
            if isinstance(tree, dict) and tree and all(isinstance(v, dict) and "score" in v for v in tree.values()):
                return [Prediction(name, "", f"{path}:{name}", row) for name, row in tree.items()]
        return super().read(path)

    def identify(self, prediction: Prediction) -> str:
        """Return the id with the release's `v1_`, which LLaVA's answer lines omit."""
        return prediction.id if prediction.id.startswith("v1_") else f"v1_{prediction.id}"

    def score(self, rows: Sequence[Reply], rule: str = OFFICIAL, judge: Judge | None = None) -> TaskScore:
        if any("score" in row.fields and not row.text for row in rows):
            grades = _stored_grades(rows)
            models = sorted({str(name) for row in rows for name in row.fields.get("model", [])})
            note: dict[str, object] = {"answered_as": ", ".join(models), "stored": True}
        else:
            grades, note = self._graded(rows, judge)
        metrics, tables, runs = figures([row.question for row in rows], grades)
        return replace(super().score(rows, rule), metrics=metrics, tables=tables, notes={"judge": note, "runs": runs})

    def _graded(self, rows: Sequence[Reply], judge: Judge | None) -> tuple[dict[str, list[float]], dict[str, object]]:
        """Return the grades by question; a missing answer has 0 in every run and is not sent."""
        if judge is None:
            raise RecipeError("mmvet is graded by a judge", "name one with --judge, or score a file of stored grades")
        prompt = read_prompt(self.folder, ["*judge_prompt*.txt"], ["mm-vet_evaluator.py"], "prompt")
        requests = {row.question.id: request_of(prompt, row.question, row.text) for row in rows if row.text is not None}
        bodies = {
            f"{name} run {run}": {"messages": [{"role": "user", "content": request}], **MMVET_PARAMETERS}
            for name, request in requests.items()
            for run in range(self.judge_runs)
        }
        judged = judgements(judge, bodies, read_grade, again)
        names = [row.question.id for row in rows]
        grades = {name: [judged.get(f"{name} run {run}", 0.0) for run in range(self.judge_runs)] for name in names}
        digest = sha256_of_text(prompt)
        as_published = digest == PROMPT_SHA256
        return grades, {"prompt_sha256": digest, "prompt_as_published": as_published, "parameters": MMVET_PARAMETERS}


def request_of(prompt: str, question: Question, reply: str) -> str:
    """Return what the judge reads: the examples, then this question's row up to the grade."""
    gold = question.answer.replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    asked = "".join(part for part in question.sample.messages[-1].parts if isinstance(part, str))
    return prompt + "\n" + " | ".join([asked, gold, reply, ""])


def again(body: Body, attempt: int) -> Body:
    """Return the request to send after a reply without a grade.

    It is plainer than the first one. From the third attempt on, the temperature rises by 0.5 each time.
    """
    [message] = body["messages"]
    warmer = {"temperature": 0.5 * (attempt - 1)}
    return {**body, **warmer, "messages": [{**message, "content": message["content"] + AGAIN}]}


def read_grade(reply: str) -> float | None:
    """Read the number before the first space, from 0 to 1; None if there is none."""
    try:
        grade = float(reply.split(" ")[0].strip())
    except ValueError:
        return None
    return grade if 0.0 <= grade <= 1.0 else None


def _stored_grades(rows: Sequence[Reply]) -> dict[str, list[float]]:
    """Return grades from a file. Raise DataError if a question has none, or not as many as the others."""
    grades: dict[str, list[float]] = {}
    for row in rows:
        scores = row.fields.get("score")
        if (
            not isinstance(scores, list)
            or not scores
            or not all(type(s) in (int, float) and 0 <= s <= 1 for s in scores)
        ):
            raise DataError(f"{row.question.id}: score: no grades from 0 to 1", "grade every question, then score")
        grades[row.question.id] = list(map(float, scores))
    if len({len(scores) for scores in grades.values()}) > 1:
        raise DataError("the questions do not have equally many grades", "finish the last run of the grading")
    return grades


def figures(
    questions: Sequence[Question], grades: Mapping[str, Sequence[float]]
) -> tuple[dict[str, float], dict[str, Table], list[float]]:
    """Compute the figures of grades, each a list over runs.

    Returns:
        Per cent by capability with `total` and `std`; a table by exact set of capabilities; the total of each run.

    Each question counts in all of its capabilities; means over runs, to one decimal, as the official scorer rounds.
    """
    groups: dict[str, list[str]] = {}
    sets: dict[str, list[str]] = {}
    for question in questions:
        for capability in question.tags["capabilities"]:
            groups.setdefault(capability, []).append(question.id)
        sets.setdefault("_".join(question.tags["capabilities"]), []).append(question.id)

    def by_run(names: Sequence[str]) -> np.ndarray:
        means: np.ndarray = np.array([grades[name] for name in names]).sum(axis=0) / len(names) * 100
        return means

    totals = by_run([question.id for question in questions])
    metrics = {name: _rounded(by_run(groups[name]).mean()) for name in sorted(groups)}
    metrics |= {"total": _rounded(totals.mean()), "std": _rounded(totals.std())}
    table = {name: (_rounded(by_run(sets[name]).mean()), len(sets[name])) for name in sorted(sets)}
    return metrics, {"capability integration": table}, [_rounded(total) for total in totals]


def _rounded(value: float) -> float:
    return round(float(value), 1)


class LlavaBench(JudgedBenchmark):
    """The judge of the publication, gpt-4-0314, is retired; figures of other judges are not comparable."""

    facts = Facts(
        about="60 open questions on 24 images, rated by a judge against GPT-4's answers",
        files=(
            "questions.jsonl",
            "context.jsonl",
            "answers_gpt4.jsonl",
            "rule.json (LLaVA's llava/eval/table/rule.json)",
            "images/",
        ),
        source="https://huggingface.co/datasets/liuhaotian/llava-bench-in-the-wild",
        licence="as its page states; images: their owners'",
        size="60 questions, 24 images",
        paper="https://arxiv.org/abs/2304.08485",
    )
    rules = BOTH
    prediction_fields = frozenset(  # of stored reviews, as LLaVA's scripts write them
        {"review_id", "answer1_id", "answer2_id", "reviewer_id", "category", "content", "tuple"}
    )
    system = "You are a helpful and precise assistant for checking the quality of the answer."
    headings = ("Context", "Question", "End of {}")

    def questions(self) -> Sequence[Question]:
        [path] = find_files(self.folder, ["questions.jsonl"])
        images = image_folder(path.parent, "images", "")
        questions = []
        for location, row in release_lines(path):
            name = id_in(row, "question_id", location)
            text, image = field_of(row, "text", str, location), field_of(row, "image", str, location)
            category = field_of(row, "category", str, location)
            questions.append(make_question(name, text, images / image, origin=location, category=category, image=image))
        return questions

    def read(self, path: Path) -> Sequence[Prediction]:
        """Read answers, or the reviews that a judge wrote before: lines of {question_id, content, tuple}."""
        if kind_of_file(path.name) != ".jsonl":
            return super().read(path)
        rows = list(release_lines(path))
        if not rows or not all(isinstance(row, dict) and "content" in row and "text" not in row for _, row in rows):
            return super().read(path)
        return [Prediction(id_in(row, "question_id", location), "", location, row) for location, row in rows]

    def score(self, rows: Sequence[Reply], rule: str = OFFICIAL, judge: Judge | None = None) -> TaskScore:
        read = read_pair if rule == OFFICIAL else read_two_numbers
        note: dict[str, object]
        if any("content" in row.fields and not row.text for row in rows):
            pairs, note = {row.question.id: _stored_pair(row, read) for row in rows}, {"stored": True}
        elif judge is None:
            hint = "name one with --judge, or score a file of stored reviews"
            raise RecipeError("the answers are rated by a judge", hint)
        else:
            system = {"role": "system", "content": self.system}
            bodies = {
                name: {"messages": [system, {"role": "user", "content": text}], **LLAVA_PARAMETERS}
                for name, text in self.requests(rows).items()
            }
            pairs = judgements(judge, bodies, read)
            prompt = self.system + "".join(str(self.rule_table[name]) for name in sorted(self.rule_table))
            note = {"prompt_sha256": sha256_of_text(prompt), "parameters": LLAVA_PARAMETERS}
        by_category: dict[str, list[Pair]] = {}
        for row in rows:
            by_category.setdefault(category_of(row.question), []).append(pairs[row.question.id])
        metrics = relative_scores({"all": list(pairs.values()), **dict(sorted(by_category.items()))})
        return replace(super().score(rows, rule), metrics=metrics, notes={"judge": note})

    def requests(self, rows: Sequence[Reply]) -> dict[str, str]:
        """Return the request for each answer; a missing answer is shown as empty."""
        captions_file, answers_file = find_files(self.folder, ["context.jsonl", "answers_gpt4.jsonl"])
        captions = {
            field_of(row, "image", str, location): field_of(row, "caption", str, location)
            for location, row in release_lines(captions_file)
        }
        answers = {
            id_in(row, "question_id", location): field_of(row, "text", str, location)
            for location, row in release_lines(answers_file)
        }
        requests = {}
        for row in rows:
            name, image = row.question.id, row.question.tags["image"]
            if image not in captions or name not in answers:
                problem = f"{row.question.sample.origin}: no caption, or no answer of GPT-4"
                raise DataError(problem, "download the files again")
            requests[name] = self.request(row, captions[image], answers[name])
        return requests

    def request(self, row: Reply, caption: str, reference: str) -> str:
        """Return caption, question, both answers and the category's rule in the published layout."""
        category = category_of(row.question)
        rule = self.rule_table.get(category)
        if not isinstance(rule, dict) or not all(isinstance(rule.get(key), str) for key in ("role", "prompt")):
            raise DataError(f"{self.folder}/rule*.json: no role and prompt for {category!r}", "download the file again")
        role, (context, question, end) = rule["role"], self.headings
        sections = [f"[{context}]\n{caption}", f"[{question}]\n{row.question.sample.messages[-1].text}"]
        for number, answer in enumerate((reference, row.text or ""), start=1):
            name = f"{role} {number}"
            sections += [f"[{name}]\n{answer}", f"[{end.format(name)}]"]
        return "\n\n".join([*sections, f"[System]\n{rule['prompt']}", ""])

    @cached_property
    def rule_table(self) -> Mapping[str, object]:
        """The rules of the categories."""
        [path] = find_files(self.folder if self.folder.is_dir() else self.folder.parent, ["rule*.json"])
        table = release_json(path)
        return table if isinstance(table, dict) else {}


def category_of(question: Question) -> str:
    return f"llava_bench_{str(question.tags['category']).removeprefix('llava_bench_')}"


def read_pair(review: str) -> Pair | None:
    """Read two ratings by the official rule: the first line, with commas as spaces, is two numbers and one space."""
    parts = review.split("\n")[0].replace(",", " ").split(" ")
    return _numbers(parts)


def read_two_numbers(review: str) -> Pair | None:
    """Read two ratings from the first non-empty line if it has two numbers and no word: "8,  9", "**8 / 9**"."""
    lines = [line for line in review.split("\n") if line.strip()]
    return _numbers(lines[0].translate(_PARTING).split()) if lines else None


def _numbers(parts: Sequence[str]) -> Pair | None:
    if len(parts) != 2:
        return None
    try:
        first, second = float(parts[0]), float(parts[1])
    except ValueError:
        return None
    return (first, second) if 0 <= first <= 100 and 0 <= second <= 100 else None  # `float` reads "nan" and "inf" too


def _stored_pair(row: Reply, read: Callable[[str], Pair | None]) -> Pair:
    """Return a stored review's ratings. Raise DataError if it has none; the official script would average in -1."""
    pair, content = row.fields.get("tuple"), row.fields.get("content")
    if isinstance(pair, list) and len(pair) == 2 and all(type(p) in (int, float) and p >= 0 for p in pair):
        return float(pair[0]), float(pair[1])
    ratings = read(content) if isinstance(content, str) else None
    if ratings is None:
        raise DataError(
            f"question {row.question.id}: the review does not have two ratings: {str(content)[:80]!r}",
            "have it judged again, or add --parse lenient",
        )
    return ratings


def relative_scores(groups: Mapping[str, Sequence[Pair]]) -> dict[str, float]:
    """Return 100 x model's mean / GPT-4's mean and both means x 10 by group; means have three digits."""
    metrics = {}
    for name, pairs in groups.items():
        reference, model = (round(sum(pair[side] for pair in pairs) / len(pairs), 3) for side in (0, 1))
        metrics[name] = round(model / reference * 100, 1) if reference else 0.0
        metrics[f"{name}_gpt4"], metrics[f"{name}_model"] = round(reference * 10, 1), round(model * 10, 1)
    return metrics

"""LLaVA-Bench (in the wild): a judge rates GPT-4's answer and the model's, side by side. arXiv 2304.08485

questions, captions, GPT-4's answers, rule -> request -> "8 7" and a review -> 100 x model's mean / GPT-4's mean
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from vistune.errors import DataError, RecipeError
from vistune.evaluation.judge import judgements, sha256_of_text
from vistune.evaluation.predictions import Prediction
from vistune.evaluation.release import field_of, find_files, id_in, release_json, release_lines
from vistune.evaluation.task import BOTH, OFFICIAL, Benchmark, Facts, Judge, Marked, Reply, TaskScore, make_question
from vistune.records import kind_of_file
from vistune.types import Question

Pair = tuple[float, float]  # GPT-4's rating and the model's
_PARTING = str.maketrans(dict.fromkeys(",/|*:;()[]", " "))
PARAMETERS = {"temperature": 0.2, "max_tokens": 1024}


class LlavaBench(Benchmark):
    """The judge of the publication, gpt-4-0314, is retired; figures of other judges are not comparable with its."""

    facts: ClassVar[Facts] = Facts(
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
    max_tokens = 1024
    rules = BOTH
    judged = True
    prediction_fields = frozenset(  # of stored reviews, as LLaVA's scripts write them
        {"review_id", "answer1_id", "answer2_id", "reviewer_id", "category", "content", "tuple"}
    )
    system = "You are a helpful and precise assistant for checking the quality of the answer."
    headings = ("Context", "Question", "End of {}")

    def questions(self) -> Sequence[Question]:
        [path] = find_files(self.folder, ["questions.jsonl"])
        images = path.parent / "images" if (path.parent / "images").is_dir() else path.parent
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
        if any("content" in row.fields and not row.text for row in rows):
            pairs = {row.question.id: _stored(row, read) for row in rows}
            notes: dict[str, object] = {"stored": True}
        elif judge is None:
            raise RecipeError(
                "the answers are rated by a judge", "name one with --judge, or score a file of stored reviews"
            )
        else:
            system = {"role": "system", "content": self.system}
            bodies = {
                name: {"messages": [system, {"role": "user", "content": text}], **PARAMETERS}
                for name, text in self.requests(rows).items()
            }
            pairs = judgements(judge, bodies, read)
            notes = {"prompt_sha256": sha256_of_text(self.system + "".join(self._rules())), "parameters": PARAMETERS}
        by_category: dict[str, list[Pair]] = {}
        for row in rows:
            by_category.setdefault(category_of(row.question), []).append(pairs[row.question.id])
        metrics = relative_scores({"all": list(pairs.values()), **dict(sorted(by_category.items()))})
        return replace(super().score(rows, rule), metrics=metrics, notes={"judge": notes})

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        return {}  # the figures come from the judge

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
                raise DataError(
                    f"{row.question.sample.origin}: no caption, or no answer of GPT-4", "download the files again"
                )
            requests[name] = self.request(row, captions[image], answers[name])
        return requests

    def request(self, row: Reply, caption: str, reference: str) -> str:
        """Return caption, question, both answers and the category's rule in the published layout."""
        category = category_of(row.question)
        rule = self._rule_table().get(category)
        if not isinstance(rule, dict) or not all(isinstance(rule.get(key), str) for key in ("role", "prompt")):
            raise DataError(f"{self.folder}/rule*.json: no role and prompt for {category!r}", "download the file again")
        role, (context, question, end) = rule["role"], self.headings
        sections = [f"[{context}]\n{caption}", f"[{question}]\n{row.question.sample.messages[-1].text}"]
        for number, answer in enumerate((reference, row.text or ""), start=1):
            name = f"{role} {number}"
            sections += [f"[{name}]\n{answer}", f"[{end.format(name)}]"]
        return "\n\n".join([*sections, f"[System]\n{rule['prompt']}", ""])

    def _rule_table(self) -> Mapping[str, object]:
        if not hasattr(self, "rule_table"):
            folder = self.folder if self.folder.is_dir() else self.folder.parent
            [path] = find_files(folder, ["rule*.json"])
            self.rule_table = release_json(path)
        return self.rule_table if isinstance(self.rule_table, dict) else {}

    def _rules(self) -> list[str]:
        return [str(self._rule_table()[name]) for name in sorted(self._rule_table())]


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


def _stored(row: Reply, read: Callable[[str], Pair | None]) -> Pair:
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

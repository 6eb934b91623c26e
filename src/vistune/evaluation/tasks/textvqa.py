"""TextVQA: questions whose answer is written in the picture. https://arxiv.org/abs/1904.08920

Soft accuracy over ten people's answers, both sides in the server's form (mmf's m4c evaluator). LLaVA-1.5 was measured
with OCR tokens in the prompt: they stand in its question file, and without that file the prompt has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vistune.errors import DataError
from vistune.evaluation.parsing.vqa_text import evalai_form, soft_points
from vistune.evaluation.predictions import Prediction, plain_id
from vistune.evaluation.release import field_of, find, id_in, image_folder, matching, release_lines, release_map
from vistune.evaluation.task import SHORT, Benchmark, Facts, Marked, ask, mean, prompt_lines
from vistune.types import Question

OCR = "Reference OCR token:"


class TextVqa(Benchmark):
    """Points are the mean over the ten people of min(1, others who say the same / 3)."""

    facts = Facts(
        about="5,000 validation questions about text in pictures",
        files=("TextVQA_0.5.1_val.json", "llava_textvqa_val_v051_ocr.jsonl (LLaVA-1.5's prompts)", "train_images/"),
        source="https://textvqa.org/dataset and LLaVA's docs/Evaluation.md",
        licence="CC BY 4.0",
        size="about 7 GB",
        paper="https://arxiv.org/abs/1904.08920",
    )

    def questions(self) -> Sequence[Question]:
        (path,) = find(self.folder, ["*TextVQA*val*.json"])
        prompts = matching(self.folder, "llava_textvqa*.jsonl")
        prompt_of = dict(_llava(*each) for each in (release_lines(prompts[0]) if prompts else ()))
        images = image_folder(self.folder, "train_images", "train_val_images/train_images")
        found = []
        for number, row in enumerate(field_of(release_map(path), "data", list, str(path)), start=1):
            place = f"{path}:data {number}"
            image, text = field_of(row, "image_id", str, place), field_of(row, "question", str, place)
            answers = field_of(row, "answers", list, place)
            if not answers or not all(isinstance(answer, str) for answer in answers):
                raise DataError(f"{place}:answers: are no people's answers", "download the file again")
            name = name_of(image, text)
            prompt = prompt_of.get(name, text[:1].upper() + text[1:] + SHORT)
            found.append(
                ask(
                    name,
                    prompt,
                    images / f"{image}.jpg",
                    origin=place,
                    answer=max(answers, key=answers.count),
                    answers=answers,
                    also=row.get("question_id"),
                )
            )
        self.numbers = {plain_id(question.tags["also"]): question.id for question in found}
        return found

    def identify(self, prediction: Prediction) -> str:
        """Picture and question: LLaVA's id is the picture's only. Else the release's own question number."""
        prompt = prediction.fields.get("prompt")
        if isinstance(prompt, str) and ": " not in prediction.id and prediction.id not in self.numbers:
            return name_of(prediction.id, question_in(prompt))
        return self.numbers.get(prediction.id, prediction.id)

    def points(self, question: Question, answer: str) -> float:
        return soft_points(evalai_form(answer), [evalai_form(said) for said in question.tags["answers"]])

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        return {"accuracy": mean(rows)}


def name_of(image: str, question: str) -> str:
    return f"{image}: {question.lower()}"


def question_in(prompt: str) -> str:
    """The prompt's first line that is no list of OCR tokens."""
    line = next((line for line in prompt_lines(prompt) if not line.startswith(OCR)), "")
    asked = line.removesuffix(SHORT.strip())
    return line if asked == line else asked.rstrip()


def _llava(place: str, row: Any) -> tuple[str, str]:
    """(name, prompt) of a line of LLaVA's question file."""
    prompt = field_of(row, "text", str, place)
    return name_of(id_in(row, "question_id", place), question_in(prompt)), prompt

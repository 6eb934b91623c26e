"""MME: fourteen abilities, with one yes and one no question per image. https://arxiv.org/abs/2306.13394

The score of an ability is the share of questions with a right answer plus the share of images whose two answers are
both right, in per cent (at most 200). The score for perception is the sum of ten abilities, that for cognition the sum
of four (the benchmark's calculation.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from vistune.errors import DataError
from vistune.evaluation.parsing import yes_or_no
from vistune.evaluation.predictions import Prediction, read_predictions
from vistune.evaluation.release import DOWNLOAD, field_of, image_folder, matching, release_lines, release_text
from vistune.evaluation.task import (
    BOTH,
    LENIENT,
    OFFICIAL,
    SHORT,
    Benchmark,
    Facts,
    Judge,
    Marked,
    Reply,
    Table,
    TaskScore,
    make_question,
    prompt_lines,
)
from vistune.types import Question

PERCEPTION = ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
CATEGORIES = (*PERCEPTION, *COGNITION)
ENDING = "Please answer yes or no."


class Mme(Benchmark):
    """ "yes" or "no" within the first four characters, in any case."""

    facts = Facts(
        about="2,374 yes-no questions on 1,187 images, 14 abilities; perception (of 2000) and cognition (of 800)",
        files=(
            "the 14 folders of MME_Benchmark_release_version, or eval_tool/Your_Results/*.txt",
            "llava_mme.jsonl alone, where the predictions are result files with the gold answer in them",
        ),
        source="https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models/tree/Evaluation (on request)",
        licence="none stated; research use",
        size="about 0.9 GB",
        paper="https://arxiv.org/abs/2306.13394",
    )
    rules = BOTH
    prediction_fields = frozenset({"gold"})

    def questions(self) -> Sequence[Question]:
        base = image_folder(self.folder, "MME_Benchmark_release_version", "")
        for folder in (self.folder, self.folder / "eval_tool" / "Your_Results", self.folder / "Your_Results"):
            files = [folder / f"{category}.txt" for category in CATEGORIES]
            if any(file.is_file() for file in files):
                return [question for file in _all(files) for question in _template(file, base)]
        folders = [base / category for category in CATEGORIES]
        listed = matching(self.folder, "llava_mme.jsonl")
        if listed and not any(folder.is_dir() for folder in folders):
            return [_llava(location, row, base) for location, row in release_lines(listed[0])]
        return [question for folder in _all(folders) for question in _release(folder)]

    def read(self, path: Path) -> Sequence[Prediction]:
        """Read a folder of result files (image, question, right answer, reply by tabs), or LLaVA's answer lines."""
        if not path.is_dir():
            return read_predictions(path)
        files = _all([path / f"{category}.txt" for category in CATEGORIES])
        return [prediction for file in files for prediction in _results(file)]

    def identify(self, prediction: Prediction) -> str:
        """Return the question by prompt, because two questions share LLaVA's id; our own ids contain the question."""
        prompt = prediction.fields.get("prompt")
        if ": " in prediction.id or not isinstance(prompt, str):
            return prediction.id
        category, _, rest = prediction.id.partition("/")
        return name_of(category, rest, prompt_lines(prompt)[0].replace(SHORT.strip(), ""))

    def parse(self, question: Question, reply: str, rule: str) -> str | None:
        if rule == LENIENT:
            return yes_or_no(reply)
        opening = reply.lower()[:4]
        return next((answer for answer in ("yes", "no") if answer in opening), None)

    def score(self, rows: Sequence[Reply], rule: str = OFFICIAL, judge: Judge | None = None) -> TaskScore:
        """Compute the figures. If the data has no right answers (llava_mme.jsonl), the result files give them."""
        return super().score([_with_gold(row) for row in rows], rule)

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        scores = {name: accuracy + plus for name, (accuracy, plus) in _by_category(rows).items()}
        groups = {"Perception": PERCEPTION, "Cognition": COGNITION}
        return scores | {group: sum(scores.get(name, 0.0) for name in names) for group, names in groups.items()}

    def tables(self, rows: Sequence[Marked]) -> dict[str, Table]:
        count = {c: sum(row.question.tags["category"] == c for row in rows) for c in CATEGORIES}
        figures = _by_category(rows)
        return {
            "acc": {name: (accuracy, count[name]) for name, (accuracy, _) in figures.items()},
            "acc+": {name: (plus, count[name]) for name, (_, plus) in figures.items()},
        }


def _all(paths: Sequence[Path]) -> Sequence[Path]:
    """Return the paths. Raise DataError with each missing one, because a total over fewer is not comparable."""
    absent = [str(path) for path in paths if not path.exists()]
    if absent:
        raise DataError(f"{', '.join(absent)}: missing", DOWNLOAD)
    return paths


def name_of(category: str, image: str, question: str) -> str:
    """Return a question's id. It contains the question, because an image has two."""
    return f"{category}/{image.rsplit('/', 1)[-1]}: {question.replace(ENDING, '').strip()}"


def _question(category: str, image: str, text: str, gold: str, image_path: Path, location: str) -> Question:
    name = name_of(category, image, text)
    prompt = text.replace(ENDING, "").strip() + SHORT
    return make_question(
        name, prompt, image_path, answer=gold.strip().lower(), origin=location, category=category, image=image
    )


def _cells(path: Path, least: int) -> Iterator[tuple[str, list[str]]]:
    """Yield (location, cells) of each line of a tab-separated file; the last cell keeps further tabs."""
    for number, line in enumerate(release_text(path).splitlines(), start=1):
        cells = line.split("\t", least - 1)
        if line.strip():
            if len(cells) < least:
                raise DataError(f"{path}:{number}: has {len(cells)} cells, expected {least}", "separate them by tabs")
            yield f"{path}:{number}", cells


def _template(path: Path, base: Path) -> Iterator[Question]:
    """Yield the questions of a result file, as distributed or with replies in its fourth column."""
    images = image_folder(base / path.stem, "images", "")
    for location, (image, text, rest) in _cells(path, 3):
        yield _question(path.stem, image, text, rest.split("\t", 1)[0], images / image, location)


def _release(folder: Path) -> Iterator[Question]:
    """Yield the questions of a category's folder: text files next to the images, or in `questions_answers_YN`."""
    for path in sorted(image_folder(folder, "questions_answers_YN", "").glob("*.txt")):
        image = next((p for p in sorted(image_folder(folder, "images", "").glob(f"{path.stem}.*")) if p != path), None)
        if image is None:
            raise DataError(f"{path}: the image {path.stem}.jpg or .png is missing", "unpack the complete release")
        for location, (text, gold) in _cells(path, 2):
            yield _question(folder.name, image.name, text, gold, image, location)


def _llava(location: str, row: object, base: Path) -> Question:
    image, text = field_of(row, "image", str, location), field_of(row, "text", str, location)
    category = field_of(row, "category", str, location)
    return _question(category, image, text.split("\n", 1)[0], "", base / image, location)


def _results(path: Path) -> Iterator[Prediction]:
    for location, (image, text, gold, reply) in _cells(path, 4):
        yield Prediction(name_of(path.stem, image, text), reply, location, {"gold": gold.strip().lower()})


def _with_gold(row: Reply) -> Reply:
    stated, known = row.fields.get("gold", ""), row.question.answer
    if not (stated or known):
        raise DataError(
            f"{row.question.sample.origin}: no right answer", "add the benchmark's folders or eval_tool/Your_Results"
        )
    if stated and known and stated != known:
        raise DataError(
            f"{row.question.id}: the correct answer is {stated!r} in the results file but {known!r} in the data",
            "use files of the same release",
        )
    return row if known else replace(row, question=replace(row.question, answer=stated))


def _by_category(rows: Sequence[Marked]) -> dict[str, tuple[float, float]]:
    """Return (accuracy over questions, share of images with both right), in per cent, of each category asked."""
    scores: dict[str, tuple[float, float]] = {}
    for category in CATEGORIES:
        images: dict[str, list[float]] = {}
        for row in rows:
            if row.question.tags["category"] == category:
                images.setdefault(row.question.tags["image"].rsplit("/", 1)[-1], []).append(row.points)
        points = [point for listed in images.values() for point in listed]
        if points:
            both = sum(all(listed) for listed in images.values())
            scores[category] = (100 * sum(points) / len(points), 100 * both / len(images))
    return scores

"""MMMU (https://arxiv.org/abs/2311.16502): college questions with images between the words.

The prompt is that of lmms-eval 0.7.3 in its interleaved form: each "<image N>" is replaced by the image. The rule for
letters is also that of lmms-eval 0.7.3, without its random guess. Open answers are parsed and marked as by MMMU's own
functions (mmmu/utils/eval_utils.py).
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from vistune.errors import DataError
from vistune.evaluation.image_table import ImageRow, ImageTable
from vistune.evaluation.option_rules import mmmu_letter
from vistune.evaluation.parsing import lenient_letter
from vistune.evaluation.release import SHARDS
from vistune.evaluation.task import (
    BOTH,
    LENIENT,
    LETTER,
    SHORT,
    Marked,
    Reply,
    Table,
    Upload,
    mean,
    mean_by,
)
from vistune.evaluation.tasks.cards import CardedBenchmark
from vistune.evaluation.tasks.tables import listed
from vistune.types import ImageRef, Part, Question

IMAGES = tuple(f"image_{number}" for number in range(1, 8))
UNKNOWN = "?"  # the answer of every question of the test set
DOMAINS: Mapping[str, tuple[str, ...]] = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science", "Clinical_Medicine", "Diagnostics_and_Laboratory_Medicine", "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        "Agriculture", "Architecture_and_Engineering", "Computer_Science", "Electronics", "Energy_and_Power",
        "Materials", "Mechanical_Engineering",
    ),
}  # fmt: skip
_ID = re.compile(r"(?:dev|validation|test)_(.+?)_\d+")
_IMAGE = re.compile(r"<image (\d)>")
_INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_TRIVIAL = (":", ",", ".", "!", "?", ";", "'")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)
Value = str | float


class Mmmu(CardedBenchmark, card="mmmu"):
    """Accuracy over all questions, by subject and domain; the test set gives a submission file."""

    rules = BOTH

    def questions(self) -> Sequence[Question]:
        self.images = [ImageTable(folder, "mmmu", IMAGES) for folder in _folders(self.folder)]
        return [_question(row) for table in self.images for row in table]

    def parse(self, question: Question, reply: str, rule: str) -> str | None:
        options = question.tags.get("options")
        if options is None:
            return reply
        return lenient_letter(reply, options) if rule == LENIENT else mmmu_letter(reply, options)

    def points(self, question: Question, answer: str) -> float:
        if "options" in question.tags:
            return float(answer == question.answer)
        return float(is_right(answer, question.tags["answers"]))

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        """Return the accuracy in per cent; nothing for the test set."""
        if all(row.question.answer == UNKNOWN for row in rows):
            return {}
        domains = mean_by(rows, "domain")
        return {"Overall": mean(rows), **{f"Overall-{name}": value for name, (value, _) in domains.items()}}

    def tables(self, rows: Sequence[Marked]) -> Mapping[str, Table]:
        return {"domain": mean_by(rows, "domain"), "subject": mean_by(rows, "subject")} if self.metrics(rows) else {}

    def submission(self, rows: Sequence[Reply]) -> Upload:
        """Return letters and open replies by id; an unparsed or missing reply is empty."""
        answers = {row.question.id: self.mark(row.question, row.text).answer or "" for row in rows}
        return Upload("mmmu_submission.json", json.dumps(answers, ensure_ascii=False).encode())


def _folders(folder: Path) -> list[Path]:
    """Return the folders of the subjects, or the folder itself if it has the table."""
    if folder.is_dir() and not any(folder.glob(SHARDS)):
        subjects = sorted(path for path in folder.iterdir() if path.is_dir() and any(path.glob(SHARDS)))
        if subjects and [path.name for path in subjects] != ["data"]:
            return subjects
    return [folder]


def _question(row: ImageRow) -> Question:
    name = row.text("id")
    subject = _ID.fullmatch(name)
    if subject is None:
        raise DataError(f"{row.location}:id: {name!r} is not like validation_Art_1", "download the file again")
    domain = next((domain for domain, subjects in DOMAINS.items() if subject[1] in subjects), None)
    tags: dict[str, object] = {"subject": subject[1], "domain": domain}
    answer = row.text("answer")
    if row.text("question_type") == "multiple-choice":
        options = dict(zip(string.ascii_uppercase, row.list_of("options"), strict=False))
        text = f"{row.text('question')}\n{listed(options)}\n{LETTER}"
        tags["options"] = options
    else:
        text = f"{row.text('question')}\n{SHORT}"
        tags["answers"] = row.list_of("answer") if answer.startswith("[") else [answer]
    return row.ask(name, tuple(_parts(text, row)), answer, tags)


def _parts(text: str, row: ImageRow) -> Iterator[Part]:
    """Yield the text with each "<image N>" replaced by the image."""
    begin = 0
    for match in _IMAGE.finditer(text):
        image = row.images.get(f"image_{match[1]}")
        if image is None:
            raise DataError(f"{row.location}:image_{match[1]}: is missing", "download the file again")
        if match.start() > begin:
            yield text[begin : match.start()]
        yield ImageRef(image)
        begin = match.end()
    yield text[begin:]


def is_right(reply: str, answers: Sequence[str]) -> bool:
    """Return whether an open reply has one of the answers: an equal number, or a part that contains the text."""
    right = [value for answer in answers for value in _values(answer)]
    for value in open_values(reply):
        if isinstance(value, float):
            if value in right:
                return True
        elif any(isinstance(answer, str) and answer in value for answer in right):
            return True
    return False


def open_values(reply: str) -> list[Value]:
    """Return the candidates in an open reply: the text after an indicator such as "is ", and its numbers."""
    parts = _key_parts(reply)
    texts = [*parts, *(number for part in parts for form in _NUMBERS for number in form.findall(part))]
    return [value for text in texts for value in _values(text)]


def _key_parts(reply: str) -> list[str]:
    text = reply.strip().strip(".").lower()
    lines = text.split("\n")  # the original also splits before capitals, but the text is in lower case
    keys = []
    for number, line in enumerate(lines):
        indicators = (*_INDICATORS, "=") if number == len(lines) - 1 else _INDICATORS
        shortest = ""
        for indicator in indicators:
            if indicator in line:
                rest = line.split(indicator)[-1].strip()
                if not shortest or len(rest) < len(shortest):
                    shortest = rest
        if shortest and shortest not in _TRIVIAL:
            keys.append(shortest)
    return keys or [text]


def _values(text: str) -> list[Value]:
    """Return a number rounded to two digits, or the lower-case text; one character needs a space next to it."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        lowered = text.lower()
        return [f" {lowered}", f"{lowered} "] if len(lowered) == 1 else [lowered]

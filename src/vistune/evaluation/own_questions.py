"""Read a user's own questions: {question_id, text, answer, image?, match?, choices?, type?, language?}, or dialogues.

file of any format -> records -> OwnQuestions: questions, unread fields, warnings and missing images
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vistune.errors import DataError
from vistune.evaluation.matching import MATCHES
from vistune.evaluation.own_samples import (
    DEFAULT_RULE,
    LETTERS,
    MatchRule,
    SampleReader,
    is_sample,
    with_match,
    with_own_id,
)
from vistune.evaluation.parsing import is_missing
from vistune.evaluation.predictions import IDS, WHOLE, id_field, missing_field, plain_id
from vistune.evaluation.task import bare
from vistune.records import (
    FORMS,
    OTHER_MEDIA,
    DataFile,
    ImageFolders,
    Record,
    RecordError,
    Turn,
    Turns,
    UnreadField,
    count_unread,
    image_names,
    images_in_place,
    kind_of_file,
    marker_like,
    open_data,
    read_records,
    refuse_other_media,
    refuse_other_names,
    shown,
    split_markers,
    unread_fields,
)
from vistune.records import text as text_of
from vistune.registry import guess
from vistune.types import ImageRef, Question, Sample

TEXTS = ("text", "question", "prompt", "query")  # the first one present is the question
FIELDS = frozenset({"answer", "image", "images", "match", "choices", "type", "language", *OTHER_MEDIA})
RECORD = (*IDS, *TEXTS, "answer", "image", "images", *FORMS)  # an object with one of these is a record
OTHER_ANSWERS = ("answers", "gold", "gt", "gt_answer", "label", "ground_truth", "reference", "target", "expected")
LIKE_AN_IMAGE = re.compile("image|img|photo|picture|pixel|screenshot|이미지|사진|그림")
LIKE_OTHER_MEDIA = re.compile("video|audio|speech|영상|음성")
NAMES_AN_IMAGE = re.compile(r"\.(?:jpe?g|jpe|jfif|png|webp|gif|bmp|tiff?)$", re.IGNORECASE)
FORM = (
    "each record has question_id, text, and image or images if it is about any; "
    "see docs/how-to/ask-your-own-questions.md"
)


@dataclass(frozen=True, slots=True)
class OwnQuestions:
    """The questions of a file; `missing` has one error per missing image, because scoring needs no images.

    `has_dialogues`: whether some records are dialogues to train on.
    """

    questions: tuple[Question, ...]
    unread_fields: tuple[UnreadField, ...]
    warnings: tuple[str, ...]
    missing: tuple[DataError, ...]
    has_dialogues: bool = False


def warning_lines(path: Path, notes: Counter[str]) -> tuple[str, ...]:
    """Return one warning per note, with its count."""
    return tuple(f"{path}: {count:,} times: {message}" for message, count in notes.items())


def read_questions(path: Path, images: Sequence[Path], *, gold: bool, rule: MatchRule = DEFAULT_RULE) -> OwnQuestions:
    """Read the questions of a file in order. A record to train on gives a question per answer.

    Args:
        images: The folders of their images.
        gold: Whether each needs an `answer`.
        rule: The match of questions without their own.

    Raises:
        DataError: A record is invalid; the message has its location and field. An unread field that seems to name an
            image is an error too, because a question about an image must not be asked without it.
    """
    unread: Counter[str] = Counter()
    warnings: Counter[str] = Counter()
    # The images in a parquet or tar file are unpacked once, into the user's cache; other files are read as they are.
    unpacked = open_data(path) if kind_of_file(path.name) in (".parquet", ".tar", ".tar.gz", ".tgz") else None
    inside = [] if unpacked is None or unpacked.images is None else [unpacked.images]
    folders = LenientFolders([*images, *inside], hint="put the image there, or name its folder with --images")
    is_table = kind_of_file(path.name) in (".csv", ".tsv")
    questions: dict[str, Question] = {}
    samples, dialogues = SampleReader(rule, unread, warnings, gold), 0
    for record in _records(path, unpacked, unread):
        if isinstance(record.value, DataError):
            raise record.value
        if not isinstance(record.value, dict):
            raise RecordError(record.location, "", f"expected an object, got {shown(record.value)}", FORM)
        fields = _from_cells(record.value, record.location) if is_table else record.value
        if is_sample(fields) and not any(fields.get(name) is not None for name in TEXTS):
            dialogues += 1
            for question in samples.read(fields, record.location, folders):
                named = with_own_id(question, questions)
                questions[named.id] = named
            continue
        question = _question(fields, record.location, folders, gold, unread, rule)
        if (first := questions.setdefault(question.id, question)) is not question:
            hint = f"give each question its own id; {first.sample.origin} has this one"
            raise RecordError(record.location, "question_id", f"{question.id!r} occurs twice", hint)
        if marker := marker_like(question.sample.messages[-1].text):
            warnings[f"{marker!r} looks like an image marker and is asked as text; images are marked by <image>"] += 1
    ordered = list(questions.values())
    if is_table and all(WHOLE.fullmatch(question.id) for question in ordered):  # integers written as floats
        ordered = [replace(question, id=plain_id(question.id)) for question in ordered]
    return OwnQuestions(
        tuple(ordered),
        tuple(unread_fields(path, unread, {*FIELDS, *IDS, *TEXTS})),
        warning_lines(path, warnings),
        tuple(folders.faults),
        dialogues > 0,
    )


def _records(path: Path, unpacked: DataFile | None, unread: Counter[str]) -> Iterator[Record]:
    if unpacked is not None:
        unread.update(unpacked.unread or {})
        return unpacked.records(RECORD, unread)
    return read_records(path, own_fields=RECORD, by_id=(IDS[0], TEXTS[0]), unread=unread)


class LenientFolders(ImageFolders):
    """Collects image errors in `faults` instead of raising them, for callers that can continue without images."""

    def __init__(self, folders: list[Path], *, hint: str) -> None:
        super().__init__(folders, hint=hint)
        self.faults: list[DataError] = []
        self.base = folders[0]

    def find(self, name: str, location: str, field: str) -> ImageRef:
        try:
            return super().find(name, location, field)
        except DataError as error:
            self.faults.append(error)
            return ImageRef(self.base / name)


def _from_cells(cells: Mapping[str, str], location: str) -> dict[str, object]:
    """Convert a table's cells to a record: empty cells are dropped, lists are parsed as JSON."""
    fields: dict[str, object] = dict(cells)
    for name in (FIELDS - {"answer"}) & cells.keys():
        cell = cells[name]
        if is_missing(cell):
            fields[name] = None
        elif name in ("choices", "image", "images") and cell.lstrip().startswith("["):
            try:
                fields[name] = json.loads(cell)
            except ValueError:
                hint = 'write it as JSON, such as ["a", "b"]'
                raise RecordError(location, name, f"{shown(cell)} is not a list", hint) from None
    return fields


def _question(
    fields: Mapping[str, object],
    location: str,
    folders: ImageFolders,
    gold: bool,
    unread: Counter[str],
    rule: MatchRule,
) -> Question:
    key, asked = _asked(fields, location)
    name = id_field(fields, location)
    here: Counter[str] = Counter()
    count_unread(fields, {*FIELDS, key, name}, here)
    unread.update(here)
    refuse_other_media(fields, location)
    refuse_other_names(fields, here, location)
    listed, names = image_names(fields, location, unread)
    _refuse_image_like(fields, location, here, names)
    turn = Turn(key, "user", split_markers(asked))
    messages = images_in_place(Turns((turn,), names, listed), location, folders, Counter())
    if not asked.strip() and not messages[0].images:
        raise RecordError(location, key, "is empty", "write the question, or remove the record")
    choices = _choices(fields, location)
    tags = {tag: _tag(fields, tag, location) for tag in ("type", "language")}
    match = fields.get("match") or rule.match_of(str(tags["type"]))
    if match not in MATCHES:
        raise RecordError(location, "match", f"unknown value {shown(match)}", guess(str(match), MATCHES))
    if choices and match != "choice":
        unread["choices"] += 1
    answer = _answer(fields, location, needed=gold)
    if gold and match == "choice" and (not choices or answer not in LETTERS[: len(choices)]):
        problem = "does not have the option that `answer` names"
        raise RecordError(location, "choices", problem, "list the options; `answer` is A, B …")
    tags["match"] = str(match)
    value = fields[name]
    own_id = value if isinstance(value, str) else plain_id(value)
    sample = Sample(own_id, messages, origin=location)
    question = Question(own_id, sample, answer, tags | ({"choices": choices} if choices else {}))
    return with_match(question) if gold else question


def _asked(fields: Mapping[str, object], location: str) -> tuple[str, str]:
    """Return the field of the question's text, and the text."""
    given = [name for name in TEXTS if fields.get(name) is not None]
    if not given:
        raise missing_field(fields, location, "text", TEXTS)
    if given[0] != "text" and any(fields[name] != fields[given[0]] for name in given):
        problem = f"{' and '.join(given)} may all be the question"
        raise RecordError(location, given[0], problem, "name the question's field `text`")
    value = fields[given[0]]
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return given[0], text_of(value, location, given[0])


def _answer(fields: Mapping[str, object], location: str, *, needed: bool) -> str:
    value = fields.get("answer")
    if not needed:
        return str(value) if isinstance(value, str | int) else ""
    if value is None:
        raise missing_field(fields, location, "answer", ("answer",), [name for name in OTHER_ANSWERS if name in fields])
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise RecordError(location, "answer", f"expected text, got {shown(value)}", "write it as a reply would say it")
    if not bare(str(value)):
        raise RecordError(location, "answer", "is empty", "write the right answer, or remove the record")
    return str(value)


def _choices(fields: Mapping[str, object], location: str) -> list[object] | None:
    choices = fields.get("choices")
    if choices is not None and not isinstance(choices, list):
        raise RecordError(location, "choices", f"expected a list, got {shown(choices)}", "list the options' texts")
    if choices and len(choices) > len(LETTERS):
        problem = f"{len(choices)} options, but only A to E can be chosen"
        raise RecordError(location, "choices", problem, "give at most five")
    return choices


def _tag(fields: Mapping[str, object], name: str, location: str) -> str | int | float:
    value = fields.get(name)
    if value is None or value == "":
        return "all"
    if not isinstance(value, str | int | float):
        raise RecordError(location, name, f"expected text, got {shown(value)}", "write one word, such as `colour`")
    return value


def _refuse_image_like(
    fields: Mapping[str, object], location: str, unread: Collection[str], images: Collection[str]
) -> None:
    """Raise RecordError if an unread field seems to contain an image; `images`: the images that are read."""
    known = {_file_name(image) for image in images}
    for name in unread:
        value, written = fields[name], str(name).lower()
        if not value or value != value:
            continue
        if LIKE_OTHER_MEDIA.search(written):
            raise RecordError(location, name, "videos and audio are not read, only images", "remove the record")
        names_one = isinstance(value, str) and NAMES_AN_IMAGE.search(value.strip()) is not None
        is_named_so = LIKE_AN_IMAGE.search(written) is not None
        if not images and (names_one or is_named_so):
            hint = f"rename `{name}` to `image`, or remove the field if the question is not about an image"
            raise RecordError(location, name, "is not read, and the record has no `image` or `images`", hint)
        if names_one and is_named_so and _file_name(str(value)) not in known:
            raise RecordError(location, name, f"is not read: {shown(value)}", "list all images in `images`, in order")


def _file_name(path: str) -> str:
    return path.replace("\\", "/").rsplit("/", 1)[-1].strip()

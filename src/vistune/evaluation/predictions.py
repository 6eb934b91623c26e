"""Read predictions files of common formats into one type, and join them to a task's questions by id.

JSON lines, lists, wrapped lists, maps of ids to texts, CSV, TSV, parquet, xlsx, gzipped -> Predictions -> Joined
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from vistune.errors import DataError
from vistune.evaluation.sheets import read_sheet
from vistune.records import RecordError, read_values, shown

IDS = ("question_id", "questionId", "index", "id")
OTHER_IDS = ("qid", "pid", "idx")  # also read as ids, as are other spellings of IDS: "Question ID"
TEXTS = ("text", "prediction", "response", "answer")  # `answer` last: many lines carry the gold under this name
# Known other fields: those of LLaVA's answer lines, and of the files that `evaluate` and `answer` write.
KEPT = frozenset(
    {"prompt", "answer_id", "model_id", "metadata", "shortuuid", "round_id", "condition", "right", "finish_reason"}
    | {"image", *IDS, *TEXTS}
)
LIKE_A_TEXT = re.compile("predict|output|respon[sd]|generated|generation$|reply|replies|completion|pred$|answered")
WHOLE = re.compile(r"(-?\d+)\.0+")
# A JSON object with one of these names is a record, not a map of ids to texts.
RECORD = (*IDS, *OTHER_IDS, *TEXTS, "prompt", "question", "image", "output", "pred", "image_id", "generated_text")


@dataclass(frozen=True, slots=True)
class Prediction:
    """A model's unparsed reply to one question; `place` is its location for messages."""

    id: str
    text: str
    place: str
    fields: Mapping[str, Any] = field(default_factory=dict)  # the whole record, e.g. `prompt`
    read_from: tuple[str, ...] = ()  # the fields of the id and the reply, if not in KEPT


class Predictions(list[Prediction]):
    """The predictions of one file; `unread` counts unread parts of the file outside its records."""

    def __init__(self, found: Iterable[Prediction] = (), unread: Mapping[str, int] | None = None) -> None:
        super().__init__(found)
        self.unread: Mapping[str, int] = unread or {}


def read_predictions(path: Path) -> Predictions:
    """The predictions in a file of any format.

    Our own files contain every condition; of these, only the answers given with the image are read. Raises DataError
    with location and field.
    """
    unread: Counter[str] = Counter()
    found = [prediction_of(record, location) for location, record in _records(path, unread) if _seen(record)]
    return Predictions(found, unread)


def _records(path: Path, unread: Counter[str]) -> Iterator[tuple[str, object]]:
    if path.suffix.lower() == ".xlsx":
        for location, cells in read_sheet(path):
            texts = {name: _cell(cells[name]) for name in cells if bare_name(name) in map(bare_name, TEXTS)}
            yield location, {**cells, **texts}
        return
    yield from read_values(path, own_fields=RECORD, by_id=(IDS[0], TEXTS[0]), unread=unread)


def _cell(value: object) -> str:
    """The text of a spreadsheet's cell: spreadsheets store digits as numbers and an empty text as None."""
    return "" if value is None else plain_id(value) if isinstance(value, int | float) else str(value)


def _seen(record: object) -> bool:
    return not isinstance(record, dict) or record.get("condition", "with_image") == "with_image"


def prediction_of(record: object, location: str, texts: Sequence[str] = TEXTS) -> Prediction:
    """Convert a record to a Prediction. Raises RecordError if the id or the reply is missing or of the wrong type."""
    if not isinstance(record, dict):
        raise RecordError(location, "", "is no object", 'each record is {"question_id": …, "text": …}')
    name = id_field(record, location)
    key = _text_field(record, location, texts)
    said = record.get(key)
    if not isinstance(said, str):
        raise RecordError(location, key, f"expected text, got {shown(said)}", "write what the model said as text")
    return Prediction(
        plain_id(record[name]), said, location, record, tuple(field for field in (name, key) if field not in KEPT)
    )


def id_field(record: Mapping[str, Any], location: str) -> str:
    """The field of a record's id. Raises RecordError that lists the fields and suggests the most similar one."""
    given = [key for key in IDS if not _is_empty(record.get(key))][:1]
    if not given:
        names = {*map(bare_name, IDS), *OTHER_IDS}
        given = [key for key in record if bare_name(key) in names and not _is_empty(record[key])]
    if len(given) > 1:
        raise RecordError(location, given[0], f"both {' and '.join(given)} may be the id", f"name it `{IDS[0]}`")
    if not given:
        near = [key for key in record if bare_name(key).endswith(("id", "index", "number"))]
        raise missing_field(record, location, IDS[0], [*IDS, *OTHER_IDS], near)
    value = record[given[0]]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RecordError(location, given[0], f"text or a number is wanted, got {shown(value)}", "write the id as text")
    return given[0]


def plain_id(value: object) -> str:
    """An id as text; a whole number that pandas turned into a float is written without `.0`: 241.0 is 241."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    written = str(value).strip()
    whole = WHOLE.fullmatch(written)
    return whole[1] if whole else written


def _text_field(record: Mapping[str, Any], location: str, texts: Sequence[str]) -> str:
    key = next((key for key in texts if record.get(key) is not None), None)
    if key is not None and key != "answer":
        return key
    likely = [name for name in record if isinstance(record[name], str) and LIKE_A_TEXT.search(bare_name(name))]
    if key is not None:  # `answer` may be the gold answer, which must not be scored as the model's
        if likely:
            problem = f"`{likely[0]}` and `answer` may both be what the model said"
            raise RecordError(location, likely[0], problem, f"rename `{likely[0]}` to `{texts[0]}`")
        if beside := next((name for name in ("A", "choice_a", "choices", "options") if name in record), None):
            problem = f"beside the question's options (`{beside}`) it is the gold answer, and nothing else is here"
            raise RecordError(location, "answer", problem, f"write what the model said as `{texts[0]}`")
        return key
    given = [name for name in record if bare_name(name) in map(bare_name, texts) and record[name] is not None]
    if len(given) == 1:
        return given[0]
    if null := next((name for name in texts if name in record), None):
        return null
    raise missing_field(record, location, texts[0], texts, given + likely)


def other_texts(prediction: Prediction) -> list[str]:
    """The fields that hold another reply than the one that is scored; `answer` is often the gold answer."""
    given = {name: prediction.fields.get(name) for name in TEXTS if name != "answer"}
    return [name for name, said in given.items() if isinstance(said, str) and said != prediction.text]


def missing_field(
    record: Mapping[str, Any], location: str, field: str, wanted: Sequence[str], near: Sequence[str] = ()
) -> RecordError:
    """The error for a record without any of the `wanted` fields; `near`: fields that may be meant."""
    there = ", ".join(str(name)[:40] for name in list(record)[:12]) or "no field at all"
    bare = list(map(bare_name, wanted))
    others = [name for name in record if name not in (*IDS, *TEXTS)]
    close = [name for name in others if get_close_matches(bare_name(name), bare, n=1, cutoff=0.7)]
    hint = f"give each record one of {', '.join(wanted)}"
    if found := next(iter([*close, *near]), None):
        hint = f"rename `{found}` to `{field}`, if it is meant"
    return RecordError(location, field, f"is missing; the record has {there}", hint)


def _is_empty(value: object) -> bool:
    return value is None or value == "" or value != value


def bare_name(name: object) -> str:
    """A field's name without case and separators: "Question ID" is "questionid"."""
    return re.sub(r"[\W_]+", "", str(name)).lower()


@dataclass(frozen=True, slots=True)
class Joined:
    """Predictions by question id, and how many lines spoke of a question that a later line speaks of too."""

    found: Mapping[str, Prediction]
    repeated: int


def join(known: Collection[str], predictions: Iterable[Prediction], identify: Callable[[Prediction], str]) -> Joined:
    """Each prediction to its question; of several for one question the last counts.

    Raises DataError for a prediction whose question is not in the data: an unknown one means other data.
    """
    found: dict[str, Prediction] = {}
    repeated = 0
    plain: dict[str, str] = {}
    same: dict[str, str] = {}  # ids of the data that equal another id as numbers -> that id
    for name in known:
        if (other := plain.setdefault(plain_id(name), name)) != name:
            same[plain_id(name)] = f"{other!r} and {name!r}"
    for prediction in predictions:
        name = identify(prediction)
        named = plain.get(plain_id(name))
        if same and plain_id(name) in same:
            raise DataError(
                f"{prediction.place}:question_id: {name!r} is {same[plain_id(name)]} of the data",
                "give the questions ids that differ in more than a `.0`",
            )
        if named is None:
            raise DataError(
                f"{prediction.place}:question_id: {name!r} is not in the data",
                "score against the data that these predictions were made on, whole and of the same version",
            )
        repeated += named in found
        found[named] = prediction
    return Joined(found, repeated)

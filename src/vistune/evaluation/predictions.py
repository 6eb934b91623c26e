"""Anybody's predictions: files in the forms people have, as one type, joined to a task's questions by id.

LLaVA's answer lines · lists of {question_id, answer} · maps of id to text -> Prediction
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vistune.errors import DataError
from vistune.files import parse_json, read_jsonl, read_text

IDS = ("question_id", "questionId", "index", "id")
TEXTS = ("text", "prediction", "response", "answer")  # `answer` last: many lines carry the gold under this name


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model said to one question, unparsed; `place` is the file and line for messages."""

    id: str
    text: str
    place: str
    fields: Mapping[str, Any] = field(default_factory=dict)  # the whole row, e.g. `prompt`


def read_predictions(path: Path) -> list[Prediction]:
    """JSON lines or a JSON list of rows with an id and a text, or one JSON map of ids to texts.

    Of our own files, which hold every condition, the answers given with the picture. Raises DataError naming
    file:line:field.
    """
    return [prediction_of(row, place) for place, row in _rows(path) if _seen(row)]


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    text = read_text(path).lstrip()
    if text.startswith("["):
        value = parse_json(text, str(path), first_line=1)
        return ((f"{path}:item {number}", row) for number, row in enumerate(value, start=1))
    first = text.split("\n", 1)[0].strip()
    if (text.startswith("{") and not first.endswith("}")) or _is_map(first):
        value = parse_json(text, str(path), first_line=1)
        return ((f"{path}:{key}", {"question_id": key, "text": said}) for key, said in value.items())
    return ((f"{path}:{line}", row) for line, row in read_jsonl(path))


def _is_map(first: str) -> bool:
    """Whether a file's first line, if it is an object, is a map of ids to texts and no row."""
    if not first.startswith("{"):
        return False
    value = parse_json(first, "the first line", first_line=1)
    return not any(key in value for key in IDS)


def _seen(row: Any) -> bool:
    return not isinstance(row, dict) or row.get("condition", "with_image") == "with_image"


def prediction_of(row: Any, place: str, texts: Sequence[str] = TEXTS) -> Prediction:
    """One row as a Prediction. Raises DataError where the id or the text is missing or no text."""
    if not isinstance(row, dict):
        raise DataError(f"{place}: is no object", 'each row is {"question_id": …, "text": …}')
    name = next((row[key] for key in IDS if key in row), None)
    if not isinstance(name, str | int) or isinstance(name, bool):
        raise DataError(f"{place}:question_id: is missing", f"give each row its id as one of {', '.join(IDS)}")
    key = next((key for key in texts if key in row), texts[0])
    if not isinstance(row.get(key), str):
        raise DataError(f"{place}:{key}: is no text", f"give what the model said as one of {', '.join(texts)}")
    return Prediction(str(name), row[key], place, row)


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
    for prediction in predictions:
        name = identify(prediction)
        if name not in known:
            raise DataError(
                f"{prediction.place}:question_id: {name!r} is not in the data",
                "score against the data that these predictions were made on, whole and of the same version",
            )
        repeated += name in found
        found[name] = prediction
    return Joined(found, repeated)

"""Read predictions files of common formats, and join predictions to a task's questions by id.

JSON lines, lists, wrapped lists, maps of ids to texts, CSV, TSV, parquet, xlsx, gzipped -> Predictions
Predictions + question ids -> JoinedPredictions
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from vistune.errors import DataError, RecipeError
from vistune.records import RecordError, location_of, read_values, shown

IDS = ("question_id", "questionId", "index", "id")
OTHER_IDS = ("qid", "pid", "idx")  # read as ids too, as are other spellings of IDS: "Question ID"
TEXTS = ("text", "prediction", "response", "answer")  # `answer` last: in many files it is the right answer
# Known other fields: those of LLaVA's answer lines, and of the files that `evaluate` and `answer` write.
OWN_FIELDS = frozenset(
    {"prompt", "answer_id", "model_id", "metadata", "shortuuid", "round_id", "condition", "right", "finish_reason"}
    | {"image", *IDS, *TEXTS}
)
LIKE_A_TEXT = re.compile("predict|output|respon[sd]|generated|generation$|reply|replies|completion|pred$|answered")
WHOLE = re.compile(r"(-?\d+)\.0+")
# A JSON object with one of these names is a record, not a map of ids to texts.
RECORD = (*IDS, *OTHER_IDS, *TEXTS, "prompt", "question", "image", "output", "pred", "image_id", "generated_text")


@dataclass(frozen=True, slots=True)
class Prediction:
    """A model's unparsed reply to one question.

    Attributes:
        location: Location of the record, for messages.
        fields: The whole record, such as its `prompt`.
        read_from: The fields of the id and the reply that are not in OWN_FIELDS.
    """

    id: str
    text: str
    location: str
    fields: Mapping[str, object] = field(default_factory=dict)
    read_from: tuple[str, ...] = ()


class Predictions(list[Prediction]):
    """The predictions of one file; `unread` counts unread parts of the file outside its records."""

    def __init__(self, predictions: Iterable[Prediction] = (), unread: Mapping[str, int] | None = None) -> None:
        super().__init__(predictions)
        self.unread: Mapping[str, int] = unread or {}


def read_predictions(path: Path) -> Predictions:
    """Read the predictions in a file of any format.

    Our own files contain answers under every condition; only those with the image are read.

    Raises:
        DataError: A record has no id or no reply; the message has its location and field.
    """
    unread: Counter[str] = Counter()
    predictions = [prediction_of(record, location) for location, record in _records(path, unread) if _seen(record)]
    return Predictions(predictions, unread)


def _records(path: Path, unread: Counter[str]) -> Iterator[tuple[str, object]]:
    if path.suffix.lower() == ".xlsx":
        for location, cells in read_sheet(path):
            texts = {name: _cell(cells[name]) for name in cells if bare_name(name) in map(bare_name, TEXTS)}
            yield location, {**cells, **texts}
        return
    yield from read_values(path, own_fields=RECORD, by_id=(IDS[0], TEXTS[0]), unread=unread)


def _cell(value: object) -> str:
    """Return a spreadsheet's cell as text: spreadsheets store digits as numbers and an empty text as None."""
    return "" if value is None else plain_id(value) if isinstance(value, int | float) else str(value)


def _seen(record: object) -> bool:
    return not isinstance(record, dict) or record.get("condition", "with_image") == "with_image"


def prediction_of(record: object, location: str) -> Prediction:
    """Convert a record to a Prediction. Raise RecordError if the id or the reply is missing or of the wrong type."""
    if not isinstance(record, dict):
        raise RecordError(location, "", "is not an object", 'each record is {"question_id": …, "text": …}')
    name = id_field(record, location)
    key = _text_field(record, location)
    text = record.get(key)
    if not isinstance(text, str):
        raise RecordError(location, key, f"expected text, got {shown(text)}", "write the model's reply as text")
    read_from = tuple(field for field in (name, key) if field not in OWN_FIELDS)
    return Prediction(plain_id(record[name]), text, location, record, read_from)


def id_field(record: Mapping[str, object], location: str) -> str:
    """Return the field of a record's id. Raise RecordError with the record's fields and the most similar one."""
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
        raise RecordError(location, given[0], f"expected text or a number, got {shown(value)}", "write the id as text")
    return given[0]


def plain_id(value: object) -> str:
    """Return an id as text; a whole number that pandas turned into a float is written without `.0`: 241.0 is 241."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    written = str(value).strip()
    whole = WHOLE.fullmatch(written)
    return whole[1] if whole else written


def _text_field(record: Mapping[str, object], location: str) -> str:
    key = next((key for key in TEXTS if record.get(key) is not None), None)
    if key is not None and key != "answer":
        return key
    likely = [name for name in record if isinstance(record[name], str) and LIKE_A_TEXT.search(bare_name(name))]
    if key is not None:  # `answer` may be the right answer, which must not be scored as the model's
        if likely:
            problem = f"`{likely[0]}` and `answer` may both be the model's reply"
            raise RecordError(location, likely[0], problem, f"rename `{likely[0]}` to `{TEXTS[0]}`")
        if options := next((name for name in ("A", "choice_a", "choices", "options") if name in record), None):
            problem = (
                f"the record has the question's options (`{options}`), so `answer` is the right answer, not a reply"
            )
            raise RecordError(location, "answer", problem, f"write the model's reply as `{TEXTS[0]}`")
        return key
    given = [name for name in record if bare_name(name) in map(bare_name, TEXTS) and record[name] is not None]
    if len(given) == 1:
        return given[0]
    if null := next((name for name in TEXTS if name in record), None):
        return null
    raise missing_field(record, location, TEXTS[0], TEXTS, given + likely)


def other_texts(prediction: Prediction) -> list[str]:
    """Return the fields with another reply than the scored one, except `answer`, which often is the right answer."""
    given = {name: prediction.fields.get(name) for name in TEXTS if name != "answer"}
    return [name for name, text in given.items() if isinstance(text, str) and text != prediction.text]


def missing_field(
    record: Mapping[str, object], location: str, field: str, accepted: Sequence[str], near: Sequence[str] = ()
) -> RecordError:
    """Return the error for a record without any of the `accepted` fields; `near`: fields that may be meant."""
    present = ", ".join(str(name)[:40] for name in list(record)[:12]) or "no field"
    bare = list(map(bare_name, accepted))
    others = [name for name in record if name not in (*IDS, *TEXTS)]
    close = [name for name in others if get_close_matches(bare_name(name), bare, n=1, cutoff=0.7)]
    hint = f"give each record one of {', '.join(accepted)}"
    if similar := next(iter([*close, *near]), None):
        hint = f"rename `{similar}` to `{field}`, if it is meant"
    return RecordError(location, field, f"is missing; the record has {present}", hint)


def _is_empty(value: object) -> bool:
    return value is None or value == "" or value != value


def bare_name(name: object) -> str:
    """Return a field's name without case and separators: "Question ID" is "questionid"."""
    return re.sub(r"[\W_]+", "", str(name)).lower()


@dataclass(frozen=True, slots=True)
class JoinedPredictions:
    """Predictions by question id, and how many were replaced by a later one for the same question."""

    by_id: Mapping[str, Prediction]
    repeated: int


def join_predictions(
    known: Collection[str], predictions: Iterable[Prediction], identify: Callable[[Prediction], str]
) -> JoinedPredictions:
    """Assign each prediction to its question; of several for one question the last counts.

    Raises:
        DataError: A prediction's question is not in the data, which means that the data is another version.
    """
    by_id: dict[str, Prediction] = {}
    repeated = 0
    plain: dict[str, str] = {}
    ambiguous: dict[str, str] = {}  # ids of the data that equal another id as numbers
    for name in known:
        if (other := plain.setdefault(plain_id(name), name)) != name:
            ambiguous[plain_id(name)] = f"{other!r} and {name!r}"
    for prediction in predictions:
        name = identify(prediction)
        question_id = plain.get(plain_id(name))
        if plain_id(name) in ambiguous:
            raise DataError(
                f"{prediction.location}:question_id: {name!r} is {ambiguous[plain_id(name)]} of the data",
                "give the questions ids that differ in more than a `.0`",
            )
        if question_id is None:
            raise DataError(
                f"{prediction.location}:question_id: {name!r} is not in the data",
                "use the complete data of the version whose questions you asked",
            )
        repeated += question_id in by_id
        by_id[question_id] = prediction
    return JoinedPredictions(by_id, repeated)


def read_sheet(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield (location, {column: cell}) of each row of an xlsx file's one sheet; rows without a cell are skipped.

    Raises:
        DataError: Cells would be left unread: those of another sheet, or of a column without a unique name.
    """
    openpyxl = _openpyxl()
    if not path.is_file():
        raise DataError(f"{path}: no such file", "check the path")
    try:
        book = openpyxl.load_workbook(path, read_only=True)
        lines = book.worksheets[0].iter_rows(values_only=True)
        header = next(lines, ())
        rows = [(number, row) for number, row in enumerate(lines, start=2) if any(cell is not None for cell in row)]
        sheets = [book.worksheets[0]]
        for sheet in book.worksheets[1:]:
            if any(_is_filled(cell) for row in sheet.iter_rows(values_only=True) for cell in row):
                sheets.append(sheet)
    except Exception as error:  # a zip of XML: openpyxl raises whatever its parts raise
        raise DataError(f"{path}: is not a readable xlsx file: {error}", "save it again") from None
    if len(sheets) > 1:
        first, *others = (repr(sheet.title) for sheet in sheets)
        message = f"{path}: only its first sheet {first} is read, and there are cells in {', '.join(others)}"
        raise DataError(message, "keep the rows in one sheet, and delete the others or save them as separate files")
    names = _column_names(path, header, rows)
    for number, row in rows:
        yield location_of(path, number), {name: row[k] for k, name in names.items() if k < len(row)}


def _column_names(path: Path, header: Sequence[object], rows: Sequence[tuple[int, Sequence[object]]]) -> dict[int, str]:
    """Return the name of each column by its index; an empty column has none."""
    from openpyxl.utils import get_column_letter

    names = {k: str(name) for k, name in enumerate(header) if _is_filled(name)}
    for k, name in names.items():
        equal = [get_column_letter(other + 1) for other, its in names.items() if its.strip() == name.strip()]
        if len(equal) > 1:
            message = f"{location_of(path, 1)}: columns {' and '.join(equal)} have the same name {names[k]!r}"
            raise DataError(message, "rename or delete all but one of them")
    for number, row in rows:
        for k, cell in enumerate(row):
            if k not in names and _is_filled(cell):
                message = f"{location_of(path, number)}: column {get_column_letter(k + 1)} has a cell but no name"
                raise DataError(
                    message, "name the column in the first row, or empty it (pandas: to_excel(index=False))"
                )
    return names


def _is_filled(cell: object) -> bool:
    return cell is not None and (not isinstance(cell, str) or bool(cell.strip()))


def write_sheet(rows: Sequence[Mapping[str, str]], numbers: Sequence[str] = ()) -> bytes:
    """Return an xlsx file with one sheet and a header line; columns in `numbers` are whole numbers, all others text.

    Control characters are removed, because xlsx cannot store them.
    """
    openpyxl = _openpyxl()
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    book = openpyxl.Workbook()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for column, name in enumerate(columns, start=1):
        book.active.cell(1, column, name)
    for number, row in enumerate(rows, start=2):
        for column, name in enumerate(columns, start=1):
            value = row.get(name, "")
            if name in numbers:
                book.active.cell(number, column, int(value))
            elif value:
                cell = book.active.cell(number, column, ILLEGAL_CHARACTERS_RE.sub("", value))
                cell.data_type = "s"  # text that begins with "=" would be a formula
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def _openpyxl() -> ModuleType:
    try:
        import openpyxl
    except ImportError:
        raise RecipeError("xlsx files need openpyxl", "pip install 'vistune[evaluate]'") from None
    module: ModuleType = openpyxl
    return module

"""Read a preference pair of any form: the conversation that ends with the chosen answer, and the rejected answer.

====================================================  =====================================
fields                                                used by
====================================================  =====================================
a prompt as conversation, `chosen`, `rejected`        `vistune generate`, LLaMA-Factory
`prompt`, `chosen`, `rejected`                        TRL
`question`, `chosen`, `rejected`                      RLAIF-V
`chosen`, `rejected`: two complete conversations      TRL (implicit prompt)
`messages`, `rejected_response`                       ms-swift
`prompt`, `completions` with ratings                  VLFeedback
====================================================  =====================================
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vistune.records.conversations import EVERY_FORM, FORMS, OTHER_IMAGE_NAMES, Fields, role_named
from vistune.records.errors import RecordError, count_unread, shown, text

FORM = "write a prompt, `chosen` and `rejected`; see docs/how-to/preference-tuning.md"
PROMPTS = ("prompt", "question")
PAIR_FIELDS = frozenset({"chosen", "rejected", "rejected_response", "claim", "completions", *PROMPTS})
OTHER_SIDES = ("rejected_images", "rejected_image", "rejected_messages")  # of ms-swift: another prompt or image
RECORD_FIELDS = (*FORMS, "chosen", *PROMPTS)  # fields by which a JSON object is a record and not a list of records
TURN_FIELDS = ("from", "role", "value", "content")


def columns_read() -> frozenset[str]:
    """Return every field that is read or refused by name: the parquet columns that must be decoded."""
    own = (name for form in FORMS.values() for name in form.fields)
    more = (f"{name}{between}{number}" for name in ("image", "img") for between in ("", "_") for number in range(10))
    pairs = (*PAIR_FIELDS, *OTHER_SIDES)
    return frozenset({*EVERY_FORM, *OTHER_IMAGE_NAMES, *FORMS, *own, *more, *pairs})


@dataclass(frozen=True, slots=True)
class PairRecord:
    """A pair as a conversation that ends with the chosen answer, and the text of the rejected answer."""

    conversation: dict[str, Any]
    rejected: str


def is_pair(record: Fields) -> bool:
    """Return whether a record has a chosen and a rejected answer, or answers with ratings."""
    has_sides = any(record.get(name) is not None for name in ("rejected", "rejected_response", *OTHER_SIDES))
    return has_sides or (record.get("completions") is not None and record.get("prompt") is not None)


def read_pair(record: Fields, location: str, unread: Counter[str]) -> PairRecord:
    """Read a pair. Raises RecordError if a side is missing, both are equal, or their prompts differ."""
    for name in OTHER_SIDES:
        if record.get(name) not in (None, "", []):
            raise RecordError(location, name, "both sides of a pair need the same prompt and images", FORM)
    rest = {name: value for name, value in record.items() if name not in (*PAIR_FIELDS, *OTHER_SIDES)}
    if record.get("completions") is not None and record.get("rejected") is None:
        prompt, (chosen, rejected) = _prompt_turns(record, location), _by_rating(record["completions"], location)
        before: tuple[list[Fields], list[Fields]] = ([], [])
    elif record.get("rejected_response") is not None:
        prompt, chosen = _split_answer(record, location, unread)
        before, rejected = ([], []), _answer(record["rejected_response"], location, "rejected_response", unread)
    else:
        if record.get("chosen") is None:
            raise RecordError(location, "chosen", "a pair has `rejected` but no `chosen`", FORM)
        prompt = _prompt_turns(record, location)
        sides = [_side(record, name, location, unread) for name in ("chosen", "rejected")]
        (chosen, rejected), before = (sides[0][1], sides[1][1]), (sides[0][0], sides[1][0])
    turns = _with_prompt_of_sides(prompt, before, location)
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if not answer.strip():
            raise RecordError(location, name, "an empty answer", "write it or remove the record")
    if " ".join(chosen.split()) == " ".join(rejected.split()):
        raise RecordError(location, "rejected", "equals the chosen answer", "write two different answers")
    key = "conversations" if record.get("conversations") is not None else "messages"
    who, content = ("from", "value") if key == "conversations" else ("role", "content")
    rest[key] = [*turns, {who: "assistant", content: chosen}]
    return PairRecord(rest, rejected)


def _prompt_turns(record: Fields, location: str) -> list[Fields]:
    """Return the turns of the prompt; none if both sides contain it."""
    for form in ("conversations", "messages"):
        if record.get(form) is not None:
            turns = _turns(record[form], location, form)
            if _is_answer(turns[-1]):
                problem = "the conversation ends with an answer although `chosen` is given"
                raise RecordError(location, form, problem, "end it with a question, or remove `chosen`")
            return turns
    name = next((name for name in PROMPTS if record.get(name) is not None), None)
    if name is None:
        return []
    if isinstance(record[name], list):
        return _turns(record[name], location, name)
    return [{"role": "user", "content": text(record[name], location, name)}]


def _turns(value: object, location: str, field: str) -> list[Fields]:
    if not isinstance(value, list) or not value or not all(isinstance(turn, Mapping) for turn in value):
        raise RecordError(location, field, f"expected a list of turns, got {shown(value)}", FORM)
    return list(value)


def _is_answer(turn: Fields) -> bool:
    return role_named(turn.get("from", turn.get("role"))) == "assistant"


def _split_answer(record: Fields, location: str, unread: Counter[str]) -> tuple[list[Fields], str]:
    """Split a conversation into its prompt and its last answer, which is the chosen one."""
    form = next((form for form in ("conversations", "messages") if record.get(form) is not None), "messages")
    turns = _turns(record.get(form), location, form)
    if record.get("chosen") is not None or not _is_answer(turns[-1]):
        problem = "with `rejected_response`, the last turn is the chosen answer"
        raise RecordError(location, form, problem, "end the conversation with it, and remove `chosen`")
    return turns[:-1], _answer(turns[-1], location, f"{form}[{len(turns) - 1}]", unread)


def _side(record: Fields, name: str, location: str, unread: Counter[str]) -> tuple[list[Fields], str]:
    """Return the turns before an answer, and the answer."""
    value = record[name]
    if not isinstance(value, list):
        return [], _answer(value, location, name, unread)
    turns = _turns(value, location, name)
    return turns[:-1], _answer(turns[-1], location, f"{name}[{len(turns) - 1}]", unread)


def _answer(value: object, location: str, field: str, unread: Counter[str]) -> str:
    """Return the text of an answer that is a text or a turn."""
    if not isinstance(value, Mapping):
        return text(value, location, field)
    count_unread(value, TURN_FIELDS, unread, f"{field.split('[')[0]}.")
    if not _is_answer(value):
        raise RecordError(location, field, "expected a turn of the assistant", FORM)
    content = value.get("value", value.get("content"))
    if isinstance(content, list):
        if not all(isinstance(part, Mapping) and part.get("type", "text") == "text" for part in content):
            raise RecordError(location, field, "an answer has a part that is not text", "only questions show images")
        return "".join(text(part.get("text"), location, field) for part in content)
    return text(content, location, field)


def _with_prompt_of_sides(
    prompt: list[Fields], before: tuple[list[Fields], list[Fields]], location: str
) -> list[Fields]:
    """Return the prompt; if both sides repeat it, the turns of the sides."""
    if before[0] != before[1]:
        raise RecordError(location, "rejected", "has another prompt than `chosen`", "give both sides the same prompt")
    if not before[0]:
        if not prompt:
            raise RecordError(location, "", "a pair without a prompt", FORM)
        return prompt
    if prompt and [_plain(turn) for turn in prompt] != [_plain(turn) for turn in before[0][-len(prompt) :]]:
        raise RecordError(location, "chosen", "begins with another prompt than the record's", "give the prompt once")
    return before[0]


def _plain(turn: Fields) -> object:
    return turn.get("value", turn.get("content"))


def _by_rating(completions: object, location: str) -> tuple[str, str]:
    """Return the answers with the highest and the lowest mean rating."""
    if isinstance(completions, Mapping):  # parquet files of VLFeedback have lists in an object
        names = list(completions)
        completions = [dict(zip(names, values, strict=False)) for values in zip(*completions.values(), strict=False)]
    if not isinstance(completions, list) or not all(isinstance(each, Mapping) for each in completions):
        raise RecordError(location, "completions", f"expected a list, got {shown(completions)}", FORM)
    rated = []
    for number, each in enumerate(completions):
        field = f"completions[{number}]"
        ratings = _ratings(each.get("annotations"), location, f"{field}.annotations")
        if ratings:
            rated.append((sum(ratings) / len(ratings), text(each.get("response"), location, f"{field}.response")))
    if len({rating for rating, _ in rated}) < 2:
        hint = "remove the record: no answer is better than another one"
        raise RecordError(location, "completions", f"{len(rated)} answers have no different ratings", hint)
    return max(rated, key=lambda item: item[0])[1], min(rated, key=lambda item: item[0])[1]


def _ratings(annotations: object, location: str, field: str) -> list[float]:
    """Return the ratings of an answer by aspect, such as `{"Helpfulness": {"Rating": "4"}}`."""
    if not isinstance(annotations, Mapping):
        raise RecordError(location, field, f"expected ratings by aspect, got {shown(annotations)}", FORM)
    ratings = [each.get("Rating") if isinstance(each, Mapping) else each for each in annotations.values()]
    try:
        return [float(rating) for rating in ratings if rating not in (None, "", "N/A")]
    except (TypeError, ValueError):
        raise RecordError(location, field, "a rating is not a number", "write it as a number or N/A") from None

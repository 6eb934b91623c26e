"""One row to one Sample, in either form; `<image>` markers become Picture parts here and nowhere else.

row -> turns of texts and slots -> each slot its picture -> messages, proved to alternate
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vistune.data.faults import RowError, shown, text
from vistune.data.pictures import PictureFolders
from vistune.types import Message, Part, Role, Sample

MARKER = "<image>"
SPEAKERS: Mapping[str, Role] = {"human": "user", "gpt": "assistant", "system": "system"}
ROLES: Mapping[str, Role] = {"user": "user", "assistant": "assistant", "system": "system"}
SEE = "see docs/data.md for both forms"
TABLE = "a table of captions or boxes becomes data by `vistune generate TABLE --out DIR`"

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for a picture; without a name it takes the row's next one."""

    name: str | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    field: str  # such as `conversations[0]`, for messages
    role: Role
    parts: tuple[str | Slot, ...]


@dataclass(frozen=True, slots=True)
class Turns:
    """A row before its slots are filled; `images` is the field that lists the pictures."""

    turns: tuple[Turn, ...]
    names: tuple[str, ...]
    images: Literal["image", "images"]


def read_llava(row: Row, place: str) -> Turns:
    """`{image?: str | list, conversations: [{from, value}]}`."""
    turns = []
    for field, turn in _listed(row, "conversations", place):
        value = text(turn.get("value"), place, f"{field}.value")
        turns.append(Turn(field, _role(turn.get("from"), SPEAKERS, place, f"{field}.from"), split_markers(value)))
    return Turns(tuple(turns), _names(row, "image", place), "image")


def read_messages(row: Row, place: str) -> Turns:
    """`{messages: [{role, content: str | parts}], images?: list}`; parts are `{type: text | image}`."""
    turns = []
    for field, turn in _listed(row, "messages", place):
        role, content = _role(turn.get("role"), ROLES, place, f"{field}.role"), turn.get("content")
        if isinstance(content, list):
            found = [_part(part, place, f"{field}.content[{k}]") for k, part in enumerate(content)]
            parts = tuple(piece for pieces in found for piece in pieces)
        else:
            parts = split_markers(text(content, place, f"{field}.content"))
        turns.append(Turn(field, role, parts))
    return Turns(tuple(turns), _names(row, "images", place), "images")


READERS: Mapping[str, Callable[[Row, str], Turns]] = {"conversations": read_llava, "messages": read_messages}


def read_row(row: Row, place: str, pictures: PictureFolders, warnings: Counter[str]) -> Sample:
    """A row as a Sample, by the first field of READERS that it has. Raises RowError `path:line:field: …`."""
    form = next((field for field in READERS if field in row), None)
    if form is None:
        hint = TABLE if not {"caption", "captions", "boxes"}.isdisjoint(row) else SEE
        raise RowError(place, "", f"neither {' nor '.join(f'`{field}`' for field in READERS)}", hint)
    name = row.get("id")
    if name is None:
        warnings["no id: the line number stands in"] += 1
        name = place.rsplit(":", 1)[-1]
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise RowError(place, "id", f"text or a number is wanted, got {shown(name)}", "mend the row")
    messages = _fill(READERS[form](row, place), place, pictures, warnings)
    _check_turns(messages, place, form)
    return Sample(text(str(name), place, "id"), messages, kind=kind_of(row, place), origin=place)


def kind_of(row: Row, place: str) -> str:
    return text(row.get("kind") or "", place, "kind")


def split_markers(said: str) -> tuple[str | Slot, ...]:
    """Text around its markers; one newline on either side of a marker goes with it."""
    parts: list[str | Slot] = []
    pieces = said.split(MARKER)
    for k, piece in enumerate(pieces):
        if k:
            parts.append(Slot())
            piece = piece.removeprefix("\n")
        piece = piece.removesuffix("\n") if k < len(pieces) - 1 else piece
        if piece:
            parts.append(piece)
    return tuple(parts)


def _listed(row: Row, field: str, place: str) -> list[tuple[str, Row]]:
    turns = row[field]
    if not isinstance(turns, list) or not turns:
        raise RowError(place, field, f"a list of turns is wanted, got {shown(turns)}", SEE)
    for k, turn in enumerate(turns):
        if not isinstance(turn, dict):
            raise RowError(place, f"{field}[{k}]", f"an object is wanted, got {shown(turn)}", SEE)
    return [(f"{field}[{k}]", turn) for k, turn in enumerate(turns)]


def _role(said: Any, known: Mapping[str, Role], place: str, field: str) -> Role:
    if not isinstance(said, str) or said not in known:
        raise RowError(place, field, f"unknown speaker {shown(said)}", f"use {', '.join(known)}")
    return known[said]


def _part(part: Any, place: str, field: str) -> tuple[str | Slot, ...]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        return split_markers(text(part.get("text"), place, f"{field}.text"))
    if kind != "image":
        raise RowError(place, f"{field}.type", f"unknown part {shown(kind)}", "use text or image")
    name = part.get("image")
    return (Slot(None if name is None else text(name, place, f"{field}.image")),)


def _names(row: Row, field: str, place: str) -> tuple[str, ...]:
    value = row.get(field)
    names = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RowError(place, field, f"a path or a list of paths is wanted, got {shown(value)}", "mend the row")
    return tuple(names)


def _fill(row: Turns, place: str, pictures: PictureFolders, warnings: Counter[str]) -> tuple[Message, ...]:
    """Each slot its picture, in order. Raises RowError where slots and pictures do not match."""
    turns, waiting = row.turns, list(row.names)
    slots = [part for turn in turns for part in turn.parts if isinstance(part, Slot)]
    for slot in slots:
        if slot.name in waiting:  # named at its place and listed too
            waiting.remove(slot.name)
    if waiting and not slots:
        warnings[f"picture without {MARKER}: put at the start"] += 1
        turns, slots = _put_first(turns, len(waiting)), [Slot()] * len(waiting)
    unnamed = sum(slot.name is None for slot in slots)
    if unnamed != len(waiting):
        raise RowError(
            place,
            row.images,
            f"{unnamed} {MARKER} in the turns but {len(waiting)} pictures",
            "give each marker its picture, or remove one of them",
        )
    queue = iter(waiting)
    messages = []
    for turn in turns:
        parts: list[Part] = []
        for part in turn.parts:
            if isinstance(part, str):
                parts.append(part)
                continue
            if turn.role != "user":
                raise RowError(place, turn.field, f"a picture in a turn of the {turn.role}", "put it into a question")
            field = row.images if part.name is None else turn.field
            parts.append(pictures.find(part.name or next(queue), place, field))
        messages.append(Message(turn.role, tuple(parts)))
    return tuple(messages)


def _put_first(turns: tuple[Turn, ...], count: int) -> tuple[Turn, ...]:
    """Slots at the start of the first question."""
    first = next((k for k, turn in enumerate(turns) if turn.role == "user"), 0)
    turn = turns[first]
    filled = Turn(turn.field, turn.role, (*[Slot()] * count, *turn.parts))
    return (*turns[:first], filled, *turns[first + 1 :])


def _check_turns(messages: Sequence[Message], place: str, form: str) -> None:
    """User and assistant in turn, beginning with the user, ending with an answer, none of them empty."""
    skipped = int(messages[0].role == "system")
    turns = messages[skipped:]
    for k, message in enumerate(turns):
        field, wanted = f"{form}[{k + skipped}]", "user" if k % 2 == 0 else "assistant"
        if message.role != wanted:
            hint = "begin with the user and let each question have one answer"
            raise RowError(place, field, f"{message.role} speaks where {wanted} must", hint)
        if message.role == "assistant" and not message.text.strip():
            raise RowError(place, field, "an empty answer", "write it or remove the turn")
        if message.role == "user" and not message.text.strip() and not message.pictures:
            raise RowError(place, field, "an empty question", "write it or remove the turn")
    if len(turns) % 2 or not turns:
        raise RowError(place, form, "the last question has no answer", "add it or remove the question")

"""Files to Samples: LLaVA JSON and messages JSONL, every row proved at the door.

file or folder + picture folders -> Samples with their place (`path:line`), or rejects with a reason
`<image>` markers become Picture parts here and nowhere else; the newline beside a marker belongs to the marker.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vistune.data.pictures import PictureFolders
from vistune.errors import DataError
from vistune.files import parse_json, read_json, read_jsonl, read_text
from vistune.recipe import DataSource
from vistune.types import Message, Part, Reject, Sample

MARKER = "<image>"
ROLES: Mapping[str, Literal["system", "user", "assistant"]] = {"human": "user", "gpt": "assistant", "system": "system"}
_BAD_TEXT = re.compile("[\x00\ud800-\udfff]")


@dataclass(slots=True)
class ReadResult:
    """Samples in file order, what was set aside, and how often something was mended (by what was done)."""

    samples: list[Sample] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    warnings: Counter[str] = field(default_factory=Counter)
    rows: int = 0


def read_samples(
    source: DataSource,
    *,
    kinds: tuple[str, ...] | None = None,
    on_bad_sample: Literal["raise", "reject"] = "raise",
    find_pictures: bool = True,
) -> ReadResult:
    """All rows of a source whose kind is wanted. Raises DataError at the first bad row, unless told to reject.

    Without `find_pictures` no picture need be there: names are kept as they stand.
    """
    path = data_file(source.file)
    pictures = PictureFolders(_folders(path, source.images) if find_pictures else None)
    wanted = source.kinds or kinds
    result = ReadResult()
    seen: Counter[str] = Counter()
    for line, row in _rows(path):
        if source.take is not None and len(result.samples) >= source.take:
            break
        result.rows += 1
        place = f"{path}:{line}"
        try:
            kind = _kind(row, wanted, place)
            seen[kind] += 1
            if wanted and kind not in wanted:
                continue
            result.samples.append(read_row(row, place, pictures, result.warnings))
        except DataError as error:
            if on_bad_sample == "raise":
                raise
            name = str(row.get("id", "")) if isinstance(row, dict) else ""
            result.rejects.append(Reject(name, place, _code(error), str(error)))
    if not result.rows:
        raise DataError(f"{path}: holds no rows", "give a file with at least one sample")
    if not result.samples and not result.rejects:
        raise DataError(
            f"{path}: no row of the kind {', '.join(wanted or ())}; it has {', '.join(map(str, seen))}",
            "choose other kinds in the recipe",
        )
    return result


def data_file(path: Path) -> Path:
    """A file, or the samples.json or messages.jsonl of a folder that `generate` wrote."""
    if not path.is_dir():
        return path
    for name in ("samples.json", "messages.jsonl"):
        if (path / name).is_file():
            return path / name
    raise DataError(f"{path}: holds neither samples.json nor messages.jsonl", "name the data file itself")


def _folders(path: Path, images: Path | None) -> list[Path]:
    """Where pictures lie: as told, else as images.json beside the file says, else beside the file."""
    if images is not None:
        if not images.is_dir():
            raise DataError(f"{images}: no such picture folder", "check the recipe's data.images")
        return [images]
    beside = path.parent / "images.json"
    if beside.is_file():
        tree = read_json(beside)
        if not isinstance(tree, dict) or not isinstance(tree.get("folders"), list):
            raise DataError(f"{beside}: folders: a list of folders is wanted", 'write {"folders": ["…"]}')
        return [path.parent / folder for folder in tree["folders"]]
    return [path.parent]


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(line, row) of a JSON list or of JSON lines, told apart by the first character."""
    text = read_text(path)
    body = text.lstrip()
    if not body:
        raise DataError(f"{path}: is empty", "give a file with at least one sample")
    return _list_rows(text, path) if body[0] == "[" else read_jsonl(path)


def _list_rows(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    """Rows of a JSON list with the line on which each begins."""
    decoder = json.JSONDecoder(parse_constant=lambda name: parse_json(name, str(path), first_line=line))
    space = re.compile(r"[\s,]*")
    at, line = text.index("[") + 1, 1 + text.count("\n", 0, text.index("["))
    while True:
        start = space.match(text, at)
        assert start is not None
        line += text.count("\n", at, start.end())
        at = start.end()
        if at >= len(text):
            raise DataError(f"{path}:{line}: the list is cut off", "the file is incomplete: write it again")
        if text[at] == "]":
            return
        try:
            row, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            bad = 1 + text.count("\n", 0, error.pos)
            raise DataError(f"{path}:{bad}: not JSON: {error.msg}", "mend or remove the row") from None
        yield line, row
        line += text.count("\n", at, end)
        at = end


def _kind(row: Any, wanted: tuple[str, ...] | None, place: str) -> str:
    if not isinstance(row, dict):
        raise DataError(f"{place}: a row must be an object, got {type(row).__name__}", "see docs/data.md")
    kind = row.get("kind", "")
    if wanted and not kind:
        raise DataError(
            f"{place}:kind: the row has none, but the recipe chooses {', '.join(wanted)}",
            "add `kind` to the rows, or set the stage's kinds to null",
        )
    return str(kind)


def read_row(row: Mapping[str, Any], place: str, pictures: PictureFolders, warnings: Counter[str]) -> Sample:
    """One row of either form as a Sample. Raises DataError `path:line:field: …`."""
    if "conversations" in row:
        messages = _llava(row, place, pictures, warnings)
    elif "messages" in row:
        messages = _messages(row, place, pictures)
    else:
        raise DataError(f"{place}: neither `conversations` nor `messages`", "see docs/data.md for both forms")
    name = row.get("id")
    if name is None:
        warnings["no id: the line number stands in"] += 1
        name = place.rsplit(":", 1)[-1]
    _check_turns(messages, place, "conversations" if "conversations" in row else "messages")
    return Sample(id=str(name), messages=tuple(messages), kind=str(row.get("kind", "")), origin=place)


def _llava(row: Mapping[str, Any], place: str, pictures: PictureFolders, warnings: Counter[str]) -> list[Message]:
    turns = row["conversations"]
    if not isinstance(turns, list) or not turns:
        raise DataError(f"{place}:conversations: a list of turns is wanted, got {_show(turns)}", "see docs/data.md")
    images = row.get("image", [])
    names = [images] if isinstance(images, str) else images
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{place}:image: a path or a list of paths is wanted, got {_show(images)}", "mend the row")
    texts = [_text(turn, "value", f"{place}:conversations[{k}]") for k, turn in enumerate(turns)]
    marks = sum(text.count(MARKER) for text in texts)
    if names and not marks:
        warnings["picture without <image>: put at the start"] += 1
        texts[0] = f"{MARKER * len(names)}\n{texts[0]}"
        marks = len(names)
    if marks != len(names):
        raise DataError(
            f"{place}:image: {marks} {MARKER} in the text but {len(names)} pictures",
            "give each marker its picture, or remove one of them",
        )
    found = iter([pictures.find(name, f"{place}:image") for name in names])
    messages = []
    for k, (turn, text) in enumerate(zip(turns, texts, strict=True)):
        speaker = turn.get("from")
        if speaker not in ROLES:
            raise DataError(f"{place}:conversations[{k}].from: {speaker!r}", f"use {', '.join(ROLES)}")
        if MARKER in text and speaker != "human":
            raise DataError(f"{place}:conversations[{k}].value: {MARKER} in an answer", "pictures belong to questions")
        messages.append(Message(ROLES[speaker], split_markers(text, found)))
    return messages


def split_markers(text: str, pictures: Iterator[Any]) -> tuple[Part, ...]:
    """Text around its markers as parts; one newline beside a marker goes with it."""
    parts: list[Part] = []
    for k, piece in enumerate(text.split(MARKER)):
        if k:
            parts.append(next(pictures))
            piece = piece.removeprefix("\n")
        piece = piece.removesuffix("\n") if k < text.count(MARKER) else piece
        if piece:
            parts.append(piece)
    return tuple(parts)


def _messages(row: Mapping[str, Any], place: str, pictures: PictureFolders) -> list[Message]:
    turns, names = row["messages"], row.get("images") or []
    if not isinstance(turns, list) or not turns:
        raise DataError(f"{place}:messages: a list of messages is wanted, got {_show(turns)}", "see docs/data.md")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{place}:images: a list of paths is wanted, got {_show(names)}", "mend the row")
    queue = list(names)
    messages = []
    for k, turn in enumerate(turns):
        where = f"{place}:messages[{k}]"
        said = turn.get("role") if isinstance(turn, dict) else None
        role = next((known for known in ROLES.values() if known == said), None)
        if role is None:
            raise DataError(f"{where}.role: {said!r}", f"use {', '.join(ROLES.values())}")
        content = turn.get("content")
        if isinstance(content, str):
            messages.append(Message(role, (_text(turn, "content", where),)))
            continue
        if not isinstance(content, list):
            raise DataError(f"{where}.content: text or a list of parts is wanted, got {_show(content)}", "mend the row")
        parts: list[Part] = []
        for number, part in enumerate(content):
            spot = f"{where}.content[{number}]"
            kind = part.get("type") if isinstance(part, dict) else None
            if kind == "text":
                parts.append(_text(part, "text", spot))
            elif kind == "image":
                name = part.get("image") or (queue.pop(0) if queue else None)
                if not isinstance(name, str):
                    raise DataError(f"{spot}: a picture that `images` does not list", "list it there")
                parts.append(pictures.find(name, spot))
            else:
                raise DataError(f"{spot}.type: {kind!r}", "use text or image")
        messages.append(Message(role, tuple(parts)))
    if queue:
        raise DataError(f"{place}:images: {len(queue)} more than the messages use", "remove them, or add image parts")
    return messages


def _text(turn: Any, key: str, place: str) -> str:
    value = turn.get(key) if isinstance(turn, dict) else None
    if not isinstance(value, str):
        raise DataError(f"{place}.{key}: text is wanted, got {_show(value)}", "mend the row")
    if bad := _BAD_TEXT.search(value):
        raise DataError(f"{place}.{key}: the character {bad.group()!a} is no text", "remove it")
    return value


def _check_turns(messages: list[Message], place: str, key: str) -> None:
    """User and assistant in turn, beginning with the user, ending with an answer, none of them empty."""
    turns = messages[1:] if messages[0].role == "system" else messages
    skipped = len(messages) - len(turns)
    for k, message in enumerate(turns):
        wanted = "user" if k % 2 == 0 else "assistant"
        if message.role != wanted:
            raise DataError(
                f"{place}:{key}[{k + skipped}]: {message.role} speaks where {wanted} must",
                "begin with the user and let each question have one answer",
            )
        if message.role == "assistant" and not message.text.strip():
            raise DataError(f"{place}:{key}[{k + skipped}]: an empty answer", "write it or remove the turn")
        if message.role == "user" and not message.text.strip() and not message.pictures:
            raise DataError(f"{place}:{key}[{k + skipped}]: an empty question", "write it or remove the turn")
    if len(turns) % 2 or not turns:
        raise DataError(f"{place}:{key}: the last question has no answer", "add it or remove the question")


def _code(error: DataError) -> str:
    """A short reason: the field that the message names."""
    found = re.search(r":\d+:([a-z_]+)", error.message)
    return f"bad_{found.group(1)}" if found else "bad_row"


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}…"

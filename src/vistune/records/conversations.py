"""Read the turns of a record of any form: their roles, texts and image slots, and the images that the record names.

record -> form (chosen by a field) -> Turns; `samples` makes a Sample of these
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from vistune.records.errors import RecordError, count_unread, shown, text
from vistune.types import Role

MARKER = "<image>"
ESCAPED = r"\<image>"  # in a text: the seven characters `<image>`, not an image
SPEAKERS: Mapping[str, Role] = {
    "user": "user", "human": "user", "prompter": "user", "assistant": "assistant", "gpt": "assistant",
    "model": "assistant", "chatgpt": "assistant", "gpt4": "assistant", "gpt-4": "assistant", "bard": "assistant",
    "bing": "assistant", "system": "system", "developer": "system",
}  # fmt: skip
SEE = "see docs/reference/file-formats.md for the supported forms"
TABLE = "a table of captions or boxes becomes data by `vistune generate TABLE --out DIR`"
SUPERVISION = ("loss", "loss_mask", "train", "weight")  # fields of a turn: whether its tokens are trained on
# Fields of other formats for media that are not read here; a record in which one has a value is refused.
OTHER_MEDIA = frozenset(
    {"video", "videos", "audio", "audios", "video_path", "audio_path", "speech", "speeches", "sound"}
)
OTHER_IMAGE_NAMES = frozenset({
    "image_path", "image_paths", "image_file", "image_files", "image_url", "image_urls", "image_name", "image_names",
    "img", "imgs", "img_path", "picture", "pictures", "photo", "photos", "file_name", "filename", "pixel_values",
})  # fmt: skip
EVERY_FORM = frozenset({"id", "kind", "language", "image", "images", "system", *OTHER_MEDIA})
TURN_FIELDS = frozenset({"from", "role", "value", "content", *SUPERVISION})
PART_FIELDS = frozenset({"type", "text", "image", "image_url", "path", "url", "bytes", "index"})
_MARKER = re.compile(r"(?<!\\)<image>|(?:Picture \d+: ?)?<img>([^<>\n]+)</img>")  # <img>: first version of Qwen-VL
IMAGE_FIELD = re.compile(
    r"(?:images?|imgs?|imgae|pictures?|photos?)(?:[_-]?\d+|[_-]?(?:list|paths?|files?))?", re.IGNORECASE
)
_SIGN = re.compile(r"[<\[＜&]")
_LIKE_A_MARKER = re.compile(
    r"<start_of_image>|<image_soft_token>|<image:\d+>|<img\s[^<>]*>|＜image＞|&lt;image&gt;|!\[[^\]\n]*\]\([^()\s]+\)|"
    r"<\s*/?\s*(?:image|img|picture|video|audio)(?:[ _-]?(?:\d+|placeholder|token|pad|start|end|here|url))*\s*/?>|"
    r"\[\s*(?:IMG|IMAGE|image)\s*\]|<\|(?:image|vision|video|audio)[a-z_0-9|]*\|>|<ImageHere>|<IMG_CONTEXT>",
    re.IGNORECASE,
)

Fields = Mapping[str, Any]


class Slot(NamedTuple):
    """The position of an image in a turn; a slot without a name takes the record's next image."""

    name: str | None = None


class Turn(NamedTuple):
    """One turn before images are assigned and roles are checked."""

    field: str  # such as `conversations[0]`, for messages
    role: Role
    parts: tuple[str | Slot, ...]
    supervised: bool = True


class Turns(NamedTuple):
    """A record before its slots are filled; `images` is the field that lists the images."""

    turns: tuple[Turn, ...]
    names: tuple[str, ...]
    images: Literal["image", "images"] = "images"


@dataclass(frozen=True, slots=True)
class Form:
    """Reader for the records that have a certain field. `fields`: what it reads in addition to the common fields.

    `read` takes the record, its location, and a counter for the nested fields that it does not read.
    """

    read: Callable[[Fields, str, Counter[str]], Turns]
    fields: Collection[str] = field(default_factory=frozenset)


def read_conversation(record: Fields, location: str, unread: Counter[str], *, form: str) -> Turns:
    """Read `{form: [{from or role, value or content}], image or images}`; a content is a text or a list of parts."""
    images, names = image_names(record, location, unread)
    turns = []
    for path, turn in _listed(record, form, location):
        speaker, key = ("from", "value") if "from" in turn else ("role", "content")
        if len(turn) == 2 and speaker in turn and key in turn:  # the usual turn: skip the checks below
            name, content, is_supervised = turn[speaker], turn[key], True
            role = SPEAKERS.get(name) if isinstance(name, str) else None
            role = role or _role((speaker, name), location, path)
        else:
            count_unread(turn, TURN_FIELDS, unread, f"{form}[].")
            _refuse_images_in_turn(turn, location, path)
            role = _role(_either(turn, ("from", "role"), path, location), location, path)
            key, content = _either(turn, ("value", "content"), path, location)
            is_supervised = _is_supervised(turn, role, location, path)
        if isinstance(content, list) and key == "content":
            parts = tuple(
                piece
                for k, part in enumerate(content)
                for piece in _part(part, names, location, f"{path}.{key}[{k}]", f"{form}[].{key}[].", unread)
            )
        else:
            parts = split_markers(text(content, location, f"{path}.{key}"))
        turns.append(Turn(path, role, parts, is_supervised))
    return Turns(tuple(turns), names, images)


def read_texts(record: Fields, location: str, unread: Counter[str]) -> Turns:
    """Read `{texts: [{user, assistant}], images}`, as in FineVision and The Cauldron."""
    images, names = image_names(record, location, unread)
    turns = []
    for path, pair in _listed(record, "texts", location):
        count_unread(pair, ("user", "assistant", "system"), unread, "texts[].")
        if (system := pair.get("system")) not in (None, ""):
            turns.append(Turn(path, "system", (text(system, location, f"{path}.system"),)))
        for role in ("user", "assistant"):
            content = text(pair.get(role), location, f"{path}.{role}")
            turns.append(Turn(f"{path}.{role}", role, split_markers(content)))
    return Turns(tuple(turns), names, images)


def _form(name: str) -> Callable[[Fields, str, Counter[str]], Turns]:
    return lambda record, location, unread: read_conversation(record, location, unread, form=name)


FORMS: Mapping[str, Form] = {  # by the field that identifies the form
    "conversations": Form(_form("conversations")),
    "messages": Form(_form("messages")),
    "texts": Form(read_texts),
}


def names_to_suggest() -> frozenset[str]:
    """Return the fields that are read, nested ones by their path, for "did you mean" next to an unread field."""
    nested = {f"{form}[].{name}" for form in ("conversations", "messages") for name in TURN_FIELDS}
    return (EVERY_FORM - OTHER_MEDIA) | FORMS.keys() | nested


def means_images(name: str) -> bool:
    """Return whether a field that is not read probably contains images."""
    return name in OTHER_IMAGE_NAMES or IMAGE_FIELD.fullmatch(name) is not None


def split_markers(content: str) -> tuple[str | Slot, ...]:
    """Split a text at its image markers; a newline on either side of a marker is removed.

    `\\<image>` is the literal text; Qwen-VL's `<img>PATH</img>` is the image PATH.
    """
    if "<im" not in content:
        return (content,) if content else ()
    parts: list[str | Slot] = []
    at = 0
    markers = [*_MARKER.finditer(content), None]
    for marker in markers:
        plain = content[at : len(content) if marker is None else marker.start()]
        plain = plain.removeprefix("\n") if at else plain
        plain = plain if marker is None else plain.removesuffix("\n")
        if plain:
            parts.append(plain.replace(ESCAPED, MARKER))
        if marker is not None:
            parts.append(Slot(None if marker[1] is None else marker[1].strip()))
            at = marker.end()
    return tuple(parts)


def marker_like(content: str) -> str:
    """Return a part of the text that looks like an image marker but is read as text; "" if there is none."""
    if _SIGN.search(content.replace(MARKER, "")) is None:  # most texts
        return ""
    return next((m.group() for m in _LIKE_A_MARKER.finditer(_MARKER.sub("", content)) if m.group() != MARKER), "")


def _listed(record: Fields, form: str, location: str) -> list[tuple[str, Fields]]:
    turns = record[form]
    if not isinstance(turns, list) or not turns:
        raise RecordError(location, form, f"expected a list of turns, got {shown(turns)}", SEE)
    for k, turn in enumerate(turns):
        if not isinstance(turn, dict):
            raise RecordError(location, f"{form}[{k}]", f"expected an object, got {shown(turn)}", SEE)
    return [(f"{form}[{k}]", turn) for k, turn in enumerate(turns)]


def _either(turn: Fields, names: tuple[str, str], path: str, location: str) -> tuple[str, Any]:
    """Return which of two fields a turn has, and its value. Refuse a turn that has both with different values."""
    given = [name for name in names if turn.get(name) is not None]
    if len(given) == 2 and turn[names[0]] != turn[names[1]]:
        raise RecordError(location, path, f"both `{names[0]}` and `{names[1]}`, and they differ", "keep one of them")
    name = given[0] if given else next((name for name in names if name in turn), names[0])
    return name, turn.get(name)


def _role(given: tuple[str, Any], location: str, path: str) -> Role:
    key, content = given
    role = role_named(content)
    if role is None:
        hint = "use human, gpt, system, or user, assistant, system"
        raise RecordError(location, f"{path}.{key}", f"unknown speaker {shown(content)}", hint)
    return role


def role_named(name: object) -> Role | None:
    """Return the role that a turn's `from` or `role` names, in upper or lower case; None if it is not known."""
    return SPEAKERS.get(name.strip().lower()) if isinstance(name, str) else None


def _is_supervised(turn: Fields, role: Role, location: str, path: str) -> bool:
    """Return whether `loss`, `loss_mask`, `train` or `weight` says that an answer is trained on. Raises RecordError."""
    content = {name: turn[name] for name in SUPERVISION if turn.get(name) is not None}
    for name, value in content.items():
        if value not in (0, 1):  # also True, False and 1.0
            raise RecordError(
                location, f"{path}.{name}", f"expected true, false, 0 or 1, got {shown(value)}",
                "other weights are not supported: repeat the record, or give its file a `weight` in the recipe",
            )  # fmt: skip
        if value and role != "assistant":
            hint = "only answers are: remove the field, or set it to false"
            raise RecordError(location, f"{path}.{name}", f"a turn of the {role} cannot be trained on", hint)
    if len({bool(value) for value in content.values()}) > 1:
        raise RecordError(location, path, f"{' and '.join(content)} disagree", "keep one of them")
    return all(content.values())


def _refuse_images_in_turn(turn: Fields, location: str, path: str) -> None:
    for name in turn.keys() - TURN_FIELDS:
        if means_images(name) and turn[name] not in (None, "", []):
            hint = "name it in the record's `image` or `images`, or in a part of the turn's content"
            raise RecordError(location, f"{path}.{name}", "an image in a field of a turn is not read", hint)


def _part(
    part: object, names: tuple[str, ...], location: str, path: str, prefix: str, unread: Counter[str]
) -> tuple[str | Slot, ...]:
    """Read a content part as text or Slot. An image part has a file name, an `index` into `names`, or neither."""
    if isinstance(part, str):
        return split_markers(text(part, location, path))
    if not isinstance(part, dict):
        raise RecordError(location, path, f"expected an object, got {shown(part)}", "write {type: text, text: …}")
    kind = part.get("type")
    if kind is None:  # Qwen-VL's parts have no type: {"image": …}, {"text": …}
        kind = next((name for name in ("text", "image", "image_url") if part.get(name) is not None), None)
    count_unread(part, PART_FIELDS, unread, prefix)
    given = [name for name in ("image", "image_url", "path", "url", "bytes") if part.get(name) is not None]
    if kind == "text":
        if given:
            raise RecordError(location, f"{path}.{given[0]}", "an image in a text part", "write it as a separate part")
        if part.get("index") is not None:
            unread[f"{prefix}index"] += 1
        return split_markers(text(part.get("text"), location, f"{path}.text"))
    if kind not in ("image", "image_url"):
        problem = "only text and images are read" if kind in ("video", "audio", "input_audio", "video_url") else ""
        raise RecordError(location, f"{path}.type", problem or f"unknown part {shown(kind)}", "use text or image")
    if part.get("text") not in (None, ""):
        raise RecordError(location, f"{path}.text", "text in an image part", "write it as a separate part")
    index = part.get("index")
    if index is not None and (given or type(index) is not int or not 0 <= index < len(names)):
        problem = f"index {shown(index)} of {len(names)} images" if not given else f"index and {given[0]} both name it"
        raise RecordError(location, f"{path}.index", problem, "name one of the record's images, the first by 0")
    if not given:
        return (Slot(None if index is None else names[index]),)
    if len(given) > 1 and set(given) != {"path", "bytes"}:
        raise RecordError(location, path, f"{' and '.join(given)} both name the image", "keep one of them")
    if "bytes" in given:
        return (Slot(_image_name({"bytes": part["bytes"]}, location, f"{path}.bytes", prefix, unread)),)
    name, value = given[0], part[given[0]]
    if name == "image_url" and isinstance(value, dict):
        count_unread(value, ("url", "detail"), unread, f"{prefix}image_url.")
        value = value.get("url")
    return (Slot(_image_name(value, location, f"{path}.{name}", f"{prefix}{name}.", unread)),)


def image_names(
    record: Fields, location: str, unread: Counter[str]
) -> tuple[Literal["image", "images"], tuple[str, ...]]:
    """Return the field of the record's images and their names; an absent, empty or null field means no images."""
    only = record.get("image")
    if isinstance(only, str) and only and "images" not in record:
        return "image", (only,)
    given: list[Literal["image", "images"]] = [name for name in ("image", "images") if listed_images(record.get(name))]
    if len(given) > 1:
        raise RecordError(location, "images", "both `image` and `images` name images", "keep one of them")
    if not given:
        return "image" if "image" in record else "images", ()
    names = listed_images(record[given[0]])
    many = isinstance(record[given[0]], list)
    if many and len(names) < len(record[given[0]]):
        problem = f"{len(record[given[0]]) - len(names)} of {len(record[given[0]])} entries name no image"
        raise RecordError(location, given[0], problem, "name an image in each, or remove the empty entries")
    prefix = f"{given[0]}{'[]' if many else ''}."
    return given[0], tuple(
        _image_name(name, location, f"{given[0]}[{k}]" if many and len(names) > 1 else given[0], prefix, unread)
        for k, name in enumerate(names)
    )


def listed_images(value: object) -> list[object]:
    """Return the entries of `image` or `images` that name an image."""
    listed = value if isinstance(value, list) else [value]
    return [name for name in listed if name is not None and name != ""]


def _image_name(value: object, location: str, path: str, prefix: str, unread: Counter[str]) -> str:
    """Return the file name of an image given as text or as a struct `{bytes, path}`. Raises RecordError."""
    if isinstance(value, dict):
        count_unread(value, ("path", "bytes"), unread, prefix)
        if value.get("bytes") is not None:
            hint = "write the images to files and name those, or save the data as parquet"
            raise RecordError(location, path, "holds the image's bytes as text, which is not read", hint)
        value = value.get("path")
    if not isinstance(value, str) or not value:
        raise RecordError(location, path, f"expected a path or a list of paths, got {shown(value)}", "name a file")
    return value

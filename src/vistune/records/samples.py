"""Parse a record of any form into a Sample; only this module turns image markers into ImageRef parts.

record -> Turns (read by `conversations`) -> slots filled with images -> alternating messages
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from difflib import get_close_matches

from vistune.errors import reason_of
from vistune.records.conversations import (
    ESCAPED,
    EVERY_FORM,
    FORMS,
    IMAGE_FIELD,
    MARKER,
    OTHER_MEDIA,
    SEE,
    TABLE,
    Fields,
    Form,
    Slot,
    Turn,
    Turns,
    listed_images,
    means_images,
    split_markers,
)
from vistune.records.errors import RecordError, shown, text
from vistune.records.images import ImageFolders
from vistune.records.pairs import is_pair, read_pair
from vistune.types import PREFERENCE, Message, Part, Sample

NO_IMAGE = "a preference pair without an image"


def read_sample(
    record: Fields, location: str, images: ImageFolders, warnings: Counter[str], unread: Counter[str] | None = None
) -> Sample:
    """Parse a record as a Sample, by the first of FORMS that it has. Raises RecordError `path:line:field: …`.

    `warnings` counts missing parts that were filled in, `unread` counts the fields that are not read.
    """
    counted = Counter[str]() if unread is None else unread
    if is_pair(record):
        return _read_pair(record, location, images, warnings, counted)
    name = form_of(record, location)
    form = FORMS[name]
    if others := record.keys() - EVERY_FORM - {name}:
        counted.update(field for field in others if field not in form.fields)
        refuse_other_names(record, others.difference(form.fields), location)
    if not OTHER_MEDIA.isdisjoint(record):
        refuse_other_media(record, location)
    turns = _with_system(_read(form, name, record, location, counted), record, location)
    messages = images_in_place(turns, location, images, warnings)
    _check_turns(messages, turns.turns, location, name)
    return Sample(_id(record, location, warnings), messages, kind=kind_of(record, location), origin=location)


def _read_pair(
    record: Fields, location: str, images: ImageFolders, warnings: Counter[str], unread: Counter[str]
) -> Sample:
    """Parse a preference pair; its messages end with the chosen answer."""
    pair = read_pair(record, location, unread)
    turns = pair.conversation.get("conversations") or pair.conversation["messages"]
    has_parts = any(isinstance(turn.get("content"), list) for turn in turns)  # which may name images
    if not has_parts and not any(listed_images(record.get(name)) for name in ("image", "images")):
        refuse_other_names(record, record.keys() - EVERY_FORM, location)
        raise RecordError(location, "image", NO_IMAGE, "name the image of its prompt")
    sample = read_sample(pair.conversation, location, images, warnings, unread)
    if not sample.images:
        raise RecordError(location, "image", NO_IMAGE, "name the image of its prompt")
    parts = split_markers(pair.rejected)
    if not all(isinstance(part, str) for part in parts):
        raise RecordError(location, "rejected", "an image in an answer", f"the text {MARKER} is written {ESCAPED}")
    rejected = Message("assistant", tuple(part for part in parts if isinstance(part, str)))
    return replace(sample, kind=kind_of(record, location), rejected=rejected)


def _read(form: Form, name: str, record: Fields, location: str, unread: Counter[str]) -> Turns:
    """Read a record by a form. An exception in the form's reader is an error of this record only."""
    try:
        turns = form.read(record, location, unread)
    except RecordError:
        raise
    except Exception as error:  # a reader that somebody added
        problem = f"the reader of this form fails: {type(error).__name__}: {reason_of(error)}"
        raise RecordError(location, name, problem, "correct the record, or make the reader refuse it") from error
    if not turns.turns:
        raise RecordError(location, name, "has no turns", "write a question and an answer")
    return turns


def form_of(record: Fields, location: str) -> str:
    """Return the form of a record. Raises RecordError that lists its fields and suggests the most similar one."""
    for name in FORMS:
        if record.get(name) is not None:
            return name
    problem = f"neither {' nor '.join(f'`{field}`' for field in FORMS)}"
    if not {"caption", "captions", "boxes"}.isdisjoint(record):
        raise RecordError(location, "", problem, TABLE)
    there = ", ".join(str(name)[:40] for name in list(record)[:12]) or "none of the fields that are read"
    near = [
        (name, form[0])
        for name in record.keys() - EVERY_FORM - FORMS.keys()
        if (form := get_close_matches(str(name).lower(), FORMS, n=1, cutoff=0.8))
    ]
    hint = f"is `{near[0][0]}` meant to be `{near[0][1]}`? {SEE}" if near else SEE
    raise RecordError(location, "", f"{problem}; the record has {there}", hint)


def kind_of(record: Fields, location: str) -> str:
    """Return the record's kind; a pair without one is of the kind `preference`."""
    return text(record.get("kind") or (PREFERENCE if is_pair(record) else ""), location, "kind")


def _id(record: Fields, location: str, warnings: Counter[str]) -> str:
    name = record.get("id")
    if name is None:
        warnings["no id: the line number stands in"] += 1
        name = location.rsplit(":", 1)[-1]
    if isinstance(name, float) and name.is_integer():  # pandas turns whole numbers into floats if some are missing
        name = int(name)
    if isinstance(name, bool) or not isinstance(name, str | int | float):
        raise RecordError(location, "id", f"expected text or a number, got {shown(name)}", "write it as text")
    return text(str(name), location, "id")


def refuse_other_media(record: Fields, location: str) -> None:
    """Refuse a record with video or audio: without it, the record would mean something else."""
    for name in sorted(OTHER_MEDIA):
        if record.get(name) not in (None, "", [], {}):
            raise RecordError(location, name, "videos and audio are not read, only images", "remove the record")


def refuse_other_names(record: Fields, unread: Collection[str], location: str) -> None:
    """Refuse a field that holds images under a name that is not read: the model would train without them.

    If a record has images in `image` or `images`, another field that names images, such as `image_url`, is allowed and
    not used. A numbered field such as `image_2` is still refused.
    """
    has_images = any(listed_images(record.get(name)) for name in ("image", "images"))
    for name in sorted(unread):
        is_more = IMAGE_FIELD.fullmatch(name) is not None and name[-1].isdecimal()
        if (is_more or (means_images(name) and not has_images)) and record[name] not in (None, "", []):
            hint = f"rename `{name}` to `image` (a path) or `images` (a list of paths)"
            hint = "list all images in `images`" if is_more else hint
            raise RecordError(location, name, "is not read; a record names its images by `image` or `images`", hint)


def _with_system(read: Turns, record: Fields, location: str) -> Turns:
    """Put the record's own `system` prompt in front of its turns."""
    own = record.get("system")
    if own is None or own == "":
        return read
    own = text(own, location, "system")
    if read.turns and read.turns[0].role == "system":
        if read.turns[0].parts == (own,):
            return read
        raise RecordError(location, "system", "the first turn is a second system prompt", "keep one of them")
    return Turns((Turn("system", "system", (own,)), *read.turns), read.names, read.images)


def images_in_place(record: Turns, location: str, images: ImageFolders, warnings: Counter[str]) -> tuple[Message, ...]:
    """Return the turns as messages, with each slot filled by its image, in order.

    Raises RecordError if slots and images do not match.
    """
    turns, waiting = record.turns, list(record.names)
    slots = [part for turn in turns for part in turn.parts if isinstance(part, Slot)]
    for slot in slots:
        if slot.name in waiting:  # the image is named in the turn and in the record's list
            waiting.remove(slot.name)
    if waiting and not slots:
        warnings[f"image without {MARKER}: put at the start"] += 1
        turns, slots = _put_first(turns, len(waiting)), [Slot()] * len(waiting)
    unnamed = sum(slot.name is None for slot in slots)
    if unnamed != len(waiting):
        raise RecordError(
            location,
            record.images,
            f"{unnamed} {MARKER} in the turns but {len(waiting)} images",
            f"give each marker its image, or remove one of them; the text {MARKER} itself is written {ESCAPED}",
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
                hint = f"move it to a question; the text {MARKER} itself is written {ESCAPED}"
                raise RecordError(location, turn.field, f"an image in a turn of the {turn.role}", hint)
            field = record.images if part.name is None else turn.field
            parts.append(images.find(part.name or next(queue), location, field))
        messages.append(Message(turn.role, tuple(parts), turn.supervised))
    return tuple(messages)


def _put_first(turns: tuple[Turn, ...], count: int) -> tuple[Turn, ...]:
    """Put slots at the start of the first question."""
    first = next((k for k, turn in enumerate(turns) if turn.role == "user"), 0)
    turn = turns[first]
    filled = Turn(turn.field, turn.role, (*[Slot()] * count, *turn.parts), turn.supervised)
    return (*turns[:first], filled, *turns[first + 1 :])


def _check_turns(messages: Sequence[Message], turns: Sequence[Turn], location: str, form: str) -> None:
    """Check that user and assistant alternate, begin with the user, end with an answer, and are not empty."""
    skipped = int(messages[0].role == "system")
    for k, (message, turn) in enumerate(zip(messages[skipped:], turns[skipped:], strict=True)):
        expected_role = "user" if k % 2 == 0 else "assistant"
        if message.role != expected_role:
            raise RecordError(
                location,
                turn.field,
                f"a turn of the {message.role} where the {expected_role} must speak",
                _remedy(message, k),
            )
        if not message.text.strip() and (expected_role == "assistant" or not message.images):
            what = "an empty answer" if expected_role == "assistant" else "an empty question"
            raise RecordError(location, turn.field, what, "write it or remove the turn")
    if len(messages[skipped:]) % 2 or not messages[skipped:]:
        raise RecordError(location, form, "the last question has no answer", "add it or remove the question")
    if not any(message.supervised for message in messages if message.role == "assistant"):
        hint = "set one of `loss`, `train` or `weight` to true, or remove the record"
        raise RecordError(location, form, "no answer is trained on", hint)


def _remedy(message: Message, index: int) -> str:
    if message.role == "system":
        return "a system prompt is the first turn, and there is one"
    if index == 0:
        return "begin with the user"
    two = "questions" if message.role == "user" else "answers"
    between = "answer" if message.role == "user" else "question"
    return f"two {two} in a row: join them, or add the {between} between them"

"""Convert OpenAI-style messages to a conversation that every template can render, for the server and for Python.

Messages are checked, their images are loaded, and their roles are brought into alternating turns.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from PIL import Image
from pydantic import BaseModel, Field, ValidationError, field_validator

from vistune.generation.fields import (
    Body,
    FieldError,
    field_error,
    is_data_url,
    read_data_url,
    unused_fields,
    url_error,
)
from vistune.types import ImageRef, Message, Part, Role

logger = logging.getLogger("vistune.generation")

BETWEEN = "\n\n"  # between the texts of neighbouring messages of one role
MOST_PARTS = 256  # of a message
TEXT_FORM = 'send {"type": "text", "text": "..."}'
IMAGE_FORM = 'send {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,..."}}'
EACH_FRAME = "this model sees single images; for each frame"
AS_TEXT = "send a file's text as text"
RESULT_FORM = "this server calls no tools; put the result of the tool into a message of the user"
PARTS = {  # types of parts that other servers read -> what to do instead
    **dict.fromkeys(("input_text", "output_text"), TEXT_FORM),
    **dict.fromkeys(("image", "input_image", "image_file", "image_base64", "image_pil"), IMAGE_FORM),
    **dict.fromkeys(
        ("input_audio", "audio", "audio_url", "output_audio"), "this model does not read audio; remove the part"
    ),
    **dict.fromkeys(("video_url", "video", "input_video"), f"{EACH_FRAME} {IMAGE_FORM}"),
    **dict.fromkeys(("file", "input_file", "file_url", "document"), f"{AS_TEXT}; for an image {IMAGE_FORM}"),
    **dict.fromkeys(("tool_use", "tool_call", "tool_result", "function_call_output"), RESULT_FORM),
    **dict.fromkeys(("thinking", "reasoning", "redacted_thinking"), "leave the part out"),
}
ROLES = {
    **dict.fromkeys(("tool", "function", "ipython"), RESULT_FORM),
    **dict.fromkeys(("human", "User", "USER"), 'write "user"'),
    **dict.fromkeys(("gpt", "model", "ai", "bot", "chatbot", "Assistant", "ASSISTANT"), 'write "assistant"'),
    **dict.fromkeys(("System", "SYSTEM"), 'write "system"'),
}
EXPECTED = {  # a field's path -> what it must be
    "messages[]": 'an object such as {"role": "user", "content": "..."}',
    "messages[].role": "system, developer, user or assistant",
    "messages[].content": f"text, or a list of at most {MOST_PARTS} parts",
    "messages[].content[]": f"an object with a type: {TEXT_FORM.removeprefix('send ')} or "
    f"{IMAGE_FORM.removeprefix('send ')}",
    "messages[].content[].type": '"text" or "image_url"',
    "messages[].content[].text": "text",
    "messages[].content[].refusal": "text",
    "messages[].content[].image": "a path, a data: URL or a PIL image",
    "messages[].content[].image_url": 'an object {"url": "data:image/jpeg;base64,..."}, or the URL as text',
    "messages[].content[].image_url.url": "a data: URL as text",
    "messages[].refusal": "text",
}
INSTEAD = {"messages[].role": ROLES, "messages[].content[].type": PARTS}
MOVE_IMAGES = f"put each image into content: {IMAGE_FORM}"
OWN_PART = f"put each image into a separate part: {IMAGE_FORM}"
OWN_TEXT = 'put the text into a separate part: {"type": "text", "text": "..."}'
IMAGE_NAMES = ("image", "images", "image_url", "image_urls", "input_image", "image_file", "image_base64", "image_pil")
REFUSED_IN_PARTS = {  # content that a part's type does not name -> what to do instead
    **dict.fromkeys(("text", "input_text", "output_text", "refusal"), OWN_TEXT),
    **dict.fromkeys(IMAGE_NAMES, OWN_PART),
    **dict.fromkeys(("video", "videos", "video_url", "input_video"), f"{EACH_FRAME} {IMAGE_FORM}"),
    **dict.fromkeys(("audio", "audios", "audio_url", "input_audio"), "this model does not read audio; remove it"),
    **dict.fromkeys(("file", "files", "input_file", "file_url", "document"), AS_TEXT),
}


class OnePart(Body):
    """A part of a message. Content that its type does not name is refused, because it would not be read."""

    refused: ClassVar[Mapping[str, str]] = REFUSED_IN_PARTS


class TextPart(OnePart):
    type: Literal["text"]
    text: str


class RefusalPart(OnePart):
    """An assistant's refusal; it is read as text."""

    type: Literal["refusal"]
    refusal: str


class ImageURL(Body):
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {"detail": (None, "auto")}  # there is only one resolution

    url: str


class ImagePart(OnePart):
    type: Literal["image_url"]
    image_url: ImageURL

    @field_validator("image_url", mode="before", json_schema_input_type=ImageURL | str)
    @classmethod
    def _one_url(cls, given: object) -> object:
        return {"url": given} if isinstance(given, str) else given


class FilePart(OnePart):
    """An image in memory or in a file: read from Python, never from HTTP."""

    type: Literal["image"]
    image: object

    @field_validator("image")
    @classmethod
    def _readable(cls, given: object) -> object:
        if not isinstance(given, str | Path | Image.Image):
            raise ValueError
        return given


Parts = Annotated[
    list[Annotated[TextPart | RefusalPart | ImagePart, Field(discriminator="type")]],
    Field(max_length=MOST_PARTS, fail_fast=True),
]


class ChatMessage(Body):
    """A message whose fields have the right types. Only an assistant's content may be null or absent."""

    refused: ClassVar[Mapping[str, str]] = {
        "tool_calls": "this server calls no tools; send the assistant's text as its content",
        "function_call": "no functions are called here; send the assistant's text as its content",
        "audio": "send its transcript as text",
        **dict.fromkeys(IMAGE_NAMES, MOVE_IMAGES),
        **dict.fromkeys(("text", "prompt"), "put the text into content"),
        **dict.fromkeys(("video", "videos"), f"{EACH_FRAME} {MOVE_IMAGES}"),
        **dict.fromkeys(("audios", "file", "files", "document", "documents", "attachments"), "send its text as text"),
    }

    role: Literal["system", "developer", "user", "assistant"]
    content: Parts | None = None
    refusal: str | None = None

    @field_validator("content", mode="before", json_schema_input_type=Parts | str | None)
    @classmethod
    def _one_text(cls, given: object) -> object:
        return [{"type": "text", "text": given}] if isinstance(given, str) else given

    @property
    def spoken(self) -> Role:
        """The role in a conversation; `developer` is the same as `system`."""
        return "system" if self.role == "developer" else self.role

    @property
    def parts(self) -> list[Any]:
        """The content, followed by the assistant's refusal."""
        more = [RefusalPart(type="refusal", refusal=self.refusal)] if self.refusal else []
        return [*(self.content or []), *more]


PythonParts = Annotated[
    list[Annotated[TextPart | RefusalPart | ImagePart | FilePart, Field(discriminator="type")]],
    Field(max_length=MOST_PARTS, fail_fast=True),
]


class PythonMessage(ChatMessage):
    """A message given to a Python function; its images may also be files."""

    content: PythonParts | None = None  # type: ignore[assignment]  # a wider type than in the base class, which is safe on a frozen model

    @field_validator("content", mode="before")
    @classmethod
    def _plain(cls, given: object) -> object:
        """Convert any sequence of mappings to lists and dicts."""
        if isinstance(given, Sequence) and not isinstance(given, str | bytes):
            return [dict(part) if isinstance(part, Mapping) else part for part in given]
        return given


def check_message(message: ChatMessage, path: str) -> None:
    """Raise FieldError if a role other than user has an image, or a role other than assistant has no content."""
    if message.content is None and message.role != "assistant":
        what = "null" if "content" in message.model_fields_set else "missing"
        raise FieldError(f"{path}.content", what, f"give {EXPECTED['messages[].content']}")
    if message.role != "user" and any(isinstance(part, ImagePart | FilePart) for part in message.parts):
        what = f"an image in a message of the {message.role}"
        raise FieldError(f"{path}.content", what, "move it to the user's message")


def one_message(message: ChatMessage, path: str, load: Callable[[Any, str], ImageRef]) -> Message:
    """Convert a checked message to our type. `load(part, path)` reads an image part."""
    parts: list[Part] = []
    for i, part in enumerate(message.parts):
        if isinstance(part, TextPart):
            parts.append(part.text)
        elif isinstance(part, RefusalPart):
            has_text = any(isinstance(part, str) and part.strip() for part in parts)
            parts += [*([BETWEEN] if has_text else []), part.refusal]
        else:
            parts.append(load(part, f"{path}.content[{i}]"))
    return Message(message.spoken, tuple(parts))


def alternate_turns(messages: Sequence[Message]) -> list[Message]:
    """Rearrange a conversation: at most one system message, then user and assistant alternating.

    System messages are joined at the front. Adjacent messages of one role are joined with BETWEEN between their texts;
    images keep their order. An empty user message is put before an assistant message that comes first.
    """
    systems = [message for message in messages if message.role == "system"]
    turns: list[Message] = []
    for message in messages:
        if message.role == "system":
            continue
        if turns and turns[-1].role == message.role:
            turns[-1] = _joined(turns[-1], message)
        else:
            turns.append(message)
    if turns and turns[0].role == "assistant":
        turns = [Message("user", ()), *turns] if turns[0].text.strip() else turns[1:]
    return [*([reduce(_joined, systems)] if systems else []), *turns]


def _joined(first: Message, second: Message) -> Message:
    between = (BETWEEN,) if first.text.strip() and second.text.strip() else ()
    return Message(first.role, (*first.parts, *between, *second.parts))


def require_question(roles: Sequence[str], path: str = "messages") -> None:
    """Raise FieldError unless the last message that is not a system message is the user's.

    `path`: the field of the messages.
    """
    spoken = [role for role in roles if role not in ("system", "developer")]
    if not spoken:
        raise FieldError(path, "there is no message of the user", "end with the user's message")
    if spoken[-1] != "user":
        raise FieldError(
            path,
            "the last message is the assistant's",
            "end with the user's message; an assistant's message cannot be continued here",
        )


def read_messages(given: Sequence[Mapping[str, Any] | BaseModel | Message]) -> list[Message]:
    """Convert OpenAI-style messages, or ours, to a conversation in turns (see `alternate_turns`).

    A message may also be an object of OpenAI's client, such as `completion.choices[0].message`. Raises FieldError, a
    DataError that names the field. Unused fields are listed in one log warning.
    """
    turns: list[Message] = []
    unused: dict[str, None] = {}
    for k, item in enumerate(given):
        if isinstance(item, Message):
            turns.append(item)
            continue
        path = f"messages[{k}]"
        given_fields = item.model_dump(exclude_none=True) if isinstance(item, BaseModel) else item
        try:
            message = PythonMessage.model_validate(
                dict(given_fields) if isinstance(given_fields, Mapping) else given_fields
            )
        except ValidationError as error:
            raise field_error(error, PYTHON_EXPECTED, PYTHON_INSTEAD, path) from None
        unused.update(dict.fromkeys(unused_fields(message, path)))
        check_message(message, path)
        turns.append(one_message(message, path, _load))
    if unused:
        logger.warning("fields of messages that are not used: %s", ", ".join(unused))
    return alternate_turns(turns)


PYTHON_EXPECTED = {
    **EXPECTED,
    "messages[].content[]": '{"type": "text", "text": "..."} or {"type": "image", "image": "photo.jpg"}',
    "messages[].content[].type": '"text", "image" or "image_url"',
}
PYTHON_INSTEAD = {**INSTEAD, "messages[].content[].type": {name: PARTS[name] for name in PARTS if name != "image"}}
FILE_FORM = 'give a file as {"type": "image", "image": "photo.jpg"}'


def _load(part: ImagePart | FilePart, path: str) -> ImageRef:
    """Load an image given in Python: a `data:` URL is decoded here, a file is opened when its pixels are needed."""
    if isinstance(part, ImagePart):
        where, url = f"{path}.image_url.url", part.image_url.url
        if not is_data_url(url):
            links = "a link, and links are not fetched here", f"download it, and {FILE_FORM}"
            raise url_error(url, where, links=links, files=FILE_FORM)
        return ImageRef(read_data_url(url, where))
    if isinstance(part.image, str) and is_data_url(part.image):
        return ImageRef(read_data_url(part.image, f"{path}.image"))
    return ImageRef(part.image if isinstance(part.image, Image.Image) else Path(str(part.image)))

"""The certificate of an export: the model's results for fixed conversations, stage by stage (`certificate.json`).

The stages are those of `STAGES`, from the chat template to the sampler. The file is small and needs no other file: its
images are drawn by the program, and its tensors are stored as sketches (sketches.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from vistune.errors import CheckpointError
from vistune.files import read_text, write_json
from vistune.generation import Assistant, greedy_batch, read_messages
from vistune.interop.parity import Answers, Conversations, ProbeResult, probe_image, probe_ours, probes
from vistune.interop.sketches import ImageRecord, hash_image, image_record, rounded
from vistune.processor import Processor
from vistune.runs.provenance import versions
from vistune.types import IMAGE_ID

FILE = "certificate.json"
FORMAT = 1
STAGES = ("template", "tokenizer", "resize", "tower", "projector", "language model", "sampler")
TOP = 20  # tokens whose log-probabilities are stored for a position; servers report no more
POSITIONS = 8  # of an answer, at which they are stored
WIDE, SQUARE = "wide", "square"  # names of the images; the square one has the tower's side and needs no resizing
QUESTIONS = (
    "Which colour is at the left?",
    "Describe the pattern in one sentence.",
    "Is there more red or more blue?",
    "왼쪽은 무슨 색인가요?",
    "무늬를 한 문장으로 설명하세요.",
    "빨간색과 파란색 중 어느 쪽이 더 많나요?",
)


@dataclass(frozen=True)
class Position:
    """The most likely tokens at a position of an answer, with their log-probabilities."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]

    @property
    def by_id(self) -> dict[int, float]:
        return dict(zip(self.ids, self.logprobs, strict=True))


@dataclass(frozen=True)
class ConversationRecord:
    """A conversation and the model's results for it.

    Attributes:
        messages: OpenAI-style messages; an image is named as in `Certificate.images`.
        prompt: The rendered conversation.
        ids: Ids of the prompt, with one IMAGE_ID for each image.
        slots: Number of slots of each image.
        image: The image at every stage; None without an image.
        positions: The end of the prompt and the next `POSITIONS` - 1 positions.
        tokens: Greedy tokens, without a stop.
        length: Number of tokens until the answer ends; that of `tokens` if it does not end before.
        ends: Whether it ends.
        answer: Text of the answer.
    """

    messages: tuple[dict[str, Any], ...]
    prompt: str
    ids: tuple[int, ...]
    slots: tuple[int, ...]
    image: ImageRecord | None
    positions: tuple[Position, ...]
    tokens: tuple[int, ...]
    length: int
    ends: bool
    answer: str

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt, with all slots of its images."""
        return len(self.ids) - len(self.slots) + sum(self.slots)

    @property
    def image_name(self) -> str:
        """Name of the conversation's image; "" without one."""
        named = (part["image"] for message in self.messages for part in message["content"] if part["type"] == "image")
        return str(next(named, ""))


@dataclass(frozen=True)
class DrawnImage:
    """Size of an image that `probe_image` draws, and the SHA-256 of its pixels."""

    width: int
    height: int
    sha256: str


@dataclass(frozen=True)
class KnownDifference:
    """A difference that the export has reported, by its stage."""

    stage: str
    what: str


@dataclass(frozen=True)
class Certificate:
    """A model's results at the time of its export.

    Attributes:
        format: Version of this format.
        layout: Layout of the export.
        kind: Type of the written weights, such as float32 or q8_0.
        computed: Precision in which the model was computed.
        versions: Versions of Python and of libraries.
        vocabulary: Number of the model's tokens; exports may have more rows.
        image_mean, image_std: Values by which pixels are normalised.
        images: Images by name.
        texts: Texts of the tokens in `positions` and `tokens`.
        image_token: Text of the image's mark in `prompt`.
        begin: Text of the token that begins every prompt; "" without one.
        stop_ids: Tokens that end an answer.
        stop_text: Text that ends an answer; "" without one.
        conversations: Records by the conversation's name.
        batch: Greedy tokens of the four probes, answered in one batch.
        known: Differences that the export reported.
        parts: Checksums of the parts of GGUF files.
    """

    format: int
    layout: str
    kind: str
    computed: str
    versions: dict[str, str]
    vocabulary: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    images: dict[str, DrawnImage]
    texts: dict[int, str]
    image_token: str
    begin: str
    stop_ids: tuple[int, ...]
    stop_text: str
    conversations: dict[str, ConversationRecord]
    batch: dict[str, tuple[int, ...]]
    known: tuple[KnownDifference, ...] = ()
    parts: dict[str, str] | None = None

    def messages(self) -> Conversations:
        """Return the conversations with their images drawn.

        Raises CheckpointError if this version of vistune draws other images.
        """
        drawn = {name: probe_image(image.width, image.height) for name, image in self.images.items()}
        for name, image in drawn.items():
            if hash_image(image) != self.images[name].sha256:
                raise CheckpointError(
                    f"{FILE}: this version of vistune draws another image {name!r}",
                    f"use vistune {self.versions.get('vistune', '')}, or export the model again",
                )
        return {name: with_images(record.messages, drawn) for name, record in self.conversations.items()}

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with its answer, rounded up to a multiple of 256."""
        lengths = (record.prompt_tokens + len(record.tokens) for record in self.conversations.values())
        return -(-max(lengths) // 256) * 256

    @property
    def answers(self) -> Answers:
        """Tokens after which the positions were computed."""
        return {name: record.tokens[: len(record.positions)] for name, record in self.conversations.items()}


@dataclass(frozen=True)
class ExportForm:
    """How an export was written: its layout, the weights' type, and for GGUF the known differences and checksums."""

    layout: str
    kind: str
    known: tuple[KnownDifference, ...] = ()
    parts: dict[str, str] | None = None


def conversations() -> dict[str, list[dict[str, Any]]]:
    """Return the conversations of a certificate by name, with the names of their images.

    The first four are those of `probes`. The others are questions in two languages, without an image and with the
    square one, by which servers and quantized weights are judged.
    """
    named = {name: [_naming_image(message) for message in messages] for name, messages in probes().items()}
    for number, question in enumerate(QUESTIONS, start=1):
        text = {"type": "text", "text": question}
        named[f"question {number}"] = [{"role": "user", "content": [text]}]
        image = {"type": "image", "image": SQUARE}
        named[f"question {number}, image"] = [{"role": "user", "content": [image, text]}]
    return named


def _naming_image(message: Mapping[str, Any]) -> dict[str, Any]:
    parts = [{"type": "image", "image": WIDE} if part["type"] == "image" else part for part in message["content"]]
    return {**message, "content": parts}


def with_images(messages: Sequence[Mapping[str, Any]], images: Mapping[str, Image.Image]) -> list[dict[str, Any]]:
    """Return messages with images in place of their names."""
    return [
        {**message, "content": [
            {**part, "image": images[part["image"]]} if part["type"] == "image" else part for part in message["content"]
        ]}
        for message in messages
    ]  # fmt: skip


def certify(assistant: Assistant, known_results: Mapping[str, ProbeResult], form: ExportForm) -> Certificate:
    """Return the certificate of a model.

    Args:
        known_results: Results of `probes`, which are not computed again.
    """
    processor = assistant.processor
    side = processor.spec.image_side
    images = {WIDE: probe_image(), SQUARE: probe_image(side, side)}
    named = conversations()
    drawn = {name: with_images(messages, images) for name, messages in named.items()}
    rest = {name: messages for name, messages in drawn.items() if name not in known_results}
    results = {**known_results, **probe_ours(assistant, rest)}
    records = {name: record(processor, messages, results[name]) for name, messages in named.items()}
    listed = {token for entry in records.values() for step in entry.positions for token in step.ids}
    listed |= {token for entry in records.values() for token in entry.tokens} | processor.stop_ids
    tokenizer: Any = processor.tokenizer
    batch = [processor.encode_prompt(read_messages(drawn[name])) for name in probes()]
    tokens = greedy_batch(assistant.model, batch, POSITIONS)
    return Certificate(
        format=FORMAT,
        layout=form.layout,
        kind=form.kind,
        computed=str(assistant.model.head.dtype).removeprefix("torch."),
        versions=library_versions(),
        vocabulary=len(next(iter(results.values())).logits),
        image_mean=processor.spec.image_mean,
        image_std=processor.spec.image_std,
        images={name: DrawnImage(*image.size, hash_image(image)) for name, image in images.items()},
        texts={token: tokenizer.decode([token]) for token in sorted(listed)},
        image_token=getattr(tokenizer, "image_token", None) or "<image>",
        begin=tokenizer.bos_token or "",
        stop_ids=tuple(sorted(processor.stop_ids)),
        stop_text=processor.stop_text,
        conversations=records,
        batch=dict(zip(probes(), map(tuple, tokens), strict=True)),
        known=form.known,
        parts=form.parts,
    )


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that compute a model or prepare its images."""
    installed = versions()
    for name in ("pillow", "numpy", "xllamacpp"):
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed


def record(processor: Processor, messages: Sequence[dict[str, Any]], result: ProbeResult) -> ConversationRecord:
    """Return the record of a conversation."""
    assert result.steps is not None
    spec = processor.spec
    ids, slots = collapse(result.ids)
    tokens = result.tokens
    length = next((end for end in range(1, len(tokens) + 1) if processor.ended(tokens[:end])), 0)
    return ConversationRecord(
        messages=tuple(messages),
        prompt=result.prompt,
        ids=tuple(ids),
        slots=tuple(slots),
        image=image_record(result, spec.image_mean, spec.image_std),
        positions=tuple(top_tokens(step) for step in result.steps[:POSITIONS]),
        tokens=tuple(tokens),
        length=length or len(tokens),
        ends=bool(length),
        answer=processor.answer(tokens[: length or len(tokens)]),
    )


def top_tokens(logits: Tensor) -> Position:
    """Return the most likely tokens of logits (vocabulary,)."""
    best = torch.log_softmax(logits.double(), dim=-1).topk(min(TOP, len(logits)))
    return Position(tuple(best.indices.tolist()), tuple(rounded(value) for value in best.values.tolist()))


def collapse(ids: Tensor) -> tuple[list[int], list[int]]:
    """Return ids with one IMAGE_ID for each run of slots, and the lengths of the runs."""
    collapsed: list[int] = []
    slots: list[int] = []
    for token in ids.tolist():
        if token != IMAGE_ID:
            collapsed.append(token)
        elif collapsed[-1:] == [IMAGE_ID]:
            slots[-1] += 1
        else:
            collapsed.append(token)
            slots.append(1)
    return collapsed, slots


def write_certificate(certificate: Certificate, folder: Path) -> None:
    """Write certificate.json into a folder."""
    write_json(folder / FILE, asdict(certificate))


def read_certificate(folder: Path) -> Certificate:
    """Read a folder's certificate. Raises CheckpointError if there is none, or it is not one."""
    path = folder / FILE
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder", "check the path")
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: contains no {FILE}", "name an export: `vistune export` writes the certificate next to the model"
        )
    text = read_text(path)
    try:
        tree: object = json.loads(text)
        number = tree.get("format") if isinstance(tree, dict) else None
        if number != FORMAT:
            raise CheckpointError(
                f"{path}: format {number!r} is not supported, {FORMAT} is expected", "export the model again"
            )
        return TypeAdapter(Certificate).validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise CheckpointError(f"{path}: {field}: {first['msg']}: not a certificate", "export the model again") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON: {error}", "export the model again") from None

"""The nouns that cross a room's border, in the order in which data flows.

COCO · captions · boxes ─read→ AnnotatedImage ─teacher→ Sample
LLaVA JSON · messages JSONL ─read────────────────────→ Sample
Sample ─Processor.encode→ Example ─plan, collate→ Batch ─model→ hidden ─loss→ LossSum
run folder ─load→ Assistant ─→ Completion ─→ Score
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

IGNORE = -100  # a label that is not learnt (torch's cross-entropy default, LLaVA's IGNORE_INDEX)
IMAGE_ID = -200  # an image slot in `input_ids`: never a row of the embedding table, so no text can become it

Role = Literal["system", "user", "assistant"]
KINDS = ("caption", "conversation", "detail", "reasoning")


@dataclass(frozen=True, slots=True)
class Box:
    """One object in a picture: relative corners, 0-1, origin top left; `attributes` such as {"color": "red"}."""

    label: str
    x0: float
    y0: float
    x1: float
    y1: float
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def center(self) -> tuple[float, float]:
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2

    @property
    def area(self) -> float:
        """Share of the picture, 0-1."""
        return (self.x1 - self.x0) * (self.y1 - self.y0)


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """What is known about a picture before any dialogue."""

    id: str
    path: Path
    captions: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    crowds: tuple[str, ...] = ()  # labels of which there are more than the boxes show (COCO's `iscrowd`)


@dataclass(frozen=True, slots=True)
class ImageRef:
    """A picture in a message: a file, or an image already in memory."""

    source: Path | Image


Part = str | ImageRef


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `supervised`: whether the tokens of an answer are trained on; questions are never supervised."""

    role: Role
    parts: tuple[Part, ...]
    supervised: bool = True

    @property
    def text(self) -> str:
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def images(self) -> tuple[ImageRef, ...]:
        return tuple(part for part in self.parts if isinstance(part, ImageRef))


@dataclass(frozen=True, slots=True)
class Sample:
    """The one conversation type of training, evaluation, chat and server.

    `origin`: the location for messages about this sample, `path:line`. Images are Picture parts; `<image>` in a
    string is literal text.
    """

    id: str
    messages: tuple[Message, ...]
    kind: str = ""
    origin: str = ""

    @property
    def images(self) -> tuple[ImageRef, ...]:
        return tuple(image for message in self.messages for image in message.images)


@dataclass(frozen=True, slots=True)
class Spec:
    """What processor and model must agree on, made from the backbones' configs before either is built.

    Sizes are in pixels (`image_side`, `canvases` as width and height) and tokens (`slots_per_image`: those of one
    tile, behind the projector); `image_mean` and `image_std` per RGB channel.
    """

    vision_width: int
    language_width: int
    vocabulary: int
    slots_per_image: int
    image_side: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    projector: str
    template: str
    feature_layer: int = -2
    feature_tokens: str = "patch"
    space: str = "hidden"  # or "joint": through the tower's last norm and projection, the space it shares with text
    image_mode: str = "square"  # or "pad", or "anyres": an overview and the tiles of one of `canvases`
    image_fit: str = "crop"  # the shorter edge to the side, then the centre, as CLIP; or "stretch", as SigLIP
    image_resample: int = 3  # Pillow's number: 3 bicubic, 2 bilinear
    canvases: tuple[tuple[int, int], ...] = ()
    # "whole": as transformers; "chunks": as the original LLaVA, each text around a picture on its own, and where an
    # anyres picture ends among patches is rounded as there
    tokenization: str = "whole"


@dataclass(frozen=True, slots=True)
class Example:
    """One sample as tensors, image slots already expanded.

    input_ids (tokens,) int64, IMAGE_ID at every image slot · labels (tokens,) int64, the same positions, not
    shifted, IGNORE where nothing is learnt · images (tiles, 3, side, side) uint8, in the order of their slots ·
    slots (slots, 2) int64: the tile and the patch that fill each slot, tile -1 for the newline that ends a row of
    patches; None where every patch of every tile has its slot, in order.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    images: torch.Tensor
    slots: torch.Tensor | None = None

    def __len__(self) -> int:
        return int(self.input_ids.shape[0])


@dataclass(frozen=True, slots=True)
class Batch:
    """One packed row: documents end to end, no padding.

    input_ids, labels, positions (tokens,) int64; `positions` restart at 0 with each document · starts
    (documents + 1,) int32: where each document begins, and the row's end · images (tiles, 3, side, side) uint8,
    at least one tile: a row without pictures carries one blank tile that no slot takes; or, where a frozen tower's
    features are kept, these in their place, floats (tiles, tokens, width) · supervised: how many
    labels are learnt · ids: the documents' sample ids, for messages · slots (slots, 2) int64 or None: as an Example's,
    tiles counted over the row · number: of the row in its step, by which its chance (dropout) is drawn · places: of the
    documents among the stage's samples.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor
    starts: torch.Tensor
    images: torch.Tensor
    supervised: int
    ids: tuple[str, ...] = ()
    slots: torch.Tensor | None = None
    number: int = 0
    places: tuple[int, ...] = ()

    def to(self, device: torch.device | str) -> Batch:
        """The same row on a device; `starts` stays where it is, since it is read number by number."""
        return self._changed(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """The same row in memory that a GPU copies from by itself, while the process goes on."""
        return self._changed(lambda tensor: tensor.pin_memory())

    def _changed(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        changed: dict[str, Any] = {
            name: change(tensor)
            for name in ("input_ids", "labels", "positions", "images", "slots")
            if (tensor := getattr(self, name)) is not None
        }
        return replace(self, **changed)


@dataclass(frozen=True, slots=True)
class LossSum:
    """Summed loss over supervised tokens, and their count; whoever divides knows the count of the whole step.

    tokens (count,) fp32: each one's loss, in the row's order, without gradient.
    """

    sum: torch.Tensor
    count: int
    tokens: torch.Tensor


@dataclass(frozen=True, slots=True)
class Completion:
    """What the model said: text without the end token, why it stopped, tokens read and written."""

    text: str
    finish_reason: Literal["stop", "length", "cancelled"]
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Reject:
    """A sample set aside, with the reason's code and text, and what was received in its place, if anything was."""

    id: str
    origin: str
    reason: str
    detail: str
    raw: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a benchmark with its gold answer; `tags` such as {"type": "colour", "language": "ko"}."""

    id: str
    sample: Sample
    answer: str
    tags: Mapping[str, Any] = field(default_factory=dict)

"""The types that packages exchange, in the order in which data flows.

COCO, captions, boxes ─read→ AnnotatedImage ─teacher→ Sample
LLaVA JSON, messages JSONL ─read──────────────────→ Sample
Sample ─Processor.encode→ Example ─plan, collate→ Batch ─model→ hidden states ─loss→ LossSum
run folder ─load→ Assistant ─→ Completion ─→ scores
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

IGNORE = -100  # label of a token that is not supervised (torch's cross-entropy default, LLaVA's IGNORE_INDEX)
IMAGE_ID = -200  # an image slot in `input_ids`; not in the vocabulary, so no text can become it (LLaVA)

Role = Literal["system", "user", "assistant"]
KINDS = ("caption", "conversation", "detail", "reasoning")
PREFERENCE = "preference"  # the kind of pairs of a chosen and a rejected answer
SIZED_MODES = ("anyres", "naflex")  # image modes in which the number of slots of an image depends on its size


@dataclass(frozen=True, slots=True)
class Box:
    """One object in an image: relative corners, 0-1, origin top left; `attributes` such as {"color": "red"}."""

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
        """Share of the image, 0-1."""
        return (self.x1 - self.x0) * (self.y1 - self.y0)


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """An image with its captions and boxes, before any dialogue."""

    id: str
    path: Path
    captions: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    crowds: tuple[str, ...] = ()  # labels of crowds, which have more objects than boxes (COCO's `iscrowd`)


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image in a message: a file, or an image already in memory."""

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

    Images are `ImageRef` parts; `<image>` in a string is literal text. `origin`: the sample's location, `path:line`.
    `rejected`: in a preference pair, the answer that is worse than the last message, which is the chosen one.
    """

    id: str
    messages: tuple[Message, ...]
    kind: str = ""
    origin: str = ""
    rejected: Message | None = None

    @property
    def images(self) -> tuple[ImageRef, ...]:
        return tuple(image for message in self.messages for image in message.images)


@dataclass(frozen=True, slots=True)
class TowerInput:
    """The input of one of two fused towers: side in pixels, normalisation, and the norm of its features."""

    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    norm: str


@dataclass(frozen=True, slots=True)
class PatchBudget:
    """How a NaFlex tower divides each image into a grid of patches that keeps the image's aspect ratio.

    Attributes:
        patch: Side of a patch, pixels.
        most: The most patches of an image (`max_num_patches`).
        cell: Both sides of a grid are multiples of this: the projector joins cell x cell patches into one slot.
    """

    patch: int
    most: int
    cell: int = 1


@dataclass(frozen=True, slots=True)
class Spec:
    """The settings that processor and model share, read from the backbones' configs before either is built.

    Attributes:
        slots_per_image: Tokens of one tile after the projector; with `naflex`, the most tokens of an image.
        image_side: Side of a tile, pixels.
        image_mean, image_std: Per RGB channel.
        feature_layer: Layer of the vision tower whose output is used (LLaVA-1.5, section 3: the last but one), or
            several, whose features are concatenated along the width.
        feature_tokens: `patch`, or `cls_patch` with the class token.
        space: `hidden` for the layer's output as it is; `joint` to apply the tower's last norm and projection, which
            map into the space that images share with texts.
        feature_norm: `off`, `tower` (its own final norm on each feature layer) or `layer_norm` (without weights).
        image_mode: `square`, `pad`, `anyres` (an overview and the tiles of one of `canvases`, LLaVA-1.6) or `naflex`
            (a grid of patches with the image's aspect ratio, arXiv 2502.14786, section 2.4.2).
        image_fit: `crop` (scale the shorter edge, then cut out the centre, as CLIP does), `crop_round` (the same, with
            the corner of an uneven cut rounded as in timm) or `stretch` (as SigLIP does).
        image_resize: Length of the shorter edge before the centre is cut out, pixels (DINOv2: 256); 0 is `image_side`.
        image_resample: Pillow's number: 3 bicubic, 2 bilinear.
        towers: The inputs of two fused towers, in order; empty for one tower. `image_side` is then the larger side.
        canvases: (width, height) in pixels.
        patch_budget: The patches of an image with `naflex`; else None.
        tokenization: `whole` tokenizes a conversation as one text, as transformers does. `chunks` does two things as
            the original LLaVA does: it tokenizes each text between images by itself, and it rounds the size of an
            anyres image in patches.
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
    feature_layer: int | tuple[int, ...] = -2
    feature_tokens: str = "patch"
    feature_norm: str = "off"
    space: str = "hidden"
    image_mode: str = "square"
    image_fit: str = "crop"
    image_resample: int = 3
    image_resize: int = 0
    towers: tuple[TowerInput, ...] = ()
    canvases: tuple[tuple[int, int], ...] = ()
    patch_budget: PatchBudget | None = None
    tokenization: str = "whole"

    @property
    def slots_vary(self) -> bool:
        """Whether the number of slots of an image depends on its size."""
        return self.image_mode in SIZED_MODES


@dataclass(frozen=True, slots=True)
class Example:
    """One sample as tensors, image slots already expanded.

    Attributes:
        input_ids: (tokens,) int64, IMAGE_ID at every image slot.
        labels: (tokens,) int64, same positions, not shifted; IGNORE where a token is not supervised.
        images: (tiles, 3, side, side) uint8, in the order of their slots; with `naflex` (images, most patches, values
            of a patch), zeros after an image's last patch.
        slots: (slots, 2) int64, the tile and the patch that fill each slot; tile -1 is the newline that ends a row of
            patches. None if every patch of every tile has its slot, in order.
        grids: (images, 2) int64 with `naflex`, the rows and columns of each image's patches; else None.
        documents: Lengths of the documents of a preference pair, chosen first; empty if the example is one document.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    images: torch.Tensor
    slots: torch.Tensor | None = None
    grids: torch.Tensor | None = None
    documents: tuple[int, ...] = ()

    def __len__(self) -> int:
        return int(self.input_ids.shape[0])

    def tiles(self, chosen: slice | list[int], device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return some tiles and their grids on a device."""
        return self.images[chosen].to(device), None if self.grids is None else self.grids[chosen].to(device)


@dataclass(frozen=True, slots=True)
class Batch:
    """One packed row: documents end to end, without padding.

    Attributes:
        input_ids, labels: (tokens,) int64.
        positions: (tokens,) int64, starting at 0 in each document.
        starts: (documents + 1,) int32, the index at which each document begins, and the end of the row.
        images: As in `Example`, at least one tile: a row without images has one blank tile that no slot uses. If the
            features of a frozen tower are cached, `images` contains those features instead: float (tiles, tokens,
            width).
        supervised: Number of supervised tokens.
        ids: The documents' sample ids, for messages.
        slots: (slots, 2) int64 or None, as in `Example`, tiles counted over the row.
        grids: (tiles, 2) int64 or None, as in `Example`.
        number: Index of the row within its step; seeds dropout.
        places: The documents' indices among the stage's samples.
        pair_documents: Documents of a preference pair, 2 or 3; 0 for other rows. Ids and sample indices are then those
            of the pairs.
        reference: (documents,) fp32, the reference model's log-probability of each answer; None if there is none.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor
    starts: torch.Tensor
    images: torch.Tensor
    supervised: int
    ids: tuple[str, ...] = ()
    slots: torch.Tensor | None = None
    grids: torch.Tensor | None = None
    number: int = 0
    places: tuple[int, ...] = ()
    pair_documents: int = 0
    reference: torch.Tensor | None = None

    @property
    def units(self) -> int:
        """The number that divides a step's summed loss: pairs, or supervised tokens."""
        return (len(self.starts) - 1) // self.pair_documents if self.pair_documents else self.supervised

    def to(self, device: torch.device | str) -> Batch:
        """Return the row on a device; `starts` stays on the CPU, where it is read value by value."""
        return self._changed(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """Return the row in pinned memory, from which a GPU copies asynchronously."""
        return self._changed(lambda tensor: tensor.pin_memory())

    def _changed(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        changed: dict[str, Any] = {
            name: change(tensor)
            for name in ("input_ids", "labels", "positions", "images", "slots", "grids", "reference")
            if (tensor := getattr(self, name)) is not None
        }
        return replace(self, **changed)


@dataclass(frozen=True, slots=True)
class LossSum:
    """Loss summed over supervised tokens, and their count. The trainer divides by the count of the complete step.

    Attributes:
        tokens: (count,) fp32, the loss of each supervised token in the row's order, detached.
    """

    sum: torch.Tensor
    count: int
    tokens: torch.Tensor


@dataclass(frozen=True, slots=True)
class Completion:
    """A generated answer: text without the end token, why it ended, tokens of prompt and answer."""

    text: str
    finish_reason: Literal["stop", "length", "cancelled"]
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Reject:
    """A rejected sample: its location, the code and text of the reason, and the raw reply if there was one."""

    id: str
    origin: str
    reason: str
    detail: str
    raw: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a benchmark with its correct answer; `tags` such as {"type": "colour", "language": "ko"}."""

    id: str
    sample: Sample
    answer: str
    tags: Mapping[str, Any] = field(default_factory=dict)

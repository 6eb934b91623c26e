"""Summarise images and features in a few numbers, so that the results of two programs can be compared."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vistune.interop.parity import ProbeResult

SKETCH = 32  # random projections of a tensor


@dataclass(frozen=True)
class Sketch:
    """A tensor in a few numbers: its shape, its norm, and its projections on `SKETCH` random vectors of signs.

    The mean square difference of two tensors' projections estimates the mean square difference of their values.
    """

    shape: tuple[int, ...]
    norm: float
    values: tuple[float, ...]

    def distance(self, other: Sketch) -> float:
        """Return the root mean square difference, relative to this tensor's root mean square."""
        difference = np.subtract(self.values, other.values)
        scale = self.norm / math.sqrt(max(math.prod(self.shape), 1))
        return float(np.sqrt(np.mean(difference**2))) / max(scale, 1e-12)


@dataclass(frozen=True)
class ImageRecord:
    """A conversation's image at every stage: pixels, the same without their mean and deviation, and features."""

    pixel_hash: str
    pixels: Sketch
    standardised: Sketch
    tower: Sketch
    projected: Sketch


def hash_image(image: Image.Image) -> str:
    """Return the SHA-256 of an image's pixels."""
    return hashlib.sha256(image.tobytes()).hexdigest()


def image_record(result: ProbeResult, mean: Sequence[float], std: Sequence[float]) -> ImageRecord | None:
    """Return the sketches of a probe's image; None without one, or if the tower or the projector failed."""
    if result.pixels is None or result.tower is None or result.projected is None:
        return None
    return ImageRecord(
        hash_pixels(result.pixels, mean, std),
        sketch(result.pixels),
        sketch(standardised(result.pixels)),
        sketch(result.tower),
        sketch(result.projected),
    )


def hash_pixels(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> str:
    """Return the SHA-256 of normalised pixels (tiles, 3, side, side), turned back into 8 bits."""
    scaled = pixels * torch.tensor(std).view(1, 3, 1, 1) + torch.tensor(mean).view(1, 3, 1, 1)
    values = (255 * scaled).round().clamp(0, 255).to(torch.uint8).contiguous()
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()


def standardised(pixels: Tensor) -> Tensor:
    """Return pixels with mean 0 and deviation 1 in each channel, which do not depend on how they are normalised."""
    centred = pixels - pixels.mean(dim=(0, 2, 3), keepdim=True)
    return centred / centred.std(dim=(0, 2, 3), keepdim=True).clamp(min=1e-6)


def sketch(tensor: Tensor) -> Sketch:
    """Return the sketch of a tensor. The signs come from a generator that NumPy keeps unchanged."""
    values = tensor.detach().float().cpu().numpy().ravel()
    random = np.random.RandomState(0)
    projections = []
    for _ in range(SKETCH):
        bits = np.unpackbits(np.frombuffer(random.bytes(-(-len(values) // 8)), dtype=np.uint8), count=len(values))
        both = 2 * float(values[bits.astype(bool)].sum(dtype=np.float64)) - float(values.sum(dtype=np.float64))
        projections.append(rounded(both / max(len(values), 1) ** 0.5))
    return Sketch(tuple(tensor.shape), rounded(float(np.linalg.norm(values))), tuple(projections))


def rounded(value: float) -> float:
    """Round to seven digits, which is the precision of fp32."""
    return float(f"{value:.7g}")

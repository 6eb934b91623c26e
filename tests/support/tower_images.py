"""Images of four shapes, and the tiles that a tower in a folder gets from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vistune.model import read_spec
from vistune.processor import load_tiles
from vistune.recipe import Model
from vistune.types import ImageRef, Spec

SHAPES = ((90, 40), (40, 90), (64, 64), (33, 29))  # width, height


def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)) for width, height in SHAPES]


def spec_for(folder: Path, backbones: Path, **changes: Any) -> Spec:
    return read_spec(Model(vision=str(folder), language=str(backbones / "language"), projector="linear", **changes))


def tiles(spec: Spec) -> Tensor:
    return torch.cat([load_tiles(ImageRef(image), spec) for image in images()])

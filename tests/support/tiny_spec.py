"""The spec of the tiny backbones (conftest), for tests of text alone."""

from __future__ import annotations

from vistune.types import Spec

HALF = (0.5, 0.5, 0.5)
SPEC = Spec(
    vision_width=32,
    language_width=48,
    vocabulary=400,
    slots_per_image=4,
    image_side=32,
    image_mean=HALF,
    image_std=HALF,
    projector="linear",
    template="v1",
)

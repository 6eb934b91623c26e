"""LLaVA-1.5 in its real sizes, on torch's meta device: every tensor's shape and no memory."""

from __future__ import annotations

import copy
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch

from vistune.model import VisionLanguageModel, build_projector
from vistune.model.attention import register
from vistune.model.lora import targets
from vistune.model.trial import require_supported
from vistune.model.vision import VisionTower
from vistune.model.vlm import spec_of
from vistune.recipe import Model

CONFIGS = Path(__file__).parents[1] / "configs"
CLIP = {"image_mean": (0.48, 0.46, 0.41), "image_std": (0.27, 0.26, 0.28), "image_fit": "crop", "image_resample": 3}


def config(name: str) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(CONFIGS / f"{name}.json")


def on_meta(name: str, **choices: Any) -> VisionLanguageModel:
    from transformers import AutoModelForCausalLM, CLIPVisionModel

    vision, language = config("clip-vit-large-patch14-336"), config(name)
    require_supported(language, name)
    spec = spec_of(Model(**choices), vision, language.hidden_size, language.vocab_size, CLIP)
    with torch.device("meta"):
        tower = VisionTower(CLIPVisionModel(copy.deepcopy(vision)), spec)
        model = AutoModelForCausalLM.from_config(language, attn_implementation=register())
        return VisionLanguageModel(tower, build_projector(spec, seed=0), model, spec)


def count(model: VisionLanguageModel) -> dict[str, int]:
    return {part: sum(prod(p.shape) for _, p in parameters) for part, parameters in model.parts().items()}


def clip_large(layers: int) -> int:
    """Parameters of ViT-L/14-336 up to a layer: patches, class token, 577 places, a norm before, then the layers."""
    width, inner = 1024, 4096
    layer = 4 * (width * width + width) + 2 * width * inner + inner + width + 2 * 2 * width
    return 3 * 14 * 14 * width + width + 577 * width + 2 * width + layers * layer


def llama(width: int, inner: int, layers: int) -> int:
    """Embedding and head apart, no biases, a norm before each half of a layer and one at the end."""
    return 2 * 32000 * width + layers * (4 * width * width + 3 * width * inner + 2 * width) + width


@pytest.mark.parametrize(
    ("name", "width", "inner", "layers", "projector"),
    [("vicuna-7b", 4096, 11008, 32, 20_979_712), ("vicuna-13b", 5120, 13824, 40, 31_467_520)],
)
def test_llava_15_has_its_published_size(name: str, width: int, inner: int, layers: int, projector: int) -> None:
    model = on_meta(name, image_mode="pad")
    assert all(p.is_meta for p in model.parameters())
    assert count(model) == {
        "vision": clip_large(23),  # the last layer lies behind feature layer -2
        "projector": projector,
        "language": llama(width, inner, layers),
        "adapters": 0,
    }
    assert model.spec.slots_per_image == 576
    assert (model.spec.vision_width, model.spec.language_width) == (1024, width)
    assert model.spec.image_side == 336
    assert tuple(model.head.weight.shape) == (32000, width)
    assert {name: tuple(t.shape) for name, t in model.projector_state().items()} == {
        "0.weight": (width, 1024),
        "0.bias": (width,),
        "2.weight": (width, width),
        "2.bias": (width,),
    }
    assert len(targets(model.language, None)) == 7 * layers
    assert len(targets(model.language, ("attention",))) == 4 * layers


def test_llava_1_has_one_linear_layer_and_256_slots_at_224_pixels() -> None:
    """arXiv 2304.08485: ViT-L/14 at 224 pixels, a linear projection."""
    assert count(on_meta("vicuna-7b", projector="linear"))["projector"] == 1024 * 4096 + 4096
    vision = config("clip-vit-large-patch14-336")
    vision.image_size = 224
    assert spec_of(Model(projector="linear"), vision, 4096, 32000, CLIP).slots_per_image == 256


def test_anyres_adds_one_newline() -> None:
    model = on_meta("vicuna-7b", image_mode="anyres")
    assert count(model)["projector"] == 20_979_712 + 4096
    assert model.spec.canvases == ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))

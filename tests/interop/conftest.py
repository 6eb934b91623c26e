"""Golden folders, and tiny models in the layouts that exist on disks: made here, read by the code under test."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from trained_models import save_trained

from vistune.recipe import Lora

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="session")
def golden_original(golden: Path) -> Path:
    return golden / "ckpt_original_linear"


@pytest.fixture(scope="session")
def golden_hf(golden: Path) -> Path:
    return golden / "ckpt_hf_clip_llama"


@pytest.fixture(scope="session")
def golden_images(golden: Path) -> Path:
    return golden / "images"


@pytest.fixture
def original(tiny_backbones: Path, tmp_path: Path) -> Callable[..., Path]:
    """A merged folder of the original's layout over the tiny backbones; `change` edits its config."""

    def make(name: str = "merged", *, projector: str = "mlp2x_gelu", tower_inside: bool = False, **change: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        tensors = load_file(tiny_backbones / "language" / "model.safetensors")
        tensors |= {f"model.mm_projector.{key}": t for key, t in projector_tensors(projector).items()}
        if change.get("image_aspect_ratio") == "anyres":
            tensors["model.image_newline"] = torch.randn(48)
        if tower_inside:
            tower = load_file(tiny_backbones / "vision" / "model.safetensors")
            prefix = "model.vision_tower.vision_tower.vision_model."
            tensors |= {prefix + key.removeprefix("vision_model."): t for key, t in tower.items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((tiny_backbones / "language" / "config.json").read_text())
        config |= {
            "architectures": ["LlavaLlamaForCausalLM"],
            "model_type": "llava",
            "mm_vision_tower": str(tiny_backbones / "vision"),
            "mm_projector_type": projector,
            "mm_hidden_size": 32,
            "mm_vision_select_layer": -2,
            "mm_vision_select_feature": "patch",
            "image_aspect_ratio": "pad",
            **change,
        }
        (folder / "config.json").write_text(json.dumps(config))
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (folder / file).write_bytes((tiny_backbones / "language" / file).read_bytes())
        return folder

    return make


@pytest.fixture
def tuned(tiny_backbones: Path, tmp_path: Path) -> Callable[..., Path]:
    """A model folder over the tiny backbones, with the named parts trained."""

    def make(*trained: str, lora: Lora | None = None, **choices: Any) -> Path:
        named = {"vision": str(tiny_backbones / "vision"), "language": str(tiny_backbones / "language"), **choices}
        return save_trained(tmp_path / "tuned", trained, seed=4, scale=0.1, lora=lora, **named)

    return make


def projector_tensors(kind: str) -> Tensors:
    """Random tensors of a projector from width 32 to 48, under the names of nn.Sequential."""
    chance = torch.Generator().manual_seed(3)

    def linear(prefix: str, inputs: int) -> Tensors:
        return {
            f"{prefix}weight": 0.1 * torch.randn(48, inputs, generator=chance),
            f"{prefix}bias": 0.1 * torch.randn(48, generator=chance),
        }

    return linear("", 32) if kind == "linear" else {**linear("0.", 32), **linear("2.", 48)}

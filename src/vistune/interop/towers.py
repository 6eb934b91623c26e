"""Vision towers as others read them: a folder of their own, with every layer their config counts.

tensors + config -> folder of weights, config, picture rules · tower cut at the feature layer -> whole again
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor

from vistune.files import write_json
from vistune.interop.tensors import LazyTensor, load_tensor, written_name
from vistune.types import Spec

SHARD = "5GB"


def with_full_depth(tower: Mapping[str, LazyTensor], config: Any, feature_layer: int) -> tuple[dict[str, LazyTensor], Any]:
    """(tensors, config) of a tower cut at its feature layer, with as many layers behind it as there were.

    Nobody reads their output. All of their weights are zero, so they hand on what they get; the last norm, which is
    not kept either, has unit weights. So the feature layer keeps its number in every loader; as the last one it would
    be normalised by some (vLLM) and not by others.
    """
    first = "encoder.layers.0."
    layer = {name.removeprefix(first): tensor for name, tensor in tower.items() if name.startswith(first)}
    longer = dict(tower)
    behind = -1 - feature_layer
    for k in range(config.num_hidden_layers, config.num_hidden_layers + behind):
        longer |= {f"encoder.layers.{k}.{name}": torch.zeros_like(load_tensor(tensor)) for name, tensor in layer.items()}
    width = load_tensor(layer["layer_norm1.weight"])
    longer.setdefault("post_layernorm.weight", torch.ones_like(width))
    longer.setdefault("post_layernorm.bias", torch.zeros_like(width))
    config = copy.deepcopy(config)
    config.num_hidden_layers += behind
    return longer, config


def save_tensors(state: Mapping[str, Tensor], folder: Path) -> None:
    """safetensors, in shards of 5 GB with an index where there are several."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_torch_state_dict(tensors, folder, max_shard_size=SHARD, metadata={"format": "pt"})


def write_config(config: Any, folder: Path) -> None:
    """config.json without the places on this machine that its parts were read from."""
    write_json(folder / "config.json", without_paths(config.to_dict()))


def without_paths(tree: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in tree.items() if key != "_name_or_path"}
    return {key: without_paths(value) if isinstance(value, dict) else value for key, value in kept.items()}


def image_processor(spec: Spec) -> Any:
    """transformers' picture rules that make the tiles this model was trained on."""
    from transformers import (
        CLIPImageProcessorPil,
        LlavaImageProcessorPil,
        LlavaNextImageProcessorPil,
        SiglipImageProcessorPil,
    )

    side = {"height": spec.image_side, "width": spec.image_side}
    common = {"image_mean": list(spec.image_mean), "image_std": list(spec.image_std), "resample": spec.image_resample}
    crop = {"size": {"shortest_edge": spec.image_side}, "crop_size": side}
    if spec.image_mode == "anyres":
        pairs = [[height, width] for width, height in spec.canvases]
        return LlavaNextImageProcessorPil(**common, **crop, image_grid_pinpoints=pairs)
    if spec.image_fit == "stretch":
        return SiglipImageProcessorPil(**common, size=side)
    if spec.image_mode == "pad":
        return LlavaImageProcessorPil(**common, **crop, do_pad=True)
    return CLIPImageProcessorPil(**common, **crop)


def write_tower(tower: Mapping[str, LazyTensor], config: Any, spec: Spec, folder: Path) -> None:
    """A vision tower's own folder, in transformers' layout."""
    save_tensors({written_name("vision", name, "tower"): load_tensor(tensor) for name, tensor in tower.items()}, folder)
    write_config(config, folder)
    image_processor(replace(spec, image_mode="square")).save_pretrained(folder)

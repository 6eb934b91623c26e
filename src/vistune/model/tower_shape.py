"""Describe a vision tower by running it once on torch's meta device, without weights.

config, feature layers, side -> TowerShape: tokens before the patches, patch grid, width, layers, final norm

There is no table of architectures: any model of transformers is a tower if it takes `pixel_values` and returns hidden
states over a grid of patches.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import lru_cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vistune.errors import RecipeError
from vistune.model.shapes import VisionConfig
from vistune.model.tower_class import class_of, not_a_tower
from vistune.model.tower_trace import first_patch, run_on_meta
from vistune.types import PatchBudget

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

MOST_TOKENS_OUTSIDE = 128  # of the grid: class tokens and registers, and YOLOS has 100 detection tokens


@dataclass(frozen=True, slots=True)
class TowerShape:
    """A tower up to its last feature layer.

    Attributes:
        kind: `model_type` of its config.
        side: Side of its square input, pixels.
        rows: Rows of patches.
        columns: Columns of patches.
        prefix: Number of tokens before the patches: class token, distillation token, registers.
        suffix: Number of tokens after the patches: the class token of Llama 4.
        width: Width of its features, of all feature layers together.
        stack: Name of the module list whose k-th module returns hidden state k + 1; "" if there is no such list.
        depth: Number of layers in the config.
        kept: Number of layers up to the last feature layer.
        norm: Name of the final norm, which works on the feature layer's width; "" if there is none.
        norm_parameters: Number of its parameters.
        unused: Names of parameters on which the features do not depend.
        parameters: Number of parameters on which the features depend.
        layer: Number of parameters of the largest layer.
        hidden: Width of a token inside the layers.
        inner: Width of the layers' MLPs.
        heads: Attention heads.
        gelu: Whether the MLPs have one activation function; quick GELU keeps one more tensor.
    """

    kind: str
    side: int
    rows: int
    columns: int
    prefix: int
    suffix: int
    width: int
    stack: str
    depth: int
    kept: int
    norm: str
    norm_parameters: int
    unused: frozenset[str]
    parameters: int
    layer: int
    hidden: int
    inner: int
    heads: int
    gelu: bool

    @property
    def patches(self) -> int:
        return self.rows * self.columns

    @property
    def tokens(self) -> int:
        return self.prefix + self.patches + self.suffix

    def padded_to(self, budget: PatchBudget | None) -> TowerShape:
        """Return the shape with the most patches of a NaFlex tower, to which each image is padded; else itself."""
        return self if budget is None else replace(self, rows=1, columns=budget.most)

    @property
    def cuts(self) -> bool:
        """Whether the tower can end at its last feature layer; else it is run as a whole."""
        return bool(self.stack)


def layers_kept(layers: int, feature_layer: int) -> int:
    """Return the number of layers up to the feature layer: -1 keeps all, -2 drops the last, as in hidden_states."""
    depth = layers + 1 + feature_layer
    if not 0 < depth <= layers:
        raise RecipeError(f"model.feature_layer={feature_layer} is outside the tower's {layers} layers", "-2 is usual")
    return depth


def as_layers(feature_layer: int | Sequence[int]) -> tuple[int, ...]:
    """Return the indices of the feature layers."""
    return (feature_layer,) if isinstance(feature_layer, int) else tuple(feature_layer)


def layers_in(
    config: VisionConfig | SimpleNamespace, feature_layer: int | Sequence[int], side: int | None, *, cut: bool
) -> tuple[int, ...]:
    """Return the indices of the feature layers in a stored tower; `cut`: it may end at the last of them already."""
    layers = as_layers(feature_layer)
    if cut and describe_tower(config, -1, side).cuts:
        return tuple(layer - max(layers) - 1 for layer in layers)
    return layers


def describe_tower(
    config: VisionConfig | SimpleNamespace, feature_layer: int | Sequence[int] = -2, side: int | None = None
) -> TowerShape:
    """Describe the tower of a config.

    Args:
        feature_layer: One or several indices of hidden states, -1 for the last layer's.
        side: Side of its square input, pixels. Default: the config's. If the tower does not take images of this side,
            the config's side is used.

    Raises RecipeError if it is not a tower, or if a feature layer does not exist.
    """
    tower: Any = as_config(config)
    layers = as_layers(feature_layer)
    own = side_of(tower)
    first = side or own
    if first is None:
        class_of(tower)  # a tower that takes no square images has no side, and that is the reason
        raise RecipeError(
            f"vision tower: {tower.model_type!r} names no image size", "name its folder with a preprocessor_config.json"
        )
    kind: Any = type(tower)
    key = json.dumps(_without_dtypes(tower.to_dict()), sort_keys=True, default=str)
    try:
        return _describe(kind, key, layers, first)
    except RecipeError:
        if own is None or own == first:
            raise
    return _describe(kind, key, layers, own)


def _without_dtypes(entries: dict[str, Any]) -> dict[str, Any]:
    """Return a config's entries without the precision of weights, in which a part of a tower would be built."""
    return {
        key: _without_dtypes(value) if isinstance(value, dict) else value
        for key, value in entries.items()
        if key not in ("dtype", "torch_dtype")
    }


def as_config(config: VisionConfig | SimpleNamespace) -> PreTrainedConfig:
    """Return transformers' config for the contents of a config.json."""
    from transformers import AutoConfig, PreTrainedConfig

    if isinstance(config, PreTrainedConfig):
        return config
    return AutoConfig.for_model(**vars(config))


def side_of(config: Any) -> int | None:
    """Return the side of a tower's square input by its config; None if the config does not say it."""
    side = getattr(config, "image_size", None)
    patches, patch = getattr(config, "num_patches", None), getattr(config, "patch_size", None)
    if side is None and isinstance(patches, int) and isinstance(patch, int):
        return math.isqrt(patches) * patch
    if side is None and (pretrained := getattr(config, "pretrained_cfg", None)):
        side = list(pretrained["input_size"])[-1]
    if isinstance(side, list | tuple):
        side = side[0] if len(set(side)) == 1 else None
    return None if side is None else int(side)


def set_depth(config: Any, layers: int) -> None:
    """Set the number of layers in a tower's config, and the names of stages that backbones' configs derive from it."""
    config.num_hidden_layers = layers
    if hasattr(config, "stage_names"):
        config.stage_names = ["stem", *(f"stage{number}" for number in range(1, layers + 1))]
        config.set_output_features_output_indices(out_features=None, out_indices=None)


def tower_class(config: Any, space: str = "hidden") -> type[PreTrainedModel]:
    """Return transformers' class for a tower; in the joint space CLIP's class with the projection.

    Raises RecipeError if there is none, or if it does not take square images.
    """
    from transformers import CLIPVisionModelWithProjection

    return CLIPVisionModelWithProjection if space == "joint" else class_of(config)


def tokens_first(state: Tensor) -> Tensor:
    """Return a hidden state as (tiles, tokens, width).

    Convolutions give (tiles, width, rows, columns); SAM and Hiera give (tiles, rows, columns, width).
    """
    if state.ndim == 3:
        return state
    return state.flatten(1, 2) if has_width_last(state) else state.flatten(2).mT


def has_width_last(state: Tensor) -> bool:
    """Return whether a map of square patches is (tiles, rows, columns, width)."""
    _, rows, columns, width = state.shape
    return rows == columns != width


@lru_cache(maxsize=64)
@torch.inference_mode(mode=False)
@torch.enable_grad()
def _describe(kind: type[PreTrainedConfig], key: str, layers: tuple[int, ...], side: int) -> TowerShape:
    config = kind.from_dict(json.loads(key))
    name = config.model_type
    kind_of_model = tower_class(config)
    trace = run_on_meta(config, kind_of_model, side)
    states, depth = trace.states, len(trace.states) - 1
    stack = trace.stack()
    if name == "timm_wrapper":  # its hidden states begin after the embeddings
        depth += 1
    kept = max(layers_kept(depth, layer) for layer in layers)
    chosen = [states[layer] for layer in layers]
    grids = {_grid(state, config, side) for state in chosen}
    if len(grids) > 1:
        raise RecipeError(
            f"model.feature_layer={list(layers)}: these layers of {name} have different grids of patches",
            "name one layer",
        )
    ((rows, columns),) = grids
    outside = tokens_first(chosen[0]).shape[1] - rows * columns
    width = tokens_first(chosen[0]).shape[2]
    if not 0 <= outside <= MOST_TOKENS_OUTSIDE or rows * columns == 0:
        raise not_a_tower(
            name, f"its hidden states have {outside + rows * columns} tokens for {rows} x {columns} patches"
        )
    is_map = chosen[0].ndim == 4
    prefix = 0 if is_map else first_patch(_with_one_layer(config), kind_of_model, side, (rows, columns), stack)
    parameters = dict(trace.tower.named_parameters())
    gradients = torch.autograd.grad([state.sum() for state in chosen], list(parameters.values()), allow_unused=True)
    unused = frozenset(name for name, gradient in zip(parameters, gradients, strict=True) if gradient is None)
    used = {name: tensor for name, tensor in parameters.items() if name not in unused}
    container = trace.tower.get_submodule(stack) if stack else nn.ModuleList()
    first = container[0] if stack else trace.tower
    inner = max((p.shape[0] for n, p in first.named_parameters() if p.ndim == 2 and "gate" not in n), default=0)
    norm = trace.norm(stack, width) if stack else ""
    can_cut = stack and not is_map and getattr(config, "num_hidden_layers", None) == depth
    return TowerShape(
        kind=name,
        side=side,
        rows=rows,
        columns=columns,
        prefix=prefix,
        suffix=outside - prefix,
        width=width * len(layers),
        stack=stack if can_cut else "",
        depth=depth,
        kept=kept,
        norm=norm,
        norm_parameters=sum(tensor.numel() for tensor in trace.tower.get_submodule(norm).parameters()) if norm else 0,
        unused=unused,
        parameters=sum(tensor.numel() for tensor in used.values()),
        layer=max((sum(p.numel() for p in layer.parameters()) for layer in container), default=0),
        hidden=width,
        inner=inner,
        heads=_heads(config),
        gelu=getattr(config, "hidden_act", "gelu") != "quick_gelu",
    )


def _grid(state: Tensor, config: PreTrainedConfig, side: int) -> tuple[int, int]:
    """Return (rows, columns) of a hidden state's patches."""
    if state.ndim == 4:
        rows, columns = state.shape[1:3] if has_width_last(state) else state.shape[2:]
        if rows != columns or tokens_first(state).shape[2] == rows:
            raise not_a_tower(config.model_type, f"its hidden states {tuple(state.shape)} are not square maps")
        return rows, columns
    patch = getattr(config, "patch_size", None)
    patch = patch[0] if isinstance(patch, list | tuple) else patch
    if patch is None:
        raise not_a_tower(config.model_type, "its config has no patch_size")
    return side // patch, side // patch


def _with_one_layer(config: PreTrainedConfig) -> PreTrainedConfig:
    short = deepcopy(config)
    if getattr(short, "num_hidden_layers", None):
        set_depth(short, 1)
    return short


def _heads(config: PreTrainedConfig) -> int:
    """Return the number of attention heads; 0 if the config does not say it. Some have a number per stage."""
    heads = getattr(config, "num_attention_heads", None) or 0
    return int(max(heads) if isinstance(heads, list | tuple) else heads)

"""The vision tower: any image encoder of transformers, cut after its last feature layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from torch.nn.functional import interpolate

from vistune.errors import RecipeError, reason_of
from vistune.model.shapes import VisionConfig
from vistune.model.tower_class import missing_package, require_torchvision
from vistune.model.tower_inputs import normalised, tower_inputs
from vistune.model.tower_shape import (
    TowerShape,
    describe_tower,
    layers_in,
    set_depth,
    tokens_first,
    tower_class,
)
from vistune.model.tower_trace import first_tensor, states_of
from vistune.model.tower_weights import read_weights
from vistune.recipe.hub import fail_fast_without_network
from vistune.types import Spec

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


class _LastLayer(Exception):
    """Ends a tower's forward pass after its last feature layer."""

    def __init__(self, state: Tensor) -> None:
        super().__init__()
        self.state = state


class _End(nn.Module):
    """Follows the last feature layer and ends the forward pass: no norm, pooling or later layer is computed."""

    def forward(self, *args: object, **kwargs: object) -> Tensor:
        raise _LastLayer(first_tensor(args, kwargs))


class VisionTower(nn.Module):
    """A tower that ends at its last feature layer; later layers are dropped.

    A tower whose hidden states are not the outputs of a list of layers is run as a whole. In the joint space, the
    tower's last norm and its projection are applied to every token of the feature layer.

    Args:
        tower: transformers' model.
        cut: Whether it ends at its last feature layer already.
    """

    def __init__(self, tower: PreTrainedModel, spec: Spec, *, cut: bool = False) -> None:
        super().__init__()
        self.joint = spec.space == "joint"
        self.tower = tower
        self.feature_layers = layers_in(self.body.config, spec.feature_layer, spec.image_side, cut=cut)
        shape = describe_tower(self.body.config, self.feature_layers, spec.image_side)
        self.shape = shape.padded_to(spec.patch_budget)
        self.has_class_slot = spec.feature_tokens == "cls_patch"
        # With `layer_norm`, a norm without weights; with `tower`, the name of the tower's own.
        plain = spec.feature_norm == "layer_norm"
        self.norm = nn.LayerNorm(self.shape.hidden, elementwise_affine=False) if plain else None
        self.own_norm = self.shape.norm if self.joint or spec.feature_norm == "tower" else ""
        self.states: dict[int, Tensor] = {}  # of this forward pass, by index
        self._drop_unused()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", 255 * torch.tensor(spec.image_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(spec.image_std).view(1, 3, 1, 1), persistent=False)

    @property
    def towers(self) -> Sequence[VisionTower]:
        """Return a list with only this tower, as `FusedTowers` returns both."""
        return (self,)

    @property
    def body(self) -> Any:
        """The tower itself, without a projection into a joint space."""
        return self.tower.vision_model if self.joint else self.tower

    def layers(self) -> list[nn.Module]:
        """Return the layers, if the tower is cut, except those whose outputs a hook takes."""
        if not self.shape.cuts:
            return []
        stack = list(self.body.get_submodule(self.shape.stack))[:-1]
        return [layer for layer in stack if not layer._forward_hooks]

    def forward(self, images: Tensor, grids: Tensor | None = None) -> Tensor:
        """Encode tiles, uint8 (tiles, 3, side, side), as features (tiles, tokens, width).

        With `grids` (tiles, 2), tiles are NaFlex patches, uint8 (tiles, patches, values); the features after a tile's
        rows * columns patches mean nothing. A frozen tower keeps no activations.
        """
        is_trained = torch.is_grad_enabled() and any(p.requires_grad for p in self.tower.parameters())
        with torch.set_grad_enabled(is_trained):
            pixels = normalised(images, self.mean, self.std).to(next(self.tower.parameters()).dtype)
            states = self._hidden_states(tower_inputs(self.body, pixels, grids))
            return torch.cat([self._features(state) for state in states], dim=-1)

    def _hidden_states(self, arguments: Mapping[str, Tensor | None]) -> list[Tensor]:
        """Return the hidden states of the feature layers, as transformers does with `output_hidden_states`."""
        if not self.shape.cuts:
            all_states = states_of(self.body(**arguments, output_hidden_states=True))
            return [all_states[layer] for layer in self.feature_layers]
        self.states.clear()
        try:
            self.body(**arguments)
        except _LastLayer as end:
            self.states[max(self.feature_layers)] = end.state
        states = [self.states[layer] for layer in self.feature_layers]
        self.states.clear()
        return states

    def _features(self, state: Tensor) -> Tensor:
        tokens, first = tokens_first(state), self.shape.prefix
        patches = tokens[:, first : first + self.shape.patches]
        tokens = torch.cat([tokens[:, :1], patches], dim=1) if self.has_class_slot else patches
        norm = self.body.get_submodule(self.own_norm) if self.own_norm else self.norm
        features: Tensor = tokens if norm is None else norm(tokens)
        return self.tower.visual_projection(features) if self.joint else features

    def _drop_unused(self) -> None:
        """Drop layers after the last feature layer, and parameters on which the features do not depend.

        A tower that is run as a whole keeps them as buffers, which are never trained.
        """
        body, shape = self.body, self.shape
        unused = {name for name in shape.unused if not (self.own_norm and name.startswith(f"{self.own_norm}."))}
        if not shape.cuts:
            for name in unused:
                parent, _, leaf = name.rpartition(".")
                module = body.get_submodule(parent)
                value = getattr(module, leaf).detach()
                delattr(module, leaf)
                module.register_buffer(leaf, value)
            return
        kept = shape.kept
        stack = list(body.get_submodule(shape.stack))[:kept]
        for layer in self.feature_layers:
            if layer < max(self.feature_layers):
                index = shape.depth + layer
                stack[index].register_forward_hook(partial(_keep, self.states, layer))
        parent, _, leaf = shape.stack.rpartition(".")
        kind = type(body.get_submodule(shape.stack))
        listed = [*stack, _End()]
        setattr(body.get_submodule(parent), leaf, kind(*listed) if kind is nn.Sequential else nn.ModuleList(listed))
        for config in (body.config, self.tower.config):
            set_depth(config, kept)
        for path, module in list(body.named_modules()):
            names = [f"{path}.{name}".removeprefix(".") for name, _ in module.named_parameters()]
            if path and names and unused.issuperset(names):
                parent, _, leaf = path.rpartition(".")
                setattr(body.get_submodule(parent), leaf, nn.Identity())
        for name, _ in list(body.named_parameters()):
            if name in unused:
                parent, _, leaf = name.rpartition(".")
                setattr(body.get_submodule(parent), leaf, None)


class FusedTowers(nn.Module):
    """Two towers over the same image, as in Prismatic (arXiv 2402.07865): their features are concatenated.

    A tile has the larger of their sides; a tower with a smaller one gets it resized. If the second tower has another
    grid of patches, its features are interpolated to the grid of the first.
    """

    def __init__(self, towers: Sequence[VisionTower]) -> None:
        super().__init__()
        self.fused = nn.ModuleList(towers)

    @property
    def towers(self) -> Sequence[VisionTower]:
        """Return both towers."""
        return cast(Sequence[VisionTower], self.fused)

    def layers(self) -> list[nn.Module]:
        """Return the layers of both towers that may be compiled."""
        return [layer for tower in self.towers for layer in tower.layers()]

    def forward(self, images: Tensor, grids: None = None) -> Tensor:
        """Encode tiles, uint8 (tiles, 3, side, side), as features (tiles, patches, width of both)."""
        grid = self.towers[0].shape.rows, self.towers[0].shape.columns
        features = []
        for tower in self.towers:
            shape = tower.shape
            pixels = images
            if images.shape[-1] != shape.side:
                resized = interpolate(images.float(), (shape.side, shape.side), mode="bicubic", antialias=True)
                pixels = resized.clamp(0, 255)
            patches = tower(pixels)
            if (shape.rows, shape.columns) != grid:
                square = patches.mT.unflatten(2, (shape.rows, shape.columns))
                regridded = interpolate(square.float(), grid, mode="bilinear", antialias=True)  # not there in bf16
                patches = regridded.flatten(2).mT.to(patches.dtype)
            features.append(patches)
        return torch.cat(features, dim=-1)


def _keep(states: dict[int, Tensor], layer: int, _: nn.Module, __: object, output: Any) -> None:
    states[layer] = output[0] if isinstance(output, tuple) else output


def slots_of_tile(shape: TowerShape, feature_tokens: str) -> int:
    """Return the number of tokens of a tile: patches, and the class token if `feature_tokens` keeps it."""
    with_class_token = feature_tokens == "cls_patch"
    if with_class_token and not shape.prefix:
        raise RecipeError(f"feature_tokens=cls_patch: {shape.kind} has no class token before its patches", "use patch")
    return shape.patches + with_class_token


def width_of(config: VisionConfig, shape: TowerShape, space: str) -> int:
    """Return the features' width. Raises RecipeError if the tower has no joint space with text."""
    if space == "hidden":
        return shape.width
    if shape.kind != "clip_vision_model" or shape.width != shape.hidden:
        raise RecipeError(
            f"model.space=joint: {shape.kind} has no projection into a joint space",
            "use a CLIP tower and one feature layer",
        )
    return int(config.projection_dim)


def resolve_norm(setting: str, shape: TowerShape, space: str) -> str:
    """Return the norm of the features: `off`, `tower` or `layer_norm`.

    `auto` is off for the CLIP and SigLIP families, as LLaVA uses them, and in the joint space. Others get their own
    final norm: hidden states of DINOv2 have outliers in the hundreds.
    """
    if setting in ("tower", "layer_norm") and space == "joint":
        raise RecipeError(f"model.feature_norm={setting}: space=joint has a norm already", "remove feature_norm")
    if setting == "tower" and not shape.norm:
        raise RecipeError(
            f"model.feature_norm=tower: {shape.kind} has no final norm of this width", "use feature_norm=layer_norm"
        )
    if setting != "auto":
        return setting
    if space == "joint" or "clip" in shape.kind or "siglip" in shape.kind:
        return "off"
    return "tower" if shape.norm else "layer_norm"


def vision_config(source: str) -> VisionConfig:
    """Read the tower's config, from a vision folder or the vision part of a joint folder."""
    whole = read_config(source, "vision tower")
    config: VisionConfig | None = getattr(whole, "vision_config", whole)
    if config is None:
        raise RecipeError(f"vision tower {source}: its config has no vision_config", "name a folder with a tower")
    if hasattr(config, "projection_dim"):  # the joint folder's own width, which its vision part may contradict
        config.projection_dim = getattr(whole, "projection_dim", config.projection_dim)
    return config


def read_config(source: str, what: str) -> PreTrainedConfig:
    """Read the config.json of a folder or hub name. Custom code is never run."""
    require_torchvision()
    from transformers import AutoConfig

    if not Path(source).is_dir():
        fail_fast_without_network()
    try:
        return AutoConfig.from_pretrained(source)
    except ImportError as error:
        raise missing_package(source, error) from None
    except (OSError, ValueError, TypeError, StrictDataclassError) as error:
        raise RecipeError(
            f"{what} {source}: cannot be read: {reason_of(error)}", "name a model folder or a hub name"
        ) from None


def load_towers(
    sources: Sequence[str], spec: Spec, dtype: torch.dtype, *, cut: bool = False, meta: bool = False
) -> VisionTower | FusedTowers:
    """Load the tower of a model, or both. Arguments are those of `load_tower`."""
    if not spec.towers:
        return load_tower(sources[0], spec, dtype, cut=cut, meta=meta)
    specs = specs_of_towers(spec)
    return FusedTowers(
        [load_tower(source, own, dtype, cut=cut, meta=meta) for source, own in zip(sources, specs, strict=True)]
    )


def specs_of_towers(spec: Spec) -> list[Spec]:
    """Return a spec for each tower; the spec itself if there is only one."""
    return [
        replace(spec, image_side=own.side, image_mean=own.mean, image_std=own.std, feature_norm=own.norm, towers=())
        for own in spec.towers
    ] or [spec]


def load_tower(source: str, spec: Spec, dtype: torch.dtype, *, cut: bool = False, meta: bool = False) -> VisionTower:
    """Load the tower of a folder or hub name.

    Args:
        cut: Whether the tower was saved without the layers after the feature layer.
        meta: Build it on torch's meta device, without reading weights.

    Raises RecipeError if weights are missing, damaged or of another shape.
    """
    config = vision_config(source)
    kind = tower_class(config, spec.space)
    shape = describe_tower(config, layers_in(config, spec.feature_layer, spec.image_side, cut=cut), spec.image_side)
    if meta and not Path(source).is_dir():
        with torch.device("meta"):
            empty = kind(config)
        return VisionTower(empty, spec, cut=cut)
    settings = {"device_map": "meta"} if meta else {}
    whole = read_config(source, "vision tower")
    tower, missing_keys = read_weights(kind, source, config, whole, dtype=dtype, **settings)
    own_norm = shape.norm if spec.space == "joint" or spec.feature_norm == "tower" else ""
    missing = sorted(
        name
        for name in missing_keys
        if (plain := name.removeprefix("vision_model.")) not in shape.unused
        or (own_norm and plain.startswith(f"{own_norm}."))
    )
    if missing:  # transformers would initialise them at random
        raise RecipeError(
            f"vision tower {source}: {len(missing)} weights are missing, such as {missing[0]}",
            "name a complete tower, or save the tower of a whole model into a separate folder with transformers; "
            "space=joint needs a joint CLIP's folder, with visual_projection",
        )
    return VisionTower(tower, spec, cut=cut)


def load_whole_tower(source: str, config: VisionConfig, dtype: torch.dtype) -> PreTrainedModel:
    """Load a tower with all of its layers."""
    return read_weights(tower_class(config), source, config, read_config(source, "vision tower"), dtype=dtype)[0]

"""Pictures to features: a CLIP or SigLIP tower of transformers, cut off behind its feature layer.

uint8 (tiles, 3, side, side) -> normalised -> encoder layers -> (tiles, slots, width)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vistune.errors import RecipeError
from vistune.types import Spec


class VisionTower(nn.Module):
    """A tower that ends at the feature layer: what lies behind it is dropped, not computed."""

    def __init__(self, tower: Any, spec: Spec, *, cut: bool = False) -> None:
        super().__init__()
        layers = tower.config.num_hidden_layers
        kept = layers if cut else layers_kept(layers, spec.feature_layer)
        tower.encoder.layers = tower.encoder.layers[:kept]
        tower.config.num_hidden_layers = kept
        # hidden_states[k] is an encoder layer's bare output: SigLIP's last norm and pooling head come after it.
        tower.post_layernorm = nn.Identity()
        if hasattr(tower, "head"):
            tower.use_head = False
            tower.head = None
        self.tower = tower
        self.drop_first = spec.feature_tokens == "patch" and has_class_token(tower.config)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", 255 * torch.tensor(spec.image_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(spec.image_std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Features (tiles, slots, width); a frozen tower keeps no activations."""
        learns = torch.is_grad_enabled() and next(self.tower.parameters()).requires_grad
        with torch.set_grad_enabled(learns):
            normal = (images.to(self.mean.dtype) - self.mean) / self.std
            features: Tensor = self.tower(pixel_values=normal).last_hidden_state
        return features[:, 1:] if self.drop_first else features


def layers_kept(layers: int, feature_layer: int) -> int:
    """hidden_states has one entry before the first layer: -1 keeps all layers, -2 all but the last."""
    kept = layers + 1 + feature_layer
    if not 0 < kept <= layers:
        raise RecipeError(f"model.feature_layer={feature_layer} is outside the tower's {layers} layers", "-2 is usual")
    return kept


def has_class_token(config: Any) -> bool:
    return config.model_type == "clip_vision_model"


def slots(config: Any, feature_tokens: str) -> int:
    """Tokens a tile gives: patches, and the class token where it is kept."""
    patches = (config.image_size // config.patch_size) ** 2
    if feature_tokens == "cls_patch":
        if not has_class_token(config):
            raise RecipeError(f"feature_tokens=cls_patch: {config.model_type} has no class token", "use patch")
        return int(patches) + 1
    return int(patches)


def vision_config(source: str) -> Any:
    """The tower's config, from a vision folder or the vision part of a joint one."""
    config = read_config(source, "vision tower")
    config = getattr(config, "vision_config", config)
    if config.model_type not in ("clip_vision_model", "siglip_vision_model"):
        raise RecipeError(f"vision tower {source}: {config.model_type!r} is not served", "use a CLIP or SigLIP tower")
    return config


def read_config(source: str, what: str) -> Any:
    """A folder's or hub name's config.json; no code of its own is run."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RecipeError(f"{what} {source}: cannot be read: {reason}", "name a model folder or a hub name") from None


def load_tower(source: str, spec: Spec, dtype: torch.dtype, *, cut: bool = False) -> VisionTower:
    """The tower of a folder or hub name; `cut` says that it was saved without the layers behind the feature layer."""
    from transformers import CLIPVisionModel, SiglipVisionModel

    kind = {"clip_vision_model": CLIPVisionModel, "siglip_vision_model": SiglipVisionModel}
    tower = kind[vision_config(source).model_type].from_pretrained(source, dtype=dtype, attn_implementation="sdpa")
    return VisionTower(tower, spec, cut=cut)

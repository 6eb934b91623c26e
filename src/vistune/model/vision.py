"""The vision tower: a CLIP or SigLIP encoder of transformers, cut after its feature layer."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, NotRequired, TypedDict

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn

from vistune.errors import RecipeError, reason_of
from vistune.model.shapes import ConfigLike, VisionConfig, whole_model
from vistune.types import Spec

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


class VisionTower(nn.Module):
    """A tower that ends at the feature layer; later layers are dropped.

    In the joint space, the tower's last norm and its projection are applied to every token of the feature layer.
    `cut`: whether the tower ends at the feature layer already.
    """

    def __init__(self, tower: PreTrainedModel, spec: Spec, *, cut: bool = False) -> None:
        super().__init__()
        self.joint = spec.space == "joint"
        body = tower.vision_model if self.joint else tower
        layers = body.config.num_hidden_layers
        kept = layers if cut else layers_kept(layers, spec.feature_layer)
        body.encoder.layers = body.encoder.layers[:kept]
        body.config.num_hidden_layers = tower.config.num_hidden_layers = kept
        if not self.joint:
            # hidden_states[k] is the output of an encoder layer, before the last norm and SigLIP's pooling head.
            body.post_layernorm = nn.Identity()
        if hasattr(body, "head"):
            body.use_head = body.config.vision_use_head = False
            body.head = None
        self.tower = tower
        self.drop_first = spec.feature_tokens == "patch" and has_class_token(body.config)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", 255 * torch.tensor(spec.image_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(spec.image_std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Encode tiles, uint8 (tiles, 3, side, side), as features (tiles, tokens, width).

        A frozen tower keeps no activations.
        """
        is_trained = torch.is_grad_enabled() and next(self.tower.parameters()).requires_grad
        with torch.set_grad_enabled(is_trained):
            normalised = (images.to(self.mean.dtype) - self.mean) / self.std
            features = self._features(normalised.to(next(self.tower.parameters()).dtype))
        return features[:, 1:] if self.drop_first else features

    def _features(self, normalised: Tensor) -> Tensor:
        body = self.tower.vision_model if self.joint else self.tower
        hidden: Tensor = body(pixel_values=normalised).last_hidden_state
        if not self.joint:
            return hidden
        joint: Tensor = self.tower.visual_projection(body.post_layernorm(hidden))
        return joint


def layers_kept(layers: int, feature_layer: int) -> int:
    """Return the number of layers up to the feature layer: -1 keeps all, -2 all but the last, as in hidden_states."""
    kept = layers + 1 + feature_layer
    if not 0 < kept <= layers:
        raise RecipeError(f"model.feature_layer={feature_layer} is outside the tower's {layers} layers", "-2 is usual")
    return kept


def has_class_token(config: ConfigLike) -> bool:
    """Return whether a tower has a class token: CLIP has one, SigLIP does not."""
    return config.model_type == "clip_vision_model"


def tokens_of(config: VisionConfig, feature_tokens: str) -> int:
    """Return the number of tokens of a tile: patches, and the class token if `feature_tokens` keeps it."""
    with_class_token = feature_tokens == "cls_patch"
    if with_class_token and not has_class_token(config):
        raise RecipeError(f"feature_tokens=cls_patch: {config.model_type} has no class token", "use patch")
    return int((config.image_size // config.patch_size) ** 2) + with_class_token


def width_of(config: VisionConfig, space: str) -> int:
    """Return the features' width. Raises RecipeError if the tower has no joint space with text."""
    if space == "hidden":
        return int(config.hidden_size)
    if not has_class_token(config):
        raise RecipeError(
            f"model.space=joint: {config.model_type} has no projection into a joint space", "use a CLIP tower"
        )
    return int(config.projection_dim)


def vision_config(source: str) -> VisionConfig:
    """Read the tower's config, from a vision folder or the vision part of a CLIP folder."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    whole = read_config(source, "vision tower")
    if whole.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES and hasattr(whole, "vision_config"):
        raise whole_model(source, whole.model_type)
    config: VisionConfig = getattr(whole, "vision_config", whole)
    if config.model_type not in ("clip_vision_model", "siglip_vision_model"):
        raise RecipeError(
            f"vision tower {source}: {config.model_type!r} is not supported", "use a CLIP or SigLIP tower"
        )
    if has_class_token(config):  # the joint folder's own width, which its vision part may contradict
        config.projection_dim = getattr(whole, "projection_dim", config.projection_dim)
    return config


def read_config(source: str, what: str) -> PreTrainedConfig:
    """Read the config.json of a folder or hub name. Custom code is never run."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source)
    except (OSError, ValueError, TypeError, StrictDataclassError) as error:
        raise RecipeError(
            f"{what} {source}: cannot be read: {reason_of(error)}", "name a model folder or a hub name"
        ) from None


class ImageRules(TypedDict):
    """A spec's fields that an image processor decides."""

    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    image_fit: NotRequired[str]
    image_resample: NotRequired[int]


def image_rules(source: str) -> ImageRules:
    """Return a spec's image fields from the tower's image processor.

    Raises RecipeError if there is none, or it does not resize to one square, rescale by 1/255 and normalise.
    """
    from transformers import AutoImageProcessor

    try:
        rules = AutoImageProcessor.from_pretrained(source, backend="pil")
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"vision tower {source}: no image processor: {str(error).splitlines()[0]}",
            "put the tower's preprocessor_config.json into its folder",
        ) from None
    cut = (rules.crop_size.height, rules.crop_size.width) if rules.do_center_crop else ()
    edges = {rules.size.shortest_edge or rules.size.height, rules.size.shortest_edge or rules.size.width, *cut}
    steps = rules.do_resize and rules.do_rescale and rules.do_normalize
    if len(edges) > 1 or not steps or abs(255 * rules.rescale_factor - 1) > 1e-6:
        raise RecipeError(
            f"vision tower {source}: its image processor does not resize to one square, rescale by 1/255 and normalise",
            "correct its preprocessor_config.json, or use another tower",
        )
    return {
        "image_mean": tuple(rules.image_mean),
        "image_std": tuple(rules.image_std),
        "image_fit": "crop" if rules.size.shortest_edge else "stretch",
        "image_resample": int(rules.resample),
    }


def load_tower(source: str, spec: Spec, dtype: torch.dtype, *, cut: bool = False, meta: bool = False) -> VisionTower:
    """Load the tower of a folder or hub name.

    Args:
        cut: Whether the tower was saved without the layers after the feature layer.
        meta: See `load_language`.

    Raises RecipeError if weights are missing, damaged or of another shape.
    """
    config = vision_config(source)
    kind = tower_class(config, spec.space)
    if meta and not Path(source).is_dir():
        with torch.device("meta"):
            empty = kind(config)
        return VisionTower(empty, spec, cut=cut)
    settings = {"device_map": "meta"} if meta else {}
    try:
        tower, report = kind.from_pretrained(
            source, config=config, dtype=dtype, attn_implementation="sdpa", output_loading_info=True, **settings
        )
    except (OSError, RuntimeError, SafetensorError, UnpicklingError) as error:
        raise RecipeError(
            f"vision tower {source}: its weights cannot be read: {str(error).splitlines()[0]}", "name a complete tower"
        ) from None
    unused = ("head.",) if spec.space == "joint" else ("head.", "post_layernorm.")
    missing = sorted(name for name in report["missing_keys"] if not name.startswith(unused))
    if missing:  # transformers would initialise them at random
        raise RecipeError(
            f"vision tower {source}: {len(missing)} weights are missing, such as {missing[0]}",
            "name a complete tower; space=joint needs a joint CLIP's folder, with visual_projection",
        )
    return VisionTower(tower, spec, cut=cut)


def tower_class(config: VisionConfig, space: str) -> type[PreTrainedModel]:
    """Return transformers' class for a tower, with the projection for the joint space."""
    from transformers import CLIPVisionModel, CLIPVisionModelWithProjection, SiglipVisionModel

    classes: dict[str, type[PreTrainedModel]] = {
        "joint": CLIPVisionModelWithProjection,
        "clip_vision_model": CLIPVisionModel,
        "siglip_vision_model": SiglipVisionModel,
    }
    return classes["joint" if space == "joint" else config.model_type]

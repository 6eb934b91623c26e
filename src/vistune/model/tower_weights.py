"""Read a tower's weights from its folder, or from the folder of a whole model."""

from __future__ import annotations

from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from vistune.errors import RecipeError
from vistune.model.quiet import without_bars
from vistune.model.shapes import VisionConfig

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# Prefixes of a tower's tensor names in the folder of a whole model.
IN_WHOLE_MODELS = r"^(model\.|git\.)?(vision_tower|vision_model|vision_encoder|visual|image_encoder|image_tower)\."


def read_weights(
    kind: type[PreTrainedModel], source: str, config: VisionConfig, whole: PreTrainedConfig, **settings: Any
) -> tuple[PreTrainedModel, list[str]]:
    """Read a tower's weights.

    Args:
        config: The tower's.
        whole: The folder's, which may be a whole model's.

    Returns the model, and the names of weights that transformers drew at random.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    inside = whole.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    tower, missing = _read_as(kind, source, config, inside=inside, **settings)
    if missing and not inside and hasattr(whole, "vision_config"):  # some joint models keep their tower's prefix
        other, missing_then = _read_as(kind, source, config, inside=True, **settings)
        return (other, missing_then) if len(missing_then) < len(missing) else (tower, missing)
    return tower, missing


@without_bars()
def _read_as(
    kind: type[PreTrainedModel], source: str, config: VisionConfig, *, inside: bool, **settings: Any
) -> tuple[PreTrainedModel, list[str]]:
    renamed = {"key_mapping": {IN_WHOLE_MODELS: ""}} if inside else {}
    try:
        tower, report = kind.from_pretrained(source, config=config, output_loading_info=True, **renamed, **settings)
    except (OSError, RuntimeError, SafetensorError, UnpicklingError) as error:
        raise RecipeError(
            f"vision tower {source}: its weights cannot be read: {str(error).splitlines()[0]}", "name a complete tower"
        ) from None
    if inside:  # transformers would put the prefix back when it saves the tower, and cannot
        tower._weight_conversions = None
    return tower, list(report["missing_keys"])

"""transformers' own layout, LlavaForConditionalGeneration and LlavaNextForConditionalGeneration, in all four namings.

config.json with text_config and vision_config + tensors <-> our parts (llava-hf on the hub, transformers 4.36 and up)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from vistune.errors import CheckpointError
from vistune.files import read_json
from vistune.interop.build import SourceModel
from vistune.interop.folders import readable_config, tokenizer_of
from vistune.interop.tensors import by_part, read_config, read_tensors
from vistune.model.spec import spec_of
from vistune.model.vision import has_class_token, image_rules
from vistune.recipe import Model

CLASSES = ("LlavaForConditionalGeneration", "LlavaNextForConditionalGeneration")
TOKENS: Mapping[str, Literal["patch", "cls_patch"]] = {"default": "patch", "full": "cls_patch"}


def is_hf(config: Mapping[str, Any]) -> bool:
    """By the class, else by the two configs inside."""
    listed = config.get("architectures") or []
    return any(name in CLASSES for name in listed) or (not listed and {"text_config", "vision_config"} <= config.keys())


def read(folder: Path, *, base: str | None, template: str | None, vision: str | None) -> SourceModel:
    """A complete folder. Raises CheckpointError saying what is missing or not served."""
    raw = read_config(folder)
    place = folder / "config.json"
    if base or vision:
        raise CheckpointError(f"{folder}: holds a whole model; --base and --vision are for others", "leave them out")
    if raw.get("quantization_config"):
        raise CheckpointError(f"{place}: saved in a quantised form", "fetch the full-precision model and --quantize it")
    from transformers import AutoConfig

    with readable_config(place):
        config = AutoConfig.from_pretrained(str(folder))
    refuse(config, place)
    tokenizer = tokenizer_of(folder)
    tokenizer.chat_template = processors_template(folder) or tokenizer.chat_template
    if template is None:
        template = "tokenizer" if tokenizer.chat_template else "v1"
    anyres = config.model_type == "llava_next"
    settings = Model(
        projector="mlp2x_gelu",
        feature_layer=config.vision_feature_layer,
        feature_tokens=tokens_kept(config, place),
        image_mode="anyres" if anyres else "pad" if pads(folder) else "square",
        canvases=tuple((width, height) for height, width in config.image_grid_pinpoints) if anyres else None,
        template=template,
    )
    text = config.text_config
    rules = image_rules(str(folder))
    return SourceModel(
        layout="llava-hf",
        folder=folder,
        spec=spec_of(settings, config.vision_config, text.hidden_size, text.vocab_size, rules),
        tokenizer=tokenizer,
        vision=config.vision_config,
        language=text,
        parts=by_part(read_tensors(folder), "llava-hf", str(folder)),
    )


def processors_template(folder: Path) -> str | None:
    """The chat template of files that transformers' processor reads and its tokenizer does not, as llava-hf's own have.

    It comes before that of tokenizer_config.json, which is often the language model's, and knows no picture.
    """
    for name in ("processor_config.json", "chat_template.json"):
        tree = read_json(folder / name) if (folder / name).is_file() else {}
        found = tree.get("chat_template") if isinstance(tree, dict) else None
        if isinstance(found, str):
            return found
    return None


def refuse(config: Any, place: Path) -> None:
    """Raise CheckpointError for what this reader does not serve."""
    if config.model_type not in ("llava", "llava_next"):
        raise CheckpointError(f"{place}: model_type {config.model_type!r} is not served", "use LLaVA 1.5 or 1.6")
    if not isinstance(config.vision_feature_layer, int) or config.vision_feature_layer >= 0:
        raise CheckpointError(f"{place}: vision_feature_layer {config.vision_feature_layer!r}", "one layer, -2")
    if config.projector_hidden_act != "gelu" or not getattr(config, "multimodal_projector_bias", True):
        raise CheckpointError(f"{place}: a projector of two layers with biases and GELU is wanted", "another model")


def tokens_kept(config: Any, place: Path) -> Literal["patch", "cls_patch"]:
    """Which of a tower's tokens are seen. transformers drops the first one by `default`, whatever it is."""
    strategy = config.vision_feature_select_strategy
    clip = has_class_token(config.vision_config)
    kept = TOKENS.get(strategy) if clip else "patch" if strategy == "full" else None
    if kept is None:
        raise CheckpointError(
            f"{place}: vision_feature_select_strategy {strategy!r} over {config.vision_config.model_type}",
            "default or full over CLIP, full over SigLIP",
        )
    return kept


def pads(folder: Path) -> bool:
    """Whether pictures are padded to a square, as LLaVA 1.5 trained; llava-hf's own folders crop."""
    from transformers import AutoImageProcessor

    rules = AutoImageProcessor.from_pretrained(str(folder), backend="pil")
    return type(rules).__name__.startswith("LlavaImageProcessor") and bool(rules.do_pad)

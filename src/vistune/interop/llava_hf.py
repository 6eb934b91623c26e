"""Read transformers' layout: LlavaForConditionalGeneration and LlavaNextForConditionalGeneration.

All four tensor namings since transformers 4.36 are read, such as those of llava-hf on the hub.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from vistune.errors import CheckpointError
from vistune.files import read_json
from vistune.interop.build import SourceModel
from vistune.interop.folders import by_part, read_config, read_tensors, readable_config, tokenizer_of
from vistune.model.vision import has_class_token, image_rules
from vistune.model.vlm import spec_of
from vistune.recipe import Model

CLASSES = ("LlavaForConditionalGeneration", "LlavaNextForConditionalGeneration")
TOKENS: Mapping[str, Literal["patch", "cls_patch"]] = {"default": "patch", "full": "cls_patch"}


def is_hf(config: Mapping[str, Any]) -> bool:
    """Return whether a config is of this layout: by its class, or else by the two configs inside."""
    listed = config.get("architectures") or []
    return any(name in CLASSES for name in listed) or (not listed and {"text_config", "vision_config"} <= config.keys())


def read(folder: Path, *, base: str | None, template: str | None, vision: str | None) -> SourceModel:
    """Read a complete folder. Raises CheckpointError for what is missing or not supported."""
    raw = read_config(folder)
    path = folder / "config.json"
    if base or vision:
        raise CheckpointError(f"{folder}: is a complete model; it takes no --base and --vision", "remove them")
    if raw.get("quantization_config"):
        raise CheckpointError(f"{path}: stored quantised", "download the full-precision model and use --quantize")
    from transformers import AutoConfig

    with readable_config(path):
        config = AutoConfig.from_pretrained(str(folder))
    refuse(config, path)
    tokenizer = tokenizer_of(folder)
    tokenizer.chat_template = processors_template(folder) or tokenizer.chat_template
    if template is None:
        template = "tokenizer" if tokenizer.chat_template else "v1"
    anyres = config.model_type == "llava_next"
    settings = Model(
        projector="mlp2x_gelu",
        feature_layer=config.vision_feature_layer,
        feature_tokens=tokens_kept(config, path),
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
    """Return the chat template of the files that transformers' processor reads, or None.

    It is preferred to that of tokenizer_config.json, which is often the language model's and does not know images.
    """
    for name in ("processor_config.json", "chat_template.json"):
        tree = read_json(folder / name) if (folder / name).is_file() else {}
        template = tree.get("chat_template") if isinstance(tree, dict) else None
        if isinstance(template, str):
            return template
    return None


def refuse(config: Any, path: Path) -> None:
    """Raise CheckpointError for what this reader does not support."""
    if config.model_type not in ("llava", "llava_next"):
        raise CheckpointError(f"{path}: model_type {config.model_type!r} is not supported", "use LLaVA 1.5 or 1.6")
    if not isinstance(config.vision_feature_layer, int) or config.vision_feature_layer >= 0:
        raise CheckpointError(
            f"{path}: vision_feature_layer {config.vision_feature_layer!r} is not supported", "use one negative number"
        )
    if config.projector_hidden_act != "gelu" or not getattr(config, "multimodal_projector_bias", True):
        raise CheckpointError(
            f"{path}: only projectors of two layers with biases and GELU are supported", "use another model"
        )


def tokens_kept(config: Any, path: Path) -> Literal["patch", "cls_patch"]:
    """Return which of the tower's tokens are used. With `default`, transformers drops the first."""
    strategy = config.vision_feature_select_strategy
    clip = has_class_token(config.vision_config)
    kept = TOKENS.get(strategy) if clip else "patch" if strategy == "full" else None
    if kept is None:
        raise CheckpointError(
            f"{path}: vision_feature_select_strategy {strategy!r} does not fit {config.vision_config.model_type}",
            "use default or full for CLIP, full for SigLIP",
        )
    return kept


def pads(folder: Path) -> bool:
    """Return whether images are padded to a square, as in LLaVA 1.5's training; llava-hf's own folders crop."""
    from transformers import AutoImageProcessor

    rules = AutoImageProcessor.from_pretrained(str(folder), backend="pil")
    return type(rules).__name__.startswith("LlavaImageProcessor") and bool(rules.do_pad)

"""Detect the layout of a model folder by its contents, and read it. `READERS` lists the layouts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from vistune.errors import CheckpointError
from vistune.files import read_json, read_text
from vistune.interop import original
from vistune.interop.adapters import apply_adapters, naming_of
from vistune.interop.build import SourceModel, build_model, source_processor
from vistune.interop.folders import by_part, read_config, read_tensors, readable_config, resolve, tokenizer_of
from vistune.interop.language_names import names_of
from vistune.interop.processor_files import TRAINING_TEMPLATE
from vistune.model import VisionLanguageModel
from vistune.model.image_proof import pads_first
from vistune.model.image_rules import ImageRules, image_rules
from vistune.model.peft_folder import PREFIX, read_adapters
from vistune.model.tower_shape import as_layers, describe_tower
from vistune.model.vlm import spec_of
from vistune.processor import Processor
from vistune.processor.template_defaults import without_generation_marks
from vistune.recipe import Model

if TYPE_CHECKING:
    from transformers import LlavaConfig

log = logging.getLogger("vistune.interop")

BASE_FOLDER = "base"  # of a PEFT folder that contains the model it adapts
HF_CLASSES = ("LlavaForConditionalGeneration", "LlavaNextForConditionalGeneration")
HF_TOKENS: Mapping[str, Literal["patch", "cls_patch"]] = {"default": "patch", "full": "cls_patch"}


def is_hf(config: Mapping[str, Any]) -> bool:
    """Return whether a config has the layout llava-hf.

    It then names one of HF_CLASSES, or it names no class and contains `text_config` and `vision_config`.
    """
    listed = config.get("architectures") or []
    return any(name in HF_CLASSES for name in listed) or (
        not listed and {"text_config", "vision_config"} <= config.keys()
    )


def read_hf(folder: Path, *, base: str | None, template: str | None, vision: str | None) -> SourceModel:
    """Read transformers' LlavaForConditionalGeneration or LlavaNextForConditionalGeneration.

    All four tensor namings since transformers 4.36 are read. Raises CheckpointError if something is missing or not
    supported.
    """
    raw = read_config(folder)
    path = folder / "config.json"
    if base or vision:
        raise CheckpointError(
            f"{folder}: is a complete model; it takes no --base and no --vision", "remove these options"
        )
    if raw.get("quantization_config"):
        raise CheckpointError(f"{path}: stored quantized", "download the full-precision model and use --quantize")
    from transformers import AutoConfig

    with readable_config(path):
        config = AutoConfig.from_pretrained(str(folder))
    refuse_hf(config, path)
    tokenizer = tokenizer_of(folder)
    tokenizer.chat_template = processors_template(folder) or tokenizer.chat_template
    tokenizer.chat_template = training_template(folder, tokenizer.chat_template) or tokenizer.chat_template
    if template is None:
        template = "tokenizer" if tokenizer.chat_template else "v1"
    anyres = config.model_type == "llava_next"
    layers = config.vision_feature_layer
    rules = image_rules(str(folder))
    settings = Model(
        projector="mlp2x_gelu",
        feature_layer=layers if isinstance(layers, int) else tuple(layers),
        feature_tokens=tokens_kept(config, rules, path),
        feature_norm="off",
        image_mode="anyres" if anyres else "pad" if pads(folder) else "square",
        canvases=tuple((width, height) for height, width in config.image_grid_pinpoints) if anyres else None,
        template=template,
    )
    text = config.text_config
    parts = by_part(read_tensors(folder), "llava-hf", str(folder))
    return SourceModel(
        layout="llava-hf",
        folder=folder,
        spec=spec_of(settings, config.vision_config, text.hidden_size, text.vocab_size, rules),
        tokenizer=tokenizer,
        vision=config.vision_config,
        language=text,
        parts=parts | {"language": names_of(text).own(parts["language"])},
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


def training_template(folder: Path, portable: str | None) -> str | None:
    """Return the chat template with marks of the answers that vistune wrote next to the portable one, or None.

    It is not used if the portable one has been changed since.
    """
    path = folder / TRAINING_TEMPLATE
    if not path.is_file():
        return None
    source = read_text(path)
    return source if without_generation_marks(source) == portable else None


def refuse_hf(config: LlavaConfig, path: Path) -> None:
    """Raise CheckpointError if this reader does not support the model."""
    if config.model_type not in ("llava", "llava_next"):
        raise CheckpointError(f"{path}: model_type {config.model_type!r} is not supported", "use LLaVA 1.5 or 1.6")
    if max(as_layers(config.vision_feature_layer)) >= 0:
        raise CheckpointError(
            f"{path}: vision_feature_layer {config.vision_feature_layer!r} is not supported", "use negative numbers"
        )
    if config.projector_hidden_act != "gelu" or not getattr(config, "multimodal_projector_bias", True):
        raise CheckpointError(
            f"{path}: only projectors of two layers with biases and GELU are supported", "use another model"
        )


def tokens_kept(config: LlavaConfig, rules: ImageRules, path: Path) -> Literal["patch", "cls_patch"]:
    """Return which of the tower's tokens are used. With `default`, transformers drops the first."""
    strategy = config.vision_feature_select_strategy
    tower = describe_tower(config.vision_config, config.vision_feature_layer, rules.get("image_side"))
    tokens = (
        HF_TOKENS.get(strategy) if tower.prefix == 1 else "patch" if strategy == "full" and not tower.prefix else None
    )
    if tokens is None:
        raise CheckpointError(
            f"{path}: vision_feature_select_strategy {strategy!r} does not fit {tower.kind}, "
            f"which has {tower.prefix} tokens before the patches",
            "use default or full for a tower with a class token, full for a tower without one",
        )
    return tokens


def pads(folder: Path) -> bool:
    """Return whether images are padded to a square, as in LLaVA 1.5's training; llava-hf's own folders crop."""
    from transformers import AutoImageProcessor

    return pads_first(AutoImageProcessor.from_pretrained(str(folder), backend="pil"))


def read_peft(folder: Path, *, base: str | None, template: str | None, vision: str | None) -> SourceModel:
    """Read a PEFT folder over a whole LLaVA model; `base` replaces the base model that its config names.

    Raises CheckpointError that names a key or tensor that is not supported.
    """
    adapters = read_adapters(folder)
    config = adapters.config
    base_name = base or config.base_model_name_or_path
    if not base_name:
        raise CheckpointError(f"{folder / 'adapter_config.json'}: names no base model", "name it with --base")
    base_folder = resolve(base, folder) if base else adapters_base(folder, str(base_name))
    base_config = read_config(base_folder)
    if original.is_original(base_folder, base_config):
        source = original.read(base_folder, base=None, template=template, vision=vision)
    elif is_hf(base_config):
        source = read_hf(base_folder, base=None, template=template, vision=vision)
    elif original.settings_folder(folder) is not None:  # the original's LoRA checkpoint over a language model
        return original.read(folder, base=str(base_folder), template=template, vision=vision)
    else:
        raise CheckpointError(
            f"{base_folder}: the adapters' base is not a LLaVA model, and no config.json with mm_* keys is in {folder}"
            + (f" or in {folder.absolute().parent}" if original.is_checkpoint(folder) else ""),
            "name a whole LLaVA with --base, or put the training's config.json and projector into the folder",
        )
    source = replace(source, layout="peft", folder=folder)
    is_local = base_folder in (folder / BASE_FOLDER, folder / str(base_name), Path(str(base_name)))
    if config.revision and base is None and not is_local:
        path = folder / "adapter_config.json"
        remark = f"{path}: revision {config.revision!r} is not read: the base's newest is used"
        source = replace(source, remarks=(*source.remarks, remark))
    if naming_of([name.removeprefix(PREFIX) for name in adapters.tensors], folder).layout == "original":
        source = original.with_tuned(source, folder)
    return apply_adapters(source, adapters)


def adapters_base(folder: Path, name: str) -> Path:
    """Return the folder of the base model that a PEFT folder names.

    An export that contains its base names the base's absolute path, and may have moved since.
    """
    own = folder / BASE_FOLDER
    return own if Path(name).name == BASE_FOLDER and own.is_dir() else resolve(name, folder)


Reader = Callable[..., SourceModel]
READERS: Mapping[str, Reader] = {"original": original.read, "llava-hf": read_hf, "peft": read_peft}


def layout_of(folder: Path) -> str:
    """Return the name of a folder's layout. Raises CheckpointError if its files match none."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder", "check the path")
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            return "peft"
        raise CheckpointError(f"{folder}: neither config.json nor adapter_config.json", "name a model folder")
    config = read_config(folder)
    if original.is_original(folder, config):
        return "original"
    if is_hf(config):
        return "llava-hf"
    listed = ", ".join(original.architectures(config)) or "none"
    raise CheckpointError(
        f"{folder / 'config.json'}: architectures {listed}: not a LLaVA model", f"layouts: {', '.join(READERS)}"
    )


def read_source(
    folder: Path, *, base: str | None = None, template: str | None = None, vision: str | None = None
) -> SourceModel:
    """Read a folder or hub name of any known layout. Keys or tensors that have no effect are logged.

    Args:
        base: The language model, if the folder does not contain it.
        template: Chat template, if the folder does not name its own.
        vision: The tower, if the folder does not contain or name it.
    """
    folder = resolve(str(folder))
    source = READERS[layout_of(folder)](folder, base=base, template=template, vision=vision)
    for remark in source.remarks:
        log.warning(remark)
    return source


def load(
    folder: Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    quantize: int | None = None,
    base: str | None = None,
    template: str | None = None,
    vision: str | None = None,
) -> tuple[VisionLanguageModel, Processor]:
    """Load model and processor of a folder of another layout; arguments as for `read_source` and `build_model`."""
    source = read_source(folder, base=base, template=template, vision=vision)
    processor = source_processor(source)
    return build_model(source, dtype, quantize).to(device).eval(), processor

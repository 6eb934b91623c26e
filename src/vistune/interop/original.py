"""Read the original LLaVA's layout (haotian-liu/LLaVA, llava_arch.py).

Folders are merged models, LoRA folders over a base, or stage-1 projectors over a base. Their config.json has `mm_*`
keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vistune.errors import CheckpointError
from vistune.interop.adapters import apply_adapters
from vistune.interop.build import SourceModel
from vistune.interop.folders import (
    TOKENIZERS,
    Parts,
    by_part,
    read_config,
    read_pickle,
    read_tensors,
    read_tower,
    readable_config,
    resolve,
    tokenizer_of,
    weight_files,
)
from vistune.model.image_rules import image_rules
from vistune.model.peft_folder import LazyTensor, read_adapters, shape_of
from vistune.model.shapes import LanguageConfig
from vistune.model.vlm import spec_of
from vistune.recipe import Model

CLASSES = {  # the original's classes and the type of the language model inside
    "LlavaLlamaForCausalLM": "llama",
    "LlavaMistralForCausalLM": "mistral",
    "LlavaQwenForCausalLM": "qwen2",
}
TUNED = "non_lora_trainables.bin"
PROJECTOR = "mm_projector.bin"
DELTA = 0.1  # a last norm with a smaller mean absolute weight is the difference of two models


def is_original(folder: Path, config: Mapping[str, Any]) -> bool:
    """Return whether a config has the original LLaVA's layout, by its class or its `mm_*` keys.

    `model_type` does not show it, because it is "llava" in transformers' layout too.
    """
    named = any(name.startswith("Llava") and name.endswith("ForCausalLM") for name in architectures(config))
    return named or any(key.startswith("mm_") for key in config)


def architectures(config: Mapping[str, Any]) -> list[str]:
    """Return the class names in a config."""
    listed = config.get("architectures")
    return [str(name) for name in listed] if isinstance(listed, list) else []


def read(folder: Path, *, base: str | None, template: str | None, vision: str | None) -> SourceModel:
    """Read a merged folder, a LoRA folder, or a stage-1 projector. Raises CheckpointError if anything is missing."""
    lora = (folder / "adapter_config.json").is_file()
    config_folder = (settings_folder(folder) if lora else None) or folder
    config = read_config(config_folder)
    refuse(config_folder, config)
    tuned: Path | None = None
    if lora or not weight_files(folder):
        parts, base_folder, tuned = _over_base(folder, base, lora=lora)
    else:
        parts, base_folder = by_part(read_tensors(folder, pickles=True), "original", str(folder)), folder
        refuse_deltas(folder, parts["language"])
        if base:
            raise CheckpointError(
                f"{folder}: contains a whole language model; --base is for LoRA folders", "remove --base"
            )
    tower_name = vision or config.get("mm_vision_tower") or config.get("vision_tower")
    if not tower_name:
        raise CheckpointError(
            f"{config_folder / 'config.json'}: mm_vision_tower is missing", "name the tower with --vision"
        )
    tower_folder, tower_config, tower = read_tower(str(tower_name), config_folder)
    inside = bool(parts["vision"])
    parts["vision"] = {**tower, **parts["vision"]}
    with readable_config(base_folder / "config.json"):
        language = language_config_of(read_config(base_folder) if base_folder != folder else config)
    language.vocab_size = shape_of(parts["language"]["model.embed_tokens.weight"])[0]
    settings = settings_of(config_folder, config, parts, template)
    spec = spec_of(settings, tower_config, language.hidden_size, language.vocab_size, image_rules(str(tower_folder)))
    source = SourceModel(
        layout="original",
        folder=folder,
        spec=spec,
        tokenizer=tokenizer_of(next(filter(_has_tokenizer, (folder, config_folder)), base_folder)),
        vision=tower_config,
        language=language,
        parts=parts,
        tower=str(tower_name) if not tower_folder.is_relative_to(folder) else str(tower_folder),
        tower_inside=inside,
        tuned=tuned,
    )
    if not lora:
        return source
    if tuned is None:
        source = replace(source, remarks=(*source.remarks, _base_projector(folder)))
    return apply_adapters(source, read_adapters(folder))


def refuse(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise CheckpointError if this reader does not support the model."""
    path = folder / "config.json"
    unknown = [name for name in architectures(config) if name.startswith("Llava") and name not in CLASSES]
    if unknown:
        raise CheckpointError(
            f"{path}: {', '.join(unknown)} is not supported", f"supported: {', '.join(sorted(CLASSES))}"
        )
    if settings := config.get("quantization_config"):
        is_4_bit = isinstance(settings, dict) and settings.get("load_in_4bit")
        form = "4 bits" if is_4_bit else "a quantized form"
        raise CheckpointError(f"{path}: stored in {form}", "download the full-precision model and use --quantize")
    for key, meaning in (
        ("mm_use_im_start_end", "images between <im_start> and <im_end>"),
        ("mm_resampler_type", "a resampler"),
        ("s2", "an S2 tower"),
    ):
        if config.get(key):
            raise CheckpointError(f"{path}: {key}: not supported: {meaning}", "use a model without it")


def refuse_deltas(folder: Path, language: Mapping[str, LazyTensor]) -> None:
    """Raise CheckpointError for weight deltas: their last norm is near zero, a whole model's is about one or two.

    A norm that does not have the embedding's width is left to the check of shapes.
    """
    norm, embedding = language.get("model.norm.weight"), language.get("model.embed_tokens.weight")
    if norm is None or embedding is None or shape_of(norm)[-1] != shape_of(embedding)[-1]:
        return
    if float(norm[:].float().abs().mean()) < DELTA:
        raise CheckpointError(
            f"{folder}: model.norm.weight is near zero: these are weight deltas, which are not supported",
            "add them to their base model, and name the result",
        )


def settings_of(folder: Path, config: Mapping[str, Any], parts: Parts, template: str | None) -> Model:
    """Convert the original's keys to a recipe's model section."""
    path = folder / "config.json"
    mode: Any = config.get("image_aspect_ratio") or "square"
    if mode not in ("square", "pad", "anyres"):
        raise CheckpointError(f"{path}: image_aspect_ratio {mode!r} is not supported", "use square, pad or anyres")
    merge = config.get("mm_patch_merge_type", "flat")
    if mode == "anyres" and merge != "spatial_unpad":
        raise CheckpointError(f"{path}: mm_patch_merge_type {merge!r} is not supported", "use spatial_unpad")
    canvases = config.get("image_grid_pinpoints") if mode == "anyres" else None
    if canvases is not None and not isinstance(canvases, list):
        raise CheckpointError(f"{path}: image_grid_pinpoints {canvases!r} is not supported", "give a list of pairs")
    return Model(
        projector=projector_of(config, parts["projector"]),
        feature_layer=config.get("mm_vision_select_layer", -2),
        feature_tokens=config.get("mm_vision_select_feature", "patch"),
        feature_norm="off",
        image_mode=mode,
        canvases=tuple((int(width), int(height)) for width, height in canvases) if canvases else None,
        template=template or str(config.get("vistune_template") or "v1"),
        tokenization=config.get("vistune_tokenization", "chunks"),
    )


def projector_of(config: Mapping[str, Any], tensors: Mapping[str, LazyTensor]) -> str:
    """Return the projector's name from its tensors, because old configs do not name it."""
    if not tensors:
        return "identity"
    depth = len([name for name in tensors if name.endswith("weight")])
    return "linear" if "weight" in tensors else str(config.get("mm_projector_type") or f"mlp{depth}x_gelu")


def language_config_of(config: Mapping[str, Any]) -> LanguageConfig:
    """Return transformers' config of the language model inside."""
    from transformers import AutoConfig

    listed = architectures(config)
    kind = next((CLASSES[name] for name in listed if name in CLASSES), None) or str(config.get("model_type", "llama"))
    kind = "llama" if kind.startswith("llava") else kind
    own = {key: value for key, value in config.items() if not key.startswith(("mm_", "vistune_"))}
    for key in ("architectures", "model_type", "image_aspect_ratio", "image_grid_pinpoints", "use_mm_proj",
                "tune_mm_mlp_adapter", "freeze_mm_mlp_adapter", "tokenizer_model_max_length", "vision_tower",
                "tokenizer_padding_side", "unfreeze_mm_vision_tower", "_name_or_path"):  # fmt: skip
        own.pop(key, None)
    language: LanguageConfig = AutoConfig.for_model(kind, **own)
    return language


def is_checkpoint(folder: Path) -> bool:
    """Return whether a folder is a checkpoint of transformers' Trainer, whose parent may have missing files."""
    return re.fullmatch(r"checkpoint-\d+", folder.absolute().name) is not None


def settings_folder(folder: Path) -> Path | None:
    """Return the folder of a LoRA folder's config.json with `mm_*` keys: itself, or a checkpoint's parent."""
    for candidate in _candidates(folder):
        if (candidate / "config.json").is_file() and is_original(candidate, read_config(candidate)):
            return candidate
    return None


def _candidates(folder: Path) -> list[Path]:
    return [folder, folder.absolute().parent] if is_checkpoint(folder) else [folder]


def _listed(folder: Path) -> str:
    return " or ".join(str(candidate) for candidate in _candidates(folder))


def tuned_file(folder: Path) -> Path | None:
    """Return the file of other weights that a LoRA training changed, such as the projector, or None."""
    listed = [candidate / name for candidate in _candidates(folder) for name in (TUNED, PROJECTOR)]
    return next((path for path in listed if path.is_file()), None)


def with_tuned(source: SourceModel, folder: Path) -> SourceModel:
    """Add the other weights that a LoRA training changed to a whole LLaVA; a remark if they are not found."""
    path = tuned_file(folder)
    if path is None:
        return replace(source, remarks=(*source.remarks, _base_projector(folder)))
    parts = {part: dict(tensors) for part, tensors in source.parts.items()}
    _put_tuned(parts, path)
    return replace(source, parts=parts, tuned=path)


def _base_projector(folder: Path) -> str:
    return (
        f"{folder}: no {TUNED} and no {PROJECTOR} in {_listed(folder)}: the base's projector is used, which is wrong "
        "if the training changed it"
    )


def _put_tuned(parts: Parts, path: Path) -> None:
    tensors = {stripped(name): tensor for name, tensor in read_pickle(path).items()}
    for part, changed in by_part(tensors, "original", str(path)).items():
        parts[part] |= changed


def _over_base(folder: Path, base: str | None, *, lora: bool) -> tuple[Parts, Path, Path | None]:
    """Return the base's tensors updated with the training's, the base's folder, and the training's file."""
    if base is None:
        raise CheckpointError(f"{folder}: needs the language model on which it was trained", "name it with --base")
    base_folder = resolve(base)
    path = tuned_file(folder) if lora else folder / PROJECTOR
    if not lora and not (folder / PROJECTOR).is_file():
        raise CheckpointError(f"{folder}: neither model*.safetensors nor {PROJECTOR}", "name a LLaVA folder")
    parts = by_part(read_tensors(base_folder, pickles=True), "original", str(base_folder))
    if path is not None:
        _put_tuned(parts, path)
    elif not parts["projector"]:
        raise CheckpointError(
            f"{folder}: no projector: {base_folder} is only a language model, and {_listed(folder)} contains neither "
            f"{TUNED} nor {PROJECTOR}",
            "put the training's projector there, or name a whole LLaVA with --base",
        )
    return parts, base_folder, path


def stripped(name: str) -> str:
    """Return a tensor's name without PEFT's prefix, and without other prefixes that stage-1 files have."""
    name = name.removeprefix("base_model.")
    name = "model." + name.split("model.model.", 1)[1] if name.startswith("model.model.") else name
    return f"model.mm_projector.{name.split('mm_projector.', 1)[1]}" if "mm_projector." in name else name


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in TOKENIZERS)

"""The original LLaVA's layouts: merged folders, LoRA folders over a base, stage-1 projectors over a base.

config.json with `mm_*` keys + `model.mm_projector.*` tensors <-> our parts (haotian-liu/LLaVA, llava_arch.py)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vistune.errors import CheckpointError
from vistune.interop.adapted import apply_adapters
from vistune.interop.build import SourceModel, shape_of
from vistune.interop.folders import TOKENIZERS, read_tower, readable_config, resolve, tokenizer_of
from vistune.interop.tensors import (
    LazyTensor,
    Parts,
    by_part,
    read_config,
    read_pickle,
    read_tensors,
    weight_files,
)
from vistune.model.peft_folder import read_adapters
from vistune.model.spec import spec_of
from vistune.model.vision import image_rules
from vistune.recipe import Model

CLASSES = {  # the original's classes, by the language model inside
    "LlavaLlamaForCausalLM": "llama",
    "LlavaMistralForCausalLM": "mistral",
    "LlavaQwenForCausalLM": "qwen2",
}
TUNED = "non_lora_trainables.bin"
PROJECTOR = "mm_projector.bin"
DELTA = 0.1  # mean size of a last norm's weights below which it is a difference of two models


def is_original(folder: Path, config: Mapping[str, Any]) -> bool:
    """By the class or the `mm_*` keys; `model_type` says "llava" in transformers' layout too."""
    named = any(name.startswith("Llava") and name.endswith("ForCausalLM") for name in architectures(config))
    return named or any(key.startswith("mm_") for key in config)


def architectures(config: Mapping[str, Any]) -> list[str]:
    listed = config.get("architectures")
    return [str(name) for name in listed] if isinstance(listed, list) else []


def read(folder: Path, *, base: str | None, template: str | None, vision: str | None) -> SourceModel:
    """A merged folder, a LoRA folder, or a stage-1 projector. Raises CheckpointError saying what is missing."""
    lora = (folder / "adapter_config.json").is_file()
    told = (settings_folder(folder) if lora else None) or folder
    config = read_config(told)
    refuse(told, config)
    tuned: Path | None = None
    if lora or not weight_files(folder):
        parts, home, tuned = _over_base(folder, base, lora=lora)
    else:
        parts, home = by_part(read_tensors(folder, pickles=True), "original", str(folder)), folder
        refuse_deltas(folder, parts["language"])
        if base:
            raise CheckpointError(f"{folder}: holds a whole language model; --base is for LoRA folders", "leave it out")
    tower_name = vision or config.get("mm_vision_tower") or config.get("vision_tower")
    if not tower_name:
        raise CheckpointError(f"{told / 'config.json'}: mm_vision_tower is missing", "name the tower with --vision")
    tower_folder, tower_config, tower = read_tower(str(tower_name), told)
    inside = bool(parts["vision"])
    parts["vision"] = {**tower, **parts["vision"]}
    with readable_config(home / "config.json"):
        language = language_config_of(read_config(home) if home != folder else config)
    language.vocab_size = shape_of(parts["language"]["model.embed_tokens.weight"])[0]
    settings = settings_of(told, config, parts, template)
    spec = spec_of(settings, tower_config, language.hidden_size, language.vocab_size, image_rules(str(tower_folder)))
    source = SourceModel(
        layout="original",
        folder=folder,
        spec=spec,
        tokenizer=tokenizer_of(next((place for place in (folder, told) if _has_tokenizer(place)), home)),
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
    """Raise CheckpointError, with what to do, for what this reader does not serve."""
    place = folder / "config.json"
    strange = [name for name in architectures(config) if name.startswith("Llava") and name not in CLASSES]
    if strange:
        raise CheckpointError(f"{place}: {', '.join(strange)} is not served", f"known: {', '.join(sorted(CLASSES))}")
    if config.get("quantization_config"):
        raise CheckpointError(f"{place}: saved in {_bits(config)}", "fetch the full-precision model and --quantize it")
    for key, meaning in (
        ("mm_use_im_start_end", "pictures wrapped in <im_start> and <im_end>"),
        ("mm_resampler_type", "a resampler"),
        ("s2", "an S2 tower"),
    ):
        if config.get(key):
            raise CheckpointError(f"{place}: {key}: {meaning} is not served", "use a model without it")


def refuse_deltas(folder: Path, language: Mapping[str, LazyTensor]) -> None:
    """A model's last norm scales by about one or two; what a tuned model has beside its base is near nothing.

    A norm of another width than the embedding's is left to the check of shapes, which says so.
    """
    norm, embedding = language.get("model.norm.weight"), language.get("model.embed_tokens.weight")
    if norm is None or embedding is None or shape_of(norm)[-1] != shape_of(embedding)[-1]:
        return
    if float(norm[:].float().abs().mean()) < DELTA:
        raise CheckpointError(
            f"{folder}: model.norm.weight is near zero: these are weight deltas, which are not served",
            "add them to the base model that they were made from, and name the sum",
        )


def _bits(config: Mapping[str, Any]) -> str:
    settings = config["quantization_config"]
    return "4 bit" if isinstance(settings, dict) and settings.get("load_in_4bit") else "a quantised form"


def settings_of(folder: Path, config: Mapping[str, Any], parts: Parts, template: str | None) -> Model:
    """The original's keys as our own settings."""
    mode: Any = config.get("image_aspect_ratio") or "square"
    if mode not in ("square", "pad", "anyres"):
        raise CheckpointError(f"{folder / 'config.json'}: image_aspect_ratio {mode!r} is not served", "pad or anyres")
    merge = config.get("mm_patch_merge_type", "flat")
    if mode == "anyres" and merge != "spatial_unpad":
        raise CheckpointError(f"{folder / 'config.json'}: mm_patch_merge_type {merge!r} is not served", "spatial_unpad")
    canvases = config.get("image_grid_pinpoints") if mode == "anyres" else None
    if canvases is not None and not isinstance(canvases, list):
        raise CheckpointError(f"{folder / 'config.json'}: image_grid_pinpoints {canvases!r}", "a list of pairs is read")
    return Model(
        projector=projector_of(config, parts["projector"]),
        feature_layer=config.get("mm_vision_select_layer", -2),
        feature_tokens=config.get("mm_vision_select_feature", "patch"),
        image_mode=mode,
        canvases=tuple((int(width), int(height)) for width, height in canvases) if canvases else None,
        template=template or str(config.get("vistune_template") or "v1"),
        tokenization=config.get("vistune_tokenization", "chunks"),
    )


def projector_of(config: Mapping[str, Any], tensors: Mapping[str, LazyTensor]) -> str:
    """The projector's name by its tensors: old configs do not name it."""
    if not tensors:
        return "identity"
    depth = len([name for name in tensors if name.endswith("weight")])
    return "linear" if "weight" in tensors else str(config.get("mm_projector_type") or f"mlp{depth}x_gelu")


def language_config_of(config: Mapping[str, Any]) -> Any:
    """transformers' config of the language model inside."""
    from transformers import AutoConfig

    named = architectures(config)
    kind = next((CLASSES[name] for name in named if name in CLASSES), None) or str(config.get("model_type", "llama"))
    kind = "llama" if kind.startswith("llava") else kind
    own = {key: value for key, value in config.items() if not key.startswith(("mm_", "vistune_"))}
    for key in ("architectures", "model_type", "image_aspect_ratio", "image_grid_pinpoints", "use_mm_proj",
                "tune_mm_mlp_adapter", "freeze_mm_mlp_adapter", "tokenizer_model_max_length", "vision_tower",
                "tokenizer_padding_side", "unfreeze_mm_vision_tower", "_name_or_path"):  # fmt: skip
        own.pop(key, None)
    return AutoConfig.for_model(kind, **own)


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder has the name of a checkpoint of transformers' Trainer; its parent may have missing files."""
    return re.fullmatch(r"checkpoint-\d+", folder.absolute().name) is not None


def settings_folder(folder: Path) -> Path | None:
    """The folder of a LoRA folder's config.json with `mm_*` keys: the folder itself, or a checkpoint's parent."""
    for place in _places(folder):
        if (place / "config.json").is_file() and is_original(place, read_config(place)):
            return place
    return None


def _places(folder: Path) -> list[Path]:
    return [folder, folder.absolute().parent] if is_checkpoint(folder) else [folder]


def tuned_file(folder: Path) -> Path | None:
    """The file of other weights that a LoRA training changed, such as the projector; here or in the parent."""
    listed = [place / name for place in _places(folder) for name in (TUNED, PROJECTOR)]
    return next((path for path in listed if path.is_file()), None)


def with_tuned(source: SourceModel, folder: Path) -> SourceModel:
    """A whole LLaVA with the other weights that a LoRA training changed; a remark if they are not found."""
    path = tuned_file(folder)
    if path is None:
        return replace(source, remarks=(*source.remarks, _base_projector(folder)))
    parts = {part: dict(tensors) for part, tensors in source.parts.items()}
    _put_tuned(parts, path)
    return replace(source, parts=parts, tuned=path)


def _base_projector(folder: Path) -> str:
    places = " or ".join(str(place) for place in _places(folder))
    return (
        f"{folder}: no {TUNED} and no {PROJECTOR} in {places}: the base's projector is used, which is wrong if the "
        "training changed it"
    )


def _put_tuned(parts: Parts, path: Path) -> None:
    for part, tensors in by_part({stripped(name): t for name, t in read_pickle(path).items()}, "original",
                                 str(path)).items():  # fmt: skip
        parts[part] |= tensors


def _over_base(folder: Path, base: str | None, *, lora: bool) -> tuple[Parts, Path, Path | None]:
    """(the base's tensors updated with the training's, the base's folder, the file of the training's tensors)."""
    if base is None:
        raise CheckpointError(f"{folder}: needs the language model it was trained on", "name it with --base")
    home = resolve(base)
    own = folder / PROJECTOR
    path = tuned_file(folder) if lora else own if own.is_file() else None
    if path is None and not lora:
        raise CheckpointError(f"{folder}: neither model*.safetensors nor {PROJECTOR}", "name a LLaVA folder")
    parts = by_part(read_tensors(home, pickles=True), "original", str(home))
    if path is not None:
        _put_tuned(parts, path)
    elif not parts["projector"]:
        places = " or ".join(str(place) for place in _places(folder))
        raise CheckpointError(
            f"{folder}: no projector: {home} is only a language model, and neither {TUNED} nor {PROJECTOR} is in "
            f"{places}",
            "put the training's projector there, or name a whole LLaVA with --base",
        )
    return parts, home, path


def stripped(name: str) -> str:
    """A tensor's name without what PEFT put before it; stage-1 files of other models begin otherwise too."""
    name = name.removeprefix("base_model.")
    name = "model." + name.split("model.model.", 1)[1] if name.startswith("model.model.") else name
    return f"model.mm_projector.{name.split('mm_projector.', 1)[1]}" if "mm_projector." in name else name


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in TOKENIZERS)

"""PEFT folders over a llava-hf model: adapters by their names there, a tuned projector beside them.

adapter_config.json + adapter_model.safetensors + base -> Source whose language model takes the adapters
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from vistune.errors import CheckpointError, DataError, some
from vistune.files import read_json
from vistune.interop import llava_hf, original
from vistune.interop.build import Source
from vistune.interop.folders import resolve
from vistune.interop.tensors import Lazy, by_part, read_adapter, read_config, whole

PREFIX = "base_model.model."
LANGUAGE = ("model.language_model.", "language_model.model.", "language_model.")  # where transformers keeps it


def read(folder: Path, *, base: str | None, template: str | None, vision: str | None) -> Source:
    """A PEFT folder; `base` stands in for the base model that its config names."""
    try:
        config = read_json(folder / "adapter_config.json")
    except DataError as error:
        raise CheckpointError(error.message, "name a PEFT folder") from None
    home = resolve(base or str(config.get("base_model_name_or_path") or ""), folder)
    home_config = read_config(home)
    if original.is_original(home, home_config):
        source = original.read(home, base=None, template=template, vision=vision)
    elif llava_hf.is_hf(home_config):
        source = llava_hf.read(home, base=None, template=template, vision=vision)
    else:
        raise CheckpointError(f"{home}: the adapters' base is not a LLaVA model", "name one with --base")
    lora, projector = split(read_adapter(folder), str(folder))
    parts = {**source.parts, "projector": {**source.parts["projector"], **projector}}
    return replace(
        source, layout="peft", folder=folder, parts=parts, adapt=lambda model: put_on(model, config, lora, folder)
    )


def split(tensors: dict[str, Lazy], place: str) -> tuple[dict[str, Lazy], dict[str, Lazy]]:
    """(adapters by the language model's own names, tuned projector tensors)."""
    lora: dict[str, Lazy] = {}
    others: dict[str, Lazy] = {}
    for name, tensor in tensors.items():
        inner = name.removeprefix(PREFIX)
        if "lora_" not in inner:
            others[inner] = tensor
            continue
        known = next((prefix for prefix in LANGUAGE if inner.startswith(prefix)), None)
        if known is not None:
            lora["model." + inner.removeprefix(known)] = tensor
        elif inner.startswith("model.layers."):
            lora[inner] = tensor
        else:
            raise CheckpointError(f"{place}: {name}: adapters outside the language model", "they are not served")
    return lora, by_part(others, "llava-hf", place)["projector"]


def put_on(language: nn.Module, config: dict[str, Any], lora: dict[str, Lazy], folder: Path) -> nn.Module:
    """The language model with the adapters on exactly the layers that the file names."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    targets = sorted({name.split(".lora_")[0] for name in lora})
    kept = {key: config[key] for key in ("r", "lora_alpha", "use_dora", "use_rslora", "rank_pattern") if key in config}
    model: Any = get_peft_model(language, LoraConfig(**kept, target_modules=targets, task_type="CAUSAL_LM"))
    state = {f"{PREFIX}{name}": whole(tensor) for name, tensor in lora.items()}
    result = set_peft_model_state_dict(model, state)
    missing = [name for name in result.missing_keys if "lora_" in name]
    if missing or result.unexpected_keys:
        raise CheckpointError(
            f"{folder}: adapters that do not fit: {some([*missing, *result.unexpected_keys])}", "name the right --base"
        )
    adapted: nn.Module = model
    return adapted

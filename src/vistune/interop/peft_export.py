"""Write adapters as a PEFT folder whose base model is transformers' LLaVA."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file
from torch import Tensor

from vistune.errors import RecipeError
from vistune.files import write_atomic, write_json
from vistune.interop.language_names import BODY, names_in
from vistune.interop.layout_limits import refuse_layout
from vistune.interop.layouts import BASE_FOLDER
from vistune.interop.processor_files import write_processor
from vistune.interop.writers import OLDER_TOWERS, ExportedModel, projector_state, write_hf
from vistune.model.language import unwrap
from vistune.model.lora import has_adapters
from vistune.model.part_adapters import PROJECTOR, inner_adapters, settings_of

if TYPE_CHECKING:
    from peft import PeftModel

TOP = "base_model.model.model."  # how PEFT begins the names of tensors inside LLaVA's body
PROJECTOR_LAYERS = {"0": "linear_1", "2": "linear_2"}  # ours: transformers'


def write_peft(exported: ExportedModel, folder: Path, *, base: str | None, own_base: Path) -> None:
    """Write adapters over a llava-hf model, as PEFT and vLLM load them.

    With an existing model as `base`, the trained projector is stored with the adapters (PEFT's `modules_to_save`).
    Without it, the base is written into `base/`, and the config names its absolute path `own_base`: PEFT and
    transformers read relative names as names on the hub. The processor's files are next to the adapters. The model must
    have passed `refuse_peft`.
    """
    config: dict[str, object] = _settings(exported) | {
        "base_model_name_or_path": base or str(own_base),
        "target_modules": _targets(exported),
        "modules_to_save": None if base is None else ["multi_modal_projector"],
        "task_type": None,
        "inference_mode": True,
        "peft_type": "LORA",
    }
    if base is None:
        write_hf(exported, folder / BASE_FOLDER)
    config = {key: sorted(value) if isinstance(value, set | tuple) else value for key, value in config.items()}
    write_json(folder / "adapter_config.json", {key: getattr(value, "value", value) for key, value in config.items()})
    tensors = peft_state(exported, with_projector=base is not None)
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        folder / "adapter_model.safetensors",
    )
    write_processor(exported, folder)
    write_atomic(folder / "README.md", exported.card)


def refuse_peft(exported: ExportedModel, base: str | None) -> None:
    """Raise RecipeError if the model has no adapters, or if PEFT or transformers' LLaVA cannot represent it."""
    refuse_layout(exported, "peft")
    if not exported.model.adapted:
        raise RecipeError("--layout peft: this model has no adapters", "export --layout llava-hf")
    if base is not None and PROJECTOR in settings_of(exported.model):
        raise RecipeError(
            "--base: the projector has adapters, and PEFT cannot store its weights in addition to them",
            "export without --base, which writes the whole base model",
        )


def _settings(exported: ExportedModel) -> dict[str, Any]:
    """Return PEFT's config: that of the language model's adapters, or of the others, which have the same settings."""
    if has_adapters(exported.model.language):
        peft: PeftModel = exported.model.language
        return dict(peft.peft_config["default"].to_dict())
    from peft import LoraConfig

    return dict(LoraConfig(**next(iter(settings_of(exported.model).values()))).to_dict())


def _targets(exported: ExportedModel) -> str:
    """Return the regular expression that matches the adapted layers inside transformers' LLaVA, and no others."""
    patterns = []
    if has_adapters(exported.model.language):
        base = unwrap(exported.model.language)
        peft: PeftModel = exported.model.language
        names = names_in(base)
        adapted = {names.in_llava(name) for name in peft.targeted_module_names}
        every = {names.in_llava(name) for name, _ in base.named_modules()}
        patterns.append(rf".*language_model.*\.({_ends(adapted, every, BODY)})")
    settings = settings_of(exported.model)
    if "vision" in settings:
        adapted = set(settings["vision"]["target_modules"])
        every = {name.rpartition(".")[0] for name in exported.tower}  # with the layers after the feature layer
        patterns.append(rf".*vision_tower.*\.({_ends(adapted, every, '')})")
    if PROJECTOR in settings:
        layers = "|".join(PROJECTOR_LAYERS[name] for name in settings[PROJECTOR]["target_modules"])
        patterns.append(rf".*multi_modal_projector\.({layers})")
    return patterns[0] if len(patterns) == 1 else "|".join(f"({pattern})" for pattern in patterns)


def _ends(adapted: Collection[str], every: Collection[str], body: str) -> str:
    """Return ends of the adapted layers' names that match no other layer: `q_proj` if all are adapted, else longer."""
    ends = {name.rsplit(".", 1)[-1] for name in adapted}
    if {name for name in every if name.rsplit(".", 1)[-1] in ends} <= set(adapted):
        return "|".join(sorted(ends))
    return "|".join(sorted(re.escape(name.removeprefix(body)) for name in adapted))


def peft_state(exported: ExportedModel, *, with_projector: bool) -> dict[str, Tensor]:
    """Return the adapters, and with them the trained projector, as PEFT names them inside transformers' LLaVA."""
    tensors = {**_language_state(exported), **_inner_state(exported)}
    if with_projector:
        tensors |= {f"{TOP}{name}": tensor for name, tensor in projector_state(exported, "llava-hf").items()}
    return {name: tensor.to(exported.dtype) for name, tensor in tensors.items()}


def _language_state(exported: ExportedModel) -> dict[str, Tensor]:
    if not has_adapters(exported.model.language):
        return {}
    from peft import get_peft_model_state_dict

    outer = "base_model.model."
    names = names_in(unwrap(exported.model.language))
    state: Mapping[str, Tensor] = get_peft_model_state_dict(exported.model.language, save_embedding_layers=False)
    inside = {names.in_llava(name.removeprefix(outer)): tensor for name, tensor in state.items()}
    return {f"{TOP}language_model.{name.removeprefix(BODY)}": tensor for name, tensor in inside.items()}


def _inner_state(exported: ExportedModel) -> dict[str, Tensor]:
    """Return the adapters of tower and projector under the names that vLLM gives their layers.

    vLLM keeps `vision_model` in the names of CLIP and SigLIP, which newer versions of transformers removed; PEFT reads
    both names.
    """
    older = exported.tower_config.model_type in OLDER_TOWERS
    tower = f"{TOP}vision_tower.vision_model." if older else f"{TOP}vision_tower."
    state = {}
    for full, tensor in inner_adapters(exported.model).items():
        module, _, name = full.replace(".default", "").partition(".")
        if module == PROJECTOR:
            index, _, rest = name.partition(".")
            state[f"{TOP}multi_modal_projector.{PROJECTOR_LAYERS[index]}.{rest}"] = tensor
        else:
            state[f"{tower}{name}"] = tensor
    magnitude = ".lora_magnitude_vector.weight"  # PEFT saves it without the last part
    return {name.replace(magnitude, magnitude.removesuffix(".weight")): tensor for name, tensor in state.items()}

"""Write adapters as a PEFT folder over transformers' LLaVA."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import save_file
from torch import Tensor

from vistune.errors import RecipeError
from vistune.files import write_atomic, write_json
from vistune.interop.layouts import BASE_FOLDER
from vistune.interop.processor_files import write_processor
from vistune.interop.writers import ExportedModel, projector_state, refuse_for_hf, write_hf
from vistune.model.language import unwrap

if TYPE_CHECKING:
    from peft import PeftModel


def write_peft(exported: ExportedModel, folder: Path, *, base: str | None, own_base: Path) -> None:
    """Write adapters over a llava-hf model, as PEFT and vLLM load them.

    With an existing model as `base`, the trained projector is stored with the adapters (PEFT's `modules_to_save`).
    Without it, the base is written into `base/`, and the config names its absolute path `own_base`: PEFT and
    transformers read relative names as names on the hub. The processor's files are next to the adapters. Raises
    RecipeError if the model has no adapters, or transformers' LLaVA cannot represent it.
    """
    if not exported.model.adapted:
        raise RecipeError("--layout peft: this model has no adapters", "export --layout llava-hf")
    refuse_for_hf(exported)
    peft: PeftModel = exported.model.language
    config: dict[str, object] = peft.peft_config["default"].to_dict() | {
        "base_model_name_or_path": base or str(own_base),
        "target_modules": rf".*language_model.*\.({'|'.join(_targets(peft))})",
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


def _targets(peft: PeftModel) -> list[str]:
    """Return ends of the adapted layers' names that match no other layer: `q_proj` if all are adapted, else longer."""
    adapted = set(peft.targeted_module_names)
    ends = {name.rsplit(".", 1)[-1] for name in adapted}
    every = {name for name, _ in unwrap(peft).named_modules() if name.rsplit(".", 1)[-1] in ends}
    if every <= adapted:
        return sorted(ends)
    return sorted(re.escape(name.removeprefix("model.")) for name in adapted)


def peft_state(exported: ExportedModel, *, with_projector: bool) -> dict[str, Tensor]:
    """Return the adapters, and with them the trained projector, as PEFT names them inside transformers' LLaVA."""
    from peft import get_peft_model_state_dict

    top = "base_model.model.model."
    tensors = {
        name.replace(top, f"{top}language_model.", 1): tensor.to(exported.dtype)
        for name, tensor in get_peft_model_state_dict(exported.model.language, save_embedding_layers=False).items()
    }
    projector = projector_state(exported, "llava-hf") if with_projector else {}
    return {**tensors, **{f"{top}{name}": tensor for name, tensor in projector.items()}}

"""Read PEFT folders over a whole LLaVA model, in transformers' layout or the original's.

adapter_config.json + adapter_model.safetensors + base -> Source
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vistune.errors import CheckpointError
from vistune.interop import llava_hf, original
from vistune.interop.adapted import naming_of, apply_adapters
from vistune.interop.build import SourceModel
from vistune.interop.folders import resolve
from vistune.interop.tensors import read_config
from vistune.model.peft_folder import PREFIX, read_adapters


def read(folder: Path, *, base: str | None, template: str | None, vision: str | None) -> SourceModel:
    """Read a PEFT folder; `base` replaces the base model that its config names.

    Raises CheckpointError with the key or tensor that cannot be used.
    """
    adapters = read_adapters(folder)
    config = adapters.config
    named = base or config.base_model_name_or_path
    if not named:
        raise CheckpointError(f"{folder / 'adapter_config.json'}: it names no base model", "name it with --base")
    home = resolve(str(named), folder)
    home_config = read_config(home)
    if original.is_original(home, home_config):
        source = original.read(home, base=None, template=template, vision=vision)
    elif llava_hf.is_hf(home_config):
        source = llava_hf.read(home, base=None, template=template, vision=vision)
    elif original.settings_folder(folder) is not None:  # the original's LoRA checkpoint over a language model
        return original.read(folder, base=str(home), template=template, vision=vision)
    else:
        raise CheckpointError(
            f"{home}: the adapters' base is not a LLaVA model, and no config.json with mm_* keys lies in {folder}"
            + (f" or in {folder.absolute().parent}" if original.is_checkpoint(folder) else ""),
            "name a whole LLaVA with --base, or put the config.json and the projector of the training into the folder",
        )
    source = replace(source, layout="peft", folder=folder)
    if config.revision and base is None and not (folder / str(named)).is_dir() and not Path(str(named)).is_dir():
        remark = (
            f"{folder / 'adapter_config.json'}: revision {config.revision!r} is not read: the base's newest is used"
        )
        source = replace(source, remarks=(*source.remarks, remark))
    if naming_of([name.removeprefix(PREFIX) for name in adapters.tensors], folder).layout == "original":
        source = original.with_tuned(source, folder)
    return apply_adapters(source, adapters)

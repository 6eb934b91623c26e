"""Detect the layout of a model folder by its contents, and read it. `READERS` lists the layouts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from vistune.errors import CheckpointError
from vistune.interop import llava_hf, original
from vistune.interop.adapters import apply_adapters, naming_of
from vistune.interop.build import SourceModel, build_model, source_processor
from vistune.interop.folders import read_config, resolve
from vistune.model import VisionLanguageModel
from vistune.model.peft_folder import PREFIX, read_adapters
from vistune.processor import Processor

log = logging.getLogger("vistune.interop")


def read_peft(folder: Path, *, base: str | None, template: str | None, vision: str | None) -> SourceModel:
    """Read a PEFT folder over a whole LLaVA model; `base` replaces the base model that its config names.

    Raises:
        CheckpointError: If a key or tensor is not supported; names it.
    """
    adapters = read_adapters(folder)
    config = adapters.config
    base_name = base or config.base_model_name_or_path
    if not base_name:
        raise CheckpointError(f"{folder / 'adapter_config.json'}: names no base model", "name it with --base")
    base_folder = resolve(str(base_name), folder)
    base_config = read_config(base_folder)
    if original.is_original(base_folder, base_config):
        source = original.read(base_folder, base=None, template=template, vision=vision)
    elif llava_hf.is_hf(base_config):
        source = llava_hf.read(base_folder, base=None, template=template, vision=vision)
    elif original.settings_folder(folder) is not None:  # the original's LoRA checkpoint over a language model
        return original.read(folder, base=str(base_folder), template=template, vision=vision)
    else:
        raise CheckpointError(
            f"{base_folder}: the adapters' base is not a LLaVA model, and no config.json with mm_* keys is in {folder}"
            + (f" or in {folder.absolute().parent}" if original.is_checkpoint(folder) else ""),
            "name a whole LLaVA with --base, or put the training's config.json and projector into the folder",
        )
    source = replace(source, layout="peft", folder=folder)
    if (
        config.revision
        and base is None
        and not (folder / str(base_name)).is_dir()
        and not Path(str(base_name)).is_dir()
    ):
        remark = (
            f"{folder / 'adapter_config.json'}: revision {config.revision!r} is not read: the base's newest is used"
        )
        source = replace(source, remarks=(*source.remarks, remark))
    if naming_of([name.removeprefix(PREFIX) for name in adapters.tensors], folder).layout == "original":
        source = original.with_tuned(source, folder)
    return apply_adapters(source, adapters)


Reader = Callable[..., SourceModel]
READERS: Mapping[str, Reader] = {"original": original.read, "llava-hf": llava_hf.read, "peft": read_peft}


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
    if llava_hf.is_hf(config):
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
        folder: The folder or hub name.
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

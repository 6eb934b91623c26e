"""Which layout a folder has, decided by what is in it and never by its name.

folder -> Source -> model and processor
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from vistune.errors import CheckpointError
from vistune.interop import adapters, llava_hf, original
from vistune.interop.build import SourceModel, build_model, source_processor
from vistune.interop.folders import resolve
from vistune.interop.tensors import read_config
from vistune.model import VisionLanguageModel
from vistune.processor import Processor

log = logging.getLogger("vistune.interop")
Reader = Callable[..., SourceModel]
READERS: Mapping[str, Reader] = {"original": original.read, "llava-hf": llava_hf.read, "peft": adapters.read}


def layout_of(folder: Path) -> str:
    """The layout's name. Raises CheckpointError where nothing in the folder tells."""
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
    """Read a folder or hub name of any known layout. `base`, `vision`: the language model and tower, if not included.

    Keys or tensors that have no effect, or an unexpected one, are logged.
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
    **outside: Any,
) -> tuple[VisionLanguageModel, Processor]:
    """Model and processor of a folder of another layout; `outside` as for `read_source`, `quantize` 4 or 8 bits."""
    source = read_source(folder, **outside)
    processor = source_processor(source)
    return build_model(source, dtype, quantize).to(device).eval(), processor

"""Tensors of somebody's model folder, by name, read one at a time and never through a pickle's code.

folder -> {name: lazy tensor} · {name: lazy tensor} + a layout's names -> parts {vision, projector, newline, language}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vistune.errors import CheckpointError, DataError, some
from vistune.files import read_json

PARTS = ("vision", "projector", "newline", "language")
LazyTensor = Any  # a Tensor, or a safetensors slice: both give the tensor for `[...]`
Parts = dict[str, dict[str, LazyTensor]]


@cache
def names() -> Mapping[str, Any]:
    return json.loads((resources.files("vistune.interop") / "names.json").read_text(encoding="utf-8"))


def read_config(folder: Path) -> dict[str, Any]:
    """config.json as plain values. Raises CheckpointError where there is none, or it asks for code of its own."""
    try:
        config = read_json(folder / "config.json")
    except DataError as error:
        raise CheckpointError(error.message, "name a folder that holds a model") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{folder / 'config.json'}: an object is wanted", "name a folder that holds a model")
    for place, tree in (("", config), ("text_config.", config.get("text_config")), ("vision_config.",
                        config.get("vision_config"))):  # fmt: skip
        if isinstance(tree, dict) and tree.get("auto_map"):
            raise CheckpointError(
                f"{folder / 'config.json'}: {place}auto_map asks to run code of the folder's own",
                "use a model that transformers knows",
            )
    return config


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, by its index where it has one. Raises CheckpointError."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        listed = sorted(set(read_json(index)["weight_map"].values()))
        missing = [name for name in listed if not (folder / name).is_file()]
        if missing:
            raise CheckpointError(f"{folder}: its index names {some(missing)}, which is not there", "fetch it again")
        return [folder / name for name in listed]
    return sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def read_tensors(folder: Path, *, pickles: bool = False) -> dict[str, LazyTensor]:
    """Every tensor of a folder by name. `pickles`: also of pytorch_model*.bin, which run no code here.

    Raises CheckpointError naming the file that is damaged, or of a form that is not read.
    """
    files = weight_files(folder)
    if not files:
        raise CheckpointError(f"{folder}: no model*.safetensors in it", "name a folder that holds weights")
    found: dict[str, LazyTensor] = {}
    for path in files:
        if path.suffix == ".bin" and not pickles:
            raise CheckpointError(
                f"{path}: a pickle; only safetensors are read",
                "convert it: load it with transformers and call save_pretrained",
            )
        found |= read_pickle(path) if path.suffix == ".bin" else open_safetensors(path)
    return found


def open_safetensors(path: Path) -> dict[str, LazyTensor]:
    """The tensors of one file as slices: nothing is read before it is asked for."""
    try:
        file = safe_open(str(path), framework="pt")
        return {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged or cut off: {error}", "fetch the file again") from None


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Tensors of a torch pickle, mapped into memory; anything but tensors in it is refused and never run."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (UnpicklingError, RuntimeError, OSError, ValueError, EOFError) as error:
        raise CheckpointError(
            f"{path}: not a file of tensors alone: {str(error).splitlines()[0][:200]}", "do not trust this file"
        ) from None
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise CheckpointError(f"{path}: a mapping of names to tensors is wanted", "name another file")
    return loaded


def by_part(tensors: Mapping[str, LazyTensor], layout: str, place: str) -> Parts:
    """Tensors under their names inside the parts. Raises CheckpointError naming those of no part."""
    rules = names()[layout]["read"]
    parts: Parts = {part: {} for part in PARTS}
    strange = []
    for name, tensor in tensors.items():
        if name.endswith(tuple(names()["ignored"])):
            continue
        rule = next(((old, new) for old, new in rules if name.startswith(old)), None)
        if rule is None:
            strange.append(name)
            continue
        part, _, inner = (rule[1] + name.removeprefix(rule[0])).partition(":")
        parts[part][inner or part] = tensor
    if strange:
        raise CheckpointError(f"{place}: tensors of no known part: {some(strange)}", "name a LLaVA model")
    return parts


def written_name(part: str, name: str, layout: str) -> str:
    """A part's tensor as the layout names it."""
    ours = f"{part}:" + ("" if name == part == "newline" else name)
    old, new = next((old, new) for old, new in names()[layout]["write"] if ours.startswith(old))
    return str(new) + ours.removeprefix(old)


def load_tensor(tensor: LazyTensor) -> Tensor:
    """The tensor itself."""
    read: Tensor = tensor[...]
    return read

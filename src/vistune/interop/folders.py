"""Read a model folder of another layout: config, tensors by part, tokenizer, vision tower; a path or a hub name.

Tensors are read one at a time. Pickles are loaded with `weights_only`, so no code in them runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import resources
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vistune.errors import CheckpointError, DataError, VistuneError, reason_of, some
from vistune.files import read_json
from vistune.model.peft_folder import LazyTensor
from vistune.model.shapes import VisionConfig
from vistune.model.vision import vision_config
from vistune.processor import TokenizerLike, load_tokenizer

PARTS = ("vision", "projector", "newline", "language")
Parts = dict[str, dict[str, LazyTensor]]  # tensors by part and name

# Downloaded of a hub name: no code, no weights of other frameworks, no second copy of the same weights.
SMALL = ("*.json", "*.model", "*.jinja", "*.txt", "mm_projector.bin", "non_lora_trainables.bin", "adapter_model.*")
FETCHED = [*SMALL, "model*.safetensors"]
PICKLED = ["pytorch_model*.bin"]
TOKENIZERS = ("tokenizer.json", "tokenizer.model")


@cache
def names() -> Mapping[str, Any]:
    """Return the tensor names of each layout (names.json)."""
    path = resources.files("vistune.interop") / "names.json"
    tree: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return tree


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json. Raises CheckpointError if it is missing or needs custom code."""
    try:
        config = read_json(folder / "config.json")
    except DataError as error:
        raise CheckpointError(error.message, "name a model folder") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{folder / 'config.json'}: a JSON object is expected", "name a model folder")
    for prefix, tree in (("", config), ("text_config.", config.get("text_config")), ("vision_config.",
                        config.get("vision_config"))):  # fmt: skip
        if isinstance(tree, dict) and tree.get("auto_map"):
            raise CheckpointError(
                f"{folder / 'config.json'}: {prefix}auto_map needs custom code, which is never run",
                "use a model that transformers contains",
            )
    return config


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a folder, from its index if it has one. Raises CheckpointError if one is missing."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        listed = sorted(set(read_json(index)["weight_map"].values()))
        missing = [name for name in listed if not (folder / name).is_file()]
        if missing:
            raise CheckpointError(f"{folder}: its index names {some(missing)}, which is missing", "download it again")
        return [folder / name for name in listed]
    return sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def read_tensors(folder: Path, *, pickles: bool = False) -> dict[str, LazyTensor]:
    """Return every tensor of a folder by name.

    Args:
        folder: The folder.
        pickles: Also read pytorch_model*.bin; no code in them is run.

    Raises:
        CheckpointError: If a file is missing, damaged or not supported.
    """
    files = weight_files(folder)
    if not files:
        raise CheckpointError(f"{folder}: contains no model*.safetensors", "name a folder with weights")
    tensors: dict[str, LazyTensor] = {}
    for path in files:
        if path.suffix == ".bin" and not pickles:
            raise CheckpointError(
                f"{path}: a pickle; only safetensors are supported here",
                "convert it: load it with transformers and call save_pretrained",
            )
        tensors |= read_pickle(path) if path.suffix == ".bin" else open_safetensors(path)
    return tensors


def open_safetensors(path: Path) -> dict[str, LazyTensor]:
    """Open a safetensors file; tensors are read when they are indexed."""
    try:
        file = safe_open(str(path), framework="pt")
        return {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged or cut off: {error}", "download the file again") from None


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a torch pickle, mapped into memory; anything else in it is refused and never run."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (UnpicklingError, RuntimeError, OSError, ValueError, EOFError) as error:
        raise CheckpointError(
            f"{path}: cannot be loaded as tensors only: {str(error).splitlines()[0][:200]}", "do not trust this file"
        ) from None
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise CheckpointError(f"{path}: a mapping from names to tensors is expected", "name another file")
    return loaded


def by_part(tensors: Mapping[str, LazyTensor], layout: str, location: str) -> Parts:
    """Sort tensors into parts, under their names there. Raises CheckpointError naming tensors of no known part."""
    rules = names()[layout]["read"]
    parts: Parts = {part: {} for part in PARTS}
    unknown = []
    for name, tensor in tensors.items():
        if name.endswith(tuple(names()["ignored"])):
            continue
        rule = next(((old, new) for old, new in rules if name.startswith(old)), None)
        if rule is None:
            unknown.append(name)
            continue
        part, _, inner = (rule[1] + name.removeprefix(rule[0])).partition(":")
        parts[part][inner or part] = tensor
    if unknown:
        raise CheckpointError(f"{location}: tensors of no known part: {some(unknown)}", "name a LLaVA model")
    return parts


def written_name(part: str, name: str, layout: str) -> str:
    """Return the layout's name for a part's tensor."""
    ours = f"{part}:" + ("" if name == part == "newline" else name)
    old, new = next((old, new) for old, new in names()[layout]["write"] if ours.startswith(old))
    return str(new) + ours.removeprefix(old)


@contextmanager
def readable_config(path: Path) -> Iterator[None]:
    """Convert the many errors that transformers raises for a config's values to CheckpointError."""
    try:
        yield
    except VistuneError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{path}: transformers rejects it: {reason_of(error)}", "download the file again"
        ) from None


def is_hub_name(name: str) -> bool:
    """Return whether this is OWNER/NAME and not a folder."""
    return name.count("/") == 1 and not name.startswith((".", "/")) and not Path(name).is_dir()


def resolve(name: str, parent: Path | None = None) -> Path:
    """Return the folder of a path (also relative to `parent`) or of a hub name, which is downloaded.

    Raises:
        CheckpointError: If it is neither.
    """
    for folder in (*([parent / name] if parent is not None else []), Path(name)):
        if folder.is_dir():
            return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        fetched = Path(snapshot_download(name, allow_patterns=FETCHED))
        if not weight_files(fetched):  # second, because many models are stored in both forms
            snapshot_download(name, allow_patterns=PICKLED)
        return fetched
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError):
        raise CheckpointError(
            f"{name}: neither a folder nor a model on the hub that can be downloaded", "check the name or the path"
        ) from None


def tokenizer_of(folder: Path) -> TokenizerLike:
    """Load a folder's fast tokenizer. Raises CheckpointError if it has none."""
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise CheckpointError(f"{folder}: neither {' nor '.join(TOKENIZERS)}", "give --base with a tokenizer")
    return load_tokenizer(folder)


def read_tower(name: str, parent: Path | None = None) -> tuple[Path, VisionConfig, dict[str, LazyTensor]]:
    """Return (folder, config, tensors) of a vision tower, or of the vision part of a CLIP model."""
    folder = resolve(name, parent)
    config = vision_config(str(folder))
    rules = names()["tower"]["read"]
    tensors: dict[str, LazyTensor] = {}
    for tensor_name, tensor in read_tensors(folder, pickles=True).items():
        rule = next(((old, new) for old, new in rules if tensor_name.startswith(old)), None)
        if rule is not None and not tensor_name.endswith(tuple(names()["ignored"])):
            tensors[(rule[1] + tensor_name.removeprefix(rule[0])).removeprefix("vision:")] = tensor
    return folder, config, tensors

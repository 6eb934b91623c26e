"""Read and write the files of model folders of other layouts: config, tensors by part, tokenizer, vision tower.

A folder to read is a path or a hub name. Tensors are read one at a time. Pickles are loaded with `weights_only`, so no
code in them runs.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vistune.errors import CheckpointError, DataError, VistuneError, reason_of, some
from vistune.files import read_json, write_json
from vistune.model.peft_folder import LazyTensor, shape_of
from vistune.model.shapes import VisionConfig
from vistune.model.tower_shape import as_layers, describe_tower, set_depth, tower_class
from vistune.model.vision import load_whole_tower, vision_config
from vistune.processor import TokenizerLike, load_tokenizer
from vistune.recipe.hub import fail_fast_without_network
from vistune.types import Spec

if TYPE_CHECKING:
    from transformers import BaseImageProcessor

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
    """Return every tensor of a folder by name. `pickles`: also read pytorch_model*.bin; no code in them is run.

    Raises CheckpointError if a file is missing, damaged or not supported.
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
    """Sort tensors into parts, with their names in the part. Raises CheckpointError for tensors of no known part."""
    parts: Parts = {part: {} for part in PARTS}
    unknown = []
    for name, tensor in tensors.items():
        if name.endswith(tuple(names()["ignored"])):
            continue
        if (ours := _renamed(name, names()[layout]["read"])) is None:
            unknown.append(name)
            continue
        part, _, inner = ours.partition(":")
        parts[part][inner or part] = tensor
    if unknown:
        raise CheckpointError(f"{location}: tensors of no known part: {some(unknown)}", "name a LLaVA model")
    return parts


def written_name(part: str, name: str, layout: str) -> str:
    """Return the layout's name for a part's tensor."""
    ours = f"{part}:" + ("" if name == part == "newline" else name)
    theirs = _renamed(ours, names()[layout]["write"])
    assert theirs is not None, ours
    return theirs


def _renamed(name: str, rules: Iterable[tuple[str, str]]) -> str | None:
    """Replace the beginning of a tensor's name by the first rule that matches; return None if no rule does."""
    return next((new + name.removeprefix(old) for old, new in rules if name.startswith(old)), None)


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

    Raises CheckpointError if it is neither.
    """
    for folder in (*([parent / name] if parent is not None else []), Path(name)):
        if folder.is_dir():
            return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    fail_fast_without_network()
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
    """Return (folder, config, tensors) of a vision tower, or of the vision part of a larger model."""
    folder = resolve(name, parent)
    config = vision_config(str(folder))
    stored = next(tensor for tensor in read_tensors(folder, pickles=True).values() if len(shape_of(tensor)) > 1)
    return folder, config, dict(load_whole_tower(str(folder), config, stored[:0].dtype).state_dict())


def with_full_depth(
    tower: Mapping[str, LazyTensor], config: VisionConfig, feature_layer: int | Sequence[int]
) -> tuple[dict[str, LazyTensor], VisionConfig]:
    """Return (tensors, config) of a tower cut at its feature layer, with zero layers in place of the missing ones.

    Their output is not used. The feature layer then has the same number in every loader; if it were the last layer,
    some loaders would normalise it (vLLM) and others would not. The last norm gets unit weights.
    """
    if not describe_tower(config, -1).cuts:
        return dict(tower), config
    config = copy.deepcopy(config)
    set_depth(config, config.num_hidden_layers - 1 - max(as_layers(feature_layer)))
    norm = describe_tower(config, feature_layer).norm
    with torch.device("meta"):
        expected = tower_class(config)(config).state_dict()
    dtype = next(iter(tower.values()))[...].dtype
    longer = dict(tower)
    for name, tensor in expected.items():
        is_scale = bool(norm) and name == f"{norm}.weight"
        longer.setdefault(name, (torch.ones if is_scale else torch.zeros)(tensor.shape, dtype=dtype))
    return longer, config


def save_tensors(state: Mapping[str, Tensor], folder: Path) -> None:
    """Write safetensors in shards of 5 GB, with an index if there are several."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_torch_state_dict(tensors, folder, max_shard_size="5GB", metadata={"format": "pt"})


def without_paths(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Remove the paths from which parts of a config were read."""
    kept = {key: value for key, value in tree.items() if key != "_name_or_path"}
    return {key: without_paths(value) if isinstance(value, dict) else value for key, value in kept.items()}


def image_processor(spec: Spec) -> BaseImageProcessor:
    """Return transformers' image processor that makes the tiles on which this model was trained."""
    from transformers import (
        CLIPImageProcessorPil,
        LlavaImageProcessorPil,
        LlavaNextImageProcessorPil,
        SiglipImageProcessorPil,
    )

    side = {"height": spec.image_side, "width": spec.image_side}
    edge = spec.image_resize or spec.image_side
    common = {"image_mean": list(spec.image_mean), "image_std": list(spec.image_std), "resample": spec.image_resample}
    crop = {"size": {"shortest_edge": spec.image_side}, "crop_size": side}
    if spec.image_mode == "anyres":
        pairs = [[height, width] for width, height in spec.canvases]
        return LlavaNextImageProcessorPil(**common, **crop, image_grid_pinpoints=pairs)
    if spec.image_mode == "pad":
        return LlavaImageProcessorPil(**common, **crop, do_pad=True)
    if spec.image_fit != "stretch":
        return CLIPImageProcessorPil(**common, size={"shortest_edge": edge}, crop_size=side)
    if edge == spec.image_side:
        return SiglipImageProcessorPil(**common, size=side)
    return CLIPImageProcessorPil(**common, size={"height": edge, "width": edge}, crop_size=side)


def write_tower(tower: Mapping[str, LazyTensor], config: VisionConfig, spec: Spec, folder: Path) -> None:
    """Write a vision tower into a folder of its own, in transformers' layout."""
    older = config.model_type in ("clip_vision_model", "siglip_vision_model")
    state = {written_name("vision", name, "tower") if older else name: tensor[...] for name, tensor in tower.items()}
    save_tensors(state, folder)
    write_json(folder / "config.json", without_paths(config.to_dict()))
    image_processor(replace(spec, image_mode="square")).save_pretrained(folder)

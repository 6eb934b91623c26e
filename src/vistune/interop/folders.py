"""Folders, hub names, tokenizers and towers that another layout points to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vistune.errors import CheckpointError, VistuneError
from vistune.interop.tensors import LazyTensor, names, read_tensors, weight_files
from vistune.model.vision import vision_config
from vistune.processor import load_tokenizer

# Of a hub name: no code, no weights of other frameworks, no second copy of the same.
SMALL = ("*.json", "*.model", "*.jinja", "*.txt", "mm_projector.bin", "non_lora_trainables.bin", "adapter_model.*")
FETCHED = [*SMALL, "model*.safetensors"]
PICKLED = ["pytorch_model*.bin"]
TOKENIZERS = ("tokenizer.json", "tokenizer.model")


@contextmanager
def readable_config(place: Path) -> Iterator[None]:
    """What transformers says of a config's values, which it says in many ways, as CheckpointError."""
    try:
        yield
    except VistuneError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CheckpointError(f"{place}: not taken by transformers: {reason}", "fetch the file again") from None


def is_hub_name(name: str) -> bool:
    """OWNER/NAME that is no folder here."""
    return name.count("/") == 1 and not name.startswith((".", "/")) and not Path(name).is_dir()


def resolve(name: str, beside: Path | None = None) -> Path:
    """The folder of a path (also relative to `beside`) or of a hub name. Raises CheckpointError where it is neither."""
    for folder in (*([beside / name] if beside is not None else []), Path(name)):
        if folder.is_dir():
            return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        fetched = Path(snapshot_download(name, allow_patterns=FETCHED))
        if not weight_files(fetched):  # not at first: many models lie there in both forms
            snapshot_download(name, allow_patterns=PICKLED)
        return fetched
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError):
        raise CheckpointError(
            f"{name}: neither a folder nor a model of the hub that can be reached", "give a folder that is there"
        ) from None


def tokenizer_of(folder: Path) -> Any:
    """A folder's fast tokenizer. Raises CheckpointError where it holds none."""
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise CheckpointError(f"{folder}: neither {' nor '.join(TOKENIZERS)}", "give --base with a tokenizer")
    return load_tokenizer(folder)


def read_tower(name: str, beside: Path | None = None) -> tuple[Path, Any, dict[str, LazyTensor]]:
    """(folder, config, tensors) of a vision tower; of a joint model, its vision part."""
    folder = resolve(name, beside)
    config = vision_config(str(folder))
    rules = names()["tower"]["read"]
    found: dict[str, LazyTensor] = {}
    for tensor_name, tensor in read_tensors(folder, pickles=True).items():
        rule = next(((old, new) for old, new in rules if tensor_name.startswith(old)), None)
        if rule is not None and not tensor_name.endswith(tuple(names()["ignored"])):
            found[(rule[1] + tensor_name.removeprefix(rule[0])).removeprefix("vision:")] = tensor
    return folder, config, found

"""Rows K of the reliability matrix for scripts/make_corpus.py: model folders, broken or hostile, and what is right.

Each is a tiny model in the original LLaVA's layout, or the same in ours, over the package's own vision tower. No pickle
in them may run: where one did, the file `canary` would lie beside it.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file

from vistune.interop.export import import_model

BACKBONES = Path(str(resources.files("vistune.scenes") / "backbones"))
WIDTH, HIDDEN, LAYERS, WORDS = 16, 32, 3, 1705
WEIGHTS = "model.safetensors"
CONFIG: Mapping[str, Any] = {
    "architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava", "hidden_size": WIDTH, "head_dim": 8,
    "intermediate_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "num_key_value_heads": 2,
    "vocab_size": WORDS, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "tie_word_embeddings": True, "mm_vision_tower": str(BACKBONES / "vision"), "mm_projector_type": "linear",
    "mm_hidden_size": 128, "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch",
    "image_aspect_ratio": "pad",
}  # fmt: skip


@dataclass(frozen=True)
class ModelCase:
    """`write` makes a folder; `words`: a pattern that the refusal must meet."""

    outcome: Literal["ok", "refuse"]
    words: str
    write: Callable[[Path], None]


class Payload:
    """A pickle that makes a file where it is run."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


def tensors() -> dict[str, torch.Tensor]:
    chance = torch.Generator().manual_seed(0)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=chance).mul(0.1).half()

    found = {"model.embed_tokens.weight": some(WORDS, WIDTH), "model.norm.weight": torch.ones(WIDTH).half(),
             "model.mm_projector.weight": some(WIDTH, 128), "model.mm_projector.bias": some(WIDTH)}  # fmt: skip
    for layer in range(LAYERS):
        here = f"model.layers.{layer}."
        found |= {f"{here}self_attn.{name}_proj.weight": some(WIDTH, WIDTH) for name in "qkvo"}
        found |= {f"{here}mlp.{name}_proj.weight": some(HIDDEN, WIDTH) for name in ("gate", "up")}
        found |= {f"{here}mlp.down_proj.weight": some(WIDTH, HIDDEN)}
        found |= {f"{here}{name}_layernorm.weight": torch.ones(WIDTH).half() for name in ("input", "post_attention")}
    return found


def original(folder: Path) -> None:
    """A good folder of the original's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors(), folder / WEIGHTS, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=1))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BACKBONES / "language" / name, folder)


def ours(folder: Path) -> None:
    """The same model in our layout."""
    source = folder.with_name(folder.name + "-source")
    original(source)
    import_model(source, folder)
    shutil.rmtree(source)


def then(make: Callable[[Path], None], *changes: Callable[[Path], None]) -> Callable[[Path], None]:
    """A good folder, then changed."""

    def write(folder: Path) -> None:
        for step in (make, *changes):
            step(folder)

    return write


def bytes_of(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return write


def weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})

    return write


def offsets(change: Callable[[list[int], list[int]], list[int]]) -> Callable[[Path], None]:
    """Another span for the second tensor of the file, made of the first's and its own."""

    def write(folder: Path) -> None:
        data = (folder / WEIGHTS).read_bytes()
        end = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:end])
        spans = sorted((told["data_offsets"], name) for name, told in header.items() if name != "__metadata__")
        header[spans[1][1]]["data_offsets"] = change(spans[0][0], spans[1][0])
        told = json.dumps(header).encode()
        (folder / WEIGHTS).write_bytes(len(told).to_bytes(8, "little") + told + data[end:])

    return write


def gone(*names: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return write


def pickled(*names: str, zipped: bool = False) -> Callable[[Path], None]:
    """Pickles with code in them."""

    def write(folder: Path) -> None:
        evil = {"model.norm.weight": Payload(folder / "canary")}
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            torch.save(evil, folder / name) if zipped else (folder / name).write_bytes(pickle.dumps(evil))

    return write


def as_pickle(folder: Path) -> None:
    """The weights as a file of torch, tensors alone."""
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def linked(folder: Path) -> None:
    """The weights where a hub's cache keeps them, behind a link."""
    blobs = folder / "blobs"
    blobs.mkdir()
    (folder / WEIGHTS).rename(blobs / "0123abcd")
    (folder / WEIGHTS).symlink_to(Path("blobs") / "0123abcd")


def words_added(*words: str, special: bool = False) -> Callable[[Path], None]:
    """More words than the language model has rows for."""

    def write(folder: Path) -> None:
        tree = json.loads((folder / "tokenizer.json").read_text())
        rules = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
        tree["added_tokens"] += [{"id": WORDS + k, "content": word, **rules} for k, word in enumerate(words)]
        (folder / "tokenizer.json").write_text(json.dumps(tree))

    return write


def renamed(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.replace("self_attn", "attention"): tensor for name, tensor in found.items()}


MODELS: Mapping[str, ModelCase] = {
    "K00-original": ModelCase("ok", "", original),
    "K00-ours": ModelCase("ok", "", ours),
    "K01-empty": ModelCase("refuse", "neither config.json nor", lambda folder: folder.mkdir(parents=True)),
    "K02-no-commit-mark": ModelCase("refuse", r"no manifest\.json.*incomplete", then(ours, gone("manifest.json"))),
    "K03-flipped": ModelCase("refuse", r"projector\.safetensors",
        then(ours, bytes_of("projector.safetensors", lambda data: data[:-1] + bytes([data[-1] ^ 1])))),
    "K03-deleted": ModelCase("refuse", r"projector\.safetensors", then(ours, gone("projector.safetensors"))),
    "K04-tensors-alone": ModelCase("ok", "", then(original, as_pickle)),
    "K05-pickle": ModelCase("refuse", r"pytorch_model\.bin: cannot be loaded as tensors only",
        then(original, gone(WEIGHTS), pickled("pytorch_model.bin"))),
    "K05-pickle-in-a-zip": ModelCase("refuse", r"pytorch_model\.bin: cannot be loaded as tensors only",
        then(original, gone(WEIGHTS), pickled("pytorch_model.bin", zipped=True))),
    "K05-slipped-in": ModelCase("ok", "", then(ours, pickled("projector.pt", "pytorch_model.bin",
        "language/pytorch_model.bin", "vision/pytorch_model.bin"))),
    "K06-huge-header": ModelCase("refuse", r"model\.safetensors: damaged",
        then(original, bytes_of(WEIGHTS, lambda data: (2**62).to_bytes(8, "little") + data[8:]))),
    "K06-truncated": ModelCase("refuse", r"model\.safetensors: damaged",
        then(original, bytes_of(WEIGHTS, lambda data: data[: len(data) // 2]))),
    "K06-no-bytes": ModelCase("refuse", r"model\.safetensors: damaged",
        then(original, bytes_of(WEIGHTS, lambda data: b""))),
    "K06-overlap": ModelCase("refuse", r"model\.safetensors: damaged",
        then(original, offsets(lambda first, own: [first[0], first[0] + own[1] - own[0]]))),
    "K06-beyond-the-end": ModelCase("refuse", r"model\.safetensors: damaged",
        then(original, offsets(lambda first, own: [2**40, 2**40 + own[1] - own[0]]))),
    "K06-negative": ModelCase("refuse", r"model\.safetensors: damaged",
        then(original, offsets(lambda first, own: [-8, own[1] - own[0] - 8]))),
    "K06-gap": ModelCase("refuse", r"model\.safetensors: damaged",
        then(original, offsets(lambda first, own: [own[0] + 1, own[1]]))),
    "K07-missing": ModelCase("refuse", "and 8 more",
        then(original, weights(lambda found: {name: found[name] for name in found if ".layers.0." not in name
                                              and ".layers.1." not in name}))),
    "K07-extra": ModelCase("refuse", "model.spare", then(original,
        weights(lambda found: {**found, "model.spare.weight": torch.ones(2)}))),
    "K07-renamed": ModelCase("refuse", r"layers\.0\.(self_attn|attention)", then(original, weights(renamed))),
    "K09-longer-tokenizer": ModelCase("refuse", f"ids up to {WORDS + 1}, its language model has {WORDS} embeddings",
        then(original, words_added("wordish", "wordly"))),
    "K09-special-token": ModelCase("ok", "", then(original, words_added("<soft>", special=True))),
    "K15-linked": ModelCase("ok", "", then(original, linked)),
}  # fmt: skip

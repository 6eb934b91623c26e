"""Where a run's model comes from, as every checkpoint of it tells: data and who wrote it, code, the model before."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vistune.files import read_json_if_there
from vistune.model import VisionLanguageModel
from vistune.processor import Processor
from vistune.recipe import Model, Origin


@dataclass(frozen=True, slots=True)
class Base:
    """The model that a recipe goes on from: how it reads, where its backbones lie, and its folder, made when needed.

    `origin`: what names this model and no later one · `told`: the same for who asks later, with a hash of its files ·
    `cut`: its tower was trained, and ends at the feature layer · `configs`: for another layout, of its tower and
    language model; their folders are made when training begins · `empty`: builds the model without weights, checked.
    """

    origin: Origin
    told: Mapping[str, Any]
    processor: Processor
    model: Model
    cut: bool
    adapted: bool
    open: Callable[[], Path]
    empty: Callable[[], VisionLanguageModel]
    configs: tuple[Any, Any] | None = None

    @property
    def learnt(self) -> set[str]:
        """Parts saved with every run that goes on from it: a cut tower lies nowhere whole, its adapters merge."""
        return ({"vision"} if self.cut else set()) | ({"language"} if self.adapted else set())


def history(hashes: Mapping[str, str], base: Base | None) -> dict[str, Any]:
    """Where a model comes from, whole; `hashes`: SHA-256 of each data file."""
    data = []
    for name, digest in hashes.items():
        told = read_json_if_there(Path(name).parent / "generate.json")
        written = told.get("origin") if isinstance(told, dict) else None
        data.append({"file": name, "sha256": digest, "written": written})
    return {"data": data, "versions": versions(), "from": None if base is None else dict(base.told)}


def shards_of(stage: str) -> str:
    """How a history calls a stage's shards, whose names it has a hash of."""
    return f"shards of {stage}"


def versions() -> dict[str, str]:
    """Of what decides a run's numbers."""
    names = ("vistune", "torch", "transformers", "peft", "tokenizers")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}

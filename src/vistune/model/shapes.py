"""Sizes of backbones, from their config.json: no weights, no network, no transformers.

The config.json is that of a folder, of the hub cache, or one of those in shapes.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

from vistune.errors import RecipeError
from vistune.files import parse_yaml, read_json
from vistune.recipe import source_of
from vistune.recipe.hub import cached_folder


class ConfigLike(Protocol):
    """The parts of transformers' backbone configs that vistune reads."""

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int

    def to_dict(self) -> dict[str, object]: ...


class LanguageConfig(ConfigLike, Protocol):
    """A language model's config."""

    vocab_size: int
    max_position_embeddings: int
    _attn_implementation: str
    tie_word_embeddings: bool
    is_encoder_decoder: bool

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, object]) -> LanguageConfig: ...

    def get_text_config(self) -> LanguageConfig: ...

    def to_json_string(self, *, use_diff: bool) -> str: ...


class VisionConfig(ConfigLike, Protocol):
    """A vision tower's config. `projection_dim`: only CLIP towers have it."""

    image_size: int
    patch_size: int
    projection_dim: int


def config_of(name: str, part: str) -> SimpleNamespace:
    """Return the contents of a backbone's config.json. Raises RecipeError if none is found without a download."""
    source = source_of(name, part)
    tree = _read_locally(source)
    if tree is None:
        raise RecipeError(
            f"model.{part}={name}: its config.json is neither in a folder of that name nor in the hub cache",
            f"download it once (hf download {name} config.json), or name a folder",
        )
    if part == "vision" and isinstance(tree.get("vision_config"), Mapping):
        joint = {"projection_dim": tree["projection_dim"]} if "projection_dim" in tree else {}
        tree = {"projection_dim": 512, **tree["vision_config"], **joint}  # the joint folder's own width wins
        tree.setdefault("model_type", "clip_vision_model")
    return SimpleNamespace(**tree)


def _read_locally(source: str) -> dict[str, Any] | None:
    if (Path(source) / "config.json").is_file():
        return dict(_with_floats(read_json(Path(source) / "config.json")))
    if Path(source).is_dir():
        return None
    known = parse_yaml((resources.files("vistune.model") / "shapes.yaml").read_text(encoding="utf-8"), "shapes.yaml")
    if source in known:
        return dict(known[source])
    folder = cached_folder(source, "config.json")
    return None if folder is None else dict(_with_floats(read_json(Path(folder) / "config.json")))


def _with_floats(value: Any) -> Any:
    """Decode infinity, which transformers writes as {"__float__": "Infinity"}."""
    if isinstance(value, list):
        return [_with_floats(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"__float__"}:
        return float(value["__float__"])
    return {name: _with_floats(item) for name, item in value.items()}

"""Write a model in the layouts of other tools: complete folders of weights, configs, tokenizer and image processor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vistune.files import write_atomic, write_json
from vistune.generation import Assistant
from vistune.interop.folders import save_tensors, without_paths, write_tower, written_name
from vistune.interop.language_names import LanguageNames, names_in
from vistune.interop.original import CLASSES
from vistune.interop.processor_files import generation_config, with_image_token, write_processor
from vistune.model import VisionLanguageModel
from vistune.model.language import CausalLM, unwrap
from vistune.model.peft_folder import LazyTensor
from vistune.model.shapes import VisionConfig
from vistune.model.tower_shape import TowerShape, describe_tower
from vistune.processor import Processor, save_tokenizer
from vistune.runs.checkpoint import language_state
from vistune.types import Spec

if TYPE_CHECKING:
    from transformers import LlavaConfig, LlavaNextConfig

OLDER_TOWERS = ("clip_vision_model", "siglip_vision_model")  # written with the tensor names of transformers 4


@dataclass(frozen=True)
class ExportedModel:
    """A model to be written.

    Attributes:
        model: The model; it may compute in another precision than `dtype`.
        processor: Its processor.
        tower: The tower's tensors as stored, of every layer in its config.
        tower_config: transformers' config of the tower.
        tower_name: How an original config names the tower: a hub name, or its folder's name.
        tower_inside: Whether the original layout's weights contain the tower.
        card: Text of the model card.
        dtype: Precision of everything that is written, except a tower in a folder of its own.
    """

    model: VisionLanguageModel
    processor: Processor
    tower: Mapping[str, LazyTensor]
    tower_config: VisionConfig
    tower_name: str
    tower_inside: bool
    card: str
    dtype: torch.dtype

    @property
    def assistant(self) -> Assistant:
        return Assistant(self.model, self.processor)

    @property
    def spec(self) -> Spec:
        return self.processor.spec

    @property
    def language(self) -> CausalLM:
        return unwrap(self.model.language)

    @property
    def tower_shape(self) -> TowerShape:
        return describe_tower(self.tower_config, self.spec.feature_layer, self.spec.image_side)

    @property
    def select_strategy(self) -> str:
        """transformers' name for the tower's tokens that are used: `default` drops a class token."""
        return "default" if self.tower_shape.prefix and self.spec.feature_tokens == "patch" else "full"


def write_hf(exported: ExportedModel, folder: Path) -> None:
    """Write a folder like llava-hf/llava-1.5-7b-hf, which vLLM and transformers load.

    The model must have passed `refuse_layout`.
    """
    tokenizer, image_id, rows = with_image_token(exported.processor.tokenizer, exported.language.config.vocab_size)
    save_tensors(hf_state(exported, rows), folder)
    config = without_paths(hf_config(exported, image_id, rows, tokenizer.pad_token_id).to_dict())
    write_json(folder / "config.json", {**config, "text_config": with_older_keys(config["text_config"])})
    write_processor(exported, folder)
    generation_config(exported, tokenizer).save_pretrained(folder)
    write_atomic(folder / "README.md", exported.card)


def hf_state(exported: ExportedModel, rows: int) -> dict[str, Tensor]:
    """Return every tensor under llava-hf's name, with the vocabulary enlarged to `rows`."""
    state = {**tower_state(exported, "llava-hf"), **projector_state(exported, "llava-hf")}
    names = names_in(exported.language)
    language = with_more_rows(language_tensors(exported), rows, names)
    if not names.tied_in_llava:  # LLaVA then gets a separate head
        language.setdefault(f"{names.head}weight", language[f"{names.embedding}.weight"].clone())
    return state | {
        written_name("language", names.in_llava(name), "llava-hf"): tensor for name, tensor in language.items()
    }


def language_tensors(exported: ExportedModel) -> dict[str, Tensor]:
    """Return the language model's tensors, without a head that is tied to the embedding."""
    state = {name: tensor.to(exported.dtype) for name, tensor in language_state(exported.model).items()}
    if exported.language.config.tie_word_embeddings:
        state.pop(f"{names_in(exported.language).head}weight", None)
    return state


def with_more_rows(state: Mapping[str, Tensor], rows: int, names: LanguageNames) -> dict[str, Tensor]:
    """Enlarge embedding and head to `rows`, with the mean of their rows, which is never the likeliest token."""
    longer = dict(state)
    for name in (f"{names.embedding}.weight", f"{names.head}weight"):
        if name in state and len(state[name]) < rows:
            mean = state[name].float().mean(dim=0, keepdim=True).to(state[name].dtype)
            longer[name] = torch.cat([state[name], mean.expand(rows - len(state[name]), -1)])
    return longer


def tower_state(exported: ExportedModel, layout: str) -> dict[str, Tensor]:
    """Return the tower's tensors under the layout's names."""
    tower = exported.tower.items()
    names = {name: written_name("vision", name, layout) for name, _ in tower}
    if layout == "llava-hf" and exported.tower_config.model_type not in OLDER_TOWERS:
        names = {name: f"vision_tower.{name}" for name in names}
    return {names[name]: tensor[...].to(exported.dtype) for name, tensor in tower}


def projector_state(exported: ExportedModel, layout: str) -> dict[str, Tensor]:
    """Return the projector's tensors and `newline` under the layout's names."""
    return {
        written_name("newline" if name == "newline" else "projector", name, layout): tensor.to(exported.dtype)
        for name, tensor in exported.model.projector_state().items()
    }


def hf_config(exported: ExportedModel, image_id: int, rows: int, pad_id: int) -> LlavaConfig | LlavaNextConfig:
    """Return transformers' config of the whole model."""
    from transformers import LlavaConfig, LlavaNextConfig

    own = exported.language.config
    tied = bool(own.tie_word_embeddings) and names_in(exported.language).tied_in_llava
    text = type(own)(**{**own.to_dict(), "vocab_size": rows, "pad_token_id": pad_id, "tie_word_embeddings": tied})
    common: dict[str, Any] = {
        "vision_config": exported.tower_config,
        "text_config": text,
        "image_token_index": image_id,
        "image_seq_length": exported.spec.slots_per_image,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": hf_layers(exported.spec),
        "vision_feature_select_strategy": exported.select_strategy,
        "tie_word_embeddings": tied,  # LLaVA 1.6's config does not take it from the language model
        "dtype": str(exported.dtype).removeprefix("torch."),
    }
    if exported.spec.image_mode == "anyres":
        pairs = [[height, width] for width, height in exported.spec.canvases]
        config = LlavaNextConfig(**common, image_grid_pinpoints=pairs, use_image_newline_parameter=True)
        config.architectures = ["LlavaNextForConditionalGeneration"]
    else:
        config = LlavaConfig(**common)
        config.architectures = ["LlavaForConditionalGeneration"]
    return config


def hf_layers(spec: Spec) -> int | list[int]:
    """Return the feature layers as a config of transformers has them."""
    return spec.feature_layer if isinstance(spec.feature_layer, int) else list(spec.feature_layer)


def with_older_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Add the rotary embedding's keys of transformers 4 to a language model's config.

    transformers 4 does not read `rope_parameters` and would use a default base. Gemma 3 has a base for each kind of
    layer.
    """
    rope = config.get("rope_parameters") or {}
    older = dict(config)
    full = rope.get("full_attention", rope)
    if "rope_theta" in full:
        older["rope_theta"] = full["rope_theta"]
    if "sliding_attention" in rope:
        older["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    elif (kind := rope.get("rope_type", "default")) in ("linear", "dynamic"):  # as their first versions wrote them
        rest = {key: value for key, value in rope.items() if key not in ("rope_theta", "rope_type")}
        older["rope_scaling"] = {"type": kind, **rest}  # Hunyuan has `alpha` too
    elif kind != "default":
        older["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
    return older


def write_original(exported: ExportedModel, folder: Path) -> None:
    """Write a folder like liuhaotian/llava-v1.5-7b, which the original LLaVA's code loads.

    The model must have passed `refuse_layout`.
    """
    names, kind = {kind: name for name, kind in CLASSES.items()}, exported.language.config.model_type
    save_tensors(original_state(exported), folder)
    config = {
        **with_older_keys(without_paths(exported.language.config.to_dict())),
        "torch_dtype": str(exported.dtype).removeprefix("torch."),
        "architectures": [names[kind]],
        "model_type": f"llava_{kind}" if kind != "qwen2" else "llava_qwen",
        "mm_vision_tower": exported.tower_name,
        "mm_hidden_size": exported.spec.vision_width,
        "mm_projector_type": exported.spec.projector,
        "mm_vision_select_layer": exported.spec.feature_layer,
        "mm_vision_select_feature": exported.spec.feature_tokens,
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "mm_patch_merge_type": "spatial_unpad" if exported.spec.image_mode == "anyres" else "flat",
        "image_aspect_ratio": exported.spec.image_mode,
        "use_mm_proj": True,
        "unfreeze_mm_vision_tower": exported.tower_inside,
        "vistune_template": exported.spec.template,
        "vistune_tokenization": exported.spec.tokenization,
    }
    if exported.spec.image_mode == "anyres":
        config["image_grid_pinpoints"] = [list(canvas) for canvas in exported.spec.canvases]
    write_json(folder / "config.json", config)
    save_tokenizer(exported.processor.tokenizer, folder)
    generation_config(exported, exported.processor.tokenizer).save_pretrained(folder)
    write_atomic(folder / "README.md", exported.card)
    if not exported.tower_name.count("/"):
        write_tower(exported.tower, exported.tower_config, exported.spec, folder / exported.tower_name)


def original_state(exported: ExportedModel) -> dict[str, Tensor]:
    """Return every tensor under the original's name, including the tower's if the layout contains it."""
    tower = tower_state(exported, "original") if exported.tower_inside else {}
    return {**tower, **projector_state(exported, "original"), **language_tensors(exported)}

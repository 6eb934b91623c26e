"""A model of ours written as others read it: complete folders of weights, configs, tokenizer, picture rules, template.

Exported (model, processor, tower whole or cut) -> llava-hf | llava-original | peft folder
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from vistune.errors import RecipeError
from vistune.files import write_atomic, write_json
from vistune.interop.original import CLASSES
from vistune.interop.tensors import LazyTensor, load_tensor, written_name
from vistune.interop.towers import image_processor, save_tensors, without_paths, write_tower
from vistune.model import VisionLanguageModel
from vistune.model.language import unwrap
from vistune.processor import Processor, save_tokenizer
from vistune.runs.checkpoint import language_state
from vistune.types import Spec

ROWS = 64  # a vocabulary that grows is rounded up to a multiple of this, as llava-hf's is
IMAGE, PAD = "<image>", "<pad>"


@dataclass(frozen=True)
class ExportedModel:
    """What is to be written. `tower`: its tensors as they lie on disk, of every layer that its config counts."""

    model: VisionLanguageModel
    processor: Processor
    tower: Mapping[str, LazyTensor]
    tower_config: Any
    tower_name: str  # how an original config names it: a hub name, or the folder's own name
    tower_inside: bool  # whether the original layout's weights hold it
    card: str
    dtype: torch.dtype  # of all that is written but a tower's own folder; the model itself may compute in another

    @property
    def spec(self) -> Spec:
        return self.processor.spec

    @property
    def language(self) -> Any:
        return unwrap(self.model.language)


def write_hf(made: ExportedModel, folder: Path) -> None:
    """As llava-hf/llava-1.5-7b-hf is: what `vllm serve` and transformers load. Raises RecipeError for what it lacks."""
    refuse_for_hf(made)
    tokenizer, image_id, rows = with_image_token(made.processor.tokenizer, made.language.config.vocab_size)
    save_tensors(hf_state(made, rows), folder)
    config = without_paths(hf_config(made, image_id, rows, tokenizer.pad_token_id).to_dict())
    write_json(folder / "config.json", {**config, "text_config": with_older_keys(config["text_config"])})
    write_processor(made, tokenizer, folder)
    generation_config(made, tokenizer).save_pretrained(folder)
    write_atomic(folder / "README.md", made.card)


def hf_state(made: ExportedModel, rows: int) -> dict[str, Tensor]:
    """Every tensor as llava-hf names it, the vocabulary grown to `rows`."""
    state = {**part_state(made, "vision", "llava-hf"), **part_state(made, "projector", "llava-hf")}
    language = with_more_rows(language_tensors(made), rows)
    return state | {written_name("language", name, "llava-hf"): tensor for name, tensor in language.items()}


def refuse_for_hf(made: ExportedModel) -> None:
    spec = made.spec
    if spec.projector != "mlp2x_gelu":
        raise RecipeError(
            f"--layout llava-hf: transformers' LLaVA has a projector of two layers, this model has {spec.projector}",
            "train with model.projector=mlp2x_gelu, or export --layout llava-original",
        )
    if spec.space != "hidden":
        raise RecipeError("--layout llava-hf: it has no joint space", "train with model.space=hidden")
    if spec.image_mode == "pad" and spec.image_fit == "stretch":
        raise RecipeError("--layout llava-hf: no processor there pads and stretches", "train with image_mode=square")


def with_image_token(tokenizer: Any, rows: int) -> tuple[Any, int, int]:
    """(a tokenizer that knows `<image>` and a padding token, the picture's id, rows that the vocabulary needs)."""
    from copy import deepcopy

    from tokenizers import AddedToken

    own = deepcopy(tokenizer)
    own.chat_template = None
    if IMAGE not in own.get_vocab():
        own.add_tokens([AddedToken(IMAGE, special=True, normalized=False)], special_tokens=True)
    if own.pad_token_id is None or own.pad_token_id == own.unk_token_id:
        own.add_special_tokens({"pad_token": AddedToken(PAD, special=True, normalized=False)})
    needed = max(own.convert_tokens_to_ids([IMAGE, own.pad_token])) + 1
    image_id: int = own.convert_tokens_to_ids(IMAGE)
    return own, image_id, rows if needed <= rows else -(-needed // ROWS) * ROWS


def language_tensors(made: ExportedModel) -> dict[str, Tensor]:
    """The language model's tensors; a head that is the embedding is written once."""
    state = {name: tensor.to(made.dtype) for name, tensor in language_state(made.model).items()}
    if made.language.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    return state


def with_more_rows(state: Mapping[str, Tensor], rows: int) -> dict[str, Tensor]:
    """An embedding or head that is too short gets the mean of its rows below: never the likeliest token."""
    longer = dict(state)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in state and len(state[name]) < rows:
            mean = state[name].float().mean(dim=0, keepdim=True).to(state[name].dtype)
            longer[name] = torch.cat([state[name], mean.expand(rows - len(state[name]), -1)])
    return longer


def part_state(made: ExportedModel, part: str, layout: str) -> dict[str, Tensor]:
    """A part's tensors under the layout's names."""
    if part == "vision":
        return {
            written_name("vision", name, layout): load_tensor(tensor).to(made.dtype) for name, tensor in made.tower.items()
        }
    state = {name: tensor.to(made.dtype) for name, tensor in made.model.projector_state().items()}
    newline = state.pop("newline", None)
    named = {written_name("projector", name, layout): tensor for name, tensor in state.items()}
    return named if newline is None else {**named, written_name("newline", "newline", layout): newline}


def hf_config(made: ExportedModel, image_id: int, rows: int, pad_id: int) -> Any:
    from transformers import LlavaConfig, LlavaNextConfig

    text = type(made.language.config)(**{**made.language.config.to_dict(), "vocab_size": rows, "pad_token_id": pad_id})
    common: dict[str, Any] = {
        "vision_config": made.tower_config,
        "text_config": text,
        "image_token_index": image_id,
        "image_seq_length": made.spec.slots_per_image,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": made.spec.feature_layer,
        "vision_feature_select_strategy": "default" if made.spec.feature_tokens == "patch" else "full",
        "dtype": str(made.dtype).removeprefix("torch."),
    }
    if made.tower_config.model_type != "clip_vision_model":  # no class token: nothing is dropped
        common["vision_feature_select_strategy"] = "full"
    if made.spec.image_mode == "anyres":
        pairs = [[height, width] for width, height in made.spec.canvases]
        config: Any = LlavaNextConfig(**common, image_grid_pinpoints=pairs, use_image_newline_parameter=True)
        config.architectures = ["LlavaNextForConditionalGeneration"]
    else:
        config = LlavaConfig(**common)
        config.architectures = ["LlavaForConditionalGeneration"]
    return config


def with_older_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """A language model's config with its rotary embedding also as transformers 4 has it: it reads no `rope_parameters`,
    and would turn by another base. Those of Gemma 3, one a kind of layer, have two bases there.
    """
    rope = config.get("rope_parameters") or {}
    found = dict(config)
    full = rope.get("full_attention", rope)
    if "rope_theta" in full:
        found["rope_theta"] = full["rope_theta"]
    if "sliding_attention" in rope:
        found["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    elif (kind := rope.get("rope_type", "default")) in ("linear", "dynamic"):  # as the first that had it want it
        found["rope_scaling"] = {"type": kind, "factor": rope["factor"]}
    elif kind != "default":
        found["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
    return found


def write_processor(made: ExportedModel, tokenizer: Any, folder: Path) -> None:
    """Tokenizer, picture rules and chat template, also under the names that older loaders look for."""
    from transformers import LlavaNextProcessor, LlavaProcessor

    spec = made.spec
    patches = made.tower_config.patch_size
    clip = made.tower_config.model_type == "clip_vision_model"
    kind = LlavaNextProcessor if spec.image_mode == "anyres" else LlavaProcessor
    rules = image_processor(spec)
    kind(
        rules,
        tokenizer,
        patch_size=patches,
        vision_feature_select_strategy="default" if clip and spec.feature_tokens == "patch" else "full",
        chat_template=made.processor.chat_template,
        num_additional_image_tokens=1 if clip else 0,
    ).save_pretrained(folder)
    rules.save_pretrained(folder)


def generation_config(made: ExportedModel, tokenizer: Any) -> Any:
    """Greedy, ending where the template ends an answer."""
    from transformers import GenerationConfig

    ends = sorted(made.processor.stop_ids)
    text_ends = {"stop_strings": [made.processor.stop_text]} if made.processor.stop_text else {}
    return GenerationConfig(
        **text_ends,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends[0] if len(ends) == 1 else ends,
        pad_token_id=tokenizer.pad_token_id,
    )


def write_original(made: ExportedModel, folder: Path) -> None:
    """As liuhaotian/llava-v1.5-7b is: the original LLaVA's code loads it."""
    names = {kind: name for name, kind in CLASSES.items()}
    kind = made.language.config.model_type
    if kind not in names:
        raise RecipeError(f"--layout llava-original: no class there for {kind!r}", f"it has {', '.join(sorted(names))}")
    if "2x2" in made.spec.projector or made.spec.space != "hidden" or made.spec.image_fit == "stretch":
        raise RecipeError(
            f"--layout llava-original: no {made.spec.projector} over this tower there", "export --layout llava-hf"
        )
    save_tensors(original_state(made), folder)
    config = {
        **with_older_keys(without_paths(made.language.config.to_dict())),
        "torch_dtype": str(made.dtype).removeprefix("torch."),
        "architectures": [names[kind]],
        "model_type": f"llava_{kind}" if kind != "qwen2" else "llava_qwen",
        "mm_vision_tower": made.tower_name,
        "mm_hidden_size": made.spec.vision_width,
        "mm_projector_type": made.spec.projector,
        "mm_vision_select_layer": made.spec.feature_layer,
        "mm_vision_select_feature": made.spec.feature_tokens,
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "mm_patch_merge_type": "spatial_unpad" if made.spec.image_mode == "anyres" else "flat",
        "image_aspect_ratio": made.spec.image_mode,
        "use_mm_proj": True,
        "unfreeze_mm_vision_tower": made.tower_inside,
        "vistune_template": made.spec.template,
        "vistune_tokenization": made.spec.tokenization,
    }
    if made.spec.image_mode == "anyres":
        config["image_grid_pinpoints"] = [list(canvas) for canvas in made.spec.canvases]
    write_json(folder / "config.json", config)
    save_tokenizer(made.processor.tokenizer, folder)
    generation_config(made, made.processor.tokenizer).save_pretrained(folder)
    write_atomic(folder / "README.md", made.card)
    if not made.tower_name.count("/"):
        write_tower(made.tower, made.tower_config, made.spec, folder / made.tower_name)


def original_state(made: ExportedModel) -> dict[str, Tensor]:
    """Every tensor as the original names it; the tower's too where they belong inside."""
    tower = part_state(made, "vision", "original") if made.tower_inside else {}
    return {**tower, **part_state(made, "projector", "original"), **language_tensors(made)}


def write_peft(made: ExportedModel, folder: Path, *, base: str | None) -> None:
    """Adapters over a llava-hf model as PEFT and vLLM load them; the base goes to `base/` unless there is one already.

    With a `base` of the user's the tuned projector goes with the adapters (PEFT's `modules_to_save`).
    """
    if not made.model.adapted:
        raise RecipeError("--layout peft: this model has no adapters", "export --layout llava-hf")
    refuse_for_hf(made)
    peft: Any = made.model.language
    config = dict(peft.peft_config["default"].to_dict())
    config |= {
        "base_model_name_or_path": base or "base",
        "target_modules": rf".*language_model.*\.({'|'.join(_targets(peft))})",
        "modules_to_save": None,
        "task_type": None,
        "inference_mode": True,
        "peft_type": "LORA",
    }
    if base is None:
        write_hf(made, folder / "base")
    else:
        config["modules_to_save"] = ["multi_modal_projector"]
    write_json(folder / "adapter_config.json", {key: plain(value) for key, value in config.items()})
    tensors = peft_state(made, with_projector=base is not None)
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(own, folder / "adapter_model.safetensors")
    write_atomic(folder / "README.md", made.card)


def _targets(peft: Any) -> list[str]:
    """Ends of the adapted layers' names that fit no other layer: `q_proj` where all of them are, else longer."""
    adapted = set(peft.targeted_module_names)
    ends = {name.rsplit(".", 1)[-1] for name in adapted}
    every = {name for name, _ in unwrap(peft).named_modules() if name.rsplit(".", 1)[-1] in ends}
    if every <= adapted:
        return sorted(ends)
    return sorted(re.escape(name.removeprefix("model.")) for name in adapted)


def peft_state(made: ExportedModel, *, with_projector: bool) -> dict[str, Tensor]:
    """Adapters, and the projector tuned beside them, as PEFT names them inside transformers' LLaVA."""
    from peft import get_peft_model_state_dict

    top = "base_model.model.model."
    tensors = {
        name.replace(top, f"{top}language_model.", 1): tensor.to(made.dtype)
        for name, tensor in get_peft_model_state_dict(made.model.language, save_embedding_layers=False).items()
    }
    projector = part_state(made, "projector", "llava-hf") if with_projector else {}
    return {**tensors, **{f"{top}{name}": tensor for name, tensor in projector.items()}}


def plain(value: Any) -> Any:
    """Sets and enumerations of PEFT's configs as JSON holds them."""
    if isinstance(value, set | frozenset | tuple):
        return sorted(value)
    return getattr(value, "value", value)

"""Write a model in the layouts of other tools: complete folders of weights, configs, tokenizer and image processor."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from vistune.errors import RecipeError
from vistune.files import write_atomic, write_json
from vistune.generation import Assistant
from vistune.interop.folders import image_processor, save_tensors, without_paths, write_tower, written_name
from vistune.interop.original import CLASSES
from vistune.model import VisionLanguageModel
from vistune.model.language import CausalLM, unwrap
from vistune.model.peft_folder import LazyTensor
from vistune.model.shapes import VisionConfig
from vistune.model.tower_inputs import takes_patches
from vistune.model.tower_shape import TowerShape, describe_tower, tower_class
from vistune.processor import Processor, TokenizerLike, save_tokenizer
from vistune.runs.checkpoint import language_state
from vistune.types import Spec

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import GenerationConfig, LlavaConfig, LlavaNextConfig, PreTrainedTokenizerFast

ROWS = 64  # an enlarged vocabulary is rounded up to a multiple of this, as llava-hf's is
OLDER_TOWERS = ("clip_vision_model", "siglip_vision_model")  # written with the tensor names of transformers 4
IMAGE, PAD = "<image>", "<pad>"


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

    Raises RecipeError if the layout cannot represent the model.
    """
    refuse_for_hf(exported)
    tokenizer, image_id, rows = with_image_token(exported.processor.tokenizer, exported.language.config.vocab_size)
    save_tensors(hf_state(exported, rows), folder)
    config = without_paths(hf_config(exported, image_id, rows, tokenizer.pad_token_id).to_dict())
    write_json(folder / "config.json", {**config, "text_config": with_older_keys(config["text_config"])})
    write_processor(exported, tokenizer, folder)
    generation_config(exported, tokenizer).save_pretrained(folder)
    write_atomic(folder / "README.md", exported.card)


def hf_state(exported: ExportedModel, rows: int) -> dict[str, Tensor]:
    """Return every tensor under llava-hf's name, with the vocabulary enlarged to `rows`."""
    state = {**tower_state(exported, "llava-hf"), **projector_state(exported, "llava-hf")}
    language = with_more_rows(language_tensors(exported), rows)
    return state | {written_name("language", name, "llava-hf"): tensor for name, tensor in language.items()}


def refuse_for_hf(exported: ExportedModel) -> None:
    """Raise RecipeError if transformers' LLaVA cannot represent the model."""
    spec = exported.spec
    if spec.projector != "mlp2x_gelu":
        raise RecipeError(
            f"--layout llava-hf: transformers' LLaVA has a projector of two layers, this model has {spec.projector}",
            "train with model.projector=mlp2x_gelu, or export --layout llava-original",
        )
    if spec.space != "hidden":
        raise RecipeError("--layout llava-hf: transformers' LLaVA has no joint space", "train with model.space=hidden")
    if spec.feature_norm != "off":
        raise RecipeError(
            "--layout llava-hf: transformers' LLaVA has no norm between tower and projector, this model has "
            f"feature_norm={spec.feature_norm}",
            "train with model.feature_norm=off",
        )
    if reason := tower_misfit(exported.tower_config, exported.tower_shape):
        raise RecipeError(
            f"--layout llava-hf: transformers' LLaVA cannot use the tower {exported.tower_shape.kind}: {reason}",
            "train with another tower to export it",
        )
    if spec.image_mode == "pad" and spec.image_fit == "stretch":
        raise RecipeError(
            "--layout llava-hf: no image processor of transformers pads and stretches", "train with image_mode=square"
        )


def tower_misfit(config: VisionConfig, shape: TowerShape) -> str:
    """Return why transformers' LLaVA cannot use a tower; "" if it can."""
    from transformers import MODEL_MAPPING

    if type(config) not in MODEL_MAPPING:
        return "AutoModel does not build it"
    if shape.prefix > 1:
        return f"it has {shape.prefix} tokens before the patches, and LLaVA drops one"
    if not shape.cuts:
        return "its hidden states are not sequences of tokens"
    if takes_patches(tower_class(config)):
        return "it takes patches, and LLaVA gives it pixels"
    return ""


def with_image_token(tokenizer: TokenizerLike, rows: int) -> tuple[PreTrainedTokenizerFast, int, int]:
    """Return a tokenizer with `<image>` and a padding token, the image token's id, and the vocabulary's rows."""
    from tokenizers import AddedToken

    own: PreTrainedTokenizerFast = copy.deepcopy(tokenizer)
    own.chat_template = None
    own.padding_side = own.init_kwargs["padding_side"] = "left"  # a batch is answered after its prompts
    if IMAGE not in own.get_vocab():
        own.add_tokens([AddedToken(IMAGE, special=True, normalized=False)], special_tokens=True)
    if own.pad_token_id is None or own.pad_token_id == own.unk_token_id:
        own.add_special_tokens({"pad_token": AddedToken(PAD, special=True, normalized=False)})
    needed = max(own.convert_tokens_to_ids([IMAGE, own.pad_token])) + 1
    image_id: int = own.convert_tokens_to_ids(IMAGE)
    return own, image_id, rows if needed <= rows else -(-needed // ROWS) * ROWS


def language_tensors(exported: ExportedModel) -> dict[str, Tensor]:
    """Return the language model's tensors, without a head that is tied to the embedding."""
    state = {name: tensor.to(exported.dtype) for name, tensor in language_state(exported.model).items()}
    if exported.language.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    return state


def with_more_rows(state: Mapping[str, Tensor], rows: int) -> dict[str, Tensor]:
    """Enlarge embedding and head to `rows`, with the mean of their rows, which is never the likeliest token."""
    longer = dict(state)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
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

    text = type(exported.language.config)(
        **{**exported.language.config.to_dict(), "vocab_size": rows, "pad_token_id": pad_id}
    )
    common: dict[str, Any] = {
        "vision_config": exported.tower_config,
        "text_config": text,
        "image_token_index": image_id,
        "image_seq_length": exported.spec.slots_per_image,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": hf_layers(exported.spec),
        "vision_feature_select_strategy": exported.select_strategy,
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
        older["rope_scaling"] = {"type": kind, "factor": rope["factor"]}
    elif kind != "default":
        older["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
    return older


def write_processor(exported: ExportedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write tokenizer, image processor and chat template, also under the names that older loaders read."""
    from transformers import LlavaNextProcessor, LlavaProcessor

    if not exported.processor.begins:
        tokenizer.add_bos_token = False  # else transformers' processor would put it before the rendered conversation
    kind = LlavaNextProcessor if exported.spec.image_mode == "anyres" else LlavaProcessor
    images = image_processor(exported.spec)
    kind(
        images,
        tokenizer,
        patch_size=exported.spec.image_side // exported.tower_shape.columns,
        vision_feature_select_strategy=exported.select_strategy,
        chat_template=exported.processor.chat_template,
        num_additional_image_tokens=exported.tower_shape.prefix,
    ).save_pretrained(folder)
    images.save_pretrained(folder)


def generation_config(exported: ExportedModel, tokenizer: TokenizerLike | PreTrainedTokenizerFast) -> GenerationConfig:
    """Return a greedy generation config that stops where the template ends an answer."""
    from transformers import GenerationConfig

    ends = sorted(exported.processor.stop_ids)
    text_ends = {"stop_strings": [exported.processor.stop_text]} if exported.processor.stop_text else {}
    return GenerationConfig(
        **text_ends,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends[0] if len(ends) == 1 else ends,
        pad_token_id=tokenizer.pad_token_id,
    )


def _beyond_original(exported: ExportedModel) -> list[str]:
    """List the settings of a model that the original LLaVA's code does not have."""
    spec, tower = exported.spec, exported.tower_config.model_type
    settings = {
        f"the projector {spec.projector}": "2x2" in spec.projector,
        f"features of the space {spec.space}": spec.space != "hidden",
        f"a vision tower of the kind {tower}": tower != "clip_vision_model",
        "features of several layers": not isinstance(spec.feature_layer, int),
    }
    return [setting for setting, applies in settings.items() if applies]


def write_original(exported: ExportedModel, folder: Path) -> None:
    """Write a folder like liuhaotian/llava-v1.5-7b, which the original LLaVA's code loads.

    Raises RecipeError if the layout cannot represent the model.
    """
    names = {kind: name for name, kind in CLASSES.items()}
    kind = exported.language.config.model_type
    if kind not in names:
        raise RecipeError(
            f"--layout llava-original: the original LLaVA has no class for {kind!r}",
            f"it has {', '.join(sorted(names))}",
        )
    if beyond := _beyond_original(exported):
        raise RecipeError(
            f"--layout llava-original: the original LLaVA cannot represent {', '.join(beyond)}",
            "export --layout llava-hf",
        )
    if exported.spec.feature_norm != "off":
        raise RecipeError(
            "--layout llava-original: the original LLaVA has no norm between tower and projector",
            "train with model.feature_norm=off",
        )
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


def write_peft(exported: ExportedModel, folder: Path, *, base: str | None) -> None:
    """Write adapters over a llava-hf model, as PEFT and vLLM load them.

    With an existing model as `base`, the trained projector is stored with the adapters (PEFT's `modules_to_save`).
    Without it, the base is written into `base/`. Raises RecipeError if the model has no adapters, or transformers'
    LLaVA cannot represent it.
    """
    if not exported.model.adapted:
        raise RecipeError("--layout peft: this model has no adapters", "export --layout llava-hf")
    refuse_for_hf(exported)
    peft: PeftModel = exported.model.language
    config: dict[str, object] = peft.peft_config["default"].to_dict() | {
        "base_model_name_or_path": base or "base",
        "target_modules": rf".*language_model.*\.({'|'.join(_targets(peft))})",
        "modules_to_save": None if base is None else ["multi_modal_projector"],
        "task_type": None,
        "inference_mode": True,
        "peft_type": "LORA",
    }
    if base is None:
        write_hf(exported, folder / "base")
    config = {key: sorted(value) if isinstance(value, set | tuple) else value for key, value in config.items()}
    write_json(folder / "adapter_config.json", {key: getattr(value, "value", value) for key, value in config.items()})
    tensors = peft_state(exported, with_projector=base is not None)
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        folder / "adapter_model.safetensors",
    )
    write_atomic(folder / "README.md", exported.card)


def _targets(peft: PeftModel) -> list[str]:
    """Return ends of the adapted layers' names that match no other layer: `q_proj` if all are adapted, else longer."""
    adapted = set(peft.targeted_module_names)
    ends = {name.rsplit(".", 1)[-1] for name in adapted}
    every = {name for name, _ in unwrap(peft).named_modules() if name.rsplit(".", 1)[-1] in ends}
    if every <= adapted:
        return sorted(ends)
    return sorted(re.escape(name.removeprefix("model.")) for name in adapted)


def peft_state(exported: ExportedModel, *, with_projector: bool) -> dict[str, Tensor]:
    """Return the adapters, and with them the trained projector, as PEFT names them inside transformers' LLaVA."""
    from peft import get_peft_model_state_dict

    top = "base_model.model.model."
    tensors = {
        name.replace(top, f"{top}language_model.", 1): tensor.to(exported.dtype)
        for name, tensor in get_peft_model_state_dict(exported.model.language, save_embedding_layers=False).items()
    }
    projector = projector_state(exported, "llava-hf") if with_projector else {}
    return {**tensors, **{f"{top}{name}": tensor for name, tensor in projector.items()}}

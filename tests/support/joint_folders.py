"""Small random vision-language models of transformers: whose towers are used, and why others are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, PreTrainedModel

VISION: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
                          "image_size": 28, "patch_size": 7}  # fmt: skip
TEXT: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
                        "num_key_value_heads": 2, "vocab_size": 512, "head_dim": 8, "pad_token_id": 0}  # fmt: skip
LLAMA = {**TEXT, "model_type": "llama"}
# model type -> changes of the tower's config, of the text model's, of the whole model's
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "smolvlm": ({}, LLAMA, {"scale_factor": 2, "pad_token_id": 0, "image_token_id": 5}),
    "idefics3": ({}, LLAMA, {"scale_factor": 2, "pad_token_id": 0, "image_token_id": 5}),
    "llama4": (
        {"intermediate_size": 128, "projector_input_dim": 32, "projector_output_dim": 32, "vision_output_dim": 32},
        {**TEXT, "model_type": "llama4_text", "num_local_experts": 1, "intermediate_size_mlp": 32}, {},
    ),
    "llava": ({"model_type": "clip_vision_model"}, LLAMA, {}),
    "llava_next": ({"model_type": "clip_vision_model"}, LLAMA, {}),
    "llava_onevision": ({"model_type": "siglip_vision_model"}, LLAMA, {}),
    "paligemma": ({"model_type": "siglip_vision_model"}, {**TEXT, "model_type": "gemma"}, {}),
    "gemma3": ({}, {**TEXT, "model_type": "gemma3_text"}, {"mm_tokens_per_image": 4}),
    "aya_vision": ({"model_type": "siglip_vision_model"}, LLAMA, {}),
    "internvl": ({"image_size": [28, 28], "patch_size": [7, 7]}, LLAMA, {}),
    "aria": ({"model_type": "idefics3_vision"}, {**TEXT, "model_type": "aria_text", "moe_num_experts": 2},
             {"projector_patch_to_query_dict": {"16": 4}}),
    "janus": ({"projection_dim": 32}, LLAMA, {"vq_config": {
        "embed_dim": 8, "num_embeddings": 16, "latent_channels": 8, "base_channels": 32, "channel_multiplier": [1, 1],
        "num_res_blocks": 1, "projection_dim": 32, "image_token_embed_dim": 32}}),
    "aimv2": ({}, {**TEXT, "max_position_embeddings": 16}, {"projection_dim": 16}),
}  # fmt: skip
# model type -> the reason
REFUSED = {
    "qwen2_vl": "Qwen2VisionTransformerPretrainedModel takes hidden_states and grid_thw, not square images",
    "qwen2_5_vl": "Qwen2_5_VisionTransformerPretrainedModel takes hidden_states and grid_thw, not square images",
    "qwen3_vl": "Qwen3VLVisionModel takes hidden_states and grid_thw, not square images",
    "mllama": "MllamaVisionModel needs aspect_ratio_ids and aspect_ratio_mask in addition to pixel_values",
    "mistral3": "it joins the patches of several images into one sequence",
    "kimi_k25": "Kimi_K25VisionModel needs grid_thw in addition to pixel_values",
    "florence2": "Florence2VisionBackbone takes hidden_states, not square images",
    "glm4v": "Glm4vVisionModel takes hidden_states and grid_thw, not square images",
    "exaone4_5": "Exaone4_5_VisionModel takes hidden_states and grid_thw, not square images",
    "hunyuan_vl": "HunYuanVLVisionTransformer needs grid_thw in addition to pixel_values",
    "molmo2": "Molmo2VisionModel fails on square images of 378 pixels",
    "inkling2": "Inkling2VisionModel needs image_grid_thw in addition to pixel_values",
    "idefics": "transformers has no model class for this config",
    "gemma4": "its config has no vision_config",
}


def joint_model(kind: str) -> PreTrainedModel:
    """Return a whole model of this type with random weights."""
    vision, text, changes = KINDS[kind]
    config = AutoConfig.for_model(kind, vision_config={**VISION, **vision}, text_config=text, **changes)
    torch.manual_seed(1)
    builder: Any = AutoModel if kind == "aimv2" else AutoModelForImageTextToText
    model: PreTrainedModel = builder.from_config(config).eval()
    return model


def save_config(kind: str, folder: Path) -> None:
    """Save only the config of a refused model."""
    AutoConfig.for_model(kind).save_pretrained(folder)

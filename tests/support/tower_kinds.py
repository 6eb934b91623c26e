"""Small random towers of many classes of transformers, each in a folder with an image processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, BitImageProcessorPil, PreTrainedModel, Siglip2ImageProcessorPil
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from vistune.model.tower_shape import tower_class

LAYERS = 4
SIZE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 7,
}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1], "image_size": 64}

KINDS: dict[str, tuple[dict[str, Any], int]] = {  # model type -> settings, tokens before the patches
    "clip_vision_model": (SIZE, 1),
    "siglip_vision_model": (SIZE, 0),
    "siglip2_vision_model": ({key: SIZE[key] for key in SIZE if key != "image_size"} | {"num_patches": 16}, 0),
    "metaclip_2_vision_model": (SIZE, 1),
    "clipseg_vision_model": (SIZE, 1),
    "chinese_clip_vision_model": (SIZE, 1),
    "altclip_vision_model": (SIZE, 1),
    "mlcd_vision_model": (SIZE, 1),
    "dinov2": (SIZE, 1),
    "dinov2_with_registers": (SIZE, 5),
    "dinov3_vit": ({**SIZE, "num_register_tokens": 4}, 5),
    "vit": (SIZE, 1),
    "deit": (SIZE, 2),
    "beit": (SIZE, 1),
    "data2vec-vision": (SIZE, 1),
    "aimv2_vision_model": (SIZE, 0),
    "internvl_vision": ({**SIZE, "image_size": [28, 28], "patch_size": [7, 7]}, 1),
    "radio": (SIZE, 10),
    "pixio": (SIZE, 8),
    "ijepa": (SIZE, 0),
    "vit_msn": (SIZE, 1),
    "convnext": (STAGES, 0),
    "convnextv2": (STAGES, 0),
    "dinov3_convnext": (STAGES, 0),
    "owlvit_vision_model": (SIZE, 1),
    "owlv2_vision_model": (SIZE, 1),
    "blip_vision_model": (SIZE, 1),
    "blip_2_vision_model": (SIZE, 1),
    "git_vision_model": (SIZE, 1),
    "tipsv2_vision_model": (SIZE, 2),
    "vitdet": (SIZE, 0),
    "idefics2_vision": (SIZE, 0),
    "idefics3_vision": (SIZE, 0),
    "smolvlm_vision": (SIZE, 0),
    "phi4_multimodal_vision": ({**SIZE, "crop_size": 28}, 0),
    "llama4_vision_model": ({**SIZE, "intermediate_size": 128}, 0),
    "ovis2_vision": (SIZE, 0),
    "janus_vision_model": (SIZE, 0),
    "granite_docling_vision": (SIZE, 0),
    "kosmos_2_vision_model": (SIZE, 1),
    "flava_image_model": (SIZE, 1),
    "qianfan_ocr_vision": ({**SIZE, "image_size": [28, 28], "patch_size": [7, 7]}, 1),
    "instructblip_vision_model": (SIZE, 1),
    "sapiens2": (SIZE, 9),
    "resnet": ({**STAGES, "embedding_size": 8}, 0),
    "regnet": ({**STAGES, "embedding_size": 8, "groups_width": 8}, 0),
    "bit": ({**STAGES, "embedding_size": 8, "num_groups": 4}, 0),
    "poolformer": ({**STAGES, "num_encoder_blocks": 4}, 0),
}
COMMON = ("clip_vision_model", "siglip_vision_model", "siglip2_vision_model", "metaclip_2_vision_model", "dinov2",
          "dinov2_with_registers", "dinov3_vit", "vit", "deit", "internvl_vision", "radio", "convnext",
          "smolvlm_vision", "llama4_vision_model")  # fmt: skip


def tower(kind: str) -> PreTrainedModel:
    """Return a tower with random weights; norms are not the identity, so that a missing one shows."""
    config = CONFIG_MAPPING[kind](**KINDS[kind][0])
    torch.manual_seed(len(kind))
    model = tower_class(config)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter + 0.2 * torch.randn_like(parameter))
    return model


def side_of(kind: str) -> int:
    return int(KINDS[kind][0]["image_size"]) if "depths" in KINDS[kind][0] else 28


def save_tower(kind: str, folder: Path, *, resize: int | None = None) -> PreTrainedModel:
    """Save a tower and its image processor; `resize`: pixels of the shorter edge before the centre is cut out."""
    model = tower(kind)
    model.save_pretrained(folder)
    side = side_of(kind)
    if kind == "siglip2_vision_model":
        Siglip2ImageProcessorPil(patch_size=7, max_num_patches=16).save_pretrained(folder)
    else:
        square = {"height": side, "width": side}
        BitImageProcessorPil(size={"shortest_edge": resize or side}, crop_size=square).save_pretrained(folder)
    return model


def saved_config(folder: Path) -> Any:
    return AutoConfig.from_pretrained(folder)

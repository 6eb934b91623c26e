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
NECK = {"neck_hidden_sizes": [8, 8, 8, 8], "fusion_hidden_size": 8}
BACKBONE = {"model_type": "dinov2", **SIZE, "out_features": ["stage1", "stage2", "stage3", "stage4"],
            "reshape_hidden_states": False}  # fmt: skip
WINDOWS = {"output_channels": 16, "window_size": 2, "global_attn_indexes": [1, 3]}
SHIFTED = {"image_size": 64, "embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 4], "window_size": 2,
           "patch_size": 2}  # fmt: skip
PYRAMID = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 4],
           "decoder_hidden_size": 8}  # fmt: skip
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
    "instructblipvideo_vision_model": (SIZE, 1),
    "dpt": ({**SIZE, "backbone_out_indices": [0, 1, 2, 3], **NECK}, 1),
    "depth_anything": ({"backbone_config": BACKBONE, "patch_size": 7, "reassemble_hidden_size": 32, **NECK}, 1),
    "prompt_depth_anything": ({"backbone_config": BACKBONE, "patch_size": 7, "reassemble_hidden_size": 32, **NECK}, 1),
    "vitpose_backbone": ({**SIZE, "mlp_ratio": 2, "image_size": [28, 28], "patch_size": [7, 7]}, 0),
    "rf_detr_dinov2": ({**SIZE, "mlp_ratio": 2, "num_windows": 1}, 1),
    "yolos": ({**SIZE, "image_size": [28, 28], "num_detection_tokens": 40}, 1),
    "sam_vision_model": ({**SIZE, **WINDOWS}, 0),
    "got_ocr2_vision": ({**SIZE, **WINDOWS}, 0),
    "swin": (SHIFTED, 0),
    "swinv2": (SHIFTED, 0),
    "donut-swin": (SHIFTED, 0),
    "focalnet": ({**SHIFTED, "focal_levels": [1, 1, 1, 1], "focal_windows": [3, 3, 3, 3]}, 0),
    "hiera": ({**SHIFTED, "image_size": [64, 64], "patch_size": [7, 7]}, 0),
    "segformer": (PYRAMID, 0),
    "glpn": (PYRAMID, 0),
    "pvt_v2": ({**PYRAMID, "image_size": 64}, 0),
    "hgnet_v2": ({}, 0),
    "rt_detr_resnet": ({**STAGES, "embedding_size": 8}, 0),
    "swiftformer": ({"image_size": 64, "depths": [1, 1, 1, 1], "embed_dims": [8, 16, 24, 32]}, 0),
    "textnet": ({"image_size": 64, "hidden_sizes": [8, 8, 16, 16, 16], "stem_out_channels": 8}, 0),
    "efficientnet": ({"image_size": 64, "width_coefficient": 0.25, "depth_coefficient": 0.5, "hidden_dim": 320}, 0),
    "align_vision_model": ({"image_size": 64, "width_coefficient": 0.25, "depth_coefficient": 0.5}, 0),
    "mobilenet_v1": ({"image_size": 64, "depth_multiplier": 0.25}, 0),
    "mobilenet_v2": ({"image_size": 64, "depth_multiplier": 0.25}, 0),
    "mobilevit": ({"image_size": 64, "hidden_sizes": [16, 16, 24], "neck_hidden_sizes": [8, 8, 8, 16, 16, 24, 32]}, 0),
    "mobilevitv2": ({"image_size": 64, "base_attn_unit_dims": [16, 16, 24], "n_attn_blocks": [1, 1, 1],
                     "width_multiplier": 0.25}, 0),
}  # fmt: skip
# Names of the towers' families, for the documentation; the others are known by transformers' type.
NAMES = {
    "clip_vision_model": "CLIP", "siglip_vision_model": "SigLIP, SigLIP 2 of a fixed size",
    "siglip2_vision_model": "SigLIP 2 NaFlex", "metaclip_2_vision_model": "MetaCLIP 2",
    "clipseg_vision_model": "CLIPSeg", "chinese_clip_vision_model": "Chinese-CLIP", "altclip_vision_model": "AltCLIP",
    "mlcd_vision_model": "MLCD", "dinov2": "DINOv2", "dinov2_with_registers": "DINOv2 with registers",
    "dinov3_vit": "DINOv3", "dinov3_convnext": "DINOv3 ConvNeXt", "vit": "ViT", "deit": "DeiT", "beit": "BEiT",
    "data2vec-vision": "Data2Vec", "aimv2_vision_model": "AIMv2", "internvl_vision": "InternViT, InternVL",
    "radio": "RADIO, C-RADIO", "pixio": "Pixio", "ijepa": "I-JEPA", "vit_msn": "ViT-MSN", "convnext": "ConvNeXt",
    "convnextv2": "ConvNeXt V2", "owlvit_vision_model": "OWL-ViT", "owlv2_vision_model": "OWLv2",
    "blip_vision_model": "BLIP", "blip_2_vision_model": "BLIP-2", "git_vision_model": "GIT",
    "tipsv2_vision_model": "TIPSv2", "vitdet": "ViTDet", "idefics2_vision": "Idefics2", "idefics3_vision": "Idefics3",
    "smolvlm_vision": "SmolVLM", "phi4_multimodal_vision": "Phi-4 multimodal", "llama4_vision_model": "Llama 4",
    "ovis2_vision": "Ovis2", "janus_vision_model": "Janus", "granite_docling_vision": "Granite Docling",
    "kosmos_2_vision_model": "Kosmos-2", "flava_image_model": "FLAVA", "qianfan_ocr_vision": "Qianfan-OCR",
    "instructblip_vision_model": "InstructBLIP", "instructblipvideo_vision_model": "InstructBLIP Video",
    "sapiens2": "Sapiens 2", "resnet": "ResNet", "regnet": "RegNet", "bit": "BiT", "poolformer": "PoolFormer",
    "dpt": "DPT", "depth_anything": "Depth Anything", "prompt_depth_anything": "Prompt Depth Anything",
    "vitpose_backbone": "ViTPose", "rf_detr_dinov2": "RF-DETR's DINOv2", "yolos": "YOLOS", "sam_vision_model": "SAM",
    "got_ocr2_vision": "GOT-OCR2", "swin": "Swin", "swinv2": "Swin V2", "donut-swin": "Donut's Swin",
    "focalnet": "FocalNet", "hiera": "Hiera", "segformer": "SegFormer", "glpn": "GLPN", "pvt_v2": "PVT v2",
    "hgnet_v2": "HGNet V2", "rt_detr_resnet": "RT-DETR's ResNet", "swiftformer": "SwiftFormer", "textnet": "TextNet",
    "efficientnet": "EfficientNet", "align_vision_model": "ALIGN", "mobilenet_v1": "MobileNet V1",
    "mobilenet_v2": "MobileNet V2", "mobilevit": "MobileViT", "mobilevitv2": "MobileViT V2",
}  # fmt: skip
# Refused: transformers' type of a default config -> names, and the reason as a regular expression.
REFUSED = {
    "pixtral": ("Pixtral", "it joins the patches of several images into one sequence"),
    "qwen2_vl_vision": ("Qwen2-VL", "takes hidden_states and grid_thw, not square images"),
    "qwen2_5_vl_vision": ("Qwen2.5-VL", "takes hidden_states and grid_thw, not square images"),
    "qwen3_vl_vision": ("Qwen3-VL", "takes hidden_states and grid_thw, not square images"),
    "qwen3_5_vision": ("Qwen3.5", "takes hidden_states and grid_thw, not square images"),
    "glm4v_vision": ("GLM-4V", "takes hidden_states and grid_thw, not square images"),
    "exaone4_5_vision": ("EXAONE 4.5", "takes hidden_states and grid_thw, not square images"),
    "kimi_k25_vision": ("Kimi K2.5", "needs grid_thw in addition to pixel_values"),
    "hunyuan_vl_vision": ("Hunyuan-VL", "needs grid_thw in addition to pixel_values"),
    "gemma4_vision": ("Gemma 4", "needs pixel_position_ids in addition to pixel_values"),
    "mllama_vision_model": ("Llama 3.2 Vision", "needs aspect_ratio_ids and aspect_ratio_mask in addition"),
    "florence_vision": ("Florence-2", "takes hidden_states, not square images"),
    "molmo2_vision": ("Molmo2", "Molmo2VisionModel fails on square images of 378 pixels: "),
    "minicpmv4_6_vision": ("MiniCPM-V 4.6", "and it also takes target_sizes and use_vit_merger: "),
    "step3p5_vision": ("Step 3.7", "it cannot be described without weights: Cannot copy out of meta tensor"),
    "vit_mae": ("MAE", "its hidden states have 50 tokens for 14 x 14 patches"),
    "levit": ("LeViT", "its hidden states have 16 tokens for 14 x 14 patches"),
    "groupvit_vision_model": ("GroupViT", "its hidden states have 8 tokens for 14 x 14 patches"),
    "pvt": ("PVT", "its config has no patch_size"),
    "maskformer-swin": ("MaskFormer's Swin", "it returns no hidden states over patches"),
    "videomae": ("VideoMAE", "VideoMAEModel fails on square images of 224 pixels"),
    "vjepa2": ("V-JEPA 2", "takes pixel_values_videos, not square images"),
    "layoutlmv3": ("LayoutLMv3", "reads text .input_ids. together with the image"),
    "vilt": ("ViLT", "reads text .input_ids. together with the image"),
    "idefics_vision": ("IDEFICS", "transformers has no model class for this config"),
    "pp_chart2table_vision": ("PP-Chart2Table", "transformers has no model class for this config"),
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
    """Return the side of a tower's images; configs without it are those of convolutions, and of SigLIP 2."""
    side = KINDS[kind][0].get("image_size", 28 if "patch_size" in KINDS[kind][0] else 64)
    return int(side[0] if isinstance(side, list) else side)


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

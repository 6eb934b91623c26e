"""Language models of every kind as small random models of transformers' own classes: what is packed, what is refused.

docs/reference/models.md is written from these tables.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

LATENT = {"q_lora_rank": 16, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "head_dim": 8,
}
MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 8}
WINDOWED = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}
DEEPSEEK = {
    **LATENT, **EXPERTS, "num_key_value_heads": 4, "head_dim": 4, "n_routed_experts": 4, "n_shared_experts": 1,
    "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1,
}  # fmt: skip

NO_DENSE = {key: value for key, value in DEEPSEEK.items() if key != "first_k_dense_replace"}
NARROW = {"num_experts": 4, **EXPERTS, "head_dim": 8}
ROUTED = {**EXPERTS, "n_routed_experts": 4, "n_shared_experts": 1}
INKLING = {
    "head_dim": 8, "swa_head_dim": 8, "n_routed_experts": 4, **EXPERTS, "rel_extent": 16, "d_rel": 4,
    "sliding_window_size": 5, "unpadded_vocab_size": 99,
}  # fmt: skip
HYBRID_MLA = {
    **ROUTED, **LATENT, "q_lora_rank": None, "num_key_value_heads": 4, "num_local_experts": 4, "topk_group": 1,
    "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip


def long_rope(half: int, **more: object) -> dict[str, Any]:
    """LongRoPE from 8 tokens on, for heads of `2 * half` rotated numbers."""
    return {
        "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 8,
            "short_factor": [1.0] * half, "long_factor": [1.0 + 3 * k for k in range(half)], **more,
        },
        "original_max_position_embeddings": 8,
        "max_position_embeddings": 64,
    }  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """An architecture: transformers' model type, how its config differs from tiny_models.SIZE, and its family's names.

    Attributes:
        unpacked: A word of the reason why it runs unpacked; "" if it runs packed.
        soak: Whether only `make soak` tries it.
    """

    architecture: str
    names: str
    changes: dict[str, Any] = field(default_factory=dict)
    unpacked: str = ""
    soak: bool = True


ACCEPTED: dict[str, Kind] = {
    # Logits with a scale, a bias or a cap.
    "granite": Kind("granite", "Granite 3", {"logits_scaling": 8.0, "embedding_multiplier": 2.0}, soak=False),
    "granitemoe": Kind("granitemoe", "Granite 3 MoE", {"num_local_experts": 4, **EXPERTS, "logits_scaling": 6.0}),
    "cohere": Kind("cohere", "Command-R", {"logit_scale": 0.25}),
    "cohere2": Kind("cohere2", "Command-R7B, Aya", {"logit_scale": 0.25, **WINDOWED}),
    "minicpm3": Kind("minicpm3", "MiniCPM3", {**LATENT, "num_key_value_heads": 4, "dim_model_base": 8}),
    "hyperclovax": Kind("hyperclovax", "HyperCLOVA X", {"logits_scaling": 0.5}, soak=False),
    "nanochat": Kind("nanochat", "nanochat", {"final_logit_softcapping": 3.0}),
    "gptj": Kind("gptj", "GPT-J, KoGPT", {"rotary_dim": 4}),
    "phi": Kind("phi", "Phi-1.5, Phi-2", soak=False),
    "phimoe": Kind("phimoe", "Phi-3.5-MoE", {"num_local_experts": 4, "lm_head_bias": True}),
    "gemma2": Kind("gemma2", "Gemma 2", {"head_dim": 8, "final_logit_softcapping": 3.0, **WINDOWED}, "softcap", False),
    "gemma2, no cap in attention": Kind(
        "gemma2", "Gemma 2 without attn_logit_softcapping",
        {"head_dim": 8, "attn_logit_softcapping": None, "final_logit_softcapping": 3.0, **WINDOWED}, soak=False,
    ),
    "gemma4": Kind(
        "gemma4_text", "Gemma 4 without embeddings per layer",
        {"head_dim": 8, "global_head_dim": 8, "hidden_size_per_layer_input": 0, "num_global_key_value_heads": 2,
         "num_kv_shared_layers": 0, "final_logit_softcapping": 3.0},
    ),
    # Plain attention in an unusual setting.
    "mixtral": Kind("mixtral", "Mixtral", {"num_local_experts": 4, "output_router_logits": True}, soak=False),
    "stablelm": Kind("stablelm", "StableLM", soak=False),
    "nemotron": Kind("nemotron", "Nemotron-4"),
    "afmoe": Kind("afmoe", "AFMoE", {"num_experts": 4, **EXPERTS, "num_dense_layers": 1, "head_dim": 8, **WINDOWED}),
    "gpt2": Kind("gpt2", "GPT-2, KoGPT2"),
    "gpt_neox": Kind("gpt_neox", "GPT-NeoX, Pythia, polyglot-ko"),
    "gpt_bigcode": Kind("gpt_bigcode", "StarCoder"),
    "opt": Kind("opt", "OPT", {"ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 64}),
    "biogpt": Kind("biogpt", "BioGPT", {"max_position_embeddings": 64}),
    "codegen": Kind("codegen", "CodeGen", {"rotary_dim": 4}),
    "persimmon": Kind("persimmon", "Persimmon"),
    "bitnet": Kind("bitnet", "BitNet"),
    "helium": Kind("helium", "Helium", {"head_dim": 8}),
    "glm4": Kind("glm4", "GLM-4", {"head_dim": 8}),
    "olmo": Kind("olmo", "OLMo"),
    "olmo3": Kind("olmo3", "OLMo 3", {"sliding_window": 5}),
    "olmoe": Kind("olmoe", "OLMoE", {"num_experts": 4, "num_experts_per_tok": 2}),
    "smollm3": Kind("smollm3", "SmolLM3"),
    "seed_oss": Kind("seed_oss", "Seed-OSS", {"head_dim": 8}),
    "exaone4": Kind("exaone4", "EXAONE 4", WINDOWED),
    "starcoder2": Kind("starcoder2", "StarCoder2"),
    "ernie4_5": Kind("ernie4_5", "ERNIE 4.5", {"head_dim": 8}),
    "ministral3": Kind("ministral3", "Ministral 3", {"head_dim": 8, "max_position_embeddings": 64}),
    "arcee": Kind("arcee", "Arcee"),
    "apertus": Kind("apertus", "Apertus"),
    "qwen2_moe": Kind("qwen2_moe", "Qwen 1.5 MoE, Qwen2 MoE", {
        "num_experts": 4, **EXPERTS, "shared_expert_intermediate_size": 16}),
    "glm4_moe": Kind("glm4_moe", "GLM-4.5", {
        **EXPERTS, "n_routed_experts": 4, "head_dim": 8, "first_k_dense_replace": 1}),
    "hunyuan": Kind("hunyuan_v1_dense", "Hunyuan", {"head_dim": 8}),
    # Mixtures of experts.
    "exaone_moe": Kind("exaone_moe", "K-EXAONE", {**NARROW, **WINDOWED, "num_shared_experts": 1}),
    "cohere2_moe": Kind("cohere2_moe", "Cohere 2 MoE", {**NARROW, **WINDOWED, "logit_scale": 0.25}),
    "ernie4_5_moe": Kind("ernie4_5_moe", "ERNIE 4.5 MoE", {"moe_num_experts": 4, "moe_k": 2, **EXPERTS}),
    "flex_olmo": Kind("flex_olmo", "FlexOlmo", {"num_experts": 4, "num_experts_per_tok": 2}),
    "granitemoeshared": Kind("granitemoeshared", "Granite 3 MoE with shared experts", {
        "num_local_experts": 4, **EXPERTS, "shared_intermediate_size": 32, "logits_scaling": 6.0}),
    "beam": Kind("beam", "Beam", {
        **NARROW, **WINDOWED, "n_group": 2, "topk_group": 1, "final_logit_softcapping": 3.0}),
    "hy_v3": Kind("hy_v3", "Hy 3", NARROW),
    "kolibri1": Kind("kolibri1", "Kolibri", {**NARROW, **WINDOWED}),
    "laguna": Kind("laguna", "Laguna", {**NARROW, **WINDOWED, "shared_expert_intermediate_size": 16}),
    "mellum": Kind("mellum", "Mellum", {**NARROW, **WINDOWED}),
    "minimax_m2": Kind("minimax_m2", "MiniMax-M2", {
        "num_local_experts": 4, **EXPERTS, "head_dim": 8, "rotary_dim": 4}),
    "minimax_m3": Kind("minimax_m3_vl_text", "MiniMax-M3", {
        "num_local_experts": 4, **EXPERTS, "head_dim": 8, "rotary_dim": 4, "dense_intermediate_size": 32,
        "shared_intermediate_size": 16}),
    "sarvam_moe": Kind("sarvam_moe", "Sarvam MoE", {**ROUTED, "head_dim": 8}),
    "solar_open": Kind("solar_open", "Solar Open", {**ROUTED, "head_dim": 8}),
    "dots1": Kind("dots1", "dots.llm1", ROUTED),
    "aria": Kind("aria_text", "Aria", {"moe_num_experts": 4, "moe_topk": 2, "intermediate_size": 16}),
    "hunyuan_moe": Kind("hunyuan_v1_moe", "Hunyuan MoE", {"head_dim": 8, "num_experts": 4, "moe_topk": 2}),
    "dbrx": Kind("dbrx", "DBRX", {
        "d_model": 32, "n_heads": 4, "n_layers": 2,
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2}}),
    # Latent attention (MLA).
    "deepseek_v2": Kind("deepseek_v2", "DeepSeek V2", DEEPSEEK),
    "axk1": Kind("axk1", "A.X K1", DEEPSEEK),
    "glm4_moe_lite": Kind("glm4_moe_lite", "GLM-4.7-Flash", NO_DENSE),
    "sarvam_mla": Kind("sarvam_mla", "Sarvam MLA", {**ROUTED, **LATENT, "num_key_value_heads": 4, "head_dim": 8}),
    "youtu": Kind("youtu", "Youtu-LLM", {**LATENT, "num_key_value_heads": 4, "head_dim": 4}),
    "longcat_flash": Kind("longcat_flash", "LongCat-Flash", {
        **LATENT, "num_layers": 1, "num_key_value_heads": 4, "head_dim": 4, "n_routed_experts": 4,
        "zero_expert_num": 2, "moe_topk": 2, "expert_ffn_hidden_size": 16, "ffn_hidden_size": 64}),
    # Others with plain attention.
    "gemma": Kind("gemma", "Gemma", {"head_dim": 8}),
    "gemma4_unified": Kind("gemma4_unified_text", "Gemma 4 with one encoder", {
        "head_dim": 8, "global_head_dim": 8, "num_global_key_value_heads": 2, "use_bidirectional_attention": None}),
    "glm": Kind("glm", "GLM-4 9B", {"head_dim": 8}),
    "exaone": Kind("exaone", "EXAONE 3.5", {"num_layers": 2}),
    "internlm3": Kind("internlm3", "InternLM3", {"head_dim": 8}),
    "cwm": Kind("cwm", "CWM", {"head_dim": 8, **WINDOWED}),
    "ministral": Kind("ministral", "Ministral", {"head_dim": 8, "sliding_window": 5}),
    "iquestcoder": Kind("iquestcoder", "IQuest-Coder", {"head_dim": 8}),
    "jais2": Kind("jais2", "Jais 2"),
    "apertus1p5": Kind("apertus1p5_text", "Apertus 1.5"),
    "gpt-sw3": Kind("gpt-sw3", "GPT-SW3"),
    "ctrl": Kind("ctrl", "CTRL", {"n_embd": 32, "n_layer": 2, "n_head": 4, "dff": 64}),
    "phi4_multimodal": Kind("phi4_multimodal", "Phi-4 multimodal", {
        "vision_config": {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 32, "num_attention_heads": 2},
        "audio_config": {"hidden_size": 32, "num_blocks": 1, "intermediate_size": 32, "num_attention_heads": 2,
                         "nemo_conv_channels": 8, "ext_pw_out_channel": 8, "depthwise_separable_out_channel": 8}}),
    "cohere_compass": Kind("cohere_compass_text", "Cohere Compass", {**WINDOWED, "rope_parameters": {
        kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in ("sliding_attention", "full_attention")}}),
    "bert-generation, decoder": Kind("bert-generation", "BertGeneration as a decoder", {"is_decoder": True}),
    # Rotation that depends on the length of the text.
    "phi3, long": Kind("phi3", "Phi-3-128k, Phi-3.5, Phi-4-mini", long_rope(4), soak=False),
    "phimoe, long": Kind("phimoe", "Phi-3.5-MoE, long", {
        "num_local_experts": 4, **long_rope(4, short_mscale=1.1, long_mscale=1.3)}),
    "minicpm3, long": Kind("minicpm3", "MiniCPM3, long", {
        **LATENT, "num_key_value_heads": 4, "dim_model_base": 8, **long_rope(2)}),
    "llama, dynamic": Kind("llama", "Llama with dynamic NTK RoPE", {
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
        "max_position_embeddings": 8}),
    "llama, yarn": Kind("llama", "Llama with YaRN", {
        "rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0,
                            "original_max_position_embeddings": 8}, "max_position_embeddings": 64}),
    # Unpacked.
    "gpt_oss": Kind("gpt_oss", "gpt-oss", {
        "num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 8, **WINDOWED}, "s_aux", soak=False),
    "bloom": Kind("bloom", "BLOOM", {"n_head": 4, "n_layer": 2}, "special attention", soak=False),
    "mpt": Kind("mpt", "MPT", {"d_model": 32, "n_heads": 4, "n_layers": 2, "expansion_ratio": 2}, "special attention"),
    "falcon, alibi": Kind("falcon", "Falcon with ALiBi", {"alibi": True}, "AttentionInterface"),
    "mamba": Kind("mamba", "Mamba", {"state_size": 4}, "state", soak=False),
    "mamba2": Kind("mamba2", "Mamba-2", {
        "num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1, "chunk_size": 8}, "state"),
    "falcon_mamba": Kind("falcon_mamba", "Falcon Mamba", {"state_size": 4}, "state"),
    "jamba": Kind("jamba", "Jamba", {
        "num_experts": 2, "mamba_d_state": 4, "mamba_dt_rank": 4, "attn_layer_period": 2, "attn_layer_offset": 1,
        "use_mamba_kernels": False}, "state"),
    "lfm2": Kind("lfm2", "LFM2", {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8}, "a special"),
    "bamba": Kind("bamba", "Bamba", {"attn_layer_indices": [1], **MAMBA2}, "state"),
    "granite 4": Kind("granitemoehybrid", "Granite 4", {
        "layer_types": ["mamba", "attention"], "num_local_experts": 2, "num_experts_per_tok": 1, **MAMBA2,
        "shared_intermediate_size": 32, "logits_scaling": 4.0}, "state", soak=False),
    "nemotron_h": Kind("nemotron_h", "Nemotron-H", {
        "layers_block_type": ["mamba", "attention", "mlp"], "mamba_num_heads": 8, "mamba_head_dim": 8,
        "ssm_state_size": 8, "chunk_size": 8, "n_groups": 1}, "state"),
    "falcon_h1": Kind("falcon_h1", "Falcon-H1", {
        **MAMBA2, "mamba_d_ssm": 64, "lm_head_multiplier": 0.5, "embedding_multiplier": 3.0, "head_dim": 8}, "state"),
    "zamba2": Kind("zamba2", "Zamba2", {
        "layers_block_type": ["mamba", "hybrid"], "mamba_d_state": 8, "n_mamba_heads": 4, "mamba_ngroups": 1,
        "chunk_size": 8, "num_mem_blocks": 1}, "state"),
    "qwen3_next": Kind("qwen3_next", "Qwen3-Next", {
        "num_experts": 4, **EXPERTS, **LINEAR, "shared_expert_intermediate_size": 16}, "state"),
    "qwen3_5": Kind("qwen3_5_text", "Qwen3.5", LINEAR, "state"),
    "olmo_hybrid": Kind("olmo_hybrid", "OLMo Hybrid", {}, "state"),
    "minimax": Kind("minimax", "MiniMax-01", {"num_local_experts": 2, "head_dim": 8, "block_size": 8}, "a special"),
    "deepseek_v32": Kind("deepseek_v32", "DeepSeek-V3.2", DEEPSEEK, "special attention"),
    "llama4": Kind("llama4_text", "Llama 4", {
        "num_local_experts": 1, "intermediate_size_mlp": 32, "head_dim": 8, "attention_chunk_size": 4}, "chunked"),
    "doge": Kind("doge", "Doge", {}, "attention_mask"),
    "gpt_neo": Kind("gpt_neo", "GPT-Neo", {
        "attention_types": [[["global", "local"], 1]], "num_layers": 2, "num_heads": 4, "window_size": 5},
        "AttentionInterface"),
    "xglm": Kind("xglm", "XGLM", {
        "d_model": 32, "ffn_dim": 64, "num_layers": 2, "attention_heads": 4, "max_position_embeddings": 64},
        "AttentionInterface"),
    "diffllama": Kind("diffllama", "DiffLlama", {}, "AttentionInterface"),
    "granite_swa": Kind("granite_swa", "Granite with windows", {**WINDOWED, "logits_scaling": 4.0}, "s_aux"),
    "granitemoe_swa": Kind("granitemoe_swa", "Granite MoE with windows", {
        **WINDOWED, "num_local_experts": 4, **EXPERTS}, "s_aux"),
    "flint": Kind("flint", "Flint", {**NARROW, **WINDOWED}, "s_aux"),
    "mimo_v2_flash": Kind("mimo_v2_flash", "MiMo-V2-Flash", {
        **ROUTED, **WINDOWED, "head_dim": 8, "v_head_dim": 8}, "s_aux"),
    "vaultgemma": Kind("vaultgemma", "VaultGemma", {"head_dim": 8, **WINDOWED}, "softcap"),
    "inkling": Kind("inkling_text", "Inkling", {**INKLING, "n_shared_experts": 2}, "a special"),
    "inkling2": Kind("inkling2_text", "Inkling 2", {**INKLING, "n_layers_per_attn_res_block": 1}, "a special"),
    "inkling2_loop": Kind("inkling2_loop_text", "Inkling 2 Loop", {
        **INKLING, "num_hidden_layers": 4, "n_layers_per_attn_res_block": 1, "loop_layer_index_start": 1,
        "loop_layer_index_end": 3, "loop_gate_rank": 4}, "a special"),
    "hy_v4": Kind("hy_v4", "Hy 4", {
        **ROUTED, **LATENT, "num_key_value_heads": 4, "head_dim": 8, "n_group": 1, "topk_group": 1,
        "index_head_dim": 8, "index_n_heads": 2}, "special attention"),
    "glm_moe_dsa": Kind("glm_moe_dsa", "GLM-5", {**NO_DENSE, "index_head_dim": 8, "index_n_heads": 2}, "a special"),
    "axk2": Kind("axk2", "A.X K2", {
        **NO_DENSE, "n_group": None, "topk_group": None, "index_head_dim": 8, "index_n_heads": 2,
        "gated_norm_rank": 4}, "a special"),
    "dots3": Kind("dots3_note_text", "dots3", {**ROUTED, **LATENT, "num_key_value_heads": 4}, "a special"),
    "zaya": Kind("zaya", "ZAYA", {"head_dim": 8, "num_experts": 4, "moe_intermediate_size": 16}, "state"),
    "zamba": Kind("zamba", "Zamba", {
        "num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"], "mamba_d_state": 4,
        "n_mamba_heads": 2, "mamba_dt_rank": 4, "use_mamba_kernels": False, "attention_hidden_size": 64,
        "attention_head_dim": 16, "num_key_value_heads": 4}, "state"),
    "bailing_hybrid": Kind("bailing_hybrid", "Ling 2.5, Ring 2.5", {
        **HYBRID_MLA, "head_dim": 8, "n_group": 1}, "state"),
    "kimi_linear": Kind("kimi_linear", "Kimi Linear", {
        **HYBRID_MLA, "linear_head_dim": 8, "linear_num_heads": 4}, "state"),
    "lara_mini": Kind("lara_mini", "Lara Mini", {
        "num_experts": 4, **EXPERTS, **LINEAR, "shared_expert_intermediate_size": 16}, "state"),
    "qwen3_5_moe": Kind("qwen3_5_moe_text", "Qwen3.5 MoE", {
        "num_experts": 4, **EXPERTS, **LINEAR, "shared_expert_intermediate_size": 16}, "state"),
    "qwen4_exp": Kind("qwen4_exp_text", "Qwen4 preview", {
        "num_experts": 4, **EXPERTS, **LINEAR, "shared_expert_intermediate_size": 16, "hc_lowrank": 8,
        "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 64,
        "indexer_compress_ratio": 4}, "state"),
    "lfm2_moe": Kind("lfm2_moe", "LFM2 MoE", {
        "num_experts": 4, **EXPERTS, "layer_types": ["conv", "full_attention"]}, "a special"),
    "lfm3": Kind("lfm3", "LFM3", {"head_dim": 8, "layer_types": ["conv", "full_attention"]}, "a special"),
    "hrm_text": Kind("hrm_text", "HRM-Text", {"head_dim": 8}, "a special"),
    "gpt_neox_japanese": Kind("gpt_neox_japanese", "GPT-NeoX Japanese", {
        "max_position_embeddings": 64}, "AttentionInterface"),
    "git": Kind("git", "GIT's text model", {"max_position_embeddings": 64}, "AttentionInterface"),
    "trocr": Kind("trocr", "TrOCR's decoder", {
        "d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 64,
        "max_position_embeddings": 64}, "AttentionInterface"),
}  # fmt: skip

# The reason's first words, and what else the config says.
REFUSED: dict[str, tuple[Kind, str]] = {
    "t5": (Kind("t5", "T5"), "encoder-decoder"),
    "bart": (Kind("bart", "BART"), "encoder-decoder"),
    "bert": (Kind("bert", "BERT and its kin"), "looks ahead"),
    "bert, decoder": (Kind("bert", "BERT as a decoder", {"is_decoder": True}), "logits are not just"),
    "roberta, decoder": (Kind("roberta", "RoBERTa as a decoder", {"is_decoder": True}), "logits are not just"),
    "dory": (Kind("dory", "Dory"), "logits are not just"),
    "modernbert-decoder": (Kind("modernbert-decoder", "ModernBERT as a decoder"), "logits are not just"),
    "gemma3n": (
        Kind("gemma3n_text", "Gemma 3n", {
            "head_dim": 8, "num_kv_shared_layers": 0, "hidden_size_per_layer_input": 8}),
        "read token ids",
    ),
    "gemma4, embeddings per layer": (
        Kind("gemma4_text", "Gemma 4 E2B, E4B", {
            "head_dim": 8, "global_head_dim": 8, "hidden_size_per_layer_input": 8, "num_global_key_value_heads": 2,
            "num_kv_shared_layers": 0, "vocab_size_per_layer_input": 99}),
        "read token ids",
    ),
    "recurrent_gemma": (
        Kind("recurrent_gemma", "RecurrentGemma", {
            "num_hidden_layers": 3, "attention_window_size": 8, "lru_width": 32}),
        "no cache of transformers",
    ),
    "rwkv": (Kind("rwkv", "RWKV", {"attention_hidden_size": 32, "context_length": 64}), "no cache of transformers"),
    "xlstm": (Kind("xlstm", "xLSTM", {"num_heads": 4, "chunk_size": 8}), "cannot be tried on embeddings"),
    "openai-gpt": (Kind("openai-gpt", "GPT-1"), "no cache of transformers"),
    "deepseek_v4": (Kind("deepseek_v4", "DeepSeek-V4"), "read token ids"),
    "big_bird, decoder": (Kind("big_bird", "BigBird as a decoder", {"is_decoder": True}), "logits are not just"),
    "whisper": (Kind("whisper", "Whisper"), "encoder-decoder"),
    "xlm": (Kind("xlm", "XLM", {"emb_dim": 32, "n_layers": 2, "n_heads": 4}), "choose by values"),
    "moshi": (Kind("moshi", "Moshi", {"ffn_dim": 64, "audio_vocab_size": 20}), "choose by values"),
    "blt": (Kind("blt", "BLT"), "choose by values"),
    "mllama": (Kind("mllama_text_model", "Llama 3.2 Vision's text model"), "no causal language model of this type"),
    "emu3": (Kind("emu3_text_model", "Emu3's text model"), "no causal language model of this type"),
    "jetmoe": (Kind("jetmoe", "JetMoE", {"num_local_experts": 4, "kv_channels": 8}), "choose by values"),
}  # fmt: skip

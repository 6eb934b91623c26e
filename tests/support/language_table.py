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
        "choose by values",
    ),
    "recurrent_gemma": (
        Kind("recurrent_gemma", "RecurrentGemma", {
            "num_hidden_layers": 3, "attention_window_size": 8, "lru_width": 32}),
        "no cache of transformers",
    ),
    "rwkv": (Kind("rwkv", "RWKV", {"attention_hidden_size": 32, "context_length": 64}), "no cache of transformers"),
    "xlstm": (Kind("xlstm", "xLSTM", {"num_heads": 4, "chunk_size": 8}), "cannot be tried on embeddings"),
    "openai-gpt": (Kind("openai-gpt", "GPT-1"), "no cache of transformers"),
    "jetmoe": (Kind("jetmoe", "JetMoE", {"num_local_experts": 4, "kv_channels": 8}), "choose by values"),
}  # fmt: skip

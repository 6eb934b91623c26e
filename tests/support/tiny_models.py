"""Small random language models of many architectures, real classes of transformers throughout."""

from __future__ import annotations

from typing import Any

import torch

SIZE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 99,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
    "initializer_range": 0.3,  # large enough that greedy answers wander
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16, "norm_topk_prob": True}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 6}
# architecture, what differs
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, all heads": ("llama", {"num_key_value_heads": 4}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama, biased": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("mistral", {"sliding_window": 5}),
    "qwen2": ("qwen2", {}),
    "qwen2, sliding": ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "qwen3": ("qwen3", {"tie_word_embeddings": True}),
    "qwen3, experts": ("qwen3_moe", {**EXPERTS, "num_experts": 4}),
    "gemma3": ("gemma3_text", {"sliding_window": 4, "query_pre_attn_scalar": 8, "tie_word_embeddings": False,
                               "layer_types": ["sliding_attention", "full_attention"]}),
    "phi3": ("phi3", {}),
    "olmo2": ("olmo2", {}),
    "deepseek v3": (
        "deepseek_v3",
        {**LATENT, **EXPERTS, "num_key_value_heads": 4, "head_dim": 4, "n_routed_experts": 4, "n_shared_experts": 1,
         "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1},
    ),
}  # fmt: skip


def config_of(kind: str) -> Any:
    from transformers import AutoConfig

    architecture, changes = KINDS[kind]
    return AutoConfig.for_model(architecture, **{**SIZE, **changes})


def tiny(kind: str, seed: int = 1) -> Any:
    return tiny_from(config_of(kind), seed, "eager")


def small_config(architecture: str, changes: dict[str, Any]) -> Any:
    """Only entries that every config has: another one might be a field of the same name with another meaning."""
    from transformers import AutoConfig

    size = {key: value for key, value in SIZE.items() if key not in ("initializer_range", "head_dim")}
    return AutoConfig.for_model(architecture, **{**size, **changes})


def tiny_of(architecture: str, changes: dict[str, Any], seed: int = 1) -> Any:
    return tiny_from(small_config(architecture, changes), seed)


def tiny_from(config: Any, seed: int = 1, attention: str | None = None) -> Any:
    """With every tensor drawn at random: biases and norms begin as zeros and ones, which would hide a slip."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif 0 < parameter.std() < 0.1:
                parameter.mul_(0.2 / parameter.std())
    return model

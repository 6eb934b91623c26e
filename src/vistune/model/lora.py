"""Low-rank adapters by PEFT, on the language model's own linear layers by their full names.

Names are full paths, so an adapter never lands on a vision layer that happens to be called `q_proj` too.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from vistune.errors import RecipeError
from vistune.model.language import base_of
from vistune.recipe import Lora


def targets(language: nn.Module, wanted: tuple[str, ...] | None) -> list[str]:
    """Full names of the linear layers to adapt: those whose last name is wanted, all but the head without a wish."""
    base = base_of(language)
    head = base.get_output_embeddings()
    linear = [name for name, module in base.named_modules() if isinstance(module, nn.Linear) and module is not head]
    chosen = [name for name in linear if wanted is None or name.rsplit(".", 1)[-1] in wanted]
    if not chosen:
        known = sorted({name.rsplit(".", 1)[-1] for name in linear})
        raise RecipeError(f"lora.targets {wanted}: no such layer", f"layers are called {', '.join(known)}")
    return chosen


def add_adapters(language: nn.Module, lora: Lora) -> nn.Module:
    """The language model inside a PeftModel; its own weights are frozen."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets(language, lora.targets),
        use_dora=lora.dora,
        use_rslora=lora.rslora,
        task_type="CAUSAL_LM",
    )
    model: nn.Module = get_peft_model(base_of(language), config)
    return model


def load_adapters(language: nn.Module, folder: Path) -> nn.Module:
    from peft import PeftModel

    model: nn.Module = PeftModel.from_pretrained(language, str(folder), is_trainable=False)
    return model


def has_adapters(language: nn.Module) -> bool:
    return hasattr(language, "merge_and_unload")


def merge_adapters(language: nn.Module) -> nn.Module:
    """The plain language model with its adapters added into its weights."""
    merged: nn.Module = language.merge_and_unload() if has_adapters(language) else language  # type: ignore[operator]
    return merged

"""Low-rank adapters by PEFT, on the language model's own linear layers by their full names.

Names are full paths, so an adapter never lands on a vision layer that happens to be called `q_proj` too.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from vistune.errors import CheckpointError, RecipeError, some
from vistune.model.language import base_of, embed, first_line, is_quantised, run
from vistune.recipe import Lora

EVERYTHING, ATTENTION = "all-linear", "attention"


def targets(language: nn.Module, wanted: tuple[str, ...] | None) -> list[str]:
    """Full names of the linear layers to adapt, never the head; without a wish, all of them.

    A wish is `all-linear`, `attention` (linear layers inside modules whose class is called …Attention), or the end of
    layers' names, such as `q_proj` or `layers.0.self_attn.q_proj`. Raises RecipeError for one that no layer meets.
    """
    base = base_of(language)
    head = base.get_output_embeddings()
    linear = [name for name, module in base.named_modules() if isinstance(module, nn.Linear) and module is not head]
    attention = [f"{name}." for name, module in base.named_modules() if type(module).__name__.endswith("Attention")]

    def meets(name: str, wish: str) -> bool:
        if wish == ATTENTION:
            return name.startswith(tuple(attention))
        return wish == EVERYTHING or f".{name}".endswith(f".{wish}")

    chosen: set[str] = set()
    for wish in wanted or (EVERYTHING,):
        met = {name for name in linear if meets(name, wish)}
        if not met:
            known = sorted({name.rsplit(".", 1)[-1] for name in linear})
            raise RecipeError(
                f"lora.targets {wish!r}: no such linear layer in the language model",
                f"{EVERYTHING}, {ATTENTION}" + (f", or of {', '.join(known)}" if known else "; this model has none"),
            )
        chosen |= met
    return [name for name in linear if name in chosen]


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
    """The language model with a PEFT folder's adapters, for use. Raises CheckpointError naming what does not fit."""
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
    from peft.utils import load_peft_weights

    try:
        config = PeftConfig.from_pretrained(str(folder))
        given = load_peft_weights(str(folder), device="cpu")
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: adapters cannot be read: {first_line(error)}", "name a PEFT folder") from None
    config.inference_mode = True
    try:
        model = get_peft_model(base_of(language), config)
    except ValueError as error:  # PEFT finds no layer of the names in the folder
        raise CheckpointError(f"{folder}: {first_line(error)}", "load them over the model they were made for") from None
    refuse_misfits(get_peft_model_state_dict(model, save_embedding_layers=False), given, folder)
    set_peft_model_state_dict(model, given)
    made: nn.Module = model.eval()
    return made


def refuse_misfits(wanted: dict[str, Tensor], given: dict[str, Tensor], folder: Path) -> None:
    """Raise CheckpointError naming adapters' tensors that are missing, too many or of another shape."""
    shapes = [
        f"{name} {tuple(given[name].shape)} where {tuple(wanted[name].shape)} is wanted"
        for name in sorted(wanted.keys() & given.keys())
        if given[name].shape != wanted[name].shape
    ]
    kinds = {
        "missing": sorted(wanted.keys() - given.keys()),
        "not of this model": sorted(given.keys() - wanted.keys()),
        "of another shape": shapes,
    }
    faults = [f"{what}: {some(names)}" for what, names in kinds.items() if names]
    if faults:
        raise CheckpointError(f"{folder}: adapters {'; '.join(faults)}", "load them over the model they were made for")


def has_adapters(language: nn.Module) -> bool:
    return hasattr(language, "merge_and_unload")


def merge_adapters(language: nn.Module, *, tolerance: float | None = None) -> nn.Module:
    """The plain language model with its adapters added into its weights; the language model given is used up.

    Hidden states of a probe before and after may differ by `tolerance` times their largest value; without one, by the
    square root of the precision's step (half of its digits). Raises CheckpointError above it, and RecipeError for a
    quantised base: its weights cannot hold the sum.
    """
    if not has_adapters(language):
        return language
    if is_quantised(language):
        raise RecipeError(
            "adapters cannot be merged into a quantised base: rounding it again would lose most of what they learnt",
            "load the model without --quantize, then merge",
        )
    learning = language.training
    step = torch.finfo(base_of(language).dtype).eps
    allowed = step**0.5 if tolerance is None else tolerance
    before = hidden_of_probe(language.eval())
    merged: nn.Module = language.merge_and_unload()  # type: ignore[operator]
    after = hidden_of_probe(merged)
    difference = float((after - before).abs().max() / before.abs().max())
    if not difference <= allowed:  # so written, nan is refused too
        raise CheckpointError(
            f"merged adapters answer otherwise: hidden states differ by {difference:.2g} of their largest value, "
            f"{allowed:.2g} is allowed",
            "merge in fp32",
        )
    return merged.train(learning)


@torch.no_grad()
def hidden_of_probe(language: nn.Module) -> Tensor:
    """Hidden states (tokens, width), in fp32, of sixteen tokens spread over the vocabulary."""
    weight = base_of(language).get_input_embeddings().weight
    ids = torch.linspace(0, len(weight) - 1, 16, device=weight.device).long()
    places = torch.arange(16, device=weight.device)
    return run(language, embed(language, ids)[None], places[None], starts=[0, 16])[0].float()

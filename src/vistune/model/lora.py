"""Low-rank adapters on the language model's linear layers, by PEFT.

Layers are named by their full paths. So no adapter is added to a layer of the tower that has the same short name, such
as `q_proj`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vistune.errors import CheckpointError, RecipeError, some
from vistune.model.language import CausalLM, embed, first_line, is_quantised, run, unwrap
from vistune.model.peft_folder import Adapters, LazyTensor, merge_hint, read_adapters, shape_of
from vistune.recipe import Lora

if TYPE_CHECKING:
    from peft import PeftModel

EVERYTHING, ATTENTION = "all-linear", "attention"


def targets(language: nn.Module, patterns: tuple[str, ...] | None) -> list[str]:
    """Return the full names of the linear layers to adapt, never the head; without patterns, all of them.

    A pattern is `all-linear`, `attention` (linear layers inside modules whose class name ends with Attention), or an
    end of layers' names, such as `q_proj` or `layers.0.self_attn.q_proj`. Raises RecipeError if one matches no layer.
    """
    base = unwrap(language)
    return chosen_layers(linear_layers(base, base.get_output_embeddings()), patterns, "language model")


def linear_layers(module: nn.Module, head: nn.Module | None = None) -> dict[str, bool]:
    """Return the names of a module's linear layers except the head, and whether each is inside an attention module."""
    attention = tuple(f"{name}." for name, part in module.named_modules() if type(part).__name__.endswith("Attention"))
    return {
        name: name.startswith(attention)
        for name, part in module.named_modules()
        if name and isinstance(part, nn.Linear) and part is not head
    }


def chosen_layers(
    linear: Mapping[str, bool], patterns: tuple[str, ...] | None, part: str, *, each: bool = True
) -> list[str]:
    """Return the layers among `linear_layers` that the patterns of `lora.targets` name.

    Raises RecipeError if a pattern matches no layer; without `each`, only if none of them does.
    """
    matched = {
        pattern: {name for name, in_attention in linear.items() if _matches(name, pattern, in_attention=in_attention)}
        for pattern in patterns or (EVERYTHING,)
    }
    wrong = [repr(pattern) for pattern, names in matched.items() if not names]
    if wrong if each else len(wrong) == len(matched):
        known = sorted({name.rsplit(".", 1)[-1] for name in linear})
        raise RecipeError(
            f"lora.targets {', '.join(wrong)}: no such linear layer in the {part}",
            f"use {EVERYTHING} or {ATTENTION}, or names from this list: {', '.join(known)}"
            if known
            else f"the {part} has no linear layer: remove it from lora.parts",
        )
    return [name for name in linear if any(name in names for names in matched.values())]


def _matches(name: str, pattern: str, *, in_attention: bool) -> bool:
    if pattern == ATTENTION:
        return in_attention
    return pattern == EVERYTHING or f".{name}".endswith(f".{pattern}")


def add_adapters(language: nn.Module, lora: Lora) -> nn.Module:
    """Wrap the language model in a PeftModel with new adapters; its own weights are frozen."""
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
    model: nn.Module = get_peft_model(unwrap(language), config)
    return model


def load_adapters(language: nn.Module, folder: Path) -> nn.Module:
    """Put a PEFT folder's adapters on the language model. Raises CheckpointError naming tensors that do not fit."""
    return load_onto(language, read_adapters(folder))


def load_onto(language: nn.Module, adapters: Adapters) -> nn.Module:
    """Put adapters with our module names on the language model; merge those that are not on inner linear layers.

    Raises CheckpointError naming tensors that do not fit.
    """
    return keep_inner_adapters(with_adapters(unwrap(language), adapters)).eval()


def with_adapters(module: nn.Module, adapters: Adapters) -> PeftModel:
    """Wrap the module in a PeftModel with these adapters.

    Raises CheckpointError if tensors do not fit, or if PEFT leaves an adapter without a tensor or a tensor unused.
    """
    from peft import set_peft_model_state_dict

    model = with_empty_adapters(module, adapters)
    result = set_peft_model_state_dict(model, {name: tensor[...] for name, tensor in adapters.tensors.items()})
    if unloaded := [*(name for name in result.missing_keys if "lora_" in name), *result.unexpected_keys]:
        raise CheckpointError(
            f"{adapters.folder}: adapters that PEFT did not load: {some(unloaded)}", merge_hint(adapters.folder)
        )
    return model


def with_empty_adapters(module: nn.Module, adapters: Adapters, *, meta: bool = False) -> PeftModel:
    """Wrap the module in a PeftModel into which all adapter tensors fit, without loading them.

    `meta`: whether the module has no weights. Raises CheckpointError if tensors are missing, unexpected or of another
    shape.
    """
    from peft import get_peft_model, get_peft_model_state_dict

    config = copy.deepcopy(adapters.config)
    config.inference_mode = True
    if meta:
        config.init_lora_weights = True  # other initialisations read the base's weights
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about renamed bases and tied heads, which this module handles
            model = get_peft_model(module, config, low_cpu_mem_usage=meta)
    except Exception as error:  # PEFT raises many types
        raise CheckpointError(
            f"{adapters.folder}: PEFT cannot put these adapters on the model: {first_line(error)}",
            f"load them on the model they were made for, or {merge_hint(adapters.folder)}",
        ) from None
    expected = get_peft_model_state_dict(model, save_embedding_layers=False)
    own = model.state_dict()  # PEFT saves a resized embedding too, under its own name
    extra = {name: own[name] for name in adapters.tensors.keys() & own.keys() if "lora_" not in name}
    refuse_misfits({**extra, **expected}, adapters.tensors, adapters.folder)
    return model


def refuse_misfits(expected: Mapping[str, Tensor], given: Mapping[str, LazyTensor], folder: Path) -> None:
    """Raise CheckpointError naming adapters' tensors that are missing, unexpected or of another shape."""
    if faults := misfits(expected, given):
        raise CheckpointError(
            f"{folder}: adapters {faults}", f"load them on the model they were made for, or {merge_hint(folder)}"
        )


def misfits(expected: Mapping[str, Tensor], given: Mapping[str, LazyTensor], optional: Collection[str] = ()) -> str:
    """Name the tensors that are missing, unexpected or of another shape; return "" if all fit."""
    faults = {
        "missing": expected.keys() - given.keys() - set(optional),
        "not of this model": given.keys() - expected.keys(),
        "of another shape": {
            f"{name} {shape_of(given[name])} instead of {tuple(expected[name].shape)}"
            for name in expected.keys() & given.keys()
            if shape_of(given[name]) != tuple(expected[name].shape)
        },
    }
    return "; ".join(f"{fault}: {some(names)}" for fault, names in faults.items() if names)


@torch.no_grad()
def keep_inner_adapters(language: nn.Module) -> nn.Module:
    """Keep the low-rank adapters on inner linear layers, and merge everything else that PEFT trains into the weights.

    Merged are adapters on the embedding or the head, whole modules (`modules_to_save`), single tokens and biases. A
    head that is tied to the embedding is untied if the two then differ. Without inner adapters the result is the plain
    language model. The given model must not be used afterwards.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    base = unwrap(language)
    inputs, outputs = base.get_input_embeddings(), base.get_output_embeddings()
    wrapped = [
        (name, module)
        for name, module in base.named_modules()
        if isinstance(module, AuxiliaryTrainingWrapper)
        or (isinstance(module, BaseTunerLayer) and (module is inputs or module is outputs))
    ]
    tied = bool(base.config.tie_word_embeddings) and outputs is not None
    if tied and wrapped:
        head = _plain(outputs)
        head.weight = nn.Parameter(head.weight.detach().clone(), head.weight.requires_grad)
    for name, module in wrapped:
        parent, _, own = name.rpartition(".")
        if isinstance(module, AuxiliaryTrainingWrapper):
            plain = module.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
        else:
            assert isinstance(module, BaseTunerLayer)
            module.merge()
            plain = module.get_base_layer()
        setattr(base.get_submodule(parent), own, plain)
    if tied and wrapped:
        _tie_if_equal(base)
    return _without(language, {name for name, _ in wrapped})


def _plain(module: nn.Embedding | nn.Linear) -> nn.Embedding | nn.Linear:
    """Return the transformers module inside PEFT's wrappers."""
    while inner := getattr(module, "base_layer", None) or getattr(module, "original_module", None):
        module = inner
    return module


def _tie_if_equal(base: CausalLM) -> None:
    """Tie the head to the embedding if they are equal, and untie them in the config otherwise."""
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    if torch.equal(embedding.weight, head.weight):
        head.weight = embedding.weight
        return
    base.config.tie_word_embeddings = False
    base.all_tied_weights_keys = {}  # transformers reads it when it saves or moves a model


def _without(language: PeftModel, removed: set[str]) -> nn.Module:
    """Remove everything from the PeftModel's config and lists that is no longer an adapter."""
    left = [name for name in language.base_model.targeted_module_names if name not in removed]
    if not left:
        return unwrap(language)
    config = language.peft_config["default"]
    language.base_model.targeted_module_names = left
    if removed or config.exclude_modules or config.layers_to_transform is not None:
        config.target_modules = set(left)
    config.exclude_modules = config.layers_to_transform = config.layers_pattern = None
    config.modules_to_save = config.trainable_token_indices = None
    config.bias, config.ensure_weight_tying = "none", False
    config.init_lora_weights = True  # other initialisations change the base, which must not happen twice
    config.loftq_config, config.eva_config = {}, None
    kept: nn.Module = language
    return kept


def has_adapters(language: nn.Module) -> bool:
    """Return whether the language model is a PeftModel."""
    return hasattr(language, "merge_and_unload")


def merge_adapters(language: nn.Module, *, tolerance: float | None = None) -> nn.Module:
    """Merge the adapters into the language model's weights, and check the result on a probe.

    A head that is tied to the embedding is untied if the adapters make the two differ. The given model must not be used
    afterwards.

    Args:
        tolerance: How far hidden states and logits of the probe may change, relative to their largest value; by
            default the square root of the precision's epsilon (half of its digits).

    Raises:
        CheckpointError: If they change more.
        RecipeError: If the base is quantized: its weights would be rounded again.
    """
    if not has_adapters(language):
        return language
    if is_quantised(language):
        raise RecipeError(
            "adapters cannot be merged into a quantized base: rounding it again would lose most of the training",
            "load the model without --quantize, then merge",
        )
    was_training = language.training
    allowed = torch.finfo(unwrap(language).dtype).eps ** 0.5 if tolerance is None else tolerance
    before = _probe(language.eval())
    try:
        inner = keep_inner_adapters(language)
        merged: nn.Module = inner.merge_and_unload() if has_adapters(inner) else inner  # type: ignore[operator]
    except (RuntimeError, ValueError, NotImplementedError) as error:  # such as `lora_bias` on a layer without a bias
        raise CheckpointError(f"adapters cannot be merged: {first_line(error)}", "export --layout peft") from None
    after = _probe(merged)
    for name in before:
        difference = float((after[name] - before[name]).abs().max() / before[name].abs().max())
        if not difference <= allowed:  # written so that nan is refused too
            raise CheckpointError(
                f"merging changes the model: {name} differ by {difference:.2g} of their largest value; "
                f"at most {allowed:.2g} is allowed",
                "merge in fp32",
            )
    return merged.train(was_training)


def _probe(language: nn.Module) -> dict[str, Tensor]:
    """Return hidden states (tokens, width) and logits (tokens, vocabulary) of the probe, with adapters of the head."""
    hidden = probe_hidden_states(language)
    head = unwrap(language).get_output_embeddings()
    with torch.no_grad():
        logits = head(hidden.to(unwrap(language).dtype)).float()
    return {"hidden states": hidden, "logits": logits}


@torch.no_grad()
def probe_hidden_states(language: nn.Module) -> Tensor:
    """Return hidden states (tokens, width), in fp32, of sixteen tokens spread over the vocabulary."""
    embedding = unwrap(language).get_input_embeddings()
    weight = _plain(embedding).weight
    ids = torch.linspace(0, len(weight) - 1, 16, device=weight.device).long()
    positions = torch.arange(16, device=weight.device)
    return run(language, embed(language, ids)[None], positions[None], starts=[0, 16])[0].float()

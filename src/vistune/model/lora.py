"""Low-rank adapters by PEFT, on the language model's own linear layers by their full names.

Names are full paths, so an adapter never lands on a vision layer that happens to be called `q_proj` too.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vistune.errors import CheckpointError, RecipeError, some
from vistune.model.language import base_of, embed, first_line, is_quantised, run
from vistune.model.peft_folder import Adapters, read_adapters, way_out
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
    return put_on(language, read_adapters(folder))


def put_on(language: nn.Module, adapters: Adapters) -> nn.Module:
    """Put adapters with our module names on the language model, by PEFT; `settle` handles those outside linear layers.

    Raises CheckpointError with the tensors that do not fit.
    """
    from peft import set_peft_model_state_dict

    model = fitted(base_of(language), adapters)
    state = {name: tensor[...] for name, tensor in adapters.tensors.items()}
    result = set_peft_model_state_dict(model, state)
    refuse_unloaded(result, adapters.folder)
    return settle(model).eval()


def fitted(module: nn.Module, adapters: Adapters, *, meta: bool = False) -> Any:
    """A PeftModel into which all adapter tensors fit, not loaded yet. `meta`: the module has no weights.

    Raises CheckpointError with tensors that are missing, unexpected or of another shape.
    """
    from peft import get_peft_model, get_peft_model_state_dict

    config = copy.deepcopy(adapters.config)
    config.inference_mode = True
    if meta:
        config.init_lora_weights = True  # other initialisations read the base's weights
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about renamed bases and tied heads, which are handled here
            model = get_peft_model(module, config, low_cpu_mem_usage=meta)
    except Exception as error:  # PEFT raises many types; no code of ours runs in it
        raise CheckpointError(
            f"{adapters.folder}: PEFT cannot put these adapters on the model: {first_line(error)}",
            f"load them over the model they were made for, or {way_out(adapters.folder)}",
        ) from None
    wanted = get_peft_model_state_dict(model, save_embedding_layers=False)
    own = model.state_dict()  # PEFT saves a resized embedding too, under its own name
    extra = {name: own[name] for name in adapters.tensors.keys() & own.keys() if "lora_" not in name}
    refuse_misfits({**extra, **wanted}, adapters.tensors, adapters.folder)
    return model


def refuse_misfits(wanted: Mapping[str, Tensor], given: Mapping[str, Any], folder: Path) -> None:
    """Raise CheckpointError naming adapters' tensors that are missing, too many or of another shape."""
    shapes = [
        f"{name} {shape_of(given[name])} where {tuple(wanted[name].shape)} is wanted"
        for name in sorted(wanted.keys() & given.keys())
        if shape_of(given[name]) != tuple(wanted[name].shape)
    ]
    kinds = {
        "missing": sorted(wanted.keys() - given.keys()),
        "not of this model": sorted(given.keys() - wanted.keys()),
        "of another shape": shapes,
    }
    faults = [f"{what}: {some(names)}" for what, names in kinds.items() if names]
    if faults:
        raise CheckpointError(
            f"{folder}: adapters {'; '.join(faults)}",
            f"load them over the model they were made for, or {way_out(folder)}",
        )


def refuse_unloaded(result: Any, folder: Path) -> None:
    """Raise CheckpointError if an adapter got no tensor, or a tensor of the file was not used."""
    missing = [name for name in result.missing_keys if "lora_" in name]
    if missing or result.unexpected_keys:
        raise CheckpointError(
            f"{folder}: adapters that PEFT did not load: {some([*missing, *result.unexpected_keys])}", way_out(folder)
        )


def shape_of(tensor: Any) -> tuple[int, ...]:
    """The shape of a tensor or of a safetensors slice."""
    return tuple(tensor.get_shape() if hasattr(tensor, "get_shape") else tensor.shape)


@torch.no_grad()
def settle(language: nn.Module) -> nn.Module:
    """Keep only the low-rank adapters on inner linear layers; turn everything else that PEFT trains into weights.

    These are adapters on the embedding or the head, whole modules (`modules_to_save`), single tokens and biases. A head
    that is tied to the embedding is untied if the two then differ. Without inner adapters the result is the plain
    language model. The given model is consumed.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    base: Any = base_of(language)
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
            module.merge()
            plain = module.get_base_layer()
        setattr(base.get_submodule(parent), own, plain)
    if tied and wrapped:
        _tie_or_part(base)
    return _without(language, {name for name, _ in wrapped})


def _plain(module: Any) -> Any:
    """The transformers module inside PEFT's wrappers."""
    while True:
        inner = getattr(module, "base_layer", None) or getattr(module, "original_module", None)
        if inner is None:
            return module
        module = inner


def _tie_or_part(base: Any) -> None:
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    if torch.equal(embedding.weight, head.weight):
        head.weight = embedding.weight
        return
    base.config.tie_word_embeddings = False
    base.all_tied_weights_keys = {}  # transformers reads it when it saves or moves a model


def _without(language: Any, gone: set[str]) -> nn.Module:
    """Remove from the PeftModel's config and lists everything that is no longer an adapter."""
    left = [name for name in language.base_model.targeted_module_names if name not in gone]
    if not left:
        plain: nn.Module = base_of(language)
        return plain
    config = language.peft_config["default"]
    language.base_model.targeted_module_names = left
    if gone or config.exclude_modules or config.layers_to_transform is not None:
        config.target_modules = set(left)
    config.exclude_modules = config.layers_to_transform = config.layers_pattern = None
    config.modules_to_save = config.trainable_token_indices = None
    config.bias, config.ensure_weight_tying = "none", False
    config.init_lora_weights = True  # others change the base, which must not happen twice
    config.loftq_config, config.eva_config = {}, None
    made: nn.Module = language
    return made


def has_adapters(language: nn.Module) -> bool:
    return hasattr(language, "merge_and_unload")


def merge_adapters(language: nn.Module, *, tolerance: float | None = None) -> nn.Module:
    """The plain language model with its adapters merged into its weights; the given model is consumed.

    A head that is tied to the embedding is untied if the adapters make the two differ. Hidden states and logits of a
    probe before and after may differ by `tolerance` times their largest value; without one, by the square root of the
    precision's step (half of its digits). Raises CheckpointError above it, and RecipeError for a quantised base: its
    weights cannot hold the sum.
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
    before = _probed(language.eval())
    try:
        settled = settle(language)
        merged: nn.Module = settled.merge_and_unload() if has_adapters(settled) else settled  # type: ignore[operator]
    except (RuntimeError, ValueError, NotImplementedError) as error:  # such as `lora_bias` on a layer without a bias
        raise CheckpointError(f"adapters cannot be merged: {first_line(error)}", "export --layout peft") from None
    after = _probed(merged)
    for what in before:
        difference = float((after[what] - before[what]).abs().max() / before[what].abs().max())
        if not difference <= allowed:  # written so that nan is refused too
            raise CheckpointError(
                f"merged adapters answer otherwise: {what} differ by {difference:.2g} of their largest value, "
                f"{allowed:.2g} is allowed",
                "merge in fp32",
            )
    return merged.train(learning)


def _probed(language: nn.Module) -> dict[str, Tensor]:
    """Hidden states (tokens, width) and logits (tokens, vocabulary) of the probe, adapters of the head included."""
    hidden = hidden_of_probe(language)
    head = base_of(language).get_output_embeddings()
    with torch.no_grad():
        logits = head(hidden.to(base_of(language).dtype)).float()
    return {"hidden states": hidden, "logits": logits}


@torch.no_grad()
def hidden_of_probe(language: nn.Module) -> Tensor:
    """Hidden states (tokens, width), in fp32, of sixteen tokens spread over the vocabulary."""
    embedding = base_of(language).get_input_embeddings()
    weight = _plain(embedding).weight
    ids = torch.linspace(0, len(weight) - 1, 16, device=weight.device).long()
    places = torch.arange(16, device=weight.device)
    return run(language, embed(language, ids)[None], places[None], starts=[0, 16])[0].float()

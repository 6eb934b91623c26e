"""Load and run the language model: any causal LM of transformers, over packed rows with our attention."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from vistune.errors import CheckpointError, RecipeError, some
from vistune.model.attention import NAME, attending, register
from vistune.model.cache import KVCache, Prefill
from vistune.model.head import Head, LogitRule
from vistune.model.quiet import without_bars
from vistune.model.rotary import document_lengths, lengths_of, rotate_by_document
from vistune.model.shapes import LanguageConfig
from vistune.model.trial import decoder_of, language_traits, require_supported
from vistune.model.vision import read_config

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig

log = logging.getLogger("vistune.model")
# Names of a text model's weights in the folder of a multimodal model, old and new, and in a separate folder.
TEXT_WEIGHTS = {
    r"^(model\.)?language_model\.lm_head\.": "lm_head.",
    r"^(model\.)?language_model\.(model\.)?": "model.",
}


class Decoder(nn.Module):
    """The parts of transformers' decoders that vistune uses. Only a type: nothing has this class."""

    layers: nn.ModuleList


class CausalLM(nn.Module):
    """The parts of transformers' causal language models that vistune uses. Only a type: nothing has this class."""

    config: LanguageConfig
    dtype: torch.dtype
    _supports_sdpa: bool
    set_attn_implementation: Callable[[str], None]
    all_tied_weights_keys: dict[str, str]
    is_activation_checkpointing: bool
    activation_checkpointing_enable: Callable[[dict[str, bool]], None]
    activation_checkpointing_disable: Callable[[], None]
    get_decoder: Callable[[], Decoder]
    get_input_embeddings: Callable[[], nn.Embedding]
    get_output_embeddings: Callable[[], nn.Linear]
    save_pretrained: Callable[..., object]


def language_config(source: str) -> LanguageConfig:
    """Read the config of a language model, or of the text model inside a multimodal model.

    Raises RecipeError if it is not supported, before any weights are read.
    """
    config: LanguageConfig = read_config(source, "language model")
    if getattr(config, "auto_map", None):
        raise RecipeError(
            f"language model {source}: its config needs custom code", "use a model that transformers contains"
        )
    if getattr(config, "quantization_config", None):
        raise RecipeError(
            f"language model {source}: its weights are stored quantised",
            "use the full-precision model, with quantize: 4 or 8",
        )
    config = text_config(config, source)
    require_supported(config, source)
    return config


def text_config(config: LanguageConfig, source: str) -> LanguageConfig:
    """Return the config of the text model inside a multimodal model, or the config itself if it is a text model's."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    text: LanguageConfig = config.get_text_config()
    if text is not config and type(text) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise RecipeError(
            f"language model {source} ({config.model_type}): transformers has no causal language model for its text "
            f"model ({text.model_type})",
            "name a text model's folder; to train the whole model further, name it in `from`",
        )
    return text


@without_bars()
def load_language(source: str, dtype: torch.dtype, quantize: int | None = None, *, meta: bool = False) -> nn.Module:
    """Load the causal LM of a folder or hub name.

    Args:
        quantize: Load linear layers except the head in 4 or 8 bits.
        meta: Build it on torch's meta device: only names and shapes of a folder's weights are read, and nothing for a
            hub name.

    Raises CheckpointError if tensors are missing or of another shape; none is initialised at random.
    """
    from transformers import AutoModelForCausalLM

    config = language_config(source)
    settings: dict[str, Any] = {"attn_implementation": attention_for(config)}
    if quantize is not None:
        settings["quantization_config"] = quantization(quantize, dtype)
    if meta:
        if not Path(source).is_dir():
            with torch.device("meta"):
                empty: nn.Module = AutoModelForCausalLM.from_config(config, dtype=dtype)
            return empty
        settings |= {"device_map": "meta"}
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            dtype=dtype,
            key_mapping=TEXT_WEIGHTS,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, with their names
            **settings,
        )
    except (OSError, SafetensorError, UnpicklingError) as error:
        raise CheckpointError(f"language model {source}: {first_line(error)}", "name a complete model") from None
    faults = sorted([*report["missing_keys"], *(str(fault[0]) for fault in report["mismatched_keys"])])
    if faults:
        raise CheckpointError(
            f"language model {source}: tensors missing or of another shape: {some(faults)}",
            "name a complete model, whose config and weights belong together",
        )
    return model if meta else ready(model, source)


def ready(language: nn.Module, source: str) -> nn.Module:
    """Finish a loaded language model: rotate documents by their own lengths; log if it runs unpacked."""
    rotate_by_document(language)
    if not is_packed(language):
        log.warning(
            "language model %s runs unpacked: %s. It reads one document after another by transformers' own attention. "
            "A small model on a CPU trained about 2 times slower on samples of 32 tokens, 1.3 times on 128, and "
            "equally fast from 512 on; 8 answers at once took 4 times as long. Prompts share no prefix",
            source,
            language_traits(unwrap(language).config).unpacked,
        )
    return language


def attention_for(config: LanguageConfig) -> str | None:
    """Return the attention with which to load a model: ours if it can run packed, else transformers' default."""
    return None if language_traits(config).unpacked else register()


def is_packed(language: nn.Module) -> bool:
    """Return whether the model was loaded with our attention, so that it reads packed rows of several documents."""
    return unwrap(language).config._attn_implementation == NAME


def quantization(bits: int, dtype: torch.dtype) -> BitsAndBytesConfig:
    """Return bitsandbytes' settings: for 4 bits QLoRA's (arXiv 2305.14314), nf4 with double quantisation; or int8.

    Products are computed in `dtype`. transformers does not quantise the head.
    """
    if find_spec("bitsandbytes") is None:
        raise RecipeError(f"quantize {bits}: bitsandbytes is not installed", "pip install 'vistune[quant]'")
    from transformers import BitsAndBytesConfig

    if bits == 8:
        # It would warn at every layer of every step that int8 products round their inputs to fp16.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    if bits != 4:
        raise RecipeError(f"quantize {bits}: not supported", "use 4 or 8")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def is_quantised(language: nn.Module) -> bool:
    return bool(getattr(unwrap(language), "is_quantized", False))


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def unwrap(language: nn.Module) -> CausalLM:
    """Return the causal LM inside its PEFT wrapper, or itself if it has none."""
    inner = getattr(language, "get_base_model", None)
    return cast(CausalLM, language if inner is None else inner())


def embed(language: nn.Module, ids: Tensor, scale: float = 1.0) -> Tensor:
    """Look up input embeddings (tokens, width), times the model's `embedding_scale`."""
    embeddings: Tensor = unwrap(language).get_input_embeddings()(ids)
    return embeddings if scale == 1 else embeddings * scale


def head_of(language: nn.Module, rule: LogitRule) -> Head:
    """Return the output layer with the rule for its logits."""
    output = unwrap(language).get_output_embeddings()
    return Head(output.weight, getattr(output, "bias", None), rule)


def run(
    language: nn.Module,
    embeddings: Tensor,
    positions: Tensor,
    *,
    starts: Sequence[int] | Tensor,
    at: Tensor | None = None,
    **attention: object,
) -> Tensor:
    """Return hidden states (1, tokens, width) of a packed row after the final norm.

    Args:
        embeddings: (1, tokens, width).
        positions: (1, tokens).
        starts: Where documents begin, and the row's end.
        at: (n,) the only positions whose states are used; the other states may be incomplete.
        attention: Further arguments of our attention (see `documents`).
    """
    if not is_packed(language):
        return run_separately(language, embeddings, starts)
    body = decoder_of(unwrap(language))
    arguments = {"starts": starts, **attention}
    with last_mlp_at(body, at, embeddings.shape[1]), attending(**arguments), document_lengths(lengths_of(starts)):
        hidden: Tensor = body(
            inputs_embeds=embeddings, position_ids=positions, use_cache=False, **arguments
        ).last_hidden_state
    return hidden


def run_separately(language: nn.Module, embeddings: Tensor, starts: Sequence[int] | Tensor) -> Tensor:
    """Return hidden states (1, tokens, width) of a row's documents, one after another by transformers' own attention.

    Each document is a batch of one without padding, so that none depends on another.
    """
    body = decoder_of(unwrap(language))
    ends = torch.as_tensor(starts).tolist()
    # Copies: some models (GIT) add positions to their embeddings in place.
    documents = [embeddings[:, begin:end].clone() for begin, end in pairwise(ends)]
    return torch.cat([body(inputs_embeds=rows, use_cache=False).last_hidden_state for rows in documents], dim=1)


def read(language: nn.Module, embeddings: Tensor, cache: KVCache | Prefill, positions: Tensor) -> Tensor:
    """Return hidden states (tokens, width) of a packed row of new tokens; `cache` receives their keys and values."""
    body = decoder_of(unwrap(language))
    with attending(past=cache), document_lengths(cache.document_lengths):
        hidden: Tensor = body(
            inputs_embeds=embeddings[None], position_ids=positions[None], cache=cache, past=cache, use_cache=True
        ).last_hidden_state
    return hidden[0]


def read_as_transformers(language: nn.Module, embeddings: Tensor) -> Tensor:
    """Return hidden states (1, tokens, width) of one document by transformers' default attention, for comparison."""
    base = unwrap(language)
    body, own = decoder_of(base), base.config._attn_implementation
    if own == NAME:
        base.set_attn_implementation("sdpa" if base._supports_sdpa else "eager")
    try:
        hidden: Tensor = body(inputs_embeds=embeddings, use_cache=False).last_hidden_state
    finally:
        base.set_attn_implementation(own)
    return hidden


def read_separately(
    language: nn.Module, embeddings: Tensor, cache: object = None, begin: int = 0
) -> tuple[Tensor, object]:
    """Read tokens (tokens, width) of one sequence by transformers' attention, after `begin` tokens in its cache.

    Returns:
        The hidden states (tokens, width), and transformers' cache with the new tokens.
    """
    body = decoder_of(unwrap(language))
    # Explicit if possible: some hybrid models would count no tokens if their first layer has no attention.
    positions = torch.arange(begin, begin + len(embeddings), device=embeddings.device)[None]
    arguments = {"position_ids": positions} if "position_ids" in inspect.signature(body.forward).parameters else {}
    output = body(inputs_embeds=embeddings[None], cache=cache, use_cache=True, **arguments)
    return output.last_hidden_state[0], output.cache


def last_mlp(body: nn.Module) -> nn.Module | None:
    """Return the MLP of a decoder's last layer; None if its layers have no module of the usual name `mlp`."""
    layers = getattr(body, "layers", None)
    mlp = getattr(layers[-1], "mlp", None) if layers is not None else None
    return mlp if isinstance(mlp, nn.Module) else None


@contextmanager
def last_mlp_at(body: nn.Module, at: Tensor | None, tokens: int) -> Iterator[None]:
    """While the block lasts, compute the last layer's MLP only at positions `at` (n,) of the row, zeros elsewhere.

    The MLP's output affects only the state of its own token, and training usually uses a fifth of the states or fewer.
    The whole MLP is computed if layers are recomputed, and if `at` is empty: every weight then has a gradient of
    zeros, as all processes of a run need it.
    """
    mlp = last_mlp(body)
    recomputed = getattr(body, "is_activation_checkpointing", False)
    if mlp is None or at is None or not len(at) or recomputed:
        yield
        return

    def select(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0].index_select(1, at),)

    def scatter(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        return output.new_zeros(1, tokens, output.shape[-1]).index_copy(1, at, output)

    hooks = mlp.register_forward_pre_hook(select), mlp.register_forward_hook(scatter)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()

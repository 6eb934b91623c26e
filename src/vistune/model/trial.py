"""Try a language model on torch's meta device before its weights are read.

config -> the model without weights, run once with our attention and once with transformers' own -> LanguageTraits
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from vistune.errors import RecipeError, reason_of
from vistune.model.attention import attending
from vistune.model.cache import KVCache, Prefill
from vistune.model.head import PLAIN, Head, LogitRule
from vistune.model.rotary import DYNAMIC, rope_limit, rotary_modules, with_plain_rope
from vistune.model.shapes import LanguageConfig
from vistune.model.trial_watch import Factors, NoneFound, Recorder, count

SUPPORTED = "use a causal language model of transformers, such as Llama, Mistral, Qwen3, Gemma 3 or Granite"
TRIAL = "vistune_trial"
TRIAL_LENGTHS = [3, 2]  # tokens of the two documents
TRIAL_VOCABULARY = 37
# Entries of a config that do not change how its model computes.
IDLE = ("_name_or_path", "architectures", "dtype", "quantization_config", "transformers_version", "use_cache")


@dataclass(frozen=True, slots=True)
class LanguageTraits:
    """How a language model is run.

    Attributes:
        rule: How its logits follow from the output of its head.
        embedding_scale: Factor by which its decoder multiplies the embeddings of token ids, but not `inputs_embeds`.
        unpacked: Why our packed attention would compute something else; "" if it computes the same.
        refused: Why the model is not supported at all; "" if it is.
    """

    rule: LogitRule = PLAIN
    embedding_scale: float = 1.0
    unpacked: str = ""
    refused: str = ""


def decoder_of(model: Any) -> Any:
    """Return the decoder of a causal language model: all of it but the output layer."""
    decoder = model.get_decoder()
    # transformers returns the model itself for Llama 4, and the output layer for ModernBERT's decoder.
    return model.model if decoder is model or isinstance(decoder, nn.Linear) else decoder


def language_traits(config: LanguageConfig) -> LanguageTraits:
    """Return the traits of a config's model. The first call for a config builds the model on the meta device."""
    with torch.device("cpu"):  # the caller may build its own model on the meta device
        return _traits(ConfigKey(config))


def require_supported(config: LanguageConfig, source: str) -> None:
    """Raise RecipeError with the reason if the model cannot be run, packed or unpacked."""
    if reason := language_traits(config).refused:
        raise RecipeError(f"language model {source} ({config.model_type}): {reason}", SUPPORTED)


class ConfigKey:
    """A config that can be a key: equal to another one if their models compute the same."""

    def __init__(self, config: LanguageConfig) -> None:
        self.config = deepcopy(config)
        for name in ("quantization_config", "dtype"):
            if getattr(self.config, name, None) is not None:
                delattr(self.config, name)
        entries = {name: value for name, value in config.to_dict().items() if name not in IDLE}
        self.text = repr((type(config), sorted(entries.items())))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ConfigKey) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)


@cache
def _traits(key: ConfigKey) -> LanguageTraits:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    config = key.config
    if config.is_encoder_decoder:
        return LanguageTraits(refused="encoder-decoders are not supported")
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return LanguageTraits(refused="transformers has no causal language model of this type")
    try:
        model = meta_model(config, None)
    except Exception as error:  # transformers' models raise many types; the error is the reason
        return LanguageTraits(refused=f"transformers cannot build it ({type(error).__name__}: {reason_of(error)})")
    recorder = Recorder()
    unpacked = next(_against_packing(config, recorder), "")
    if recorder.bidirectional:
        return LanguageTraits(refused="its attention looks ahead")
    rule = _logit_rule(model)
    if rule is None:
        return LanguageTraits(refused="its logits are not just its head's output with a scale, a bias or a soft cap")
    try:
        scale, has_cache = _run_on_embeddings(config, with_cache=bool(unpacked))
    except Exception as error:  # as above
        meta = "its layers choose by values" if "meta" in str(error) else f"{type(error).__name__}: {reason_of(error)}"
        return LanguageTraits(refused=f"it cannot be tried on embeddings without weights ({meta})")
    if scale is None:
        return LanguageTraits(refused="its layers read token ids, which image features do not have")
    if not has_cache:
        return LanguageTraits(refused="it returns no cache of transformers, which answers need")
    return LanguageTraits(rule, scale, unpacked)


def meta_model(config: LanguageConfig, attention: str | None = None) -> Any:
    """Build the causal language model of a config without weights."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            deepcopy(config), attn_implementation=attention, dtype=torch.bfloat16
        ).eval()


def _rows(model: Any, tokens: int) -> Tensor:
    width = model.get_input_embeddings().embedding_dim
    return torch.empty(1, tokens, width, dtype=torch.bfloat16, device="meta")


def _logit_rule(model: Any) -> LogitRule | None:
    """Return the rule by which logits follow from the head's output; None if there is none.

    The model's forward pass runs on given hidden states and a small random head. The rule's numbers are the
    factors that it multiplies by, before and after a tanh; the rule must then give the same logits.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear:  # a subclass computes something else
        return None
    rng = torch.Generator().manual_seed(0)
    width, biased = head.in_features, head.bias is not None
    weight = torch.randn(TRIAL_VOCABULARY, width, generator=rng) / math.sqrt(width)
    bias = torch.randn(TRIAL_VOCABULARY, generator=rng) if biased else None
    small = nn.Linear(width, TRIAL_VOCABULARY, bias=biased, device="meta")
    small.weight = nn.Parameter(weight)
    if bias is not None:
        small.bias = nn.Parameter(bias)
    model.set_output_embeddings(small)
    states = torch.randn(16, width, generator=rng) * torch.logspace(-2, 3, 16)[:, None]
    decoder_of(model).forward = lambda *_, **__: _BodyOutput(states[None])
    factors = Factors()
    try:
        with torch.no_grad(), factors:
            logits = model(inputs_embeds=_rows(model, len(states))).logits[0].float()
    except Exception:  # such as a layer of weights between the states and the head
        return None
    rule = factors.rule()
    expected = Head(weight, bias, rule).logits(states)
    agrees = logits.shape == expected.shape and torch.allclose(logits, expected, rtol=1e-4, atol=1e-5)
    return rule if agrees else None


class _BodyOutput:
    """The output of a decoder: `last_hidden_state`, and None for everything else."""

    def __init__(self, states: Tensor) -> None:
        self.last_hidden_state = states

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)

    def __getitem__(self, index: object) -> object:
        return self.last_hidden_state if index == 0 else ()


def _against_packing(config: LanguageConfig, recorder: Recorder) -> Iterator[str]:
    """Yield the reasons why packed attention would compute something else than the model does.

    Two packed documents are run, then one more token of each. This checks the arguments that layers pass to attention,
    and whether every layer calls it; not arithmetic.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(TRIAL, recorder.attend)
    try:
        model = meta_model(with_plain_rope(config), TRIAL)
        if getattr(model, "_is_stateful", False):
            yield "its layers keep a recurrent state (a state-space or hybrid model)"
        windows = _run_packed(model, recorder)
    except Exception as error:  # transformers' models raise many types
        if TRIAL in error.args:  # a KeyError: it looks attention up in its own table
            yield "its attention does not go through transformers' AttentionInterface"
        yield "it has a special attention or cache"
        return
    layers = config.num_hidden_layers
    if len(windows) != layers:
        yield f"its {layers} layers call transformers' AttentionInterface {len(windows)} times"
    if recorder.extra:
        yield f"its attention depends on {', '.join(sorted(recorder.extra))}"
    if "position_ids" not in inspect.signature(decoder_of(model).forward).parameters:
        yield "it takes no position_ids, which packed rows need"
    if rope_limit(config) is not None and not rotary_modules(meta_model(config, None)):
        yield f"its positions are rotated by {', '.join(DYNAMIC)} RoPE in a special module"
    yield from _against_windows(config, windows)


def _against_windows(config: LanguageConfig, windows: list[int | None]) -> Iterator[str]:
    """Yield layers whose config names a window, or another range, that attention does not receive."""
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        kinds = ["sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"] * len(windows)
    for kind, window in zip(kinds, windows, strict=True):
        if kind not in ("full_attention", "sliding_attention"):
            yield f"layers of {kind}"
        if (kind == "sliding_attention") != (window is not None):
            yield f"a layer of {kind} passes a window of {window}"


def _run_packed(model: Any, recorder: Recorder) -> list[int | None]:
    """Run two packed documents, and a token more of each; return the windows that the documents' layers passed."""
    prefill = Prefill([None, None], TRIAL_LENGTHS, "meta")
    rows, body = _rows(model, sum(TRIAL_LENGTHS)), decoder_of(model)
    with torch.no_grad(), NoneFound():
        with attending(past=prefill):
            body(inputs_embeds=rows, position_ids=prefill.positions[None], cache=prefill, past=prefill, use_cache=True)
        windows = list(recorder.windows)
        kv_cache = KVCache("meta")
        kv_cache.add(prefill)
        positions = kv_cache.prepare()
        with attending(past=kv_cache):
            body(inputs_embeds=rows[:, :2], position_ids=positions[None], cache=kv_cache, past=kv_cache, use_cache=True)
    return windows


def _run_on_embeddings(config: LanguageConfig, *, with_cache: bool) -> tuple[float | None, bool]:
    """Run the decoder on token ids, on embeddings and, `with_cache`, on one more token after transformers' cache.

    Returns:
        The factor by which the decoder multiplies embeddings of ids, None if ids have another effect too; and whether
        there is a cache.
    """
    # Not sdpa: it would look at the values of masks.
    model = meta_model(with_plain_rope(config), "eager")
    model.config.pad_token_id = None  # transformers would look for padding in the ids
    body, tokens = decoder_of(model), sum(TRIAL_LENGTHS)
    if "inputs_embeds" not in inspect.signature(body.forward).parameters:
        return None, True
    ids, rows = torch.zeros(1, tokens, dtype=torch.long, device="meta"), _rows(model, tokens)
    with torch.no_grad():
        # With a cache: without one, transformers looks at the positions' values for packed documents.
        of_ids = count(lambda: body(input_ids=ids, use_cache=True))
        of_ids -= count(lambda: model.get_input_embeddings()(ids))
        try:
            of_rows = count(lambda: body(inputs_embeds=rows, use_cache=True))
        except (AttributeError, TypeError, RuntimeError) as error:
            # DeepSeek-V4 looks experts up by ids; Gemma 4 E2B searches its table for the ids of embeddings.
            if isinstance(error, RuntimeError) and "input_ids" not in str(error):
                raise
            return None, True
        more = list((of_ids - of_rows).elements())
        if with_cache:
            with NoneFound():
                cache = getattr(body(inputs_embeds=rows, use_cache=True), "cache", None)
            if cache is None:
                return 1.0, False
            with NoneFound():
                body(inputs_embeds=rows[:, :1], cache=cache, use_cache=True)
    if of_rows - of_ids or len(more) > 1 or (more and not isinstance(more[0][1], float | int)):
        return None, True
    return float(more[0][1] or 1) if more else 1.0, True

"""Load and run the language model: any causal LM of transformers, over packed rows with our attention."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from vistune.errors import CheckpointError, RecipeError, some
from vistune.model.attention import attend, register
from vistune.model.cache import KVCache, Prefill
from vistune.model.shapes import LanguageConfig
from vistune.model.vision import read_config

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig

SUPPORTED = "use a model with plain attention, such as Llama, Mistral, Qwen2, Qwen3 or Gemma 3"
TRIAL = "vistune_trial"
# Arguments that layers pass to attention without effect on its result.
HARMLESS = frozenset({"position_ids", "use_cache", "output_attentions", "output_router_logits"})
# Operations of a head, which is one matrix product.
PRODUCT = frozenset({"mm", "bmm", "t", "transpose", "view", "_unsafe_view", "alias", "detach", "slice", "_to_copy"})
TRIAL_LENGTHS = [3, 2]  # tokens of the two documents


class Decoder(nn.Module):
    """The parts of transformers' decoders that vistune uses. Only a type: nothing has this class."""

    layers: nn.ModuleList


class CausalLM(nn.Module):
    """The parts of transformers' causal language models that vistune uses. Only a type: nothing has this class."""

    config: LanguageConfig
    dtype: torch.dtype
    all_tied_weights_keys: dict[str, str]
    is_activation_checkpointing: bool
    activation_checkpointing_enable: Callable[[dict[str, bool]], None]
    activation_checkpointing_disable: Callable[[], None]
    get_decoder: Callable[[], Decoder]
    get_input_embeddings: Callable[[], nn.Embedding]
    get_output_embeddings: Callable[[], nn.Linear]
    save_pretrained: Callable[..., object]


def language_config(source: str) -> LanguageConfig:
    """Read a language model's config. Raises RecipeError if it is not supported, before any weights are read."""
    config: LanguageConfig = read_config(source, "language model")
    if getattr(config, "auto_map", None):
        raise RecipeError(
            f"language model {source}: its config needs custom code", "use a model that transformers contains"
        )
    if config.get_text_config() is not config:
        raise RecipeError(
            f"language model {source}: {config.model_type} is a multimodal model",
            "save its language model as transformers' causal LM of the text config, and name that folder",
        )
    if getattr(config, "quantization_config", None):
        raise RecipeError(
            f"language model {source}: its weights are stored quantised",
            "use the full-precision model, with quantize: 4 or 8",
        )
    require_supported(config, source)
    return config


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
    settings: dict[str, Any] = {}
    if quantize is not None:
        settings["quantization_config"] = quantization(quantize, dtype)
    if meta:
        if not Path(source).is_dir():
            with torch.device("meta"):
                empty: nn.Module = AutoModelForCausalLM.from_config(config, dtype=dtype)
            return empty
        settings = {"device_map": "meta"}
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=dtype,
            attn_implementation=register(),
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
            "the folder's config and weights do not fit: name a complete model",
        )
    language: nn.Module = model
    return language


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


def embed(language: nn.Module, ids: Tensor) -> Tensor:
    """Look up input embeddings (tokens, width)."""
    embeddings: Tensor = unwrap(language).get_input_embeddings()(ids)
    return embeddings


def head_weight(language: nn.Module) -> Tensor:
    """Return the weight of the output layer (vocabulary, width)."""
    return unwrap(language).get_output_embeddings().weight


def run(
    language: nn.Module,
    embeddings: Tensor,
    positions: Tensor,
    *,
    at: Tensor | None = None,
    cache: KVCache | Prefill | None = None,
    **attention: object,
) -> Tensor:
    """Return hidden states after the final norm.

    Args:
        embeddings: (batch, tokens, width).
        positions: (batch, tokens).
        at: (n,) the only positions of a single row whose states are used; the other states may be incomplete.
        cache: Receives keys and values.
        attention: Arguments of our attention: `starts` or `past`.
    """
    body = unwrap(language).get_decoder()
    with last_mlp_at(body, at, embeddings.shape[1]):
        hidden: Tensor = body(
            inputs_embeds=embeddings,
            position_ids=positions,
            cache=cache,
            use_cache=cache is not None,
            **attention,
        ).last_hidden_state
    return hidden


def require_supported(config: LanguageConfig, source: str) -> None:
    """Raise RecipeError if our packed attention or our head would compute something else than the model does.

    The model is run once on torch's meta device: two packed documents, then one more token of each. This checks the
    arguments that its layers pass to attention, whether every layer calls it, and the operations between hidden states
    and logits. It does not check arithmetic: a model that rotates its queries by something else than `position_ids`
    would pass. A model that cannot run without data is refused.
    """
    name = f"language model {source} ({config.model_type})"
    if config.is_encoder_decoder:
        raise RecipeError(f"{name}: encoder-decoders are not supported", SUPPORTED)
    for field in ("attn_logit_softcapping", "final_logit_softcapping"):
        if getattr(config, field, None) is not None:
            raise RecipeError(f"{name}: soft-capped logits ({field}) are not supported", SUPPORTED)
    reason = _first_reason(config.__class__, config.to_json_string(use_diff=False))
    if reason is not None:
        raise RecipeError(f"{name}: {reason}", SUPPORTED)


@cache
def _first_reason(config_type: type[LanguageConfig], settings: str) -> str | None:
    """Return the first reason against a config. Cached: a process tries each config once."""
    return next(_reasons(config_type.from_dict(json.loads(settings))), None)


def _reasons(config: LanguageConfig) -> Iterator[str]:
    """Yield the reasons why a model is not supported."""
    from transformers import AttentionInterface, AutoModelForCausalLM

    recorder = _Recorder()
    AttentionInterface.register(TRIAL, recorder.attend)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, attn_implementation=TRIAL, dtype=torch.bfloat16).eval()
        if getattr(model, "_is_stateful", False):
            yield "its layers keep a state of their own (a state-space or hybrid model)"
        after_body = _run(model)
    except Exception as error:  # transformers' models raise many types; the error is the reason
        if TRIAL in error.args:  # a KeyError: it looks attention up in its own table
            yield "its attention does not go through transformers' AttentionInterface"
        yield f"its layers cannot be run with our attention and cache: {type(error).__name__}: {first_line(error)}"
        return
    layers = config.num_hidden_layers
    if len(recorder.windows) != layers:
        yield f"{len(recorder.windows)} calls of transformers' AttentionInterface in {layers} layers"
    if recorder.extra:
        yield f"its attention depends on {', '.join(sorted(recorder.extra))}"
    if recorder.bidirectional:
        yield "its attention looks ahead"
    if "position_ids" not in inspect.signature(model.get_decoder().forward).parameters:
        yield "it takes no position_ids, which packed rows need"
    yield from _against_windows(config, recorder.windows)
    if after_body - PRODUCT:
        yield f"its logits are more than hidden states times the head ({', '.join(sorted(after_body - PRODUCT))})"


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


def _run(model: CausalLM) -> set[str]:
    """Run two packed documents and a token of each; return the operations between the decoder and the logits."""
    operations = _Operations()
    prefill = Prefill([None, None], TRIAL_LENGTHS, "meta")
    rows = torch.empty(1, sum(TRIAL_LENGTHS), model.config.hidden_size, dtype=torch.bfloat16, device="meta")
    with torch.no_grad():
        with ExitStack() as stack:
            hook = model.get_decoder().register_forward_hook(lambda *_: stack.enter_context(operations) and None)
            stack.callback(hook.remove)
            model(inputs_embeds=rows, position_ids=prefill.positions[None], cache=prefill, past=prefill, use_cache=True)
        kv_cache = KVCache("meta")
        kv_cache.add(prefill)
        positions = kv_cache.prepare()
        model.get_decoder()(
            inputs_embeds=rows[:, :2], position_ids=positions[None], cache=kv_cache, past=kv_cache, use_cache=True
        )
    return operations.names


class _Recorder:
    """Run our attention, and record its arguments."""

    def __init__(self) -> None:
        self.windows: list[int | None] = []  # of each call
        self.extra: set[str] = set()
        self.bidirectional = False
        self.known = set(inspect.signature(attend).parameters)

    def attend(self, module: nn.Module, *states: Tensor, **arguments: Any) -> tuple[Tensor, None]:
        if isinstance(arguments.get("past"), Prefill):
            self.windows.append(arguments.get("sliding_window"))
        if len(states) > 3:
            arguments["attention_mask"] = states[3]
        causal = arguments.pop("is_causal", None)
        self.bidirectional |= causal is False or getattr(module, "is_causal", True) is False
        passed = {name for name, value in arguments.items() if value is not None}
        self.extra |= (passed - self.known - HARMLESS) | (passed & {"attention_mask"})
        return attend(module, *states[:3], **arguments)


class _Operations(TorchDispatchMode):
    """Collect the names of torch's operations while it is active."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(
        self,
        func: OpOverload[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        self.names.add(func.__name__.split(".")[0])
        return func(*args, **(kwargs or {}))


def last_mlp(body: nn.Module) -> nn.Module | None:
    """Return the MLP of a decoder's last layer; None if its layers have no module of the usual name `mlp`."""
    layers = getattr(body, "layers", None)
    mlp = getattr(layers[-1], "mlp", None) if layers is not None else None
    return mlp if isinstance(mlp, nn.Module) else None


@contextmanager
def last_mlp_at(body: nn.Module, at: Tensor | None, tokens: int) -> Iterator[None]:
    """While the block lasts, compute the last layer's MLP only at positions `at` (n,) of the row, zeros elsewhere.

    The MLP's output reaches nothing but its own token's state, and training uses the states of a fifth of the tokens or
    fewer. The whole MLP is computed if layers are recomputed, and if `at` is empty: every weight then has a gradient of
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

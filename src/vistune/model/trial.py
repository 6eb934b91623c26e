"""Can our attention serve an architecture? Its layers are run once without weights, and watched.

config -> the model on torch's meta device -> two packed documents, then a token more of each -> RecipeError, or nothing
This sees what a model does, not what it is called: what its layers hand to an attention function, whether all of them
ask one, what lies between hidden states and logits. It does not see arithmetic: a model that turns its queries by
something else than `position_ids` would pass. A model that cannot run without data is refused, though it might do.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from vistune.errors import RecipeError
from vistune.model.attention import attend
from vistune.model.cache import Reading, Tails

HINT = "use a model with plain attention, such as Llama, Mistral, Qwen2, Qwen3 or Gemma 3"
NAME = "vistune_trial"
# What layers hand over beside the arguments of our attention, without any bearing on what is computed.
HARMLESS = frozenset({"position_ids", "use_cache", "output_attentions", "output_router_logits"})
# What a head does: one matrix product, seen in this shape and that.
PRODUCT = frozenset({"mm", "bmm", "t", "transpose", "view", "_unsafe_view", "alias", "detach", "slice", "_to_copy"})
LENGTHS = [3, 2]  # of the two documents


def refuse_unserved(config: Any, place: str) -> None:
    """Raise RecipeError naming the model and why, where our attention or our head would compute something else."""
    name = f"language model {place} ({config.model_type})"
    if config.is_encoder_decoder:
        raise RecipeError(f"{name}: an encoder-decoder is not served", HINT)
    for field in ("attn_logit_softcapping", "final_logit_softcapping"):
        if getattr(config, field, None) is not None:
            raise RecipeError(f"{name}: soft-capped logits ({field}) are not served", HINT)
    reason = _first_reason(config.__class__, config.to_json_string(use_diff=False))
    if reason is not None:
        raise RecipeError(f"{name}: {reason}", HINT)


@cache
def _first_reason(kind: Any, settings: str) -> str | None:
    """By a config's class and JSON: a process tries each architecture once, however often it is read."""
    return next(_reasons(kind.from_dict(json.loads(settings))), None)


def _reasons(config: Any) -> Iterator[str]:
    """What speaks against a model, first things first."""
    from transformers import AttentionInterface, AutoModelForCausalLM

    recorder = _Recorder()
    AttentionInterface.register(NAME, recorder.attend)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, attn_implementation=NAME, dtype=torch.bfloat16).eval()
        if getattr(model, "_is_stateful", False):
            yield "its layers keep a state of their own (a state-space or hybrid model)"
        behind_body = _run(model)
    except Exception as error:  # whatever transformers' many models raise: it is the reason, and is shown
        if NAME in error.args:  # a KeyError: its classes are kept in a table of its own
            yield "its attention does not go through transformers' AttentionInterface"
        what = (str(error).strip().splitlines() or [""])[0].rstrip(".")
        yield f"its layers cannot be run with our attention and cache: {type(error).__name__}: {what}"
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
    if behind_body - PRODUCT:
        yield f"its logits are more than hidden states times the head ({', '.join(sorted(behind_body - PRODUCT))})"


def _against_windows(config: Any, windows: list[int | None]) -> Iterator[str]:
    """Layers whose config promises a window, or another reach, that our attention is not told of."""
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        kinds = ["sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"] * len(windows)
    for kind, window in zip(kinds, windows, strict=True):
        if kind not in ("full_attention", "sliding_attention"):
            yield f"layers of {kind}"
        if (kind == "sliding_attention") != (window is not None):
            yield f"a layer of {kind} hands over a window of {window}"


def _run(model: Any) -> set[str]:
    """Pack two documents, decode a token of each; the operations between the body's end and the logits."""
    operations = _Operations()
    reading = Reading([None, None], LENGTHS, "meta")
    rows = torch.empty(1, sum(LENGTHS), model.config.hidden_size, dtype=torch.bfloat16, device="meta")
    hook = model.get_decoder().register_forward_hook(lambda *_: operations.__enter__() and None)
    with torch.no_grad():
        try:
            model(inputs_embeds=rows, position_ids=reading.positions[None], cache=reading, past=reading, use_cache=True)
        finally:
            hook.remove()
            if operations.entered:
                operations.__exit__(None, None, None)
        tails = Tails("meta")
        tails.add(reading)
        places = tails.prepare()
        model.get_decoder()(
            inputs_embeds=rows[:, :2], position_ids=places[None], cache=tails, past=tails, use_cache=True
        )
    return operations.names


class _Recorder:
    """Our attention, and what it was handed while documents were packed."""

    def __init__(self) -> None:
        self.windows: list[int | None] = []  # one a call
        self.extra: set[str] = set()
        self.bidirectional = False
        self.own = set(inspect.signature(attend).parameters)

    def attend(self, module: nn.Module, *states: Tensor, **given: Any) -> tuple[Tensor, None]:
        if isinstance(given.get("past"), Reading):
            self.windows.append(given.get("sliding_window"))
        if len(states) > 3:
            given["attention_mask"] = states[3]
        causal = given.pop("is_causal", None)
        self.bidirectional |= causal is False or getattr(module, "is_causal", True) is False
        handed = {name for name, value in given.items() if value is not None}
        self.extra |= (handed - self.own - HARMLESS) | (handed & {"attention_mask"})
        return attend(module, *states[:3], **given)


class _Operations(TorchDispatchMode):
    """The names of torch's operations since it was entered."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.entered = False

    def __enter__(self) -> Any:
        self.entered = True
        return super().__enter__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.__name__.split(".")[0])
        return func(*args, **(kwargs or {}))

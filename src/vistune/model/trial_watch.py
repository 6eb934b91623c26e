"""Watch a language model's trial: record factors of its logits, its operations, and the arguments of its attention."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload

from vistune.model.attention import attend
from vistune.model.dispatch import OperationWatch
from vistune.model.head import LogitRule

# Arguments that layers pass to attention without effect on its result.
HARMLESS = frozenset({"position_ids", "use_cache", "output_attentions", "output_router_logits"})
# Operations that would differ if a model made something else of token ids than it makes of their embeddings.
COUNTED = ("embedding", "mm", "addmm", "bmm", "mul", "div", "add", "sub", "cumsum", "native_layer_norm")


class NoneFound(OperationWatch):
    """Answer `nonzero` on the meta device with no rows: experts that are called in a loop have no tokens."""

    def watch(self, operation: OpOverload[..., object], args: tuple[Any, ...]) -> object:
        if operation is torch.ops.aten.nonzero.default and args[0].is_meta:
            return torch.empty(0, args[0].ndim, dtype=torch.long, device="meta")
        return None


class Factors(OperationWatch):
    """Collect the numbers by which tensors are multiplied, before and after a tanh."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after, self.capped = 1.0, 1.0, False

    def watch(self, operation: OpOverload[..., object], args: tuple[Any, ...]) -> object:
        name = operation.__name__.split(".")[0].rstrip("_")
        self.capped |= name == "tanh"
        if name in ("mul", "div"):
            for number in (arg for arg in args if isinstance(arg, int | float)):
                factor = float(number) if name == "mul" else 1 / float(number)
                if self.capped:
                    self.after *= factor
                else:
                    self.before *= factor
        return None

    def rule(self) -> LogitRule:
        return LogitRule(self.before * self.after, self.after) if self.capped else LogitRule(self.before)


def count(call: Callable[[], object]) -> Counter[tuple[str, float | None]]:
    """Count the operations of a call that compute something, by name and factor."""
    operations = Operations()
    with operations:
        call()
    return operations.counts


class Operations(NoneFound):
    """Count torch's operations by name and factor, those in COUNTED only."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[str, float | None]] = Counter()

    def watch(self, operation: OpOverload[..., object], args: tuple[Any, ...]) -> object:
        name = operation.__name__.split(".")[0]
        if name in COUNTED:
            factor = args[1] if name == "mul" and isinstance(args[1], int | float) else None
            self.counts[name, factor] += 1
        return super().watch(operation, args)


class Recorder:
    """Run our attention, and record its arguments."""

    def __init__(self) -> None:
        self.windows: list[int | None] = []  # of each call
        self.extra: set[str] = set()
        self.bidirectional = False
        self.known = set(inspect.signature(attend).parameters)

    def attend(self, module: nn.Module, *states: Tensor, **arguments: Any) -> tuple[Tensor, None]:
        self.windows.append(arguments.get("sliding_window"))
        if len(states) > 3:
            arguments["attention_mask"] = states[3]
        causal = arguments.pop("is_causal", None)
        self.bidirectional |= causal is False or getattr(module, "is_causal", True) is False
        passed = {name for name, value in arguments.items() if value is not None}
        self.extra |= (passed - self.known - HARMLESS) | (passed & {"attention_mask"})
        return attend(module, *states[:3], **arguments)

"""Watch the operations that torch runs, and give the results of some of them without torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode


class OperationWatch(TorchDispatchMode, ABC):
    """A context in which `watch` sees every operation of torch before it runs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]  # typed only in some versions of torch

    @abstractmethod
    def watch(self, operation: OpOverload[..., object], args: tuple[Any, ...]) -> object:
        """Return the operation's result, or None: torch then computes it."""

    def __torch_dispatch__(
        self,
        func: OpOverload[..., object],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        answer = self.watch(func, args)
        return func(*args, **(kwargs or {})) if answer is None else answer

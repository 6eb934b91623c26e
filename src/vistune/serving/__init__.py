"""Talking to a model: the terminal, and a server; the command line reads their limits without loading torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vistune.serving.terminal import chat

__all__ = ["chat"]


def __getattr__(name: str) -> Any:
    if name == "chat":
        from vistune.serving.terminal import chat

        return chat
    raise AttributeError(f"module 'vistune.serving' has no attribute {name!r}")

"""The command line: one command per verb, which parses, calls `vistune.api` and prints. English and Korean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vistune.registry import lazy_names

if TYPE_CHECKING:
    from vistune.cli.app import main

__all__ = ["main"]

__getattr__ = lazy_names(__name__, {"app": ("main",)})

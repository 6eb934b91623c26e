"""The command line: each command parses its options, calls `vistune.api` and prints, in English or Korean."""

from vistune.cli.app import main

__all__ = ["main"]

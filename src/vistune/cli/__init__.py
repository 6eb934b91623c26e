"""The command line: one command per verb, which parses, calls `vistune.api` and prints. English and Korean."""

from vistune.cli.app import main

__all__ = ["main"]

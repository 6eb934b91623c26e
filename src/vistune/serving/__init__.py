"""Talking to a model: the terminal."""

from vistune.serving.terminal import chat

__all__ = ["chat"]

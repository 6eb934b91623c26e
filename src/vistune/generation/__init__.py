"""Prefill, decode, stream; an Assistant is model, processor and engine together."""

from vistune.generation.assistant import Assistant, read_messages
from vistune.generation.engine import GREEDY, Sampling, generate, stream

__all__ = ["GREEDY", "Assistant", "Sampling", "generate", "read_messages", "stream"]

"""Prompts to answers: one engine for all; an Assistant is model, processor and engine together."""

from vistune.generation.answer import Answer
from vistune.generation.assistant import Assistant
from vistune.generation.attention_maps import Look, look, watched
from vistune.generation.engine import Engine, generate
from vistune.generation.image_urls import read_data_url
from vistune.generation.messages import in_turns, read_messages
from vistune.generation.running import likeliest
from vistune.generation.sampling import GREEDY, Sampling

__all__ = [
    "GREEDY",
    "Answer",
    "Assistant",
    "Engine",
    "Look",
    "Sampling",
    "generate",
    "in_turns",
    "likeliest",
    "look",
    "read_data_url",
    "read_messages",
    "watched",
]

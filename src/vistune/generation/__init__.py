"""Answer prompts: one engine for the assistant, the evaluation and the server."""

from vistune.generation.answer import Output, PendingAnswer
from vistune.generation.assistant import Assistant
from vistune.generation.attention_maps import AttentionMaps, answered_prompt, compute_attention_maps
from vistune.generation.batch import greedy_batch, greedy_tokens
from vistune.generation.engine import Engine, generate
from vistune.generation.fields import read_data_url
from vistune.generation.grammar import Grammar, GrammarError
from vistune.generation.messages import alternate_turns, read_messages
from vistune.generation.sampling import GREEDY, Sampling
from vistune.generation.shown import Answer

__all__ = [
    "GREEDY",
    "Answer",
    "Assistant",
    "AttentionMaps",
    "Engine",
    "Grammar",
    "GrammarError",
    "Output",
    "PendingAnswer",
    "Sampling",
    "alternate_turns",
    "answered_prompt",
    "compute_attention_maps",
    "generate",
    "greedy_batch",
    "greedy_tokens",
    "read_data_url",
    "read_messages",
]

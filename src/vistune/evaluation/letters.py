"""A choice's letter from one forward pass: among the letters of the question's options, the likeliest next token.

Where the model would have begun its answer with one of these letters, this is that letter; where it would have said
anything else ("The answer is B", an option's text, a letter that no option has), the figure may differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import takewhile

import torch

from vistune.errors import RecipeError
from vistune.processor import Processor
from vistune.types import IGNORE, Example, Message, Question, Sample

LETTERS = "ABCDEFGH"


def letters_of(question: Question) -> tuple[str, ...]:
    """The letters of a multiple-choice question's options; none where it is no such question."""
    tags = question.tags
    if isinstance(options := tags.get("options"), Mapping):
        return tuple(letter for letter in options if letter in LETTERS)
    if isinstance(choices := tags.get("choices"), list | tuple) and tags.get("match", "choice") == "choice":
        return tuple(LETTERS[: len(choices)])
    return ()


@dataclass(frozen=True, slots=True)
class Letters:
    """What a reply of one letter is made of: the tokens before it (a blank's, where it has its own), and its own."""

    before: tuple[int, ...]
    tokens: Mapping[str, int]

    def begun(self, prompt: Example) -> Example:
        """The prompt with the reply begun, up to where the letters differ."""
        before = torch.tensor(self.before, dtype=prompt.input_ids.dtype)
        ids = torch.cat([prompt.input_ids, before])
        labels = torch.cat([prompt.labels, torch.full_like(before, IGNORE)])
        return replace(prompt, input_ids=ids, labels=labels)


def read_letters(processor: Processor) -> Letters:
    """Raises RecipeError where the tokenizer writes letters by more than one token."""
    asked = Message("user", ("?",))
    begin = len(processor.encode_prompt([asked]))
    replies = [
        processor.encode(Sample(letter, (asked, Message("assistant", (letter,))))).input_ids[begin:].tolist()
        for letter in LETTERS
    ]
    before = len(list(takewhile(lambda at: len(set(at)) == 1, zip(*replies, strict=False))))
    tokens = {letter: reply[before] for letter, reply in zip(LETTERS, replies, strict=True)}
    if len(set(tokens.values())) < len(LETTERS):
        raise RecipeError("--letters: this tokenizer writes no letter as one token of its own", "leave --letters out")
    return Letters(tuple(replies[0][:before]), tokens)

"""Names of a language model's tensors: its own, and those inside transformers' LLaVA.

GPT-NeoX calls its decoder `gpt_neox` and its head `embed_out`; LLaVA calls them `model` and `lm_head` for every kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from vistune.interop.build import causal_class
from vistune.model.shapes import LanguageConfig

T = TypeVar("T")
BODY, HEAD = "model.", "lm_head."  # in LLaVA
TIED = "embed_tokens"  # the embedding to which LLaVA ties its head; another name cannot be tied


@dataclass(frozen=True, slots=True)
class LanguageNames:
    """How names begin in a causal language model: in its decoder and its head; and the name of its embedding."""

    body: str
    head: str
    embedding: str

    @property
    def tied_in_llava(self) -> bool:
        """Whether transformers' LLaVA finds the embedding to which a tied head belongs."""
        return self.embedding == f"{self.body}{TIED}"

    def in_llava(self, name: str) -> str:
        """Return LLaVA's name, within its language model, for one of the language model's own names."""
        return _replaced(name, {self.body: BODY, self.head: HEAD})

    def own(self, tensors: Mapping[str, T]) -> dict[str, T]:
        """Return tensors with LLaVA's names under the language model's own names."""
        return {_replaced(name, {BODY: self.body, HEAD: self.head}): tensor for name, tensor in tensors.items()}


def names_in(language: nn.Module) -> LanguageNames:
    """Return the names of a causal language model."""
    modules = {id(module): name for name, module in language.named_modules()}
    embedding = modules[id(language.get_input_embeddings())]  # type: ignore[operator]
    head = modules[id(language.get_output_embeddings())]  # type: ignore[operator]
    return LanguageNames(f"{language.base_model_prefix}.", f"{head}.", embedding)


def names_of(config: LanguageConfig) -> LanguageNames:
    """Return the names of a config's causal language model."""
    with torch.device("meta"):
        return names_in(causal_class(config)(config))


def _replaced(name: str, beginnings: Mapping[str, str]) -> str:
    for old, new in beginnings.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name

"""A small tokenizer for any chat template: bytes, Llama 3's way of splitting, and the template's own tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
TEXT = ["Hello, what is in the picture? It is a red circle.\n\n", "무슨 색인가요? 빨간색입니다.\n"]
NOT_SPECIAL = ("<think>", "</think>")
TOKEN = re.compile(
    r"<\|[^|<>'\"{}\n ]{1,40}\|>|<｜[^｜]{1,40}｜>|\[\|[a-z]+\|\]|\[/?[A-Z_]{3,}\]|<[|/]?[a-z_]{2,24}\|?>|<s>"
)


def make_chat_tokenizer(
    source: str, *, bos: str = "<s>", eos: str = "</s>", tokens: Iterable[str] = (), puts_bos: bool = True
) -> Any:
    """Return a tokenizer with this chat template; `puts_bos`: whether it begins every text with its first token."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORDS), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(
            vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=[bos, eos]
        ),
    )
    named = sorted({*TOKEN.findall(source), *tokens} - {bos, eos})
    made.add_tokens([AddedToken(token, special=token not in NOT_SPECIAL, normalized=False) for token in named])
    if puts_bos:
        made.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, made.token_to_id(bos))]
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token=bos, eos_token=eos)
    tokenizer.chat_template = source
    return tokenizer

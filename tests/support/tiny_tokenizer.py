"""A real tokenizer, trained on a few sentences."""

from __future__ import annotations

from pathlib import Path

TEXTS = [
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: What colour is the circle? ASSISTANT: red",
    "Where is the blue square? It is at the top left of the picture, above a small green star.",
    "이 그림에는 빨간 원과 파란 사각형이 있습니다. 원은 무슨 색인가요? 빨간색입니다.",
    "0 1 2 3 4 5 6 7 8 9 yes no 네 아니요 . , ? ! : ; ( ) [ ]",
]


def make_tokenizer(folder: Path) -> None:
    """A real byte-level BPE tokenizer in transformers' layout, trained on a few sentences: 400 tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    ).save_pretrained(folder)

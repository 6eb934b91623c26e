"""A small Llama tokenizer: a sentencepiece model trained here on a few sentences, with the settings of Llama 2's."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import SentencePieceProcessor
from tokenizers import normalizers
from tokenizers.processors import TemplateProcessing

# As in Llama's own vocabulary, "USER" is a piece and "▁USER" is not. A space before it therefore costs a token, and
# the two values of `legacy` give different numbers of tokens behind `</s>`.
SENTENCES = [
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions.\tUSER: What colour is the circle? ASSISTANT: red",
    "1.USER: Where is the blue square? ASSISTANT: It is at the top left of the picture, above a small green star.",
    "2.USER: 원은 무슨 색인가요? ASSISTANT:빨간색입니다.",
    "3.USER: 이 그림에는 무엇이 있나요? ASSISTANT: 파란 사각형이 있습니다.",
    "[INST] <<SYS>>\tYou are a helpful language and vision assistant.\t<</SYS>>\tWhat is it? [/INST] A red circle. ",
    "Human: How many? Three. ### Assistant: Three. ",
    "one two three four five six seven, 0 1 2 3 4 5 6 7 8 9 yes no 네 아니요 ; ! #",
]
SETTINGS = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True, "add_eos_token": False}


def sentencepiece_model(vocab_size: int = 480) -> bytes:
    """Train byte pairs with byte fallback; `<unk> <s> </s>` are 0, 1 and 2, and text is not normalised."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 3),
        model_writer=written,
        model_type="bpe",
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return written.getvalue()


def save_small_llama(folder: Path) -> None:
    """Write the files of a Llama 2 tokenizer: `tokenizer.model`, and `tokenizer.json` as transformers converts it."""
    from transformers import LlamaTokenizer

    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    (folder / "tokenizer_config.json").write_text(json.dumps(SETTINGS))
    fast = LlamaTokenizer.from_pretrained(folder)
    backend = fast.backend_tokenizer
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.pre_tokenizer = None
    backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.save(str(folder / "tokenizer.json"))


def pieces_of(folder: Path, *, prefix: bool = True) -> Any:
    """Load the folder's own sentencepiece model; without `prefix` it puts no space before a text."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString((folder / "tokenizer.model").read_bytes())
    proto.normalizer_spec.add_dummy_prefix = prefix
    return SentencePieceProcessor(model_proto=proto.SerializeToString())

"""Word by word: the ids and labels of the whole text, by every tokenizer of which that is held to be proven."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_spec import SPEC
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from vistune.errors import DataError
from vistune.processor import Processor, load_tokenizer
from vistune.processor.templates import Control, Piece, TextPiece
from vistune.processor.tokens import CACHED_WORDS, Encoded, Encoder
from vistune.processor.words import CUT, PARTICLES, SPLITTING, words_of
from vistune.types import ImageRef

SENTENCES = [
    "A chat between a curious user and an AI. USER: What's in the picture? ASSISTANT: There is a red\tsquare",
    "The  cat's   12345 dogs\n\n- one\n  two 3 cafe\u0301 e\u0301 café 빨간색 사각형은 어디에 있나요? 십자가 둘.",
    "</s> <s> <tool> ▁▁ a▁b !!! ... ?! (x) 's 'll I'LL 1 2 22 333 ", "a b a b a b the cat the cat in a hat in a hat",
] * 3  # fmt: skip
LETTERS = "ab's1.,\n\t \u00a0\u3000▁가은십자é\u0301<>-"
SPOKEN = st.lists(st.sampled_from(" ".join(SENTENCES).split(" "))).map(" ".join)
TEXTS = st.one_of(st.text(LETTERS, max_size=24), SPOKEN)
Step = Any


def byte_level(*steps: Step, normalizer: Any = None, regex: bool = False, **settings: Any) -> Tokenizer:
    made = Tokenizer(models.BPE(**settings))
    made.normalizer = normalizer
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)]
    )
    made.decoder = decoders.ByteLevel()
    return made


def trained(made: Tokenizer, added: tuple[AddedToken, ...] = ()) -> PreTrainedTokenizerFast:
    alphabet = pre_tokenizers.ByteLevel.alphabet() if isinstance(made.decoder, decoders.ByteLevel) else ["▁", "\n"]
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(SENTENCES, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    fast.add_tokens(list(added))
    return fast


def isolated(pattern: str) -> Step:
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def metaspace(**settings: Any) -> Tokenizer:
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(**settings)
    return made


def legacy() -> Tokenizer:
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.pre_tokenizer = pre_tokenizers.Metaspace(split=True)  # while it learns, so that no word reaches over another
    return made


def legacy_trained() -> PreTrainedTokenizerFast:
    fast = trained(legacy())
    fast.backend_tokenizer.pre_tokenizer = None
    return fast


PROVEN: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "GPT-2": lambda: trained(byte_level(regex=True)),
    "SmolLM": lambda: trained(byte_level(pre_tokenizers.Digits(individual_digits=True), regex=True)),
    "Llama 3": lambda: trained(byte_level(isolated(SPLITTING[0]), ignore_merges=True)),
    "Qwen 2": lambda: trained(
        byte_level(isolated(SPLITTING[1]), normalizer=normalizers.NFC()),
        (AddedToken("<tool>", special=False), AddedToken("   ", special=False, normalized=True)),
    ),
    "Qwen 3.5": lambda: trained(byte_level(isolated(SPLITTING[2]), normalizer=normalizers.NFC())),
    "particles": lambda: trained(byte_level(isolated(PARTICLES), regex=True)),
    "words of ▁": lambda: trained(metaspace(prepend_scheme="first", split=True)),
    "legacy": legacy_trained,
}


def encoded(encoder: Encoder, pieces: list[Piece]) -> Encoded | str:
    try:
        return encoder.encode(pieces)
    except DataError as error:
        return str(error)


def compare(tokenizer: Any, tokenization: str) -> None:
    spec = replace(SPEC, tokenization=tokenization)
    words, whole = (Processor(tokenizer, spec)._encoder for _ in range(2))
    assert words.by_word
    whole.by_word = False
    image = ImageRef(Path("x.jpg"))

    @settings(max_examples=150, deadline=None)
    @given(st.tuples(TEXTS, TEXTS, TEXTS))
    @example(("a b", " a  b ", "▁ a"))
    @example(("", "십자가 가 은", " 가은 a"))
    def equal(texts: tuple[str, str, str]) -> None:
        first, second, third = texts
        before: list[Piece] = [TextPiece(first), TextPiece(second, True)]
        after: list[Piece] = [TextPiece(second), TextPiece(third, True)]
        pieces = [*before, image, *after, Control("eos"), TextPiece(third), TextPiece(first, True)]
        assert encoded(words, pieces) == encoded(whole, pieces)

    equal()


@pytest.mark.parametrize("tokenization", ["whole", "chunks"])
@pytest.mark.parametrize("name", PROVEN)
def test_words_give_what_the_whole_gives(name: str, tokenization: str) -> None:
    compare(PROVEN[name](), tokenization)


@pytest.mark.parametrize("tokenization", ["whole", "chunks"])
def test_so_do_llamas(llama: Path, tokenization: str) -> None:
    compare(load_tokenizer(llama), tokenization)


@settings(max_examples=500, deadline=None)
@given(TEXTS.filter(bool))
def test_the_short_way_cuts_where_the_pattern_does(text: str) -> None:
    assert words_of(text) == CUT.split(text)


def across() -> Tokenizer:
    """It learns tokens of several words: `split` is False while it learns too."""
    return metaspace(prepend_scheme="first", split=False)


@pytest.mark.parametrize(
    "made",
    [
        lambda: trained(across()),
        lambda: trained(byte_level()),  # no expression splits it
        lambda: trained(byte_level(isolated(r"\w+ \w+"), regex=True)),  # nobody looked at this one
        lambda: trained(byte_level(normalizer=normalizers.NFKC(), regex=True)),  # makes spaces of other characters
        lambda: trained(byte_level(regex=True, dropout=0.1)),
        lambda: trained(byte_level(regex=True), (AddedToken("a b", special=False),)),
        lambda: trained(byte_level(regex=True), (AddedToken("<tool>", special=False, rstrip=True),)),
        lambda: trained(metaspace(prepend_scheme="always", split=True), (AddedToken("<tool>", special=False),)),
    ],
    ids=["two words", "no splitting", "unknown", "NFKC", "dropout", "added words", "added rstrip", "prefixes"],
)
def test_others_are_encoded_whole(made: Callable[[], PreTrainedTokenizerFast]) -> None:
    assert not Processor(made(), SPEC)._encoder.by_word


def test_a_token_of_two_words_stays_one() -> None:
    encoder = Processor(trained(across()), SPEC)._encoder
    spoken = [encoder.text.id_to_token(token) for token in encoder.encode([TextPiece("in a hat in a hat")]).ids]
    assert any("▁" in token.strip("▁") for token in spoken), spoken


def test_words_that_are_too_many_are_forgotten(tiny_tokenizer_folder: Path) -> None:
    encoder = Processor(load_tokenizer(tiny_tokenizer_folder), SPEC)._encoder
    text = " ".join(map(str, range(CACHED_WORDS + 10)))
    whole = encoder.text.encode(text, add_special_tokens=False).ids
    assert encoder.encode([TextPiece(text)]).ids[len(encoder.begin) :] == whole
    assert 0 < len(encoder.word_ids) <= CACHED_WORDS

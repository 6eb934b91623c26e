"""Pieces of an answer join to it, whatever tokens come; nothing shown is taken back; stops and ends are never shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from vistune.generation.text_stream import TextStream
from vistune.model import read_spec
from vistune.processor import Processor, load_tokenizer
from vistune.recipe import Model

WORDS = ["red", " 빨간 원", "  ", "\n", "🙂", "a", "ab", "abc", "</s", "###", "##", "한국어"]


@pytest.fixture(scope="module", params=["byte-level", "small sentencepiece", "sentencepiece"])
def processor(request: pytest.FixtureRequest, tiny_backbones: Path) -> Processor:
    folder = tiny_backbones / "language"
    spec = read_spec(Model(vision=str(tiny_backbones / "vision"), language=str(folder)))
    if request.param == "small sentencepiece":
        folder = request.getfixturevalue("small_llama")
    if request.param == "sentencepiece":
        folder = request.getfixturevalue("shared") / "data" / "llama-tokenizer"
    return Processor(load_tokenizer(folder), replace(spec, template="v0"))


def check(processor: Processor, tokens: list[int], stop: list[str]) -> None:
    text = TextStream(processor, stop)
    shown, said = "", []
    for token in tokens:
        said.append(token)
        if processor.ended(said):
            break
        shown += text.add(token)
        if text.stopped:
            break
    last, whole = text.finish(said)
    assert shown + last == whole
    assert not any(end in whole for end in stop)
    answer = processor.answer(said)
    if not stop and not ("<0x00>" in processor.tokenizer.get_vocab() and "\N{REPLACEMENT CHARACTER}" in answer):
        assert whole == answer


RULES = {"max_examples": 150, "deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


@settings(**RULES)
@given(numbers=st.lists(st.integers(3, 399), max_size=80), stop=st.sampled_from([[], ["a"], ["re", "ab"]]))
def test_any_tokens(processor: Processor, numbers: list[int], stop: list[str]) -> None:
    check(processor, numbers, stop)


@settings(**RULES)
@given(words=st.lists(st.sampled_from(WORDS), max_size=40), stop=st.sampled_from([[], ["abc"], ["원", "##"]]))
@example(words=["ab"] * 40 + ["abc"], stop=["abc"])
def test_any_text(processor: Processor, words: list[str], stop: list[str]) -> None:
    check(processor, processor.tokenizer("".join(words), add_special_tokens=False)["input_ids"], stop)


@settings(**RULES)
@given(text=st.text(st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3), min_size=1, max_size=60))
@example(text="뷁쇍쳟뮭뗽뛟쀍꿻뎵쫗뿗쮍")
def test_hangul_that_is_bytes_to_a_tokenizer(processor: Processor, text: str) -> None:
    """Three tokens a syllable, more of them in a run than are decoded at a time."""
    tokens = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    streamed, shown = TextStream(processor), ""
    for token in tokens:
        shown += streamed.add(token)
        assert text.startswith(shown)
    last, whole = streamed.finish(tokens)
    assert shown + last == whole == text


def test_text_is_shown_as_soon_as_it_is_sure(processor: Processor) -> None:
    """A token of look-ahead at most, where nothing may be an end; a long answer costs no more a token than a short."""
    tokens = processor.tokenizer("one two three four five six " * 20, add_special_tokens=False)["input_ids"]
    text, shown = TextStream(processor), ""
    for k, token in enumerate(tokens):
        shown += text.add(token)
        assert len(shown) >= len(processor.answer(tokens[: k + 1])) - 1

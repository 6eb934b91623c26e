"""Where an answer ends: single tokens, and text of several tokens, which no decoded answer carries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vistune.generation import Assistant, generate
from vistune.model import build, read_spec
from vistune.processor import Processor, load_tokenizer
from vistune.processor.templates import Control, Template, TextPiece
from vistune.recipe import Model
from vistune.types import Example, Message


@pytest.fixture(scope="module")
def assistant(tiny_backbones: Path) -> Assistant:
    recipe = Model(vision=str(tiny_backbones / "vision"), language=str(tiny_backbones / "language"))
    spec = read_spec(recipe)
    return Assistant(build(recipe, spec, seed=0).eval(), Processor(load_tokenizer(tiny_backbones / "language"), spec))


def ending(processor: Processor, text: str) -> Processor:
    """The same processor, its template ending answers by a text."""
    other = Processor(processor.tokenizer, processor.spec)
    assert isinstance(other.template, Template)
    other.template = replace(other.template, end=TextPiece(text))
    return other


def test_v0_ends_at_its_text_however_it_is_cut_into_tokens(assistant: Assistant) -> None:
    fitted = assistant.processor.with_template("v0")
    encode = fitted.tokenizer.backend_tokenizer.encode
    whole = [token for part in ("It is red.", "#", "##") for token in encode(part, add_special_tokens=False).ids]
    assert fitted.ended(whole)
    assert fitted.answer(whole) == "It is red."
    assert not fitted.ended(whole[:-1])
    assert fitted.ended([*whole[:-2], fitted.tokenizer.eos_token_id])


def test_v0_ends_at_its_text_with_a_llama_tokenizer(llama: Path, assistant: Assistant) -> None:
    fitted = Processor(load_tokenizer(llama), replace(assistant.processor.spec, template="v0"))
    ids = fitted.tokenizer("빨간 It.###", add_special_tokens=False)["input_ids"]
    assert [fitted.ended(ids[:k]) for k in range(1, len(ids) + 1)] == [False] * (len(ids) - 1) + [True]
    assert fitted.answer(ids) == "빨간 It."


def test_a_text_end_stops_the_engine_and_the_stream(assistant: Assistant) -> None:
    """The end is taken from the middle of what the model says, across two of its tokens."""
    prompts: list[Example] = [
        assistant.processor.encode_prompt([Message("user", (question,))]) for question in ("What?", "Where is it?")
    ]
    free = generate(assistant.model, assistant.processor, prompts, max_tokens=24)
    places = [k for k in range(4, len(free[0].text) - 4) if free[0].text[k : k + 3].isascii()]
    end = free[0].text[places[0] : places[0] + 3]
    fitted = ending(assistant.processor, end)
    ended = generate(assistant.model, fitted, prompts, max_tokens=24)
    assert ended[0].text == free[0].text.partition(end)[0].strip()
    assert ended[0].finish_reason == "stop"
    assert ended[0].completion_tokens < free[0].completion_tokens
    assert ended[1].text == free[1].text.partition(end)[0].strip()
    for prompt, completion in zip(prompts, ended, strict=True):
        assert "".join(Assistant(assistant.model, fitted).engine.submit(prompt, max_tokens=24)) == completion.text


def test_a_single_token_end_is_found_by_its_id_alone(assistant: Assistant) -> None:
    assert assistant.processor.template.end == Control("eos")
    assert assistant.processor.stop_text == ""
    assert assistant.processor.stop_ids == {assistant.processor.tokenizer.eos_token_id}

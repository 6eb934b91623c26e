"""Answers that follow a schema, log probabilities, and stop strings that begin an answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import Bench, image

from vistune.generation import Engine, GrammarError, Output, Sampling
from vistune.generation.grammar import GrammarCompiler
from vistune.generation.logprobs import TokenTexts
from vistune.generation.text_stream import CONTINUATION, TextStream
from vistune.model import read_spec
from vistune.processor import Processor, load_tokenizer
from vistune.recipe import Model

Make = Callable[[str], Bench]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue", "빨강"]}, 
                   "count": {"type": "integer", "minimum": 0, "maximum": 9}, "sure": {"type": "boolean"}},
    "required": ["colour", "count", "sure"],
    "additionalProperties": False,
}  # fmt: skip


def fits(text: str) -> bool:
    value = json.loads(text)
    assert list(value) == ["colour", "count", "sure"]
    return value["colour"] in ["red", "blue", "빨강"] and 0 <= value["count"] <= 9 and isinstance(value["sure"], bool)


def test_answers_with_a_schema_and_without_do_not_change_each_other(make_bench: Make) -> None:
    bench = make_bench("grouped heads")
    engine = Engine(bench.model, bench.processor)
    grammar = engine.grammars.json_schema(SCHEMA)
    prompts = [bench.prompt(image(k), "What colour is it?") for k in range(3)]
    plain = [engine.submit(prompt, max_tokens=20) for prompt in prompts]
    samplings = [Sampling(), Sampling(temperature=1.5, seed=1), Sampling(temperature=2.0, seed=2, top_p=0.9)]
    strict = [
        engine.submit(prompt, max_tokens=200, sampling=sampling, output=Output(grammar=grammar.copy()))
        for prompt in prompts
        for sampling in samplings
    ]
    assert [answer.result().text for answer in plain] == [bench.answer(prompt, 20) for prompt in prompts]
    texts = [answer.result().text for answer in strict]
    assert all(map(fits, texts))
    assert len(set(texts)) > 3
    for answer in strict:
        assert answer.finish_reason == "stop"
        assert "".join(answer) == answer.text


@pytest.mark.parametrize("kind", ["byte-level", "small sentencepiece"])
def test_a_grammar_allows_every_way_of_writing_the_tokens_of_a_value(
    kind: str, tiny_backbones: Path, request: pytest.FixtureRequest
) -> None:
    folder = tiny_backbones / "language" if kind == "byte-level" else request.getfixturevalue("small_llama")
    spec = read_spec(Model(vision=str(tiny_backbones / "vision"), language=str(tiny_backbones / "language")))
    processor = Processor(load_tokenizer(folder), spec)
    size = len(processor.tokenizer) + 70
    compiler = GrammarCompiler(processor, size)
    for text in ('{"colour": "red", "count": 3, "sure": true}', ' {\n  "colour":"빨강","count":0,\n  "sure":false}'):
        grammar = compiler.json_schema(SCHEMA)
        for token in processor.tokenizer(text, add_special_tokens=False)["input_ids"]:
            allowed = grammar.allowed()
            assert allowed is not None
            assert len(allowed) == size
            assert allowed[token], (text, processor.tokenizer.convert_ids_to_tokens([token]))
            assert not allowed[-70:].any(), "logits beyond the tokenizer's vocabulary"
            grammar.advance(token)
        assert grammar.ended
        assert not grammar.error


def test_a_token_that_a_grammar_does_not_allow_is_an_error_of_its_answer_only(make_bench: Make) -> None:
    bench = make_bench("grouped heads")
    engine = Engine(bench.model, bench.processor)
    prompt = bench.prompt("Where?")
    spoilt = engine.grammars.json_schema(SCHEMA)
    spoilt.advance(5)
    assert spoilt.allowed() is None
    wrong = engine.submit(prompt, max_tokens=8, output=Output(grammar=spoilt))
    right = engine.submit(prompt, max_tokens=8)
    with pytest.raises(GrammarError, match="no longer follows"):
        wrong.result()
    assert right.result().text == bench.answer(prompt, 8)
    assert engine.running == 0


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "thing"}, "a `type` is not one of JSON Schema"),
        ({"type": "object", "properties": {"secret": {"type": "thing"}}}, "a `type`"),
        ({"if": {}, "then": {"secret": 1}}, "JSON Schema's if"),
        ({"type": "string", "pattern": "(?=secret)b"}, "a `pattern` is not supported"),
        ({"type": "string", "format": "secret"}, "a `format` is not known"),
        ({"$ref": "#/$defs/secret"}, "a `\\$ref` points to nothing"),
        ({"$ref": "https://example.org/secret"}, "a `\\$ref` is a link"),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "no JSON value satisfies it"),
        ({"type": "array", "items": 5}, "cannot be enforced|is not a schema"),
    ],
)
def test_a_schema_that_cannot_be_enforced_is_refused_in_our_words(
    make_bench: Make, schema: dict[str, Any], words: str
) -> None:
    bench = make_bench("grouped heads")
    compiler = GrammarCompiler(bench.processor, 400)
    with pytest.raises(GrammarError, match=words) as caught:
        compiler.json_schema(schema)
    assert "secret" not in str(caught.value)


def test_a_schema_that_is_nested_too_deeply_is_refused(make_bench: Make) -> None:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(400):
        schema = {"type": "array", "items": schema}
    with pytest.raises(GrammarError, match="nested too deeply"):
        GrammarCompiler(make_bench("grouped heads").processor, 400).json_schema(schema)


def test_a_schema_that_is_too_large_is_refused(make_bench: Make) -> None:
    compiler = GrammarCompiler(make_bench("grouped heads").processor, 400)
    with pytest.raises(GrammarError, match="more than 200000 characters"):
        compiler.json_schema({"enum": [f"value {k}" for k in range(30_000)]})


def test_log_probabilities_are_the_models_own(make_bench: Make) -> None:
    """Whatever is sampled, and in whichever company: those of one forward pass over prompt and answer."""
    bench = make_bench("grouped heads")
    engine = Engine(bench.model, bench.processor)
    prompts = [bench.prompt("What colour is it?"), bench.prompt("Where is the blue square?")]
    grammar = engine.grammars.json_schema(SCHEMA)
    outputs = [Output(top_logprobs=5), Output(top_logprobs=0), Output(top_logprobs=3, grammar=grammar)]
    answers = [
        engine.submit(prompt, max_tokens=12, sampling=Sampling(temperature=1.4, seed=seed, repetition_penalty=1.3),
                      output=replace(output, grammar=output.grammar and output.grammar.copy()))
        for prompt in prompts
        for seed, output in enumerate(outputs)
    ]  # fmt: skip
    for answer in answers:
        answer.result()
        ids = answer.sequence.prompt.example.input_ids.tolist()
        whole = torch.tensor([ids + answer.sequence.tokens])
        with torch.no_grad():
            wanted = bench.stock(whole).logits[0, len(ids) - 1 : -1].log_softmax(dim=-1)
        assert len(answer.sequence.logprobs) == answer.completion_tokens
        for entry, token, row in zip(answer.sequence.logprobs, answer.sequence.tokens, wanted, strict=True):
            assert entry.token == token
            assert entry.logprob == pytest.approx(float(row[token]), abs=1e-4)
            count = answer.sequence.top_logprobs or 0
            assert [logprob for _, logprob in entry.top] == pytest.approx(row.topk(count).values.tolist(), abs=1e-4)


def test_the_bytes_of_the_tokens_of_a_text_are_its_bytes(tiny_backbones: Path, small_llama: Path) -> None:
    spec = read_spec(Model(vision=str(tiny_backbones / "vision"), language=str(tiny_backbones / "language")))
    for folder, lead in ((tiny_backbones / "language", ""), (small_llama, " ")):
        processor = Processor(load_tokenizer(folder), spec)
        texts = TokenTexts(processor)
        for text in ("a red circle, 빨간 원 🙂\n", "뷁"):
            tokens = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
            assert b"".join(map(texts.bytes_of, tokens)).decode() == lead + text
            assert all(texts.text_of(token) for token in tokens)


def test_a_stop_string_may_begin_an_answer(make_bench: Make) -> None:
    bench = make_bench("grouped heads")
    prompt = bench.prompt(image(1), "What colour is it?")
    whole = bench.answer(prompt, 20)
    engine = Engine(bench.model, bench.processor)
    for length in (1, 2, 5):
        answer = engine.submit(prompt, max_tokens=20, stop=[whole[:length]])
        assert "".join(answer) == answer.result().text == ""
        assert answer.finish_reason == "stop"


@pytest.mark.parametrize("kind", ["byte-level", "small sentencepiece"])
@pytest.mark.parametrize(
    ("template", "said", "stop", "wanted", "stopped"),
    [
        ("v1", " \n\nA cat", "\n", "", True),
        ("v1", " \n\nA cat", "\n\nA", "", True),
        ("v1", " A cat", " A", "A cat", False),  # the template's own space
        ("v1", " A cat", "A c", "", True),
        ("chatml", "\nA cat", "\n", "", True),
        ("chatml", "A cat", " cat", "A", True),
    ],
)
def test_whitespace_at_the_beginning_counts_as_generated(
    kind: str, template: str, said: str, stop: str, wanted: str, stopped: bool,
    tiny_backbones: Path, request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    folder = tiny_backbones / "language" if kind == "byte-level" else request.getfixturevalue("small_llama")
    spec = read_spec(Model(vision=str(tiny_backbones / "vision"), language=str(tiny_backbones / "language")))
    tokenizer = load_tokenizer(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})  # type: ignore[attr-defined]
    processor = Processor(tokenizer, replace(spec, template=template))
    text = said.removeprefix(" ") if kind == "small sentencepiece" else said  # it writes the space itself
    stream, shown, tokens = TextStream(processor, [stop]), "", []
    for token in processor.tokenizer(text, add_special_tokens=False)["input_ids"]:
        tokens.append(token)
        shown += stream.add(token)
        if stream.stopped:
            break
    last, answer = stream.finish(tokens)
    assert (shown + last, answer, stream.stopped) == (wanted, wanted, stopped)


@pytest.mark.parametrize("kind", ["byte-level", "small sentencepiece"])
def test_a_continuation_keeps_its_outer_whitespace(
    kind: str, tiny_backbones: Path, request: pytest.FixtureRequest
) -> None:
    folder = tiny_backbones / "language" if kind == "byte-level" else request.getfixturevalue("small_llama")
    spec = read_spec(Model(vision=str(tiny_backbones / "vision"), language=str(tiny_backbones / "language")))
    processor = Processor(load_tokenizer(folder), spec)
    before = processor.encode_text("The circle is").input_ids.tolist()
    whole = processor.encode_text("The circle is red.  \n").input_ids.tolist()
    assert whole[: len(before)] == before
    stream, shown = TextStream(processor, style=CONTINUATION), ""
    for token in whole[len(before) :]:
        shown += stream.add(token)
    last, text = stream.finish(whole[len(before) :])
    assert shown + last == text == " red.  \n"

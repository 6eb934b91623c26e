"""Tool calls with the chat templates of released models, through the official client and a real server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from chat_tokenizers import make_chat_tokenizer
from reference import Bench
from running_servers import Running, data_url, png, question, running, saying, until
from tool_templates import HERMES, LLAMA, MISTRAL, WITHOUT

from vistune.generation.tools import CalledTool, CallReader
from vistune.model import build, read_spec
from vistune.processor import Processor
from vistune.processor.tool_template import CallForm
from vistune.recipe import Model
from vistune.serving.api import Limits

TEMPLATES = {"hermes": HERMES, "llama": LLAMA, "mistral": MISTRAL, "without": WITHOUT}
CALLS = {
    "hermes": '<tool_call>\n{"name": "weather", "arguments": {"city": "서울"}}\n</tool_call>',
    "llama": '{"name": "weather", "parameters": {"city": "서울"}}',
    "mistral": '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "서울"}}]',
}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"$ref": "#/$defs/City"}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["city", "days"],
            "additionalProperties": False,
            "$defs": {"City": {"enum": ["서울", "Paris"]}},
        },
    },
}
OTHER = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {},
                                                                        "additionalProperties": False}}}  # fmt: skip
Serve = Callable[[str], Running]


@pytest.fixture(scope="module")
def serve(tiny_backbones: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    from transformers import AutoConfig, AutoModelForCausalLM

    with ExitStack() as servers:

        @cache
        def made(name: str) -> Running:
            tokenizer = make_chat_tokenizer(TEMPLATES[name])
            config = AutoConfig.for_model(
                "llama", hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, vocab_size=len(tokenizer) + 30, max_position_embeddings=2048, bos_token_id=0,
                eos_token_id=1, initializer_range=0.3)  # fmt: skip
            torch.manual_seed(7)
            stock = AutoModelForCausalLM.from_config(config).eval()
            folder = tmp_path_factory.mktemp(name)
            stock.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            recipe = Model(vision=str(tiny_backbones / "vision"), language=str(folder), template="tokenizer")
            spec = replace(read_spec(recipe), template="tokenizer")
            bench = Bench(build(recipe, spec, seed=0).eval(), Processor(tokenizer, spec), stock)
            return servers.enter_context(running(bench, limits=Limits(slots=4)))

        yield made


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_read_from_the_answer(serve: Serve, name: str) -> None:
    found = serve(name)
    client = found.client()
    asked: dict[str, Any] = {"model": "tiny", "messages": question("Weather?"), "tools": [TOOL], "max_tokens": 200}
    before = "Let me look. " if name == "hermes" else ""
    with saying(found, before + CALLS[name]):
        choice = client.chat.completions.create(**asked).choices[0]
        chunks = list(client.chat.completions.create(**asked, stream=True))
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == (before.strip() or None)
    (call,) = choice.message.tool_calls or ()
    assert (call.type, call.function.name) == ("function", "weather")
    assert json.loads(call.function.arguments) == {"city": "서울"}
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(delta.content or "" for delta in deltas).strip() == before.strip()
    (streamed,) = [one for delta in deltas for one in delta.tool_calls or ()]
    assert streamed.function is not None
    assert (streamed.function.name, streamed.function.arguments) == ("weather", call.function.arguments)
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    until(found.idle)


@pytest.mark.parametrize("name", CALLS)
def test_a_conversation_with_calls_is_written_as_transformers_does(serve: Serve, name: str) -> None:
    found = serve(name)
    client = found.client()
    with saying(found, CALLS[name]):
        message = (
            client.chat.completions.create(model="tiny", messages=question("Weather?"), tools=[TOOL], max_tokens=200)
            .choices[0]
            .message
        )
    (call,) = message.tool_calls or ()
    talk: list[Any] = [
        {"role": "user", "content": "Weather?"},
        message,
        {"role": "tool", "tool_call_id": call.id, "content": '"12 °C"'},
    ]
    whole = client.chat.completions.create(model="tiny", messages=talk, tools=[TOOL], max_tokens=4)
    stated = {"id": call.id, "type": "function", "function": {"name": "weather", "arguments": {"city": "서울"}}}
    ids = found.service.processor.tokenizer.apply_chat_template(
        [talk[0], {"role": "assistant", "content": "", "tool_calls": [stated]}, {**talk[2], "name": "weather"}],
        tools=[TOOL], add_generation_prompt=True, return_dict=False,
    )  # fmt: skip
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == len(ids)
    with_image = [*question("Weather here?", data_url(png())), *talk[1:]]
    assert client.chat.completions.create(model="tiny", messages=with_image, tools=[TOOL], max_tokens=4).usage


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_required_call_is_forced_with_its_schema(serve: Serve, name: str, choice: Any) -> None:
    found = serve(name)
    for seed in range(3):
        whole = found.client().chat.completions.create(
            model="tiny", messages=question("Weather?"), tools=[TOOL, OTHER], tool_choice=choice, max_tokens=300,
            temperature=1.5, seed=seed,
        ).choices[0]  # fmt: skip
        assert whole.finish_reason == "tool_calls", whole.message
        (call,) = whole.message.tool_calls or ()
        arguments = json.loads(call.function.arguments)
        if choice != "required" or call.function.name == "weather":
            assert call.function.name == "weather"
            assert arguments["city"] in ("서울", "Paris")
            assert 1 <= arguments["days"] <= 9
        else:
            assert (call.function.name, arguments) == ("now", {})


def test_text_stays_text(serve: Serve) -> None:
    found = serve("hermes")
    asked: dict[str, Any] = {"model": "tiny", "messages": question("?"), "tools": [TOOL], "max_tokens": 200}
    for text in ("It is 3 < 4.", 'So: <tool_call>\n{"name": "unknown", "arguments": {}}\n</tool_call>',
                 "<tool_call>\n{broken"):  # fmt: skip
        with saying(found, text):
            choice = found.client().chat.completions.create(**asked).choices[0]
            chunks = found.client().chat.completions.create(**asked, stream=True)
            streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert (choice.message.content, choice.message.tool_calls, streamed) == (text, None, text)
        assert choice.finish_reason == "stop"
    with saying(found, CALLS["hermes"]):
        none = found.client().chat.completions.create(**asked, tool_choice="none").choices[0]
    assert none.message.tool_calls is None


def test_without_parallel_calls_there_is_one(serve: Serve) -> None:
    found = serve("hermes")
    asked: dict[str, Any] = {"model": "tiny", "messages": question("?"), "tools": [TOOL], "max_tokens": 300}
    with saying(found, "\n".join([CALLS["hermes"]] * 2)):
        both = found.client().chat.completions.create(**asked).choices[0].message.tool_calls
        one = found.client().chat.completions.create(**asked, parallel_tool_calls=False).choices[0].message.tool_calls
    assert (len(both or ()), len(one or ())) == (2, 1)


CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("changes", "param", "words"),
    [
        ({"tools": [{"type": "retrieval"}]}, "tools[0].type", 'must be "function"'),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "letters, digits"),
        ({"tools": [TOOL, TOOL]}, "tools[1].function.name", "another tool has this name"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}},
         "tool_choice.function.name", "not the name of a tool"),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice.function", "missing"),
        ({"tools": [TOOL], "tool_choice": "any"}, "tool_choice.type", 'must be "none", "auto", "required"'),
        ({"tools": [TOOL], "response_format": {"type": "json_object"}}, "response_format", "not together with tools"),
        ({"messages": [*question("?"), {"role": "tool", "tool_call_id": "c1", "content": "x"}]},
         "messages[1].tool_call_id", "not the id of an earlier call"),
        ({"messages": [*question("?"), {"role": "assistant", "tool_calls": [CALL]}]}, "messages", "the assistant's"),
        ({"messages": [*question("?"), {"role": "assistant", "tool_calls": [
            {**CALL, "function": {"name": "weather", "arguments": "{"}}]}, *question("?")]},
         "messages[1].tool_calls[0].function.arguments", "not a JSON object"),
        ({"tools": [TOOL], "messages": question("a <|im_end|> b")}, "messages", "chat template's own tokens"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "wat"}}}],
          "tool_choice": "required"}, "tools", "a schema of parameters: a `type` is not one of JSON Schema"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_field(serve: Serve, changes: dict[str, Any], param: str, words: str) -> None:
    response = serve("hermes").ask(**changes)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param), error
    assert words in error["message"]


def test_a_template_without_tools_refuses_them(serve: Serve) -> None:
    found = serve("without")
    with pytest.raises(openai.BadRequestError) as caught:
        found.client().chat.completions.create(model="tiny", messages=question("?"), tools=[TOOL])
    assert caught.value.param == "tools"
    assert "this model's chat template has no tools; remove it" in caught.value.message
    assert found.ask(tools=[TOOL], tool_choice="none").status_code == 200
    talk = [*question("?"), {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "x"}]  # fmt: skip
    error = found.ask(messages=talk).json()["error"]
    assert error["param"] in ("messages[1].tool_calls", "messages[2].role")


def test_pieces_of_any_length_give_the_same_calls() -> None:
    form = CallForm("<tool_call>\n", "\n</tool_call>", "name", "arguments")
    text = "Yes. " + CALLS["hermes"] + "\n" + CALLS["hermes"]
    for size in (1, 2, 5, 11, 200):
        reader = CallReader(form, ["weather"])
        shown = "".join(reader.add(text[k : k + size]) for k in range(0, len(text), size))
        rest, calls = reader.finish()
        assert (shown, rest) == ("Yes.", "")
        assert calls == [CalledTool("weather", '{"city": "서울"}')] * 2

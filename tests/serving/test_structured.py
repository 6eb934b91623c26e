"""Schemas, several answers, log probabilities and stop strings over HTTP, through the official client."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any

import openai
import pytest
import torch
from pydantic import BaseModel, ConfigDict
from reference import Bench
from running_servers import CHAT, Running, body, data_url, png, question, until

from vistune.generation import Sampling

IMAGE = data_url(png())


class Colour(StrEnum):
    red = "red"
    blue = "blue"


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")

    colour: Colour
    corners: int | None
    round: bool


SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}, "round": {"type": "boolean"}},
    "required": ["colour", "round"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "shape", "schema": SCHEMA, "strict": True}}


def events(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_parse_returns_the_pydantic_class(served: Running) -> None:
    client = served.client()
    asked: dict[str, Any] = {"model": "tiny", "messages": question("What is it?", IMAGE), "max_tokens": 400}
    for seed in range(3):
        for parse in (client.chat.completions.parse, client.beta.chat.completions.parse):
            whole = parse(**asked, seed=seed, temperature=0.8, response_format=Shape)
            if whole.choices[0].finish_reason == "stop":
                assert isinstance(whole.choices[0].message.parsed, Shape)
    with client.chat.completions.stream(**asked, temperature=0, seed=1, response_format=Shape) as stream:
        final = stream.get_final_completion()
    same = client.chat.completions.parse(**asked, temperature=0, seed=1, response_format=Shape)
    assert final.choices[0].message.content == same.choices[0].message.content


def test_a_schema_holds_for_every_sampling_streamed_or_not(served: Running) -> None:
    client = served.client()
    asked: dict[str, Any] = {"model": "tiny", "messages": question(), "max_tokens": 200, "response_format": FORMAT}
    texts = set()
    for changes in ({"temperature": 0}, {"temperature": 2, "seed": 1}, {"temperature": 1.5, "top_p": 0.5, "seed": 2}):
        whole = client.chat.completions.create(**asked, **changes).choices[0]
        value = json.loads(whole.message.content or "")
        assert (list(value), whole.finish_reason) == (["colour", "round"], "stop")
        assert value["colour"] in ("red", "blue")
        chunks = list(client.chat.completions.create(**asked, **changes, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.message.content
        texts.add(whole.message.content)
    assert len(texts) > 1
    objects = client.chat.completions.create(**{**asked, "response_format": {"type": "json_object"}, "max_tokens": 20})
    assert (objects.choices[0].message.content or "").startswith("{")


def test_answers_without_a_schema_are_the_same_next_to_one(served: Running) -> None:
    import asyncio

    alone = served.ask(max_tokens=16).json()["choices"][0]["message"]["content"]

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{served.server.address}/v1", api_key="unused") as client:
            asked: dict[str, Any] = {"model": "tiny", "messages": question(), "temperature": 0}
            calls = [
                client.chat.completions.create(
                    **asked, **({"max_tokens": 200, "response_format": FORMAT} if k % 2 else {"max_tokens": 16})
                )
                for k in range(6)
            ]
            return [str(answer.choices[0].message.content) for answer in await asyncio.gather(*calls)]

    said = asyncio.run(all_of_them())
    assert said[::2] == [alone] * 3
    assert all(json.loads(text)["colour"] in ("red", "blue") for text in said[1::2])
    until(served.idle)


def test_n_answers_are_those_of_their_seeds(served: Running, bench: Bench) -> None:
    client = served.client()
    asked: dict[str, Any] = {"model": "tiny", "messages": question(), "max_tokens": 12, "temperature": 1.5, "seed": 7}
    whole = client.chat.completions.create(**asked, n=3)
    prompt = bench.prompt("What colour is it?")
    wanted = [
        served.service.engine.submit(prompt, max_tokens=12, sampling=Sampling(temperature=1.5, seed=7 + k))
        .result()
        .text
        for k in range(3)
    ]
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert [choice.message.content for choice in whole.choices] == wanted
    assert len(set(wanted)) == 3
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == len(prompt)
    assert whole.usage.completion_tokens > 12
    chunks = list(client.chat.completions.create(**asked, n=3, stream=True, stream_options={"include_usage": True}))
    streamed = ["", "", ""]
    ends = []
    for chunk in chunks[:-1]:
        (choice,) = chunk.choices
        streamed[choice.index] += choice.delta.content or ""
        ends += [choice.index] * (choice.finish_reason is not None)
    assert streamed == wanted
    assert sorted(ends) == [0, 1, 2]
    assert chunks[-1].usage == whole.usage.model_copy(
        update={"prompt_tokens_details": chunks[-1].usage.prompt_tokens_details}  # type: ignore[union-attr]
    )
    until(served.idle)


def test_logprobs_are_the_models_log_softmax(served: Running, bench: Bench) -> None:
    client = served.client()
    asked: dict[str, Any] = {
        "model": "tiny", "messages": question(), "max_tokens": 10, "temperature": 1.2, "seed": 3, "logprobs": True,
        "top_logprobs": 4,
    }  # fmt: skip
    whole = client.chat.completions.create(**asked).choices[0]
    assert whole.logprobs is not None
    entries = whole.logprobs.content
    assert entries
    ids = bench.prompt("What colour is it?").input_ids.tolist()
    for entry in entries:
        with torch.no_grad():
            row = bench.stock(torch.tensor([ids])).logits[0, -1].log_softmax(dim=-1)
        assert [top.logprob for top in entry.top_logprobs] == pytest.approx(row.topk(4).values.tolist(), abs=1e-4)
        token = entry.model_dump()["id"]
        assert entry.logprob == pytest.approx(float(row[token]), abs=1e-4)
        assert entry.bytes == list(served.service.texts.bytes_of(token))
        ids.append(token)
    said = b"".join(bytes(entry.bytes or ()) for entry in entries).decode(errors="replace")
    assert said.strip().startswith((whole.message.content or "")[:-1])
    streamed, pieces = [], ""
    for chunk in client.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            pieces += choice.delta.content or ""
            streamed += (choice.logprobs.content or []) if choice.logprobs else []
    assert pieces == whole.message.content
    assert [entry.token for entry in streamed] == [entry.token for entry in entries]
    bare = client.chat.completions.create(**{**asked, "top_logprobs": None}).choices[0]
    assert bare.logprobs is not None
    assert [entry.top_logprobs for entry in bare.logprobs.content or ()] == [[]] * len(entries)


def test_a_stop_string_may_begin_an_answer_or_cross_tokens(served: Running) -> None:
    greedy = str(served.ask(max_tokens=16).json()["choices"][0]["message"]["content"])
    for stop in (greedy[:1], greedy[:7], greedy[3:9]):
        wanted = greedy.partition(stop)[0].rstrip()
        choice = served.ask(max_tokens=16, stop=stop, logprobs=True).json()["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == (wanted, "stop")
        assert bool(choice["logprobs"]["content"]) == bool(wanted)
        response = served.http.post(CHAT, json=body(max_tokens=16, stop=[stop], stream=True, logprobs=True))
        chunks = [event["choices"][0] for event in events(response.text)]
        assert "".join(chunk["delta"].get("content", "") for chunk in chunks) == wanted
        shown = [entry for chunk in chunks if chunk["logprobs"] for entry in chunk["logprobs"]["content"]]
        assert shown == choice["logprobs"]["content"]

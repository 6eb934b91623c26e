"""What clients ask for they get: the official client, unchanged, against a real server."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from PIL import Image
from reference import Bench
from running_servers import Running, body, data_url, png, question, until

from vistune.generation import Sampling


def alone(bench: Bench, *parts: Any, max_tokens: int = 16) -> str:
    return bench.answer(bench.prompt(*parts), max_tokens)


def test_the_official_client_lists_asks_and_streams(served: Running, bench: Bench) -> None:
    client = served.client()
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    image = png()
    wanted = alone(bench, Image.new("RGB", (24, 24), "red"), "What colour is it?")
    asked: dict[str, Any] = {"model": "tiny", "messages": question("What colour is it?", data_url(image))}
    whole = client.chat.completions.create(**asked, temperature=0, max_tokens=16)
    (choice,) = whole.choices
    assert choice.message.content == wanted
    assert choice.message.role == "assistant"
    assert choice.finish_reason in ("stop", "length")
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert whole.usage.completion_tokens <= 16
    chunks = list(
        client.chat.completions.create(
            **asked, temperature=0, max_completion_tokens=16, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == wanted
    assert len({chunk.id for chunk in chunks}) == 1
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1] if chunk.choices[0].finish_reason] == [
        choice.finish_reason
    ]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens


def test_a_conversation_goes_on_from_the_clients_own_message(served: Running) -> None:
    client = served.client()
    first = client.chat.completions.create(model="tiny", messages=question("Where?"), temperature=0, max_tokens=8)
    spoken = [
        {"role": "developer", "content": "Be brief."},
        *question("Where?"),
        {**first.choices[0].message.model_dump(), "content": "Here."},
        *question("무슨 색인가요?"),
    ]
    again = client.chat.completions.create(model="tiny", messages=spoken, temperature=0, max_tokens=8)
    assert again.choices[0].message.content


def test_korean_streams_whole(served: Running) -> None:
    """Every piece is text on its own, and together they are the answer, whatever tokens cut characters."""
    for text in ("이 그림에는", "빨간 원은 무슨 색인가요?", "파란 사각형이"):
        asked = body(messages=question(text), max_tokens=48, temperature=1.5, seed=3)
        whole = served.http.post("/v1/chat/completions", json=asked).json()["choices"][0]["message"]["content"]
        response = served.http.post("/v1/chat/completions", json={**asked, "stream": True})
        events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
        assert events[-1] == "[DONE]"
        pieces = [json.loads(event)["choices"][0]["delta"].get("content", "") for event in events[:-1]]
        assert "".join(pieces) == whole


def test_parameters_do_what_they_say(served: Running, bench: Bench) -> None:
    engine = served.service.engine
    prompt = bench.prompt("What colour is it?")

    def said(**changes: Any) -> dict[str, Any]:
        response = served.ask(**{"max_tokens": 12, **changes})
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()["choices"][0]
        return found

    def wanted(sampling: Sampling) -> str:
        return str(engine.submit(prompt, max_tokens=12, sampling=sampling).result().text)

    greedy = said()["message"]["content"]
    assert greedy == wanted(Sampling())
    for changes in (
        {"temperature": 1.3, "seed": 5},
        {"temperature": 2.0, "top_p": 0.4, "seed": 6},
        {"temperature": 1.7, "top_k": 3, "seed": 7},
        {"temperature": 0.0, "repetition_penalty": 2.5, "seed": 0},
    ):
        assert said(**changes)["message"]["content"] == wanted(Sampling(**changes)), changes
    assert said(temperature=1.5, top_k=1, seed=1)["message"]["content"] == greedy
    assert len({said(temperature=2, seed=...)["message"]["content"] for _ in range(4)}) > 1, "no seed: always another"
    stop = greedy[3:6]
    stopped = said(stop=stop)
    assert stopped["message"]["content"] == greedy.partition(stop)[0].rstrip()
    assert stopped["finish_reason"] == "stop"
    assert said(stop=["nowhere to be found", stop])["message"]["content"] == stopped["message"]["content"]
    assert said(max_tokens=1)["finish_reason"] == "length"


def test_what_cannot_be_done_is_refused_and_what_does_not_matter_is_listed(served: Running) -> None:
    for name, value in {
        "functions": [{"name": "f"}], "audio": {"voice": "x"}, "prediction": {"type": "content"}, "min_p": 0.1,
        "presence_penalty": 0.5, "logit_bias": {"5": 1}, "chat_template": "{{ x }}",
        "chat_template_kwargs": {"a": 1}, "stop_token_ids": [3],
        "skip_special_tokens": False, "guided_json": {"type": "object"},
    }.items():  # fmt: skip
        response = served.ask(**{name: value})
        assert response.status_code == 400, name
        assert response.json()["error"]["param"] == name
        assert response.json()["error"]["code"] == "unsupported_parameter"
    neutral = {"tools": [], "logprobs": False, "response_format": {"type": "text"}, "presence_penalty": 0, "n": 1,
               "skip_special_tokens": True, "tool_choice": "none", "min_p": None}  # fmt: skip
    response = served.ask(**neutral, user="me", flavour="mild")
    assert response.status_code == 200
    assert response.headers["x-ignored-parameters"] == "user, flavour"
    with pytest.raises(openai.BadRequestError) as caught:
        served.client().chat.completions.create(model="tiny", messages=question(), n=17)
    assert caught.value.param == "n"
    with pytest.raises(openai.NotFoundError):
        served.client().chat.completions.create(model="gpt-4o", messages=question())


def test_many_at_once_answer_as_each_alone(served: Running, bench: Bench) -> None:
    """More than there are slots, with and without pictures, streamed or not."""
    import asyncio

    colours = ["red", "green", "blue", "white", "black", "yellow"]

    async def ask(client: openai.AsyncOpenAI, colour: str, stream: bool) -> str:
        asked: dict[str, Any] = {
            "model": "tiny", "temperature": 0, "max_tokens": 16,
            "messages": question("What colour is it?", data_url(png(colour=colour))),
        }  # fmt: skip
        if stream:
            pieces = await client.chat.completions.create(**asked, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in pieces])
        return str((await client.chat.completions.create(**asked)).choices[0].message.content)

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{served.server.address}/v1", api_key="unused") as client:
            return await asyncio.gather(*(ask(client, c, s) for c in colours for s in (True, False)))

    answers = asyncio.run(all_of_them())
    wanted = [alone(bench, Image.new("RGB", (24, 24), colour), "What colour is it?") for colour in colours]
    assert answers == [text for text in wanted for _ in range(2)]
    until(served.idle)

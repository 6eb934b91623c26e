"""`/v1/completions` continues texts as the tokenizer reads them, through the official client."""

from __future__ import annotations

from typing import Any

import httpx2
import openai
import pytest
import torch
from reference import Bench
from running_servers import Running, until

from vistune.serving.api import Limits
from vistune.serving.api.completions import CompletionRequest

PATH = "/v1/completions"
PROMPTS = ["Where is the blue", "이 그림에는", "USER: What colour is it? ASSISTANT:"]


def ask(served: Running, **changes: Any) -> httpx2.Response:
    asked = {"model": "tiny", "prompt": PROMPTS[0], "max_tokens": 8, "temperature": 0, **changes}
    return served.http.post(PATH, json={name: value for name, value in asked.items() if value is not ...})


def greedy(bench: Bench, text: str, count: int) -> str:
    """transformers' continuation of the text, cut before its end token."""
    ids = torch.tensor([bench.processor.tokenizer(text)["input_ids"]])
    tokens = bench.stock.generate(ids, do_sample=False, max_new_tokens=count)[0, ids.shape[1] :].tolist()
    return str(bench.processor.tokenizer.decode(tokens, skip_special_tokens=True))


def test_texts_are_continued_as_in_transformers(served: Running, bench: Bench) -> None:
    client = served.client()
    whole = client.completions.create(model="tiny", prompt=PROMPTS, temperature=0, max_tokens=8)
    assert [choice.text for choice in whole.choices] == [greedy(bench, prompt, 8) for prompt in PROMPTS]
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == sum(len(bench.processor.tokenizer(text)["input_ids"]) for text in PROMPTS)
    echoed = client.completions.create(model="tiny", prompt=PROMPTS, temperature=0, max_tokens=8, echo=True)
    assert [choice.text for choice in echoed.choices] == [
        prompt + choice.text for prompt, choice in zip(PROMPTS, whole.choices, strict=True)
    ]
    for echo in (False, True):
        streamed = [""] * 3
        for chunk in client.completions.create(
            model="tiny", prompt=PROMPTS, temperature=0, max_tokens=8, stream=True, echo=echo,
            stream_options={"include_usage": True},
        ):  # fmt: skip
            for choice in chunk.choices:
                streamed[choice.index] += choice.text
        assert streamed == [choice.text for choice in (echoed if echo else whole).choices]
        assert chunk.usage is not None
        assert chunk.usage.completion_tokens == whole.usage.completion_tokens
    until(served.idle)


def test_sixteen_tokens_are_the_default_and_n_answers_differ(served: Running) -> None:
    reply = ask(served, max_tokens=..., temperature=1.5, seed=4, n=3, prompt=PROMPTS[:2]).json()
    assert reply["usage"]["completion_tokens"] <= 6 * 16
    assert [choice["index"] for choice in reply["choices"]] == list(range(6))
    assert len({choice["text"] for choice in reply["choices"]}) == 6


def test_logprobs_have_the_completions_form(served: Running, bench: Bench) -> None:
    client = served.client()
    asked: dict[str, Any] = {"model": "tiny", "prompt": PROMPTS[0], "temperature": 0, "max_tokens": 6, "logprobs": 3}
    choice = client.completions.create(**asked).choices[0]
    ids = bench.processor.tokenizer(PROMPTS[0])["input_ids"]
    with torch.no_grad():
        row = bench.stock(torch.tensor([ids])).logits[0, -1].log_softmax(dim=-1)
    logprobs = choice.logprobs
    assert logprobs is not None
    assert logprobs.token_logprobs is not None
    assert logprobs.token_logprobs[0] == pytest.approx(float(row.max()), abs=1e-4)
    assert sorted((logprobs.top_logprobs or [])[0].values())[::-1] == pytest.approx(
        row.topk(3).values.tolist(), abs=1e-4
    )
    for token, offset in zip(logprobs.tokens or [], logprobs.text_offset or [], strict=True):
        text = choice.text[offset:].lstrip("\N{REPLACEMENT CHARACTER}")  # bytes that no character has
        assert token.startswith("bytes:") or text.startswith(token)
    streamed = [chunk.choices[0].logprobs for chunk in client.completions.create(**asked, stream=True)]
    assert sum([entry.tokens or [] for entry in streamed if entry], []) == logprobs.tokens  # noqa: RUF017
    assert sum([entry.text_offset or [] for entry in streamed if entry], []) == logprobs.text_offset  # noqa: RUF017


def test_a_stop_string_may_begin_a_continuation(served: Running) -> None:
    text = ask(served).json()["choices"][0]["text"]
    reply = ask(served, stop=text[:2]).json()["choices"][0]
    assert (reply["text"], reply["finish_reason"]) == ("", "stop")


@pytest.mark.parametrize(
    ("changes", "param", "words"),
    [
        ({"prompt": ...}, "prompt", "missing; give text, or a list of 1 to 16 texts"),
        ({"prompt": ""}, "prompt[0]", "must be text; token ids are not read"),
        ({"prompt": []}, "prompt", "must be text, or a list of 1 to 16 texts"),
        ({"prompt": [1, 2]}, "prompt[0]", "must be text; token ids are not read; got a whole number"),
        ({"prompt": [[1, 2]]}, "prompt[0]", "token ids are not read"),
        ({"prompt": ["x"] * 17}, "prompt", "a list of 1 to 16 texts"),
        ({"echo": True, "logprobs": 1}, "echo", "not together with logprobs"),
        ({"logprobs": True}, "logprobs", "must be a whole number from 0 to 20"),
        ({"suffix": "x"}, "suffix", "this model only continues texts"),
        ({"best_of": 3}, "best_of", "not supported; remove it"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "not supported; remove it"),
        ({"messages": [{"role": "user", "content": "x"}]}, "messages", "send it to /v1/chat/completions"),
        ({"response_format": {"type": "json_object"}}, "response_format", "send it to /v1/chat/completions"),
        ({"max_tokens": 0}, "max_tokens", "a whole number of 1 or more; without it 16"),
        ({"max_tokens": 5000}, "max_tokens", "above this server's limit"),
        ({"stream_options": {}}, "stream_options", "only for streams"),
        ({"prompt": "word " * 2000}, "prompt[0]", "the model reads at most 1024"),
    ],
)
def test_a_refusal_names_the_field(served: Running, changes: dict[str, Any], param: str, words: str) -> None:
    response = ask(served, **changes)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param), error
    assert words in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


def test_what_changes_nothing_is_taken_or_listed(served: Running) -> None:
    response = ask(served, best_of=1, suffix=None, user="me", echo=False, presence_penalty=0, flavour="mild")
    assert response.status_code == 200, response.text
    assert response.headers["x-ignored-parameters"] == "user, flavour"
    with pytest.raises(openai.NotFoundError):
        served.client().completions.create(model="other", prompt="x")


def test_without_max_tokens_the_servers_limit_holds_too() -> None:
    request = CompletionRequest(model="tiny", prompt=["x"])
    assert [request.settings(Limits(max_tokens=most)).max_tokens for most in (4, 4096)] == [4, 16]

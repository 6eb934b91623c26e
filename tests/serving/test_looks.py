"""`/v1/looks` returns what `compute_attention_maps` computes, and refuses what a chat would be refused for."""

from __future__ import annotations

import json
import threading
from typing import Any

import httpx2
import pytest
import torch
from reference import Bench
from running_servers import Gate, Running, data_url, png, question, running, until

from vistune.generation import AttentionMaps, answered_prompt, compute_attention_maps, read_messages
from vistune.generation.attention_maps import ViewAttention
from vistune.processor import View
from vistune.serving.api import Limits
from vistune.serving.api.attention_maps import reply_parts, word_spans

LOOKS = "/v1/looks"
ANSWER = "The circle is red, 원은 빨간색."


def asked(**changes: Any) -> dict[str, Any]:
    given = {"model": "tiny", "messages": question("What is it?", data_url(png())), "answer": ANSWER, **changes}
    return {name: value for name, value in given.items() if value is not ...}


def ask(found: Running, **changes: Any) -> httpx2.Response:
    return found.http.post(LOOKS, json=asked(**changes))


def test_words_and_weights_are_those_of_the_look(served: Running, bench: Bench) -> None:
    images = [data_url(png()), data_url(png(side=64, colour="blue"))]
    messages = question("What is it?", *images)
    body = ask(served, messages=messages).json()
    found = compute_attention_maps(
        bench.model, bench.processor, answered_prompt(bench.processor, read_messages(messages), ANSWER)
    )
    assert body["object"] == "looks"
    assert body["words"] == ["The", " circle", " is", " red,", " 원은", " 빨간색."]
    spans = word_spans(found.tokens)
    assert len(body["pictures"]) == 2
    for given, views in zip(body["pictures"], found.images, strict=True):
        for view, seen in zip(given["views"], views, strict=True):
            assert (view["rows"], view["columns"], view["box"]) == (2, 2, [0, 0, 1, 1])
            for (begin, end), weights in zip(spans, view["weights"], strict=True):
                wanted = seen.weights[begin:end].mean(dim=0).flatten().tolist()
                assert weights == pytest.approx(wanted, rel=1e-2)


def test_a_letter_of_several_tokens_belongs_to_its_word() -> None:
    assert word_spans(("It", " is", "", "", " 빨", "간", ".")) == [(0, 1), (1, 2), (2, 7)]
    assert word_spans(("", "가", "\n", "- a", " ", "b")) == [(0, 2), (2, 4), (4, 6)]
    assert word_spans((" ", "a")) == [(0, 2)]


@pytest.mark.parametrize(
    ("changes", "status", "code", "param"),
    [
        ({"answer": ...}, 400, "invalid_value", "answer"),
        ({"answer": ""}, 400, "invalid_value", "answer"),
        ({"answer": " \n "}, 400, "invalid_value", "messages"),
        ({"answer": 5}, 400, "invalid_value", "answer"),
        ({"messages": question("What is it?")}, 400, "invalid_value", "messages"),
        ({"messages": [{"role": "assistant", "content": "hm"}]}, 400, "invalid_value", "messages"),
        ({"messages": []}, 400, "invalid_value", "messages"),
        ({"messages": question("?", "data:image/png;base64,AAAA")}, 400, "invalid_image", None),
        ({"messages": question("?", "http://169.254.169.254/")}, 400, "invalid_image", None),
        ({"model": "another"}, 404, "model_not_found", "model"),
        ({"answer": "word " * 3000}, 400, "context_length_exceeded", "messages"),
        ({"answer": "a" * 1_000_001}, 400, "invalid_value", "messages"),
    ],
)  # fmt: skip
def test_what_is_refused(served: Running, changes: dict[str, Any], status: int, code: str, param: str | None) -> None:
    response = ask(served, **changes)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert error["param"] == (param or "messages[0].content[0].image_url.url")
    assert not served.service.active


def test_a_large_reply_is_sent_in_parts(served: Running) -> None:
    """No part is longer than a word's weights, and none is written in the event loop."""
    seen = ViewAttention(View(40, 50, torch.arange(2000), (0, 0, 1, 1)), torch.rand(400, 40, 50))
    found = AttentionMaps(tuple(f" w{k}" for k in range(400)), ((seen,),))
    parts = list(reply_parts("tiny", found))
    assert sum(map(len, parts)) > 4_000_000
    assert max(map(len, parts)) < 20_000
    body = json.loads(b"".join(parts))
    (view,) = body["pictures"][0]["views"]
    assert len(body["words"]) == len(view["weights"]) == 400
    assert view["weights"][7] == pytest.approx(seen.weights[7].flatten().tolist(), rel=1e-2)
    response = ask(served)
    assert response.headers["content-type"] == "application/json"
    assert len(response.content) == int(response.headers["content-length"])


def test_more_weights_than_are_given_are_refused(served: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vistune.serving.api.attention_maps.MAX_WEIGHTS", 40)
    assert ask(served, answer="red").status_code == 200
    error = ask(served).json()["error"]
    assert (error["code"], error["param"]) == ("invalid_value", "answer")
    assert "4 patches" in error["message"]


def test_a_look_is_given_while_the_engine_stands_still(served: Running) -> None:
    with Gate(served):
        chat = threading.Thread(target=served.ask)
        chat.start()
        until(lambda: bool(served.service.engine.running))
        assert ask(served).status_code == 200
    chat.join()
    until(served.idle)


def test_it_takes_a_place_and_waits_no_longer_than_an_answer(bench: Bench) -> None:
    with running(bench, limits=Limits(slots=1, queue=0, answer_seconds=0.3)) as found:
        held = threading.Event()
        found.service.attention_thread.submit(held.wait)  # whoever looks first
        response: list[httpx2.Response] = []
        first = threading.Thread(target=lambda: response.append(ask(found)))
        first.start()
        until(lambda: bool(found.service.active))
        try:
            assert ask(found).json()["error"]["code"] == "queue_full"
            assert found.ask().status_code == 429
            first.join()
        finally:
            held.set()
        assert response[0].status_code == 504
        assert response[0].json()["error"]["code"] == "timeout"
        until(found.idle)
        found.service.is_draining = True
        assert ask(found).json()["error"]["code"] == "shutting_down"

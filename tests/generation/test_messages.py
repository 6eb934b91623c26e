"""Conversations as clients send them become turns that every template renders, and nothing in them is lost."""

from __future__ import annotations

import logging
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from reference import Bench, image
from tokenizers import AddedToken

from vistune.errors import DataError
from vistune.generation import Assistant, alternate_turns, read_messages
from vistune.processor import Processor, templates
from vistune.types import ImageRef, Message

U, A, S = "user", "assistant", "system"
CHATML = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def said(*turns: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in turns]


def read(*turns: tuple[str, Any]) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in read_messages(said(*turns))]


def test_neighbours_of_one_role_are_joined_with_an_empty_line() -> None:
    assert read((U, "a"), (U, "b"), (A, "c"), (A, "d"), (U, "e")) == [(U, "a\n\nb"), (A, "c\n\nd"), (U, "e")]
    assert read((U, ""), (U, "b"), (U, " ")) == [(U, "b ")]


def test_system_and_developer_messages_are_joined_at_the_front() -> None:
    assert read((S, "a"), ("developer", "b"), (U, "c"), (A, "d"), (S, "e"), (U, "f")) == [
        (S, "a\n\nb\n\ne"),
        (U, "c"),
        (A, "d"),
        (U, "f"),
    ]
    assert read((U, "a"), (S, "")) == [(S, ""), (U, "a")], "an empty one replaces the template's own"


def test_an_assistant_that_speaks_first_answers_an_empty_message() -> None:
    assert read((S, "a"), (A, "Hello!"), (U, "b")) == [(S, "a"), (U, ""), (A, "Hello!"), (U, "b")]
    assert read((A, None), (U, "b")) == [(U, "b")], "it said nothing"


@pytest.mark.parametrize("empty", [None, [], "", ...])
def test_an_answer_without_content_is_empty(empty: Any) -> None:
    message = {"role": A} if empty is ... else {"role": A, "content": empty}
    assert [m.text for m in read_messages([*said((U, "a")), message, *said((U, "b"))])] == ["a", "", "b"]
    parts = [{"type": "refusal", "refusal": "I cannot"}]
    for refusing in ({**message, "refusal": "I cannot"}, {"role": A, "content": parts}):
        assert read_messages([*said((U, "a")), refusing])[1].text == "I cannot"


def test_images_of_joined_messages_keep_their_order() -> None:
    first, second, third = (Image.new("RGB", (4, 4), colour) for colour in ("red", "green", "blue"))

    def part(image: Image.Image) -> dict[str, Any]:
        return {"type": "image", "image": image}

    text = {"type": "text", "text": "b"}
    (message,) = read_messages(said((U, "a"), (U, [part(first), text, part(second)]), (U, [part(third)]), (U, "c")))
    assert [p if isinstance(p, str) else p.source for p in message.parts] == [
        "a", "\n\n", first, "b", second, third, "\n\n", "c",
    ]  # fmt: skip


turns = st.lists(st.tuples(st.sampled_from([U, A, S, "developer"]), st.sampled_from(["", "x", "yes\n", " "])))


@given(turns)
def test_any_order_of_roles_is_put_in_turns_and_keeps_every_text(given_turns: list[tuple[str, str]]) -> None:
    found = read_messages(said(*given_turns))
    roles = [message.role for message in found]
    assert S not in roles[1:]
    spoken = [role for role in roles if role != S]
    assert spoken == [A if k % 2 else U for k in range(len(spoken))]
    for role in (U, A, S):
        sent = "".join(text for name, text in given_turns if (S if name == "developer" else name) == role)
        kept = "".join(message.text for message in found if message.role == role)
        assert "".join(kept.split()) == "".join(sent.split())
    assert alternate_turns(found) == found, "what is in turns stays as it is"


@pytest.fixture(scope="module")
def bench(make_bench: Callable[[str], Bench]) -> Bench:
    return make_bench("grouped heads")


@pytest.fixture(scope="module")
def assistant(bench: Bench) -> Assistant:
    return Assistant(bench.model, bench.processor)


@pytest.mark.parametrize("template", [*sorted(set(templates()) - {"plain"}), "tokenizer"])
def test_every_template_renders_joined_messages_as_one(template: str, bench: Bench) -> None:
    tokenizer = deepcopy(bench.processor.tokenizer)
    controls = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in controls], special_tokens=True)
    tokenizer.chat_template = CHATML
    processor = Processor(tokenizer, replace(bench.processor.spec, template=template))

    def ids(*turns: tuple[str, Any]) -> list[int]:
        found: list[int] = processor.encode_prompt(read_messages(said(*turns))).input_ids.tolist()
        return found

    assert ids((U, "a"), (U, "b")) == ids((U, "a\n\nb"))
    assert ids((S, "a"), (U, "b"), (S, "c")) == ids((S, "a\n\nc"), (U, "b"))
    assert ids((U, "a"), (A, "b"), (A, "c"), (U, "d")) == ids((U, "a"), (A, "b\n\nc"), (U, "d"))
    greeted = processor.tokenizer.decode(ids((A, "Hello there"), (U, "What is it?")))
    assert 0 < greeted.index("Hello there") < greeted.index("What is it?")
    part = {"type": "image", "image": image(0)}
    for conversation in (
        ((U, [part]), (U, "What is it?")),
        ((A, "Hello there"), (U, [part, {"type": "text", "text": "What is it?"}])),
        ((U, "a"), (A, None), (U, "b")),
    ):
        assert ids(*conversation)


def test_chat_stream_and_encode_read_messages_alike(assistant: Assistant) -> None:
    apart, joined = said((S, "a"), (U, "b"), (U, "c"), (S, "d")), said((S, "a\n\nd"), (U, "b\n\nc"))
    assert assistant.chat(apart, max_tokens=8) == assistant.chat(joined, max_tokens=8)
    assert "".join(assistant.stream(None, apart, max_tokens=8)) == assistant.chat(joined, max_tokens=8).text
    assert assistant.encode(apart).input_ids.tolist() == assistant.encode(joined).input_ids.tolist()
    ours = [Message(U, ("b",)), Message(U, ("c",))]
    assert assistant.chat(ours, max_tokens=8) == assistant.chat(said((U, "b\n\nc")), max_tokens=8)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        (said((U, "a"), (A, "b")), "messages: the last message is the assistant's"),
        (said((S, "a")), "messages: there is no message of the user"),
        ([], "messages: there is no message of the user"),
        (["a"], "messages[0]: must be an object"),
        ([{"role": U}], "messages[0].content: missing; give text"),
        (said((U, None)), "messages[0].content: null; give text"),
        (said((U, {"type": "text"})), "messages[0].content: must be text, or a list"),
        (said(("tool", "a")), "messages[0].role: 'tool' is not supported; this server calls no tools"),
        (said(("gpt", "a")), "messages[0].role: 'gpt' is not supported; write \"assistant\""),
        (said(("nobody", "a")), "messages[0].role: must be system, developer, user or assistant"),
        (said((U, [{"type": "input_text", "text": "a"}])), "content[0].type: 'input_text' is not supported; send"),
        (said((U, [{"type": "image", "image": 5}])), "content[0].image: must be a path, a data: URL or a PIL image"),
        (said((U, [{"type": "image", "url": "a.jpg"}])), "content[0].image: missing"),
        (said((U, [{"text": "a"}])), 'content[0].type: missing; give "text", "image" or "image_url"'),
        (
            said((U, [{"type": "image_url", "image_url": {"url": "a.jpg"}}])),
            'image_url.url: a path; give a file as {"type": "image"',
        ),
        (
            said((U, [{"type": "image_url", "image_url": "https://example.org/a.jpg"}])),
            "image_url.url: a link, and links are not fetched here; download it",
        ),
        (
            [{"role": A, "tool_calls": [{"id": "1"}]}],
            "messages[0].tool_calls: not supported; this server calls no tools",
        ),
        ([{"role": U, "content": "a", "images": ["b"]}], "messages[0].images: not supported; put each image into"),
        (
            said((U, [{"type": "text", "text": "a", "image": "b.jpg"}])),
            "content[0].image: not supported; put each image",
        ),
        (said((U, [{"type": "image", "image": "a.jpg", "text": "b"}])), "content[0].text: not supported; put the text"),
        (said((U, "a"), (A, [{"type": "image", "image": "a.jpg"}])), "messages[1].content: an image in a message of"),
    ],
)
def test_what_cannot_be_read_is_named_with_what_to_do(messages: Any, words: str, assistant: Assistant) -> None:
    with pytest.raises(DataError) as caught:
        assistant.chat(messages)
    assert words in f"{caught.value.message}; {caught.value.hint}"


def test_fields_that_are_not_used_are_named_once_in_the_log(
    assistant: Assistant, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "vistune")
    part = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}, "id": "lc_1"}
    history = {"role": A, "content": "b", "reasoning_content": "c", "tool_calls": None, "annotations": []}
    assistant.chat([{"role": U, "content": [part, part], "name": "me"}, history, *said((U, "d"))], max_tokens=1)
    (record,) = [record for record in caplog.records if record.name.startswith("vistune")]
    for path in (
        "messages[].name", "messages[].content[].cache_control", "messages[].content[].id",
        "messages[].reasoning_content", "messages[].annotations",
    ):  # fmt: skip
        assert record.getMessage().count(path) == 1
    assert "tool_calls" not in record.getMessage(), "null asks for nothing"
    caplog.clear()
    assistant.chat(said((U, "a")), max_tokens=1)
    assert not caplog.records


def test_a_file_is_an_image_part_in_python(assistant: Assistant, tmp_path: Path) -> None:
    image(1).save(tmp_path / "a.png")
    part = {"type": "image", "image": str(tmp_path / "a.png")}
    (message,) = read_messages(said((U, (part, {"type": "text", "text": "What?"}))))
    assert message.parts == (ImageRef(tmp_path / "a.png"), "What?")


def test_the_clients_own_message_objects_are_read() -> None:
    from openai.types.chat import ChatCompletionMessage

    answer = ChatCompletionMessage(role="assistant", content="b")
    assert [message.text for message in read_messages([*said((U, "a")), answer, *said((U, "c"))])] == ["a", "b", "c"]

"""Thoughts, wrappers and streams are removed from replies; a text without them stays unchanged."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_teacher import completion, says, streamed
from hypothesis import given, settings
from hypothesis import strategies as st

from vistune.llm_client import leftover_tag, read_completion, remove_thoughts, unwrap_reply
from vistune.llm_client.replies import assemble, is_stream

TEXT = "A dog runs on the beach."
THOUGHTS = [
    f"<think>The caption says beach.</think>{TEXT}",
    f"<think></think>{TEXT}",
    f"<think>\n\n</think>\n\n{TEXT}",
    f"The user wants a caption. So:\n</think>\n{TEXT}",
    f"<think>I must not write <think> in it.</think>{TEXT}",
    f"<thinking><reflection>hm</reflection> well</thinking>{TEXT}",
    f"<THINK>x</THINK> {TEXT}",
    f'<think time="3">x</think>{TEXT}',
    f"<thought>x</thought>{TEXT}",
    f"◁think▷x◁/think▷{TEXT}",
    f"x◁/think▷{TEXT}",
    f"<reasoning>x</reasoning>\n{TEXT}\n<reflection>good</reflection>",
    f"[THINK]x[/THINK]{TEXT}",
    f"&lt;think&gt;x&lt;/think&gt;{TEXT}",
    f"<|thinking|>x<|/thinking|>{TEXT}",
    f"<seed:think>x</seed:think>{TEXT}",
    f"<|begin_of_thought|>x<|end_of_thought|>{TEXT}",
    f"<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>final<|message|>{TEXT}<|return|>",
    f"<|channel|>final<|message|>{TEXT}",
    f"analysisThe caption says beach.assistantfinal{TEXT}",
    f'<details type="reasoning" done="true"><summary>x</summary>y</details>{TEXT}',
]


@pytest.mark.parametrize("reply", THOUGHTS)
def test_a_thought_is_removed_and_the_text_stays(reply: str) -> None:
    cleaned = remove_thoughts(reply)
    assert cleaned is not None
    assert cleaned.strip() == TEXT


@pytest.mark.parametrize(
    "reply", [f"<think>{TEXT}", f"{TEXT}<thinking>but", "<|channel|>analysis<|message|>x", "◁think▷x", "[THINK]x"]
)
def test_a_thought_that_does_not_end_leaves_no_text(reply: str) -> None:
    assert remove_thoughts(reply) is None


MARKS = [
    *("<think>", "</think>", "<thinking>", "</thinking>", "◁think▷", "◁/think▷", "[THINK]", "[/THINK]", "<thi", "nk>"),
    *("<|channel|>", "analysis", "final", "<|message|>", "<|end|>", "assistantfinal", "text", " ", "\n", "<"),
    *("<answer>", "</answer>", '"', "```", "Description:", '<details type="reasoning">', "</details>"),
]


@settings(max_examples=500, deadline=None)
@given(text=st.text() | st.lists(st.sampled_from(MARKS), max_size=14).map("".join))
def test_removing_thoughts_and_wrappers_twice_is_removing_them_once(text: str) -> None:
    cleaned = remove_thoughts(text)
    if cleaned is not None:
        assert remove_thoughts(cleaned) == cleaned
        assert len(cleaned) <= len(text)
    for single in (False, True):
        bare = unwrap_reply(text, single=single)
        if bare is not None:
            assert unwrap_reply(bare, single=single) == bare


@settings(max_examples=500, deadline=None)
@given(text=st.text(alphabet=st.characters(exclude_characters="<[◁>▷]")))
def test_a_text_without_tags_is_left_as_it_is(text: str) -> None:
    assert remove_thoughts(text) == text or "assistantfinal" in text
    assert not leftover_tag(text)


WRAPPED = [
    f"<answer>{TEXT}</answer>",
    f"<think>x</think>\n<answer>\n{TEXT}\n</answer>\n",
    f"<output>{TEXT}</output>",
    f"<response>{TEXT}</response>",
    f"<final_answer>{TEXT}</final_answer>",
    f"<|begin_of_box|>{TEXT}<|end_of_box|>",
    f"**Description:** {TEXT}",
    f"**Description**: {TEXT}",
    f"**Description:**\n\n{TEXT}",
    f"Description: {TEXT}",
    f"### Description\n{TEXT}",
    f"**Detailed Description**\n\n{TEXT}",
    f"Answer: {TEXT}",
    f"설명: {TEXT}",
    f"**답변:** {TEXT}",
    f'"{TEXT}"',
    f"“{TEXT}”",
    f"'{TEXT}'",
    f"‘{TEXT}’",
    f"«{TEXT}»",
    f"„{TEXT}“",
    f"「{TEXT}」",
    f"『{TEXT}』",
    f"`{TEXT}`",
    f"**{TEXT}**",
    f'"{TEXT[:-1]}".',
    f"<p>{TEXT}</p>",
    f"<detailed_description>{TEXT}</detailed_description>",
    f"\\boxed{{{TEXT}}}",
    f"---\n\n{TEXT}\n\n---",
    f"```\n{TEXT}\n```",
    f"```markdown\n{TEXT}\n```",
    f'<answer>**Description:** "{TEXT}"</answer>',
    f"```text\n<answer>{TEXT}</answer>\n```",
]


@pytest.mark.parametrize("reply", WRAPPED)
def test_what_is_around_the_whole_is_removed(reply: str) -> None:
    assert unwrap_reply(reply, single=True) == TEXT


@pytest.mark.parametrize(
    "text",
    [
        '"Stop" is written on the sign, and the other one says "Go"',
        'A sign says "Stop".',
        "The answer to the riddle is painted: 5 < 6 and 7 > 3.",
        "The dog's ball is the dogs' ball.",
        "“Stop” says one sign, the other says “Go”",
        "**Left:** a dog. **Right:** a cat.",
        "The description on the plate: a lion.",
        "A woman answers: yes.",
        "Description of a lion in Latin covers the plate.",
        "A page shows `<div>` and </div> on a screen.",
        "- A dog\n- A cat",
        "I <3 dogs is on the shirt; 1<2.",
        "설명서가 놓인 책상 위에 컵이 있습니다.",
    ],
)
def test_a_good_text_is_left_as_it_is(text: str) -> None:
    assert unwrap_reply(text, single=True) == text
    assert not leftover_tag(text)


def test_quotation_marks_within_quotation_marks_stay() -> None:
    assert unwrap_reply('"A sign says "STOP" near a dog."', single=True) == 'A sign says "STOP" near a dog.'
    assert unwrap_reply("Description: **A dog** runs.", single=True) == "**A dog** runs."


def test_labels_and_quotation_marks_of_questions_and_answers_stay() -> None:
    talk = 'Question:\nWhat?\n===\nAnswer:\n"Stop"'
    assert unwrap_reply(talk, single=False) == talk
    assert unwrap_reply(f"<think>x</think>```\n{talk}\n```", single=False) == talk


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("A dog. </answer>", "</answer>"),
        ("<answer>A dog.", "<answer>"),
        ("Well. <answer>A dog.</answer>", "</answer>"),
        ("A <rubric>dog</rubric>", "</rubric>"),
        ("It is <|begin_of_box|>3<|end_of_box|>.", "<|begin_of_box|>"),
        ("A dog ◁x▷", "◁x▷"),
        ("A dog [/THINK]", "[/THINK]"),
    ],
)
def test_a_tag_that_is_left_is_found(text: str, tag: str) -> None:
    assert leftover_tag(text) == tag


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": TEXT}], TEXT),
        ([{"type": "reasoning", "text": "hm"}, {"type": "output_text", "text": TEXT}], TEXT),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": TEXT}], TEXT),
        ([{"type": "text", "text": "A dog runs "}, {"type": "text", "text": "on the beach."}], TEXT),
        ([{"type": "text", "text": "hm", "thought": True}, {"type": "text", "text": TEXT}], TEXT),
        ([{"type": "thinking", "thinking": "hm"}], None),
        ([], None),
        ([{"type": "text"}, "x", 3, None], None),
    ],
)
def test_the_text_parts_of_a_content_are_joined(content: Any, text: str | None) -> None:
    assert read_completion(completion(content).decode()).text == text


@pytest.mark.parametrize("content", ["", None])
@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thoughts_without_an_answer_say_so(content: Any, field: str) -> None:
    tree = json.loads(says(content, **{field: "hm"}))
    assert read_completion(json.dumps(tree)).detail == "the reply has thoughts and no answer"
    tree["choices"][0]["finish_reason"] = "length"
    read = read_completion(json.dumps(tree))
    assert (read.fault, read.text) == ("cut_off", None)
    assert "cut off while thinking: raise --max-tokens, or --extra-body" in read.detail


def test_hidden_thoughts_that_took_all_tokens_say_so() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 96, "completion_tokens_details": {"reasoning_tokens": 96}}
    read = read_completion(completion("", finish_reason="length", usage=usage).decode())
    assert "cut off while thinking" in read.detail
    within = read_completion(completion("<think>The user", finish_reason="length").decode())
    assert "cut off while thinking" in within.detail
    half = read_completion(completion("<think>x</think>A dog", finish_reason="length").decode())
    assert "cut off after 120 tokens" in half.detail


@pytest.mark.parametrize("usage", [True, False])
@pytest.mark.parametrize("done", [True, False])
def test_a_stream_is_the_completion_that_it_would_have_been(usage: bool, done: bool) -> None:
    whole = says(TEXT, reasoning_content="The caption says beach.")
    text = (streamed(whole, usage=usage, done=done).body or b"").decode()
    assert is_stream("", text)
    body, ended = assemble(text)
    assert ended is done
    tree, wanted = json.loads(body), json.loads(whole)
    assert tree["choices"][0]["message"] == wanted["choices"][0]["message"]
    assert tree.get("usage") == (wanted["usage"] if usage else None)
    assert tree["model"] == wanted["model"]


def test_parts_of_a_stream_are_joined_and_its_error_is_found() -> None:
    parts = [[{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}], "A dog runs ", "on the beach."]
    chunks = [{"model": "m", "choices": [{"index": 0, "delta": {"content": part}}]} for part in parts]
    lines = [f"data:{json.dumps(chunk)}\r\n\r\n" for chunk in chunks]
    body, ended = assemble("".join(lines) + "data: [DONE]\r\n\r\n")
    assert ended
    assert read_completion(body).text == TEXT
    body, _ = assemble("".join(lines) + 'data: {"error": {"code": 429, "message": "slow"}}\n\n')
    assert json.loads(body) == {"error": {"code": 429, "message": "slow"}}
    assert assemble('{"choices": []}') == ('{"choices": []}', True)


@settings(max_examples=300, deadline=None)
@given(
    text=st.text()
    | st.lists(st.sampled_from(["data: ", "{}", "[DONE]", "\n", '{"choices": [{"delta": {}}]}'])).map("".join)
)
def test_no_stream_raises(text: str) -> None:
    body, _ = assemble(text)
    read_completion(body)


def chunk(content: object, **more: object) -> str:
    return f"data: {json.dumps({'model': 'm', 'choices': [{'index': 0, 'delta': {'content': content}, **more}]})}\n\n"


UNREADABLE = {
    "half a chunk": 'data: {"choices": [{"delta": {"content": "bus \n\n',
    "no object": 'data: ["bus "]\n\n',
    "a text": "data: bus\n\n",
    "a half and a newline": 'data: {"choices": [{"delta":\n{"content": "bus "}}]}x\n\n',
    "a choice that is a text": 'data: {"choices": ["bus "]}\n\n',
    "choices that are an object": 'data: {"choices": {"delta": {"content": "bus "}}}\n\n',
    "a delta that is a text": 'data: {"choices": [{"delta": "bus "}]}\n\n',
    "a content that is a number": chunk(5),
}


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize("end", ["data: [DONE]\n\n", chunk("", finish_reason="stop")])
def test_a_stream_with_a_chunk_that_cannot_be_read_is_not_whole(name: str, end: str) -> None:
    body, ended = assemble(chunk("A red ") + UNREADABLE[name] + chunk("runs.") + end)
    assert not ended, body
    _, ended = assemble(chunk("A red ") + chunk("runs.") + UNREADABLE[name] + end)
    assert not ended


def test_comments_and_empty_data_of_a_stream_are_no_chunks() -> None:
    between = ': keep-alive\n\ndata:\n\ndata: \n\nid: 5\nretry: 10\n\nevent: ping\n\ndata: {"choices": []}\n\n'
    usage = 'data: {"choices": null, "usage": {"prompt_tokens": 4, "completion_tokens": 2}}\n\n'
    last = 'data: {"choices": [{"index": 0, "delta": null, "finish_reason": "stop"}]}\n\n'
    body, ended = assemble(between + chunk("A red ") + between + chunk("ball.") + last + usage + "data: [DONE]\n\n")
    assert ended
    assert (read_completion(body).text, read_completion(body).prompt_tokens) == ("A red ball.", 4)


def test_an_error_in_a_stream_counts_after_a_chunk_that_cannot_be_read_and_as_plain_text() -> None:
    body, _ = assemble(chunk("A ") + 'data: {"cho\n\ndata: {"error": {"message": "slow"}}\n\n')
    assert json.loads(body) == {"error": {"message": "slow"}}
    body, _ = assemble(chunk("A ") + "event: error\ndata: overloaded\n\n" + "data: [DONE]\n\n")
    assert json.loads(body) == {"error": {"message": "overloaded"}}

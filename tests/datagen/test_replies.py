"""Handwritten replies as teachers write them, each with the failures that a careful reader finds in it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from vistune.datagen.checks import CHECKS, Candidate, check_reply, run_checks
from vistune.types import AnnotatedImage, Box

TREE = json.loads((Path(__file__).parent / "replies.json").read_text(encoding="utf-8"))
REPLIES: list[dict[str, Any]] = TREE["replies"]
CODES = {*CHECKS, "shape", "turn_order"}


def image(name: str) -> AnnotatedImage:
    """Return a made-up image of the fixture; it has no file."""
    tree = TREE["pictures"][name]
    boxes = tuple(Box(label, *corners) for label, *corners in tree["boxes"])
    return AnnotatedImage(name, Path(f"{name}.jpg"), tuple(tree["captions"]), boxes, tuple(tree.get("crowds", ())))


def readable(number: int, reply: dict[str, Any]) -> str:
    return "-".join(
        [f"{number:03}", *(reply["faults"] or ["good"]), *(reply[k] for k in ("language", "kind", "picture"))]
    )


@pytest.mark.parametrize("reply", [pytest.param(reply, id=readable(k, reply)) for k, reply in enumerate(REPLIES)])
def test_faults_are_those_a_careful_reader_finds(reply: dict[str, Any]) -> None:
    failures = check_reply(reply["reply"], image(reply["picture"]), reply["kind"], reply["language"]).failures
    assert {failure.code for failure in failures} == set(reply["faults"]), failures


STATEMENTS = [
    ("farm", "en", "", "The farmer leads two horses to the barn.", ""),
    ("farm", "en", "", "A bicycle leans against the fence.", "ungrounded_object"),
    ("farm", "en", "", "There isn't a bicycle, a car or a bus anywhere near the fence.", ""),
    (
        "farm",
        "en",
        "What would make the scene safer?",
        "A taller fence would keep the horses in. Cars passing by could frighten them.",
        "",
    ),
    ("farm", "en", "", "The dog is on the right of the farmer.", "position"),
    ("farm", "en", "", "The dog is to the right of the horses, and the farmer is on the right.", ""),
    ("farm", "en", "", "The truck sits above the dog.", ""),
    ("farm", "en", "", "To the left of the farmer there is a dog.", ""),
    ("farm", "en", "", "To the right of the farmer walks a dog.", "position"),
    ("farm", "en", "What is to the left of the dog?", "The truck.", ""),
    ("farm", "en", "What is to the left of the truck?", "The dog.", "position"),
    ("farm", "en", "", "There is only one horse in the picture.", "count"),
    ("farm", "en", "", "There are two people in the picture.", "count"),
    ("farm", "en", "Is there a bus?", "Yes, there is.", "ungrounded_object"),
    ("farm", "en", "Could a cat live here?", "Yes, cats are common on farms.", ""),
    ("farm", "en", "How many dogs are there?", "One.", ""),
    ("farm", "en", "How many dogs are there?", "Two dogs.", "count"),
    ("farm", "en", "", "The white horse has turned its head to the left.", ""),
    (
        "bedroom",
        "en",
        "",
        "The boy is reading like a person who has forgotten the time. A dog would not disturb him.",
        "",
    ),
    ("bedroom", "en", "", "A laptop lies open next to the boy.", "ungrounded_object"),
    ("bedroom", "en", "", "Instead of a laptop, the boy has a book.", ""),
    ("bedroom", "en", "", "The boy wears pyjamas with a pattern of small boats.", ""),
    ("desk", "en", "", "The keyboard of the laptop is black.", ""),
    (
        "desk",
        "en",
        "",
        "The desk is ready for someone to sit down and work. A man is leaning over the laptop.",
        "ungrounded_object",
    ),
    ("farm", "ko", "", "농부가 자전거를 울타리에 세워 두었습니다.", "ungrounded_object"),
    ("farm", "ko", "", "농부는 말을 하지 않고 걷습니다.", ""),
    ("farm", "ko", "", "사람 두 명이 울타리 곁에 있습니다.", "count"),
    ("farm", "ko", "", "개는 사람의 오른쪽에 있습니다.", "position"),
    ("farm", "ko", "", "사람 왼쪽에 개가 있습니다.", ""),
    ("farm", "ko", "", "사람 오른쪽에는 개가 있습니다.", "position"),
    ("farm", "ko", "", "트럭은 사진 오른쪽에 있습니다.", "position"),
    ("farm", "ko", "버스도 있나요?", "네, 있습니다.", "ungrounded_object"),
    ("farm", "ko", "고양이는 어디에 있나요?", "헛간 앞에 있습니다.", "ungrounded_object"),
    ("farm", "ko", "", "말을 돌보려면 시간이 많이 필요합니다. 자동차가 지나가면 놀랄 수 있습니다.", ""),
    ("bedroom", "ko", "", "아이는 책을 읽으면서 컵을 들고 있습니다. 텔레비전은 꺼져 있습니다.", "ungrounded_object"),
    ("bedroom", "ko", "", "침대 위에 아이가 앉아 있습니다.", ""),
    ("bedroom", "ko", "", "새 이불이 깔려 있고 방은 조용합니다.", ""),
    ("sofa", "ko", "", "사진에는 고양이 한 마리만 있습니다.", "count"),
    ("sofa", "ko", "", "검은 고양이 한 마리와 흰 고양이 한 마리가 있습니다.", ""),
    ("street", "ko", "", "버스 한 대가 사람 세 명 옆을 지나갑니다.", ""),
]


@pytest.mark.parametrize(("name", "language", "question", "answer", "failure"), STATEMENTS)
def test_one_claim_about_an_image(name: str, language: str, question: str, answer: str, failure: str) -> None:
    failures = run_checks(Candidate(image(name), "conversation", language, ((question, answer),)))
    assert [found.code for found in failures] == ([failure] if failure else []), failures


DETAIL = (
    "A dog with a red ball runs along the wide beach while the waves roll in, and its wet footprints shine in the "
    "evening light behind it."
)
TALK = "Question:\nWhat is it doing?\n===\nAnswer:\nIt runs along the beach."
QUESTION = "Question:\nWhy is it wet?\n===\nAnswer:\nIt has run through the waves, since its footprints are wet too."
ANSWERS = {"detail": DETAIL, "caption": "A dog runs along the beach.", "conversation": TALK, "reasoning": QUESTION}
WRAPPERS: dict[str, str] = {
    "a thought": "<think>I look at the sentences.</think>{}",
    "an empty thought": "<think>\n\n</think>\n\n{}",
    "the end of a thought": "I look at the captions first.\n</think>\n\n{}",
    "thinking": "<thinking>I cannot see the image, but well.</thinking>\n{}",
    "Kimi": "◁think▷boxes: [0.1, 0.2]◁/think▷{}",
    "gpt-oss": "<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>final<|message|>{}<|return|>",
    "reasoning": "<reasoning>x</reasoning>{}",
    "Magistral": "[THINK]x[/THINK]{}",
    "answer": "<answer>{}</answer>",
    "a thought and an answer": "<think>x</think>\n<answer>\n{}\n</answer>",
    "GLM": "<think>x</think><|begin_of_box|>{}<|end_of_box|>",
    "a fence": "```\n{}\n```",
    "a thought and a fence": "<think>x</think>\n\n```text\n{}\n```\n",
}
OF_ONE_TEXT: dict[str, str] = {
    "a label": "**Description:** {}",
    "a Korean label": "설명: {}",
    "quotation marks": '"{}"',
    "curled ones": "“{}”",
    "JSON": '{{"description": "{}"}}',
    "JSON, a caption": '{{"caption": "{}"}}',
    "JSON, an answer": '{{"answer": "{}"}}',
    "JSON in a fence": '```json\n{{\n  "description": "{}"\n}}\n```',
    "JSON with a thought": '{{"thinking": "the captions say so", "description": "{}"}}',
    "JSON after a thought": '<think>x</think>{{"description": "{}",}}',
    "a thought within JSON": '{{"description": "<think>x</think>{}"}}',
    "a list of one": '[{{"description": "{}"}}]',
}


CASES = [(kind, form) for kind in ANSWERS for form in WRAPPERS]
CASES += [(kind, form) for kind in ("detail", "caption") for form in OF_ONE_TEXT]  # in answers they are text


@pytest.mark.parametrize(("kind", "form"), CASES)
def test_samples_have_no_thoughts_and_no_wrappers(kind: str, form: str) -> None:
    image = AnnotatedImage("1", Path("1.jpg"), ("A dog with a ball on a beach.",), (Box("dog", 0.1, 0.1, 0.5, 0.5),))
    checked = check_reply(ANSWERS[kind], image, kind, "en")
    plain, failures = checked.turns, checked.failures
    assert plain
    assert not failures
    checked = check_reply((WRAPPERS | OF_ONE_TEXT)[form].format(ANSWERS[kind]), image, kind, "en")
    turns, failures = checked.turns, checked.failures
    assert not failures, failures
    assert turns == plain


@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize(
    "form",
    [
        "<think>{}",
        "{}<thinking>hm",
        "{}</answer>",
        "<answer>{}",
        "<rubric>{}</rubric>",
        "<think>{}</think>",
        "◁think▷{}",
    ],
)
def test_a_thought_without_end_or_a_tag_that_is_left_rejects_the_reply(kind: str, form: str) -> None:
    image = AnnotatedImage("1", Path("1.jpg"), ("A dog with a ball on a beach.",), (Box("dog", 0.1, 0.1, 0.5, 0.5),))
    checked = check_reply(form.format(ANSWERS[kind]), image, kind, "en")
    turns, failures = checked.turns, checked.failures
    assert turns == ()
    assert [failure.code for failure in failures] == ["thinking"]


LABELLED = ["**Thinking:** a beach.\n\n**Description:** {}", "Thought: hm\n{}", "A beach.\nFinal answer: {}"]


@pytest.mark.parametrize("form", LABELLED)
def test_a_thought_under_a_label_rejects_a_single_text(form: str) -> None:
    image = AnnotatedImage("1", Path("1.jpg"), ("A dog with a ball on a beach.",), (Box("dog", 0.1, 0.1, 0.5, 0.5),))
    checked = check_reply(form.format(DETAIL), image, "detail", "en")
    turns, failures = checked.turns, checked.failures
    assert turns == ()
    assert [failure.code for failure in failures] == ["thinking"]


PAIR = {"question": "What is it doing?", "answer": "It runs along the beach."}
MORE = {"question": "Where is it?", "answer": "It is on the beach."}
SPOKEN = [{"from": "human", "value": PAIR["question"]}, {"from": "gpt", "value": PAIR["answer"]}]
UNREAD: dict[str, Any] = {
    "explanation": [PAIR | {"explanation": "Its legs are in the air."}],
    "note": {"note": "The light is golden.", "conversation": [PAIR]},
    "summary": {"title": "A dog", "conversation": [PAIR], "summary": {"text": "It runs."}},
    "title": [PAIR | {"title": "A dog"}],
    "type": [PAIR | {"type": "The dog runs along the beach, and the waves behind it are as white as the clouds are."}],
    "id": [PAIR | {"id": [1, 2]}],
    "follow_ups": {**PAIR, "follow_ups": [MORE]},
    "q": [PAIR | {"q": "Where is it?"}],
    "content": [SPOKEN[0], SPOKEN[1] | {"content": "It jumps."}],
    "comment": [SPOKEN[0], SPOKEN[1] | {"comment": "It jumps."}],
}


def faults_of(reply: str) -> tuple[Any, list[tuple[str, str]]]:
    image = AnnotatedImage("1", Path("1.jpg"), ("A dog with a ball on a beach.",), (Box("dog", 0.1, 0.1, 0.5, 0.5),))
    checked = check_reply(reply, image, "conversation", "en")
    turns, failures = checked.turns, checked.failures
    return turns, [(failure.code, failure.detail) for failure in failures]


@pytest.mark.parametrize("name", UNREAD)
def test_a_field_that_the_sample_would_lose_rejects_the_reply_and_is_named(name: str) -> None:
    turns, [(code, detail)] = faults_of(json.dumps(UNREAD[name]))
    assert (turns, code) == ((), "shape")
    assert f"the field {name!r} next to questions and answers" in detail


@pytest.mark.parametrize(
    "reply",
    [
        '{"question": "What is it doing?", "answer": "It runs.", "question": "Where?", "answer": "On the beach."}',
        '[{"question": "What is it doing?", "Question": "Where is it?", "answer": "It runs along the beach."}]',
    ],
)
def test_a_field_twice_in_one_object_rejects_the_reply(reply: str) -> None:
    turns, [(code, detail)] = faults_of(reply)
    assert (turns, code) == ((), "shape")
    assert "the field 'question' occurs twice in one object" in detail


@pytest.mark.parametrize(
    "reply",
    [
        [PAIR],
        {"id": 7, "title": "A dog on a beach", "language": "en", "conversation": [PAIR | {"index": 1, "type": "what"}]},
        {"reasoning": "The captions say so.", "notes": None, "conversation": [PAIR | {"explanation": "", "tags": []}]},
        [PAIR | {"thinking": "The captions say so."}],
        {"image": "1.jpg", "conversations": SPOKEN},
        [SPOKEN[0] | {"turn": 1}, SPOKEN[1] | {"turn": 2}],
        {"질문": PAIR["question"], "답변": PAIR["answer"], "번호": 1},
    ],
)
def test_labels_thoughts_and_empty_fields_next_to_questions_and_answers_are_dropped(reply: Any) -> None:
    assert faults_of(json.dumps(reply, ensure_ascii=False)) == (((PAIR["question"], PAIR["answer"]),), [])


def test_there_are_enough_replies_of_each_sort() -> None:
    good = [reply["language"] for reply in REPLIES if not reply["faults"]]
    bad = [reply["language"] for reply in REPLIES if reply["faults"]]
    for half in (good, bad):
        assert len(half) >= 100
        assert half.count("ko") >= len(half) / 3
    times = Counter((code, reply["language"]) for reply in REPLIES for code in reply["faults"])
    assert {code for code, _ in times} == CODES
    assert all(times[code, language] >= 2 for code in CODES for language in ("en", "ko"))
    assert len({reply["reply"] for reply in REPLIES if reply["reply"].strip()}) >= len(REPLIES) - 2

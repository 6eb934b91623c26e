"""A teacher's reply as turns: the `Question / === / Answer` form or JSON, fenced or not.

text + kind -> ((question, answer), …), or ReplyFault with a reason code
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

Turns = tuple[tuple[str, str], ...]

_FENCE = re.compile(r"^\s*```[\w-]*\s*\n(.*?)\n?\s*```\s*$", re.DOTALL)
_MARK = re.compile(r"^\s*[*#\s]*(question|answer|질문|답변|답)[*\s]*(?:\d+)?[*\s]*[:：][*\s]*(.*)$", re.IGNORECASE)
_RULE = re.compile(r"^\s*={3,}\s*$")
_TRAILING_COMMA = re.compile(r",(\s*[\]}])")
_ROLES = {"question": "question", "질문": "question", "answer": "answer", "답변": "answer", "답": "answer"}
_FROM = {"human": "question", "user": "question", "gpt": "answer", "assistant": "answer"}
_PAIR_NAMES = (("question", "answer"), ("q", "a"), ("질문", "답변"), ("질문", "답"), ("instruction", "response"))


class ReplyFault(Exception):
    """The reply cannot be read as turns; `code` is the reason."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail


def parse_reply(text: str, kind: str, *, asked_here: bool = True) -> Turns:
    """The turns of a reply. `asked_here`: a detail or caption reply is the answer alone, its question is ours.

    Raises ReplyFault("shape" or "turn_order").
    """
    text = text.replace("\r\n", "\n").strip()
    if match := _FENCE.match(text):
        text = match.group(1).strip()
    if not text:
        raise ReplyFault("shape", "the reply is empty")
    spoken = _from_json(text) if text[0] in "[{" and _looks_like_json(text) else _from_lines(text)
    if kind in ("detail", "caption") and asked_here:
        if not spoken:
            return (("", text),)
        if len(spoken) == 1 and spoken[0][0] == "answer":
            return (("", spoken[0][1]),)
        raise ReplyFault("shape", "questions and answers where one text was asked for")
    turns = _paired(spoken)
    if kind != "conversation" and len(turns) != 1:
        raise ReplyFault("shape", f"{len(turns)} questions where one was asked for")
    return turns


def _looks_like_json(text: str) -> bool:
    return bool(re.match(r'[\[{]\s*(?:[\[{"]|\}|\])', text))


def _from_lines(text: str) -> list[tuple[str, str]]:
    """(role, text) by the markers; no markers: nothing. Words before the first marker are a fault."""
    spoken: list[tuple[str, list[str]]] = []
    lines = text.split("\n")
    marked = any(_MARK.match(line) for line in lines)
    for line in lines:
        if match := _MARK.match(line):
            spoken.append((_ROLES[match.group(1).lower()], [match.group(2)]))
        elif not _RULE.match(line) and spoken:
            spoken[-1][1].append(line)
        elif line.strip() and marked and not _RULE.match(line):
            raise ReplyFault("shape", f"words before the first question: {line.strip()[:60]!r}")
    return [(role, "\n".join(said).strip()) for role, said in spoken]


def _from_json(text: str) -> list[tuple[str, str]]:
    decoder = json.JSONDecoder()
    text = _TRAILING_COMMA.sub(r"\1", text)
    values: list[Any] = []
    position = 0
    try:
        while position < len(text):
            value, position = decoder.raw_decode(text, position)
            values += value if isinstance(value, list) else [value]
            while position < len(text) and text[position] in ", \t\r\n":
                position += 1
    except (ValueError, RecursionError) as error:
        raise ReplyFault("shape", f"JSON that cannot be read: {error}") from None
    if len(values) == 1 and isinstance(values[0], Mapping):
        inner = [item for item in values[0].values() if isinstance(item, list)]
        if len(inner) == 1:
            values = inner[0]
    return [turn for value in values for turn in _json_turns(value)]


def _json_turns(value: Any) -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        lowered = {str(key).lower(): item for key, item in value.items()}
        for question, answer in _PAIR_NAMES:
            if question in lowered or answer in lowered:
                pair = [("question", lowered.get(question)), ("answer", lowered.get(answer))]
                if all(isinstance(item, str) for _, item in pair):
                    return [(role, str(item).strip()) for role, item in pair]
                raise ReplyFault("shape", "a question or an answer is missing")
        speaker, said = lowered.get("from", lowered.get("role")), lowered.get("value", lowered.get("content"))
        if speaker in _FROM and isinstance(said, str):
            return [(_FROM[speaker], said.strip())]
    raise ReplyFault("shape", f"JSON without questions and answers: {str(value)[:60]}")


def _paired(spoken: list[tuple[str, str]]) -> Turns:
    if not spoken:
        raise ReplyFault("shape", "no question and no answer")
    roles = [role for role, _ in spoken]
    wanted = ["question", "answer"] * (len(roles) // 2)
    if len(roles) % 2 == 1 and roles == [*wanted, "question"]:
        raise ReplyFault("shape", "the last question has no answer")
    if roles != wanted:
        raise ReplyFault("turn_order", "questions and answers do not alternate")
    if any(not text for _, text in spoken):
        raise ReplyFault("shape", "a question or an answer is empty")
    return tuple((spoken[k][1], spoken[k + 1][1]) for k in range(0, len(spoken), 2))

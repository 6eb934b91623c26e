"""Parse a teacher's reply into turns: `Question / === / Answer` lines or JSON, also inside thoughts or code fences."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from vistune.llm_client import leftover_tag, unwrap_reply

Turns = tuple[tuple[str, str], ...]

_MARK = re.compile(r"^\s*[*#\s]*(question|answer|질문|답변|답)[*\s]*(?:\d+)?[*\s]*[:：][*\s]*(.*)$", re.IGNORECASE)
_RULE = re.compile(r"^\s*={3,}\s*$")
_TRAILING_COMMA = re.compile(r",(\s*[\]}])")
_ROLES = {"question": "question", "질문": "question", "answer": "answer", "답변": "answer", "답": "answer"}
_FROM = {"human": "question", "user": "question", "gpt": "answer", "assistant": "answer"}
_THOUGHTS = ("thinking", "think", "thought", "thoughts", "reasoning", "analysis", "reflection", "rationale", "생각")
_TEXT_NAME = re.compile(
    r"(?:\w+[_ -])?(?:description|caption|answer|text|response|output|detail|details|content)|설명|답변|캡션|묘사"
)
_THOUGHT_LABEL = re.compile(
    r"^[*_#\s]*(?:my |let me )?(?:think(?:ing)?|thoughts?|analysis|(?:thought|reasoning) process|reasoning|"
    r"사고 과정|생각)[*_ ]*[:：]",
    re.IGNORECASE,
)
_LATER_LABEL = re.compile(
    r"\n[*_#\s]*(?:(?:final|detailed|image) )?(?:description|final answer|설명|최종 답변|최종 설명)[*_ ]*[:：]",
    re.IGNORECASE,
)
_PAIR_NAMES = (("question", "answer"), ("q", "a"), ("질문", "답변"), ("질문", "답"), ("instruction", "response"))
_ALL_PAIR_NAMES = frozenset(name for pair in _PAIR_NAMES for name in pair)

_LABELS = frozenset({  # fields that number or name a turn; samples do not keep them
    "id", "idx", "index", "no", "nr", "num", "number", "order", "turn", "turn_id", "round", "step", "type", "kind",
    "category", "language", "lang", "image", "image_id", "question_id", "question_number", "question_type",
    "번호", "순서", "유형", "언어",
})  # fmt: skip
_TITLES = frozenset(("title", "topic", "name", "제목", "주제"))  # labels of a whole conversation
_LONGEST_LABEL = 80


class ReplyError(Exception):
    """A reply cannot be parsed into turns; `code` is the reason."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail


def parse_reply(text: str, kind: str, *, asked_here: bool = True) -> Turns:
    """Return the turns of a reply.

    Args:
        asked_here: A detail or caption reply has only the answer, because vistune asks the question.

    Raises:
        ReplyError: With the code "shape", "turn_order" or "thinking".
    """
    single = kind in ("detail", "caption") and asked_here
    text = _unwrap(text.replace("\r\n", "\n"), single=single)
    if single and text[0] in "[{" and (inside := _single_text(text)):
        text = _unwrap(inside, single=True)
    if tag := leftover_tag(text):
        raise ReplyError("thinking", f"the tag {tag} is in the text")
    if single and "```" in text:
        raise ReplyError("shape", "the text contains a code fence")
    if single and (label := _THOUGHT_LABEL.match(text) or _LATER_LABEL.search(text)):
        raise ReplyError(
            "thinking", f"the reply has words before its text, which begins after {label.group().strip()[:60]!r}"
        )
    parts = _from_json(text) if text[0] in "[{" and _looks_like_json(text) else _from_lines(text)
    turns = _single_turn(parts, text) if single else _paired(parts)
    _refuse_chatter(turns)
    if kind != "conversation" and len(turns) != 1:
        raise ReplyError("shape", f"{len(turns)} questions, but one was requested")
    return turns


def _unwrap(text: str, *, single: bool) -> str:
    content = unwrap_reply(text, single=single)
    if content is None:
        raise ReplyError("thinking", "the reply is a thought without an end")
    if not content.strip():
        if text.strip():
            raise ReplyError("thinking", "nothing comes after the thought")
        raise ReplyError("shape", "the reply is empty")
    return content


def _single_text(text: str) -> str:
    """Return the text of {"description": "…"}, also as the only entry of a list; "" for any other value."""
    try:
        value, end = _decoder().raw_decode(_TRAILING_COMMA.sub(r"\1", text))
    except (ValueError, RecursionError):
        return ""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, Mapping) or _TRAILING_COMMA.sub(r"\1", text)[end:].strip():
        return ""
    texts = {name.lower(): item for name, item in value.items() if name.lower() not in _THOUGHTS}
    [name, item] = next(iter(texts.items())) if len(texts) == 1 else ("", None)
    return item if _TEXT_NAME.fullmatch(name) and isinstance(item, str) else ""


_OPENING = re.compile(
    r"^\W*(?:(?:sure|certainly|of course|absolutely|okay|ok)\s*[!,.:]|"
    r"here(?:'s|’s| is| are)\b[^\n.]{0,80}\b(?:descriptions?|captions?|conversations?|questions?|answers?|text|"
    r"dialogues?)\b|"
    r"(?:네[,.!]?\s)?(?:다음은|아래는|여기)[^\n.]{0,60}(?:설명|묘사|대화|캡션|질문|답변|문장|글)(?:입니다|이에요|예요|이다|\s?:)|"
    r"(?:네[,.!]?\s)?(?:물론(?:입니다|이죠|이에요)|알겠습니다))",
    re.IGNORECASE,
)
_CLOSING = re.compile(
    r"\blet me know\b|\bfeel free to (?:ask|reach)|\bi hope (?:this|that|it|these)\b|\bhope (?:this|that) helps|"
    r"\bwould you like me to\b|\bif you (?:need|want|would like|have|'d like) (?:me|any|more|further|another)\b|"
    r"도움이 되(?:었|셨|길|기를)|언제든지? (?:말씀|물어|질문|알려)|"
    r"(?:더|다른|추가)[^.\n]{0,24}(?:필요하|원하|궁금하)[^.\n]{0,24}(?:말씀|알려 주|물어|요청)",
    re.IGNORECASE,
)


def _refuse_chatter(turns: Turns) -> None:
    """Raise ReplyError for words to the user around the text: "Here is a description:", "Let me know if …"."""
    first, last = turns[0], turns[-1][1].rstrip().split("\n")[-1]
    opening = _OPENING.match(first[1]) if not first[0] else None
    if match := opening or _CLOSING.search(re.split(r"(?<=[.!?])\s+", last)[-1]):
        raise ReplyError("shape", f"the reply has words to the user around the text: {match.group()[:60]!r}")


def _single_turn(parts: list[tuple[str, str]], text: str) -> Turns:
    """Return the single text, with or without an answer mark before it."""
    if not parts:
        return (("", text),)
    if len(parts) == 1 and parts[0][0] == "answer":
        return (("", parts[0][1]),)
    raise ReplyError("shape", "questions and answers, but one text was requested")


def _looks_like_json(text: str) -> bool:
    return bool(re.match(r'[\[{]\s*(?:[\[{"]|\}|\])', text))


def _from_lines(text: str) -> list[tuple[str, str]]:
    """Return (role, text) for each mark, nothing without marks. Raises ReplyError for words before the first mark."""
    parts: list[tuple[str, list[str]]] = []
    lines = text.split("\n")
    marked = any(_MARK.match(line) for line in lines)
    for line in lines:
        if match := _MARK.match(line):
            parts.append((_ROLES[match.group(1).lower()], [match.group(2)]))
        elif not _RULE.match(line) and parts:
            parts[-1][1].append(line)
        elif line.strip() and marked and not _RULE.match(line):
            raise ReplyError("shape", f"words before the first question: {line.strip()[:60]!r}")
    return [(role, "\n".join(lines).strip()) for role, lines in parts]


def _from_json(text: str) -> list[tuple[str, str]]:
    decoder = _decoder()
    text = _TRAILING_COMMA.sub(r"\1", text)
    values: list[object] = []
    position = 0
    try:
        while position < len(text):
            value, position = decoder.raw_decode(text, position)
            values += value if isinstance(value, list) else [value]
            while position < len(text) and text[position] in ", \t\r\n":
                position += 1
    except (ValueError, RecursionError) as error:
        raise ReplyError("shape", f"the JSON cannot be read: {error}") from None
    whole = values[0] if len(values) == 1 else None
    if isinstance(whole, Mapping):
        inner = [item for name, item in whole.items() if isinstance(item, list) and name.lower() not in _THOUGHTS]
        if len(inner) == 1 and not {name.lower() for name in whole} & _ALL_PAIR_NAMES:
            _refuse_unread({name: item for name, item in whole.items() if item is not inner[0]}, _LABELS | _TITLES)
            values = inner[0]
    return [turn for value in values for turn in _json_turns(value)]


def _json_turns(value: object) -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        lowered = _object([(name.lower(), item) for name, item in value.items()])
        for names in _PAIR_NAMES:
            question, answer = map(lowered.get, names)
            if isinstance(question, str) and isinstance(answer, str):
                _refuse_unread({name: lowered[name] for name in lowered if name not in names}, _LABELS)
                return [("question", question.strip()), ("answer", answer.strip())]
        if lowered.keys() & _ALL_PAIR_NAMES:
            raise ReplyError("shape", "a question or an answer is missing")
        by, text = "from" if "from" in lowered else "role", "value" if "value" in lowered else "content"
        role, content = lowered.get(by), lowered.get(text)
        if isinstance(role, str) and role in _FROM and isinstance(content, str):
            _refuse_unread({name: lowered[name] for name in lowered if name not in (by, text)}, _LABELS)
            return [(_FROM[role], content.strip())]
    raise ReplyError("shape", f"JSON without questions and answers: {str(value)[:60]}")


def _decoder() -> json.JSONDecoder:
    """Return a decoder that accepts newlines in strings, as models write them, and refuses repeated names."""
    return json.JSONDecoder(strict=False, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    tree = dict(pairs)
    if len(tree) < len(pairs):
        names = [name for name, _ in pairs]
        twin = next(name for name in names if names.count(name) > 1)
        raise ReplyError("shape", f"the field {twin[:60]!r} occurs twice in one object")
    return tree


def _refuse_unread(fields: Mapping[str, object], labels: frozenset[str]) -> None:
    """Raise ReplyError for a field that the sample would lose: not empty, not a label and not a thought."""
    for name, value in fields.items():
        lowered = name.lower()
        is_label = lowered in labels and not isinstance(value, list | dict) and len(str(value)) <= _LONGEST_LABEL
        if value not in (None, "", [], {}) and not is_label and lowered not in _THOUGHTS:
            raise ReplyError("shape", f"the field {name[:60]!r} next to questions and answers: {str(value)[:60]}")


def _paired(parts: list[tuple[str, str]]) -> Turns:
    if not parts:
        raise ReplyError("shape", "no question and no answer")
    roles = [role for role, _ in parts]
    expected = ["question", "answer"] * (len(roles) // 2)
    if len(roles) % 2 == 1 and roles == [*expected, "question"]:
        raise ReplyError("shape", "the last question has no answer")
    if roles != expected:
        raise ReplyError("turn_order", "questions and answers do not alternate")
    if any(not text for _, text in parts):
        raise ReplyError("shape", "a question or an answer is empty")
    return tuple((parts[k][1], parts[k + 1][1]) for k in range(0, len(parts), 2))

"""Remove wrappers from a model's reply: thoughts, tags, fences, labels and quotation marks around all of it.

raw reply -> the requested text; the text inside the wrappers is not changed
"""

from __future__ import annotations

import re

from vistune.llm_client.thoughts import without_thoughts

_TAGS = (
    r"(?:\w+[_-])?(?:answer|response|output|description|caption|text)|final ?(?:answer|response)|final|result|reply|"
    r"conversation|dialogue|assistant"
)
_TAGGED = re.compile(
    rf"^<\s*(?P<name>{_TAGS}|p|div|span|b|strong|em|i|html|body)(?:\s[^<>\n]*)?>(?P<inside>.*)<\s*/\s*(?P=name)\s*>$",
    re.DOTALL | re.IGNORECASE,
)
_MARKED = tuple(
    re.compile(rf"^{begin}(?P<inside>.*){end}$", re.DOTALL | re.IGNORECASE)
    for begin, end in (
        (r"<\|begin[_-]of[_-]box\|>", r"<\|end[_-]of[_-]box\|>"),
        (r"<\|begin[_-]of[_-]solution\|>", r"<\|end[_-]of[_-]solution\|>"),
        (r"<\|start[_-]response\|>", r"<\|end[_-]response\|>"),
        (r"\[\s*answer\s*\]", r"\[\s*/\s*answer\s*\]"),
        (r"◁answer▷", r"◁/answer▷"),
        (r"\\boxed\{", r"\}"),
    )
)
_FENCE = re.compile(r"^(?P<fence>```|~~~)[\w-]*[ \t]*\n(?P<inside>.*?)\n?\s*(?P=fence)$", re.DOTALL)
_NAMES = (
    r"(?:the |an? )?(?:(?:detailed|brief|short|final|full|image|picture|photo|scene|visual|one-sentence) ){0,2}"
    r"(?:description|caption|answer|response|output|reply|conversation|dialogue)|"
    r"(?:(?:상세한?|자세한|간단한|짧은|최종|이미지|사진|그림|장면) ?){0,2}(?:설명|묘사|캡션|답변|응답|답|대화|출력)"
)
_LABEL = re.compile(
    rf"^(?:#{{1,6}}[ \t]*)?(?:(?P<bold>\*{{1,3}}|_{{1,3}})(?:{_NAMES})[ \t]*"
    rf"(?:[:：][ \t]*(?P=bold)|(?P=bold)[ \t]*[:：])"
    rf"|(?:{_NAMES})[ \t]*[:：])[ \t]*\n*",
    re.IGNORECASE,
)
_HEADING = re.compile(rf"^(?:#{{1,6}}[ \t]*(?:{_NAMES})|(\*\*|__)(?:{_NAMES})\1)[ \t]*[:：]?[ \t]*\n+", re.IGNORECASE)
_RULES = re.compile(r"^(?:[-*_=]{3,}[ \t]*\n\s*)+|(?:\n\s*[-*_=]{3,})+$")
_PAIRS = {
    "“": "”", "‘": "’", "«": "»", "‹": "›", "„": "“”", "「": "」", "『": "』", "《": "》", "〈": "〉",
    "〝": "〞", "＂": "＂",     '"': '"', "'": "'", "`": "`",
}  # fmt: skip
# HTML tags may be part of an answer; `</s>` and `<image>` have a separate check.
_HTML = [
    "a",
    "b",
    "body",
    "br",
    "button",
    "code",
    "div",
    "em",
    "footer",
    "form",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "head",
    "header",
    "hr",
    "html",
    "i",
    "iframe",
    "img",
    "input",
    "label",
    "li",
    "link",
    "main",
    "meta",
    "nav",
    "ol",
    "option",
    "p",
    "pre",
    "script",
    "section",
    "select",
    "small",
    "span",
    "strong",
    "style",
    "sub",
    "sup",
    "svg",
    "table",
    "tbody",
    "td",
    "textarea",
    "th",
    "thead",
    "title",
    "tr",
    "u",
    "ul",
    "video",
    "xml",
    "s",
    "sys",
    "image",
    "pad",
    "unk",
    "bos",
    "eos",
    "inst",
]
_CLOSING_TAG = re.compile(r"<\s*/\s*([A-Za-z][\w:-]{0,40})\s*>")
_LEFT = re.compile(
    rf"<\s*(?:{_TAGS})\s*>|<\|(?:begin|end)[_-]of[_-]\w+\|>|<\|channel\|>|<\|(?:start|end)[_-](?:thinking|response)\|>|"
    r"◁[^▷\n]{1,20}▷|\[\s*/?\s*(?:THINK|ANSWER)\s*\]",
    re.IGNORECASE,
)


def unwrapped(text: str, *, single: bool) -> str | None:
    """The text inside all wrappers of a reply; None if a thought does not end.

    `single`: one text was requested, so a label such as "Description:" or quotation marks around it are removed. In a
    list of questions and answers they may belong to the text.
    """
    while True:
        inside = without_thoughts(text)
        if inside is None:
            return None
        inside = _peeled(inside.strip(), single=single)
        if inside == text:
            return text
        text = inside


def left_tag(text: str) -> str:
    """A tag of a thought or a wrapper that is still in the text; empty if there is none."""
    for match in _CLOSING_TAG.finditer(text):
        if match.group(1).lower() not in _HTML:
            return match.group()
    found = _LEFT.search(text)
    return found.group() if found else ""


def _peeled(text: str, *, single: bool) -> str:
    """One layer less."""
    for form in (_TAGGED, *_MARKED, _FENCE):
        match = form.match(text)
        if match and not (
            form is _TAGGED and re.search(rf"<\s*/?\s*{match['name']}\b", match["inside"], re.IGNORECASE)
        ):
            return match["inside"].strip()
    if single and (ruled := _RULES.sub("", text)) != text:
        return ruled.strip()
    if match := _HEADING.match(text):
        return text[match.end() :]
    if single:
        if (match := _LABEL.match(text)) and text[match.end() :].strip():
            return text[match.end() :]
        if (inside := _unquoted(text)) is not None:
            return inside
    return text


def _unquoted(text: str) -> str | None:
    """The text without quotation or bold marks around all of it; None if it has none."""
    for mark in ("***", "**", "__", "```", "``", '""', "''", "*", "_"):
        if len(text) > 2 * len(mark) and text.startswith(mark) and text.endswith(mark):
            inside = text[len(mark) : -len(mark)]
            bullet = mark == "*" and inside[:1].isspace()
            return inside.strip() if mark not in inside and inside.strip() and not bullet else None
    if text[-1:] == "." and (sentence := _unquoted(text[:-1])) is not None:  # "A dog runs".
        return sentence if sentence[-1] in ".!?…" else f"{sentence}."
    if len(text) < 3 or text[0] not in _PAIRS or text[-1] not in _PAIRS[text[0]]:
        return None
    return text[1:-1].strip() or None if _spans_all(text) else None


def _spans_all(text: str) -> bool:
    """Whether the first quotation mark is closed by the last one, and not by one in between.

    A straight mark opens after a space or a bracket and closes elsewhere; an apostrophe inside a word is ignored.
    """
    begin, ends = text[0], _PAIRS[text[0]]
    depth = 0
    for k, char in enumerate(text):
        if char != begin and char not in ends:
            continue
        before, after = text[k - 1 : k], text[k + 1 : k + 2]
        if char in "'’" and before.isalnum() and after.isalnum():
            continue
        opens = char == begin and (
            begin not in ends or k == 0 or ((before.isspace() or before in "([—-") and not after.isspace())
        )
        depth += 1 if opens else -1
        if depth <= 0:
            return k == len(text) - 1
    return False

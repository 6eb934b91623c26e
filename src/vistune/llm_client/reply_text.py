"""Extract the requested text from a model's reply: remove thoughts, tags, fences, labels and quotation marks around it.

raw reply -> the text inside all wrappers, unchanged; None if a thought does not end
The journal stores replies unchanged; wrappers are removed whenever a reply is read.
"""

from __future__ import annotations

import re

# Markers of a thinking model's thoughts.
_THOUGHT = (
    r"(?:[\w-]+:)?(?:think(?:s|ing)?|thoughts?|thought[_ -]process|inner[_ -]thoughts?|reason(?:ing)?|"
    r"reasoning[_ -]process|reflections?|analysis|scratchpad|rationale|deliberation|(?:inner[_ -])?monologue|"
    r"chain[_ -]of[_ -]thought|cot)"
)
_OPEN = (
    rf"(?:<|&lt;)\s*{_THOUGHT}(?:\s[^<>&\n]*)?(?:>|&gt;)|<\|{_THOUGHT}\|>|<\|?(?:begin[_-]of[_-](?:thought|think)|start[_-]thinking|think(?:ing)?[_-]start|think)\|?>|"
    r"\[\s*(?:THINK|THINKING|REASONING)\s*\]|◁\s*think(?:ing)?\s*▷|<unused94>|<details\s+type=\"reasoning\"[^<>]*>"
)
_CLOSE = (
    rf"(?:<|&lt;)\s*/\s*{_THOUGHT}\s*(?:>|&gt;)|<\|/{_THOUGHT}\|>|<\|?(?:end[_-]of[_-](?:thought|think)|end[_-]think(?:ing)?|think(?:ing)?[_-]end|/think)\|?>|"
    r"\[\s*/\s*(?:THINK|THINKING|REASONING)\s*\]|◁\s*/\s*think(?:ing)?\s*▷|<unused95>"
)
_MARK = re.compile(rf"(?P<open>{_OPEN})|(?P<close>{_CLOSE})", re.IGNORECASE)
_DETAILS = re.compile(r"<details\s+type=\"reasoning\"[^<>]*>.*?</details>", re.DOTALL | re.IGNORECASE)
_CHANNEL = re.compile(r"<\|channel\|>")
_FINAL = re.compile(r"<\|channel\|>\s*final\b[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>")
_HARMONY_END = re.compile(r"<\|(?:end|return|start|call|channel)\|>")
_BARE_HARMONY = re.compile(r"^analysis(?=[^a-z]).*?assistant(?:commentary.*?assistant)?final(?=[^a-z])", re.DOTALL)
# Wrappers around the whole reply.
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
_LABELS = (
    r"(?:the |an? )?(?:(?:detailed|brief|short|final|full|image|picture|photo|scene|visual|one-sentence) ){0,2}"
    r"(?:description|caption|answer|response|output|reply|conversation|dialogue)|"
    r"(?:(?:상세한?|자세한|간단한|짧은|최종|이미지|사진|그림|장면) ?){0,2}(?:설명|묘사|캡션|답변|응답|답|대화|출력)"
)
_LABEL = re.compile(
    rf"^(?:#{{1,6}}[ \t]*)?(?:(?P<bold>\*{{1,3}}|_{{1,3}})(?:{_LABELS})[ \t]*"
    rf"(?:[:：][ \t]*(?P=bold)|(?P=bold)[ \t]*[:：])"
    rf"|(?:{_LABELS})[ \t]*[:：])[ \t]*\n*",
    re.IGNORECASE,
)
_HEADING = re.compile(rf"^(?:#{{1,6}}[ \t]*(?:{_LABELS})|(\*\*|__)(?:{_LABELS})\1)[ \t]*[:：]?[ \t]*\n+", re.IGNORECASE)
_RULES = re.compile(r"^(?:[-*_=]{3,}[ \t]*\n\s*)+|(?:\n\s*[-*_=]{3,})+$")
_PAIRS = {
    "“": "”", "‘": "’", "«": "»", "‹": "›", "„": "“”", "「": "」", "『": "』", "《": "》", "〈": "〉",
    "〝": "〞", "＂": "＂",     '"': '"', "'": "'", "`": "`",
}  # fmt: skip
# HTML tags may be part of an answer; `</s>` and `<image>` have a separate check.
_HTML = frozenset((
    "a", "b", "body", "br", "button", "code", "div", "em", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6",
    "head", "header", "hr", "html", "i", "iframe", "img", "input", "label", "li", "link", "main", "meta", "nav", "ol",
    "option", "p", "pre", "script", "section", "select", "small", "span", "strong", "style", "sub", "sup", "svg",
    "table", "tbody", "td", "textarea", "th", "thead", "title", "tr", "u", "ul", "video", "xml", "s", "sys", "image",
    "pad", "unk", "bos", "eos", "inst",
))  # fmt: skip
_CLOSING_TAG = re.compile(r"<\s*/\s*([A-Za-z][\w:-]{0,40})\s*>")
_LEFTOVER = re.compile(
    rf"<\s*(?:{_TAGS})\s*>|<\|(?:begin|end)[_-]of[_-]\w+\|>|<\|channel\|>|<\|(?:start|end)[_-](?:thinking|response)\|>|"
    r"◁[^▷\n]{1,20}▷|\[\s*/?\s*(?:THINK|ANSWER)\s*\]",
    re.IGNORECASE,
)


def remove_thoughts(text: str) -> str | None:
    """Return the reply without its thoughts, or None if a thought does not end.

    A text without a marker is returned unchanged. A closing marker without an opening one ends a thought that began
    with the reply: some templates put the opening marker into the prompt.
    """
    while (shorter := _remove_once(text)) != text:  # removing one marker may join the halves of another
        if shorter is None:
            return None
        text = shorter
    return text


def _remove_once(text: str) -> str | None:
    if _CHANNEL.search(text):
        finals = list(_FINAL.finditer(text))
        return _HARMONY_END.split(text[finals[-1].end() :], maxsplit=1)[0] if finals else None
    text = _DETAILS.sub("", _BARE_HARMONY.sub("", text, count=1))
    kept: list[str] = []
    position, thinking = 0, False
    for mark in _MARK.finditer(text):
        if mark.lastgroup == "open":
            if not thinking:
                kept.append(text[position : mark.start()])
            thinking = True
        else:
            if not thinking:  # the reply began with a thought
                kept = []
            thinking = False
            position = mark.end()
    return None if thinking else "".join([*kept, text[position:]])


def unwrap_reply(text: str, *, single: bool) -> str | None:
    """Return the text inside all wrappers of a reply, or None if a thought does not end.

    Args:
        single: Whether one text was requested. Then a label such as "Description:" and quotation marks around it are
            removed too; in a list of questions and answers they may belong to the text.
    """
    while True:
        inside = remove_thoughts(text)
        if inside is None:
            return None
        inside = _remove_layer(inside.strip(), single=single)
        if inside == text:
            return text
        text = inside


def leftover_tag(text: str) -> str:
    """Return a tag of a thought or a wrapper that is still in the text; empty if there is none."""
    for match in _CLOSING_TAG.finditer(text):
        if match.group(1).lower() not in _HTML:
            return match.group()
    leftover = _LEFTOVER.search(text)
    return leftover.group() if leftover else ""


def _remove_layer(text: str, *, single: bool) -> str:
    """Remove the outermost wrapper, if there is one."""
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
        if (inside := _remove_quotes(text)) is not None:
            return inside
    return text


def _remove_quotes(text: str) -> str | None:
    """Return the text without quotation or bold marks around all of it; None if it has none."""
    for mark in ("***", "**", "__", "```", "``", '""', "''", "*", "_"):
        if len(text) > 2 * len(mark) and text.startswith(mark) and text.endswith(mark):
            inside = text[len(mark) : -len(mark)]
            bullet = mark == "*" and inside[:1].isspace()
            return inside.strip() if mark not in inside and inside.strip() and not bullet else None
    if text[-1:] == "." and (sentence := _remove_quotes(text[:-1])) is not None:  # "A dog runs".
        return sentence if sentence[-1] in ".!?…" else f"{sentence}."
    if len(text) < 3 or text[0] not in _PAIRS or text[-1] not in _PAIRS[text[0]]:
        return None
    return text[1:-1].strip() or None if _spans_all(text) else None


def _spans_all(text: str) -> bool:
    """Return whether the first quotation mark is closed by the last one, and not by one in between.

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

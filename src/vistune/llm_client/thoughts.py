"""Remove a thinking model's thoughts from a reply, for all common markers.

reply text -> the text outside the thoughts; None if a thought does not end
The journal keeps replies unchanged; this is applied whenever one is read.
"""

from __future__ import annotations

import re

_NAME = (
    r"(?:[\w-]+:)?(?:think(?:s|ing)?|thoughts?|thought[_ -]process|inner[_ -]thoughts?|reason(?:ing)?|"
    r"reasoning[_ -]process|reflections?|analysis|scratchpad|rationale|deliberation|(?:inner[_ -])?monologue|"
    r"chain[_ -]of[_ -]thought|cot)"
)
_OPEN = (
    rf"(?:<|&lt;)\s*{_NAME}(?:\s[^<>&\n]*)?(?:>|&gt;)|<\|{_NAME}\|>|<\|?(?:begin[_-]of[_-](?:thought|think)|start[_-]thinking|think(?:ing)?[_-]start|think)\|?>|"
    r"\[\s*(?:THINK|THINKING|REASONING)\s*\]|◁\s*think(?:ing)?\s*▷|<unused94>|<details\s+type=\"reasoning\"[^<>]*>"
)
_CLOSE = (
    rf"(?:<|&lt;)\s*/\s*{_NAME}\s*(?:>|&gt;)|<\|/{_NAME}\|>|<\|?(?:end[_-]of[_-](?:thought|think)|end[_-]think(?:ing)?|think(?:ing)?[_-]end|/think)\|?>|"
    r"\[\s*/\s*(?:THINK|THINKING|REASONING)\s*\]|◁\s*/\s*think(?:ing)?\s*▷|<unused95>"
)
_MARK = re.compile(rf"(?P<open>{_OPEN})|(?P<close>{_CLOSE})", re.IGNORECASE)
_DETAILS = re.compile(r"<details\s+type=\"reasoning\"[^<>]*>.*?</details>", re.DOTALL | re.IGNORECASE)
_CHANNEL = re.compile(r"<\|channel\|>")
_FINAL = re.compile(r"<\|channel\|>\s*final\b[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>")
_HARMONY_END = re.compile(r"<\|(?:end|return|start|call|channel)\|>")
_BARE_HARMONY = re.compile(r"^analysis(?=[^a-z]).*?assistant(?:commentary.*?assistant)?final(?=[^a-z])", re.DOTALL)


def without_thoughts(text: str) -> str | None:
    """The reply without its thoughts; None if one begins and does not end.

    A text without a marker is returned unchanged. A closing marker without an opening one ends a thought that began
    with the reply: some templates put the opening marker into the prompt.
    """
    while (shorter := _once(text)) != text:  # removing one marker may join the halves of another
        if shorter is None:
            return None
        text = shorter
    return text


def _once(text: str) -> str | None:
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
            if not thinking:  # everything so far was a thought
                kept = []
            thinking = False
            position = mark.end()
    return None if thinking else "".join([*kept, text[position:]])

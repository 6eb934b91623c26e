"""Learn from a service's refusals which form of request it accepts.

refusal of a parameter + Dialect -> Dialect -> the same request in a form that the service accepts

A request's key in the journal is the hash of its body before the adaptation, so no request is paid for twice.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from vistune.llm_client.refusals import ServiceError

LENGTH_FIELDS = ("max_tokens", "max_completion_tokens")
NEEDED = frozenset(("model", "messages", "stream", "stream_options", *LENGTH_FIELDS))

_REFUSED = re.compile(
    r"not support|unsupported|(?:doesn|isn|aren|can)['’]t|does not|unrecogni[sz]ed|unknown|unexpected|not permitted|"
    r"not allowed|not accept|not available|forbidden|extra (?:inputs|fields)|only the default|deprecated|no longer|"
    r"cannot be|may only be|must be (?:unset|omitted|removed|equal|set|default|\d)|only \d|\bis (?:fixed|ignored)|"
    r"invalid (?:\w+ )?(?:parameter|argument|field|key|property|option|keyword|name)|"
    r"incompatible|please remove|instead|지원하지|지원되지|허용되지|不支持",
    re.IGNORECASE,
)
_CERTAIN = re.compile(
    r"unsupported_parameter|unsupported parameter|\binstead\b|extra inputs|extra_forbidden|unrecogni[sz]ed|"
    r"unknown (?:field|parameter|argument|name)|unexpected keyword",
    re.IGNORECASE,
)
_BOUNDS = re.compile(
    r"\bbetween\b|\brange\b|less than|greater than|larger than|smaller than|at most|at least|\btoo (?:large|high|big|"
    r"small|low|long)|<=|>=|≤|≥|[<>]\s*\d|maximum|minimum|exceed|context|"
    r"\bor (?:less|lower|fewer|smaller|below|under|more|higher|greater|larger|above|over)\b|"
    r"(?:more|fewer|lower|higher|bigger) than|\b(?:above|below|over|under|up to)\s+\d|out of bounds|\bin\s*[\[(]|"
    r"from\s+-?\d\S*\s+to\s|\d\s*(?:to|~)\s*\d|(?<![\w-])\d(?:\.\d+)?\s?[-–]\s?\d(?![\w-])|"
    r"\b(?:non-?)?(?:positive|negative)\b|expected an?\b|"
    r"(?:valid|must be an?|should be an?) (?:number|float|int|decimal)|"
    r"invalid (?:value|type)\b(?!.*\bonly\b)|이하|이상|범위|사이|范围|之间|大于|小于",
    re.IGNORECASE,
)
_STREAM_WANTED = re.compile(
    r"non[- _]?stream|stream\W{0,4}false|only\s+(?:\w+\s+){0,3}stream|stream\w*(?:\s+\w+)?\s+only\b|"
    r"stream\w*\W{0,3}\s*(?:mode\s+|parameter\s+|option\s+|field\s+)?(?:is|must|should|has|needs?)\s+(?:to\s+)?(?:be\s+)?"
    r"(?:set\s+)?(?:to\s+)?\W?(?:true|required|mandatory|enabled|on)\b|"
    r"(?:set|enable|use|pass|requires?|must|needs?|without)\W+(?:the\W+|be\W+|to\W+|set\W+)*stream|"
    r"stream\W{0,3}\s*[=:]\s*\W?true|스트리밍|流式",
    re.IGNORECASE,
)
_SYSTEM_REFUSED = re.compile(
    r"\bsystem\b['\"]? (?:role|message|prompt|instruction)s?\b.{0,40}\b(?:not|un)\s?(?:support|allow|permit|enabled)|"
    r"(?:not support|unsupported).{0,40}\bsystem\b|developer instruction is not enabled|"
    r"only user and assistant roles|roles? must be (?:user|one of)[^.]{0,40}assistant",
    re.IGNORECASE,
)
_STREAM_REFUSED = re.compile(
    r"stream\w*(?:\s+\w+)?\s+(?:is\s+|are\s+)?not\b|not\s+(?:support|allow)\w*\s+stream", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Dialect:
    """The form of requests that a service accepts; the default is OpenAI's original chat completion."""

    length_field: str = "max_tokens"
    omitted: tuple[str, ...] = ()  # fields that are not sent
    stream: bool = False
    stream_usage: bool = True
    system: bool = True  # whether system messages are accepted

    def apply(self, body: bytes, *, batch: bool = False) -> bytes:
        """Convert a request's body to this form; unchanged bytes for the default form. A batch never streams."""
        stream = self.stream and not batch
        if self.length_field == "max_tokens" and not self.omitted and not stream and self.system:
            return body
        tree = {name: value for name, value in json.loads(body).items() if name not in self.omitted}
        if "max_tokens" in tree:
            tree[self.length_field] = tree.pop("max_tokens")
        if not self.system:
            tree["messages"] = _without_system(tree["messages"])
        if stream:
            tree["stream"] = True
            if self.stream_usage:
                tree["stream_options"] = {"include_usage": True}
        return json.dumps(tree, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()

    def adapted(self, error: ServiceError, body: bytes, *, kept: Collection[str] = (), batch: bool = False) -> Dialect:
        """Return the form to try after a refusal; this form if the refusal names no parameter that we set.

        Args:
            kept: Fields that the user added or set, which are always sent.
        """
        changed, sent = self, _tree(body)
        length = sent.get("max_tokens")
        if any(_names(error, name) for name in kept):
            return self
        if self.stream and not batch and re.search(r"stream_options|include_usage", error.words):
            return replace(self, stream_usage=False) if self.stream_usage else self
        other = LENGTH_FIELDS[1 - LENGTH_FIELDS.index(self.length_field)]
        if _refuses(error, self.length_field, length) or _requires(error, other):
            changed = replace(changed, length_field=other)
        for name in sorted(set(sent) - NEEDED - set(kept) - set(self.omitted)):
            if _refuses(error, name, sent[name]):
                changed = replace(changed, omitted=(*changed.omitted, name))
        if self.system and _SYSTEM_REFUSED.search(error.message):
            changed = replace(changed, system=False)
        if not batch and _about_stream(error, required=not self.stream):
            changed = replace(changed, stream=not self.stream)
        return changed

    def changes(self, before: Dialect) -> str:
        """Describe in one line how this form differs from `before`."""
        parts = []
        if self.length_field != before.length_field:
            parts.append(f"takes {self.length_field} in place of {before.length_field}")
        if names := [name for name in self.omitted if name not in before.omitted]:
            parts.append(f"refuses {', '.join(names)}, which is left out")
        if self.stream != before.stream:
            parts.append("only streams, so replies are streamed" if self.stream else "does not stream")
        if self.stream_usage != before.stream_usage:
            parts.append("refuses stream_options, so replies are charged at their upper bound")
        if self.system != before.system:
            parts.append("takes no system message, so its text starts the first question")
        return f"the service {' and '.join(parts)}"

    def to_dict(self) -> dict[str, object]:
        """Return the form for the journal, in which omitted fields have the key `left_out`."""
        tree = asdict(self)
        return {"length_field": tree.pop("length_field"), "left_out": tree.pop("omitted"), **tree}


def read_dialect(tree: object) -> Dialect:
    """Read a form that an earlier run wrote into the journal; the default if it is unreadable."""
    if not isinstance(tree, Mapping) or tree.get("length_field") not in LENGTH_FIELDS:
        return Dialect()
    omitted = tree.get("left_out")
    names = tuple(str(name) for name in omitted) if isinstance(omitted, list) else ()
    return Dialect(
        str(tree["length_field"]),
        tuple(name for name in names if name not in NEEDED),
        tree.get("stream") is True,
        tree.get("stream_usage") is not False,
        tree.get("system") is not False,
    )


def _without_system(messages: list[Any]) -> list[Any]:
    """Move the system message's text to the start of the first question."""
    if len(messages) < 2 or messages[0].get("role") != "system":
        return messages
    system, first, *rest = messages
    content = first["content"]
    if isinstance(content, str):
        content = f"{system['content']}\n\n{content}"
    else:
        content = [{"type": "text", "text": system["content"]}, *content]
    return [{**first, "content": content}, *rest]


def _tree(body: bytes) -> dict[str, Any]:
    tree = json.loads(body)
    return tree if isinstance(tree, dict) else {}


def _without_got(words: str) -> str:
    """Remove "but got 5 instead", which does not offer another parameter."""
    return re.sub(r"\b(?:got|received|found)\b[^;]{0,80}?\binstead\b", "", words, flags=re.IGNORECASE)


def _names(error: ServiceError, key: str) -> bool:
    """Return whether an error is about a parameter, by its `param` or its message."""
    return error.param.split(".")[-1] == key or bool(re.search(rf"(?<!\w){re.escape(key)}(?!\w)", error.message))


def _refuses(error: ServiceError, key: str, value: object) -> bool:
    """Return whether the parameter is refused, or every value except the default; not its range or type."""
    if not _names(error, key) and not re.search(rf"(?<!\w){re.escape(key)}(?!\w)", error.message, re.IGNORECASE):
        return False
    words = _without_got(error.words)
    if _CERTAIN.search(words):
        return True
    return bool(_REFUSED.search(words)) and not _BOUNDS.search(error.message) and not _is_about_value(error, value)


def _is_about_value(error: ServiceError, value: object) -> bool:
    """Return whether an error is about the value that was sent: it quotes it, and other values may be accepted."""
    quoted = re.search(rf"(?<![\w.]){re.escape(json.dumps(value))}(?![\w]|\.\d)", error.message)
    return bool(quoted) and not re.search(
        r"\bonly\b|\bdefault\b|\bfixed\b|does not support", error.message, re.IGNORECASE
    )


def _requires(error: ServiceError, key: str) -> bool:
    words = _without_got(error.words)
    return (
        _names(error, key)
        and bool(re.search(r"\b(?:required|missing|instead|use)\b", words, re.IGNORECASE))
        and (not _BOUNDS.search(error.message) or bool(_CERTAIN.search(words)))
    )


def _about_stream(error: ServiceError, *, required: bool) -> bool:
    """Return whether an error requires a stream, or (not `required`) refuses one."""
    if required:
        message = error.message
        if error.param == "stream":
            return True
        refused = _STREAM_REFUSED.search(message) and not re.search(
            r"non[- _]?stream|stream\W{0,4}false", message, re.I
        )
        return bool(_STREAM_WANTED.search(message)) and not refused
    return bool(_STREAM_REFUSED.search(error.message)) or error.param == "stream"

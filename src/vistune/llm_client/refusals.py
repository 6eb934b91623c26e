"""Understand a service's refusals: parse its error bodies, classify them, and learn which form of request it accepts.

error body + status -> ServiceError (message, code, parameter) -> subject: quota, key, model, content, context
refusal of a parameter + Dialect -> Dialect -> the same request in a form that the service accepts

A request's key in the journal is the hash of its body before the adaptation, so no request is paid for twice.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

LONGEST = 600  # characters of a service's message that are kept

Subject = Literal["", "quota", "key", "model", "content", "context"]


@dataclass(frozen=True, slots=True)
class ServiceError:
    """The error that a service returned for a request.

    Attributes:
        code: Every code and type in the body, joined.
        param: The parameter that the body names.
        status: A status code inside the body, as from OpenRouter and Gemini.
    """

    message: str = ""
    code: str = ""
    param: str = ""
    status: int | None = None

    @property
    def words(self) -> str:
        """All text in which patterns are searched."""
        return " ".join(part for part in (self.code, self.param, self.message) if part)

    def format(self, status: int) -> str:
        """Format the refusal in one line: status, code, message."""
        code = "" if self.code and self.code in self.message else self.code
        return " ".join(part for part in (str(status), code, self.message) if part)[:LONGEST]


def read_error(body: str) -> ServiceError:
    """Parse an error body: JSON of the known layouts, plain text, or HTML. Never raises."""
    try:
        tree = json.loads(body)
    except (ValueError, RecursionError):
        return ServiceError(_plain(body))
    error = _read(tree, 0)
    return replace(error, message=_one_line(error.message)[:LONGEST], code=error.code[:120], param=error.param[:120])


def error_in_reply(body: str) -> ServiceError | None:
    """Return the error in a body with status 200; None if the body is an answer."""
    if '"error"' not in body:  # in an answer's text these quotes are escaped
        return None
    try:
        tree = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if isinstance(tree, list) and tree and isinstance(tree[0], dict):
        tree = tree[0]
    if not isinstance(tree, dict) or tree.get("choices"):
        return None
    if not tree.get("error") and tree.get("object") != "error":
        return None
    return read_error(body)


_MESSAGES = ("message", "msg", "error_description", "description", "detail", "reason", "title", "text")
_CODES = ("code", "type", "error_type", "status", "reason")
_INNER = ("error", "errors", "detail", "details")


def _read(value: object, depth: int) -> ServiceError:
    if depth > 6:
        return ServiceError()
    if isinstance(value, str):
        return ServiceError(_plain(value))
    if isinstance(value, list):
        return _joined([_read(item, depth + 1) for item in value[:5]])
    if not isinstance(value, Mapping):
        return ServiceError()
    message = next((value[name] for name in _MESSAGES if isinstance(value.get(name), str) and value[name].strip()), "")
    inner = _joined([_read(value[name], depth + 1) for name in _INNER if isinstance(value.get(name), dict | list)])
    if isinstance(value.get("message"), dict | list):  # FastAPI's list inside a message
        inner = _joined([inner, _read(value["message"], depth + 1)])
    if isinstance(value.get("error"), str):
        inner = _joined([ServiceError(_plain(value["error"])), inner])
    param = next((str(value[name]) for name in ("param", "field", "parameter") if _is_word(value.get(name))), "")
    if location := value.get(
        "loc"
    ):  # FastAPI: {"loc": ["body", "max_tokens"], "msg": "Extra inputs are not permitted"}
        path = [str(part) for part in (location if isinstance(location, list) else [location])]
        param = param or next((part for part in reversed(path) if not part.isdigit() and part != "body"), "")
        message = f"{'.'.join(path)}: {message}"
    metadata = value.get("metadata")
    if isinstance(metadata, Mapping) and isinstance(metadata.get("raw"), str):  # OpenRouter: the provider's message
        inner = _joined([inner, replace(read_error(metadata["raw"]), status=None)])
    detail = value.get("detail")
    if isinstance(detail, str) and detail.strip() and detail not in message:
        message = f"{message}: {detail}"
    codes = [str(value[name]) for name in _CODES if _is_word(value.get(name)) and not _is_status(value[name])]
    codes = [code for code in dict.fromkeys(codes) if code != message]
    status = int(value["code"]) if _is_status(value.get("code")) else None
    return _joined([ServiceError(message, " ".join(codes), param, status), inner])


def _is_word(value: object) -> bool:
    return (isinstance(value, str) and bool(value.strip())) or (isinstance(value, int) and not isinstance(value, bool))


def _is_status(value: object) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool) and 100 <= value < 600) or (
        isinstance(value, str) and len(value) == 3 and value.isascii() and value.isdigit() and "1" <= value[0] <= "5"
    )


def _joined(errors: list[ServiceError]) -> ServiceError:
    """Join several errors into one, with the first parameter and status."""
    messages = dict.fromkeys(error.message for error in errors if error.message)
    codes = dict.fromkeys(word for error in errors for word in error.code.split())
    return ServiceError(
        "; ".join(messages),
        " ".join(codes),
        next((error.param for error in errors if error.param), ""),
        next((error.status for error in errors if error.status is not None), None),
    )


def _plain(text: str) -> str:
    """Return the beginning of a text or an HTML page; JSON that was sent as a string is parsed again."""
    if text.lstrip()[:1] in ("{", "[") and len(text) < 1 << 16:
        try:
            if (inner := _read(json.loads(text), 4)).message:
                return inner.message
        except (ValueError, RecursionError):
            pass
    text = text[: 1 << 16]
    if re.search(r"<(?:!doctype|html|head|body|h1|p|center)\b", text, re.IGNORECASE):
        text = re.sub(r"<(script|style)\b.*?</\1>", " ", text, flags=re.DOTALL | re.IGNORECASE)
        text = re.sub(r"<[^>]*>", " ", text)
    return _one_line(text)[:LONGEST]


def _one_line(text: str) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


_QUOTA = re.compile(
    r"insufficient[_ ](?:quota|balance|credits?|funds)|exceeded_current_quota|billing_(?:hard_limit|not_active)|"
    r"credit balance is too low|out of credits|no credits|payment[_ ]required|requires? more credits|余额不足|欠费|"
    r"account (?:is|has been) suspended",
    re.IGNORECASE,
)
_KEY = re.compile(
    r"(?:invalid|incorrect|wrong|expired|missing|malformed|unknown|bad|no|illegal)[ _-](?:\w+[ _-])?"
    r"(?:api[ _-]?keys?|access[ _-]token|auth(?:entication|orization)?[ _-]token|credentials?|x-api-key|bearer)\b|"
    r"api[ _-]?key\b.{0,60}\b(?:not valid|invalid|incorrect|wrong|expired|missing|required|not found|not provided|"
    r"revoked|disabled|blocked|doesn't exist|does not exist)|"
    r"(?:provide|need|require|pass|supply|set)\w*\s(?:an?\s|your\s|the\s|valid\s)*api[ _-]?key|"
    r"authentication[ _](?:error|failed|fails|failure|required)|invalid[ _]authentication|could not authenticate|"
    r"\bunauthori[sz]ed\b|\bunauthenticated\b|authorization header|"
    r"api[ _]?키.{0,30}(?:유효하지|잘못|올바르지|만료|없)|인증(?:에|이) ?(?:실패|필요)",
    re.IGNORECASE,
)
_MODEL = re.compile(
    r"model[_ ]not[_ ](?:found|exist)|(?:unknown|invalid|no such|unrecognized|nonexistent)[_ ]model\b|"
    r"not a valid model|model_not_(?:available|supported)|"
    r"\bmodels?\b.{0,100}(?:does not exist|doesn't exist|doesn’t exist|not exist\b|not found|is unknown|"
    r"not a valid|no longer available|has been (?:deprecated|removed|retired))|"
    r"模型不存在|모델.{0,40}(?:없습니다|존재하지|찾을 수 없)",
    re.IGNORECASE | re.DOTALL,
)
_CONTENT = re.compile(
    r"content[_ ]?(?:policy|filter|management|moderat)|responsible ?ai|data_?inspection_?failed|prohibited[_ ]content|"
    r"\bsafety\b(?! settings)|\bmoderation\b|\bflagged\b|inappropriate|\bharmful\b|(?<!case[ -])\bsensitive\b|\bnsfw\b|"
    r"usage polic|violat\w* (?:our|of our|the|openai|content|usage)\b|guardrail|blocked by|"
    r"유해|부적절|정책.{0,10}위반|违规|敏感",
    re.IGNORECASE,
)
_CONTEXT = re.compile(
    r"context[_ ]?(?:length|window|size)|maximum context|exceed_context|too many (?:input |prompt )?tokens|"
    r"(?:prompt|input|request|message|text)s? (?:is |are )?too (?:long|large)|reduce the length|request_too_large|"
    r"(?:exceed|longer than|larger than|greater than|more than|above|over).{0,80}(?:context|tokens?\b|length)|"
    r"max_(?:new_|completion_)?tokens.{0,60}(?:too large|must be|at most|less than|exceed)|"
    r"input length|token limit|maximum.{0,30}\btokens\b|entity too large|"
    r"컨텍스트|토큰.{0,20}초과|上下文|超过.{0,20}长度",
    re.IGNORECASE | re.DOTALL,
)


def subject_of(status: int, error: ServiceError) -> Subject:
    """Classify a refusal by its status and message; empty if no pattern matches."""
    words = error.words
    if status == 402 or _QUOTA.search(words) or (status != 429 and "billing" in error.code):
        return "quota"
    if status == 401:
        return "key"
    if status in (400, 403, 422) and _KEY.search(words):
        return "key"
    if _MODEL.search(words) or (error.param == "model" and status in (400, 404, 422)):
        return "model"
    if status == 413 or _CONTEXT.search(words):
        return "context"
    if _CONTENT.search(words):
        return "content"
    return ""


def without_details(message: str) -> str:
    """Remove the parts of a refusal that differ between requests: numbers, ids, quoted text."""
    message = re.sub(r"\S*\d\S*", "#", message.lower())
    return " ".join(re.sub(r"[\"'`“‘].{0,200}?[\"'`”’]", "~", message).split())


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

"""Understand a service's refusals: parse its error bodies and classify them.

error body + status -> ServiceError (message, code, parameter) -> subject: quota, key, model, content, context
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

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

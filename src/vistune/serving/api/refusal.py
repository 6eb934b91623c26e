"""Errors for clients, in OpenAI's format: {"error": {message, type, param, code}}.

A message never repeats a client's text, except names that vistune knows, and contains no path, address or stack trace.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse

from vistune.errors import DataError, VistuneError
from vistune.generation.fields import FieldError

LONGEST_MESSAGE = 400  # characters
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class Refusal(Exception):
    """An HTTP error (status 400 or more) with its message."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers
        kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
        self.body = {"error": {"message": message[:LONGEST_MESSAGE], "type": kind, "param": param, "code": code}}

    def response(self) -> JSONResponse:
        """Return the HTTP response."""
        return JSONResponse(self.body, self.status, headers=self.headers)


def field_refusal(error: FieldError) -> Refusal:
    """Return the error for a field of a request."""
    code = "unsupported_parameter" if error.is_unsupported else "invalid_value"
    return Refusal(400, _with_hint(error), code=code, param=error.path or None)


def image_refusal(error: DataError, param: str) -> Refusal:
    """Return the error for an image that cannot be read."""
    return Refusal(400, _with_hint(error), code="invalid_image", param=param)


def conversation_refusal(error: VistuneError) -> Refusal:
    """Return the error for a conversation that the template cannot render."""
    return (
        field_refusal(error)
        if isinstance(error, FieldError)
        else field_refusal(FieldError("messages", error.message, error.hint))
    )


def _with_hint(error: VistuneError) -> str:
    return f"{error.message}; {error.hint}" if error.hint else error.message

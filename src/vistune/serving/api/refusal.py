"""What a client is told instead of an answer, in OpenAI's shape: {"error": {message, type, param, code}}.

A message never repeats a client's text, except words that this package knows, and has no path, memory address or stack.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse

from vistune.errors import DataError, VistuneError
from vistune.generation.fields import FieldError

LONGEST_MESSAGE = 400  # characters
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class Refusal(Exception):
    """An HTTP status of 400 and more, and why."""

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
        return JSONResponse(self.body, self.status, headers=self.headers)


def of_field(error: FieldError) -> Refusal:
    """The refusal for an error in a field."""
    code = "unsupported_parameter" if error.is_unsupported else "invalid_value"
    return Refusal(400, _both(error), code=code, param=error.path or None)


def of_image(error: DataError, param: str) -> Refusal:
    """The refusal for an image that cannot be read."""
    return Refusal(400, _both(error), code="invalid_image", param=param)


def of_data(error: VistuneError) -> Refusal:
    """A conversation that cannot be rendered."""
    return (
        of_field(error)
        if isinstance(error, FieldError)
        else of_field(FieldError("messages", error.message, error.hint))
    )


def _both(error: VistuneError) -> str:
    return f"{error.message}; {error.hint}" if error.hint else error.message

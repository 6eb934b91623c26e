"""What a client is told instead of an answer, in OpenAI's shape: {"error": {message, type, param, code}}.

Nothing of the client's own text is repeated beyond its first words, no path, no address of memory, no stack.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from starlette.responses import JSONResponse

from vistune.errors import DataError

LONGEST_MESSAGE = 400  # characters
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
ADDRESS = re.compile(r" \(.*|<_io[^>]*>|0x[0-9a-fA-F]+", re.DOTALL)  # what Pillow says of its own objects


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


def of_validation(error: ValidationError) -> Refusal:
    """The first thing that is wrong with a body, by its place; the value itself is not repeated."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return Refusal(400, "the body is not JSON in UTF-8", code="invalid_json")
    path = place_of(first["loc"])
    message = f"{path}: {first['msg']}" if path else str(first["msg"])
    return Refusal(400, message, code="invalid_value", param=path or None)


def place_of(location: tuple[Any, ...]) -> str:
    """`messages[0].content[1].text`; which kind of part was tried is left out."""
    path = ""
    for before, step in zip(("", *location), location, strict=False):
        if isinstance(step, int):
            path += f"[{step}]"
        elif not (isinstance(before, int) and step in ("text", "image_url")):
            path += f".{step}" if path else str(step)
    return path


def of_picture(error: DataError, param: str) -> Refusal:
    """A picture that cannot be read."""
    message = ADDRESS.sub("", error.message)
    return Refusal(400, f"{message}; {error.hint}", code="invalid_image", param=param)


def of_data(error: DataError) -> Refusal:
    """A conversation that cannot be rendered."""
    return Refusal(400, str(error), code="invalid_value", param="messages")

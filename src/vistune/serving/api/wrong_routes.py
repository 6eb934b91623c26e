"""Errors for requests without a matching route: they name the right route and the base URL for the client."""

from __future__ import annotations

from starlette.requests import Request

from vistune.serving.api.guard import CHAT, LOOKS, is_loopback

METHODS = {CHAT: "POST", LOOKS: "POST", "/v1/models": "GET", "/health": "GET", "/ready": "GET", "/metrics": "GET"}
OTHER_APIS = {  # paths of other APIs that clients use -> the API's name
    "/v1/completions": "the completions API",
    "/v1/responses": "the Responses API",
    "/v1/embeddings": "the embeddings API",
    "/v1/messages": "Anthropic's API",
    "/api/chat": "Ollama's API",
    "/api/generate": "Ollama's API",
    "/api/tags": "Ollama's API",
    "/api/show": "Ollama's API",
    "/api/version": "Ollama's API",
    "/generate": "TGI's API",
}


def words(status: int, request: Request, allowed: str) -> str:
    """The message for a wrong path or method; it repeats no part of the path except known routes.

    Args:
        allowed: the methods of the path, if it is a route.
    """
    path = request.scope["path"]
    base = f"set the client's base URL to {_base_url(request)}"
    chat = f"POST {CHAT}; {base}"
    bare = path.rstrip("/")
    if status == 405:
        methods = ", ".join(sorted(name.strip() for name in allowed.split(",")))
        return f"{path if path in METHODS else 'this path'} takes {methods}; to ask the model: {chat}"
    if status != 404:
        return f"cannot be answered; to ask the model: {chat}"
    if bare in METHODS:
        return f"there is nothing here; leave out the slash at the end: {METHODS[bare]} {bare}"
    if bare in OTHER_APIS:
        return f"{OTHER_APIS[bare]} is not supported here; {chat}"
    if any(bare == known.removeprefix("/v1") for known in METHODS if known.startswith("/v1/")):
        return f"there is nothing here; {base}: its routes begin with /v1"
    if bare.startswith("/v1/v1/") or bare.endswith("/chat/completions"):
        return f"there is nothing here; {base}, with one /v1 and without a route behind it"
    return f"there is nothing here; to ask the model: {chat}"


def _base_url(request: Request) -> str:
    """The base URL that the client used, as far as known; behind a proxy it may differ."""
    if is_loopback(request.url.hostname or ""):
        return f"{request.url.scheme}://{request.url.netloc}/v1"
    return "this server's address with /v1 behind it"

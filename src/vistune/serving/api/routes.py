"""The routes of the server: OpenAI's APIs, attention maps, health, metrics and the web page.

The APIs are chat completions, completions, responses and models: https://platform.openai.com/docs/api-reference
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from vistune import __version__
from vistune.generation.fields import Body
from vistune.serving.api import bodies, static
from vistune.serving.api.active import ActiveRequest
from vistune.serving.api.attention_maps import attention_maps
from vistune.serving.api.chat import EventStream, WholeAnswer, completion_body, stream_lines, whole_answers
from vistune.serving.api.completions import CompletionRequest, admit_completion, text_body, text_stream_lines
from vistune.serving.api.guard import (
    ATTENTION,
    CHAT,
    COMPLETIONS,
    MODEL_PATHS,
    RESPONSES,
    Refusal,
    is_loopback,
    server_error,
)
from vistune.serving.api.responses import ResponseWriter, admit_response, response_events
from vistune.serving.api.responses_schema import ResponsesRequest
from vistune.serving.api.schema import AttentionRequest, ChatRequest, unused_header
from vistune.serving.api.service import ModelService

METHODS = {
    **dict.fromkeys(MODEL_PATHS, "POST"),
    "/v1/models": "GET",
    "/health": "GET",
    "/ready": "GET",
    "/metrics": "GET",
}
OTHER_APIS = {  # paths of other APIs that clients may try -> the API's name
    "/v1/embeddings": "the embeddings API",
    "/v1/messages": "Anthropic's API",
    "/api/chat": "Ollama's API",
    "/api/generate": "Ollama's API",
    "/api/tags": "Ollama's API",
    "/api/show": "Ollama's API",
    "/api/version": "Ollama's API",
    "/generate": "TGI's API",
}
Responses = dict[int | str, dict[str, Any]]  # of a route, as FastAPI documents them


def make_app(service: ModelService) -> FastAPI:
    """Return the application with all routes of a service."""
    app = FastAPI(title="vistune", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    add_error_handlers(app, service)
    add_status_routes(app, service)

    @app.post(
        ATTENTION,
        openapi_extra=request_body(ATTENTION, AttentionRequest, service.name),
        responses=responses(bodies.AttentionBody),
    )
    async def attention(request: Request) -> Response:
        return await attention_maps(service, request)

    async def page(request: Request) -> Response:
        file = static.contents(service.samples).get(request.scope["path"])
        if file is None:
            raise Refusal(404, "this model has fewer sample images", code="not_found")
        content_type, data = file
        return Response(data, media_type=content_type, headers=static.HEADERS)

    for path in sorted(static.PATHS):
        app.add_api_route(path, page, methods=["GET", "HEAD"], include_in_schema=False)

    @app.post(
        CHAT,
        openapi_extra=request_body(CHAT, ChatRequest, service.name),
        responses=responses(bodies.ChatCompletion, streams=True),
    )
    async def chat(request: Request) -> Response:
        active, chat_request = await service.admit(request)
        lines = stream_lines(active, chat_request, request.state.request_id) if chat_request.stream else None
        return await reply(request, active, lines, lambda answers: completion_body(active, chat_request, answers))

    add_completions(app, service)
    add_responses(app, service)
    return app


def add_responses(app: FastAPI, service: ModelService) -> None:
    """Add the route of the Responses API."""

    @app.post(
        RESPONSES,
        openapi_extra=request_body(RESPONSES, ResponsesRequest, service.name),
        responses=responses(bodies.ResponseBody, streams=True),
    )
    async def create_response(request: Request) -> Response:
        active, response_request = await admit_response(service, request)
        lines = response_events(active, response_request, request.state.request_id) if response_request.stream else None
        return await reply(request, active, lines, lambda one: ResponseWriter(active, response_request).body(*one))


def add_completions(app: FastAPI, service: ModelService) -> None:
    """Add the route that continues texts."""

    @app.post(
        COMPLETIONS,
        openapi_extra=request_body(COMPLETIONS, CompletionRequest, service.name),
        responses=responses(bodies.TextCompletion, streams=True),
    )
    async def completions(request: Request) -> Response:
        active, text_request = await admit_completion(service, request)
        lines = text_stream_lines(active, text_request, request.state.request_id) if text_request.stream else None
        return await reply(request, active, lines, lambda answers: text_body(active, text_request, answers))


async def reply(
    request: Request,
    active: ActiveRequest,
    lines: AsyncIterator[str] | None,
    body_of: Callable[[list[WholeAnswer]], object],
) -> Response:
    """Answer an admitted request: with the lines of a stream, or with one body. It is released at the end."""
    headers = unused_header(active.unused)
    if lines is not None:
        return EventStream(active, lines, headers)
    try:
        answers = await whole_answers(request, active)
        return await json_response(lambda: body_of(answers), headers)
    finally:
        active.release()


async def json_response(body: Callable[[], object], headers: Mapping[str, str]) -> Response:
    """Build the body in a thread and return the response; a body with log probabilities takes seconds."""
    return await asyncio.to_thread(lambda: JSONResponse(body(), headers=headers))


def add_error_handlers(app: FastAPI, service: ModelService) -> None:
    """Answer every error in OpenAI's format."""

    @app.exception_handler(Refusal)
    async def _refused(request: Request, refusal: Refusal) -> Response:
        service.metrics.rejects.labels(refusal.code).inc()
        return refusal.response()

    @app.exception_handler(ClientDisconnect)
    async def _disconnected(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # only for the metrics: the client has gone

    @app.exception_handler(Exception)
    async def _failed(request: Request, error: Exception) -> Response:  # raised again, and logged by the guard
        return server_error(request.state.request_id).response()

    @app.exception_handler(HTTPException)
    async def _wrong_route(request: Request, error: HTTPException) -> Response:
        message = wrong_route_message(error.status_code, request, (error.headers or {}).get("Allow", ""))
        return Refusal(error.status_code, message, code=f"http_{error.status_code}", headers=error.headers).response()


def add_status_routes(app: FastAPI, service: ModelService) -> None:
    """Add the routes that report the state of the server and its model."""

    @app.get("/health", responses=responses(bodies.Health, unavailable=bodies.Health))
    async def health() -> Response:
        alive = service.engine.is_stepping
        return JSONResponse({"status": "ok" if alive else "engine stopped"}, 200 if alive else 503)

    @app.get("/ready", responses=responses(bodies.Readiness, unavailable=bodies.Readiness))
    async def ready() -> Response:
        is_ready = service.engine.is_stepping and not service.is_draining
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(service.metrics.page(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models/", include_in_schema=False)
    @app.get("/v1/models", responses=responses(bodies.ModelList))
    async def models() -> Response:
        return JSONResponse(bodies.ModelList(object="list", data=[service.model_body()]))

    @app.get("/v1/models/{name:path}", responses=responses(bodies.ModelBody))
    async def model(name: str) -> Response:
        if name.rstrip("/") != service.name:
            message = f"model: not a model of this server; it serves {service.name!r}"
            raise Refusal(404, message, code="model_not_found", param="model")
        return JSONResponse(service.model_body())


def responses(body: type[object], *, unavailable: type[object] | None = None, streams: bool = False) -> Responses:
    """Document the responses of a route: its body, OpenAI's errors, and a body for status 503 if that is no error."""
    documented: Responses = {
        200: {"model": body, "description": "The answer"},
        "4XX": {"model": bodies.ErrorBody, "description": "An error of the request"},
        "5XX": {"model": bodies.ErrorBody, "description": "An error of the server"},
    }
    if streams:
        documented[200]["content"] = {"text/event-stream": {}}
    if unavailable is not None:
        documented[503] = {"model": unavailable, "description": "Not available now"}
    return documented


def request_body(path: str, body: type[Body], model: str) -> dict[str, Any]:
    """Document the body of a route that reads it itself, within the limits of bytes and seconds."""
    pointer = f"#/paths/{path.replace('/', '~1')}/post/requestBody/content/application~1json/schema/$defs/{{model}}"
    body_schema = body.model_json_schema(ref_template=pointer)
    body_schema["properties"]["model"] = {"const": model}  # the server has one model
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": body_schema}}}}


def wrong_route_message(status: int, request: Request, allowed: str) -> str:
    """Return the message for a wrong path or method, which names the right route and the client's base URL.

    It repeats no part of the request's path except known routes.

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
        return f"there is nothing here; remove the slash at the end: {METHODS[bare]} {bare}"
    if bare in OTHER_APIS:
        return f"{OTHER_APIS[bare]} is not supported here; {chat}"
    if any(bare == known.removeprefix("/v1") for known in METHODS if known.startswith("/v1/")):
        return f"there is nothing here; {base}: its routes begin with /v1"
    if bare.startswith("/v1/v1/") or bare.endswith("/chat/completions"):
        return f"there is nothing here; {base}, with one /v1 and without a route behind it"
    return f"there is nothing here; to ask the model: {chat}"


def _base_url(request: Request) -> str:
    """Return the base URL that the client used, as far as known; behind a proxy it may differ."""
    if is_loopback(request.url.hostname or ""):
        return f"{request.url.scheme}://{request.url.netloc}/v1"
    return "this server's address with /v1 behind it"

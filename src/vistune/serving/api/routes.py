"""The routes of the server: OpenAI's chat completions and models, attention maps, health, metrics and the web page.

https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from vistune import __version__
from vistune.generation import PendingAnswer
from vistune.generation.fields import Body
from vistune.serving.api import schema, static
from vistune.serving.api.attention_maps import attention_maps
from vistune.serving.api.guard import ATTENTION, CHAT, Refusal, is_loopback, log_error, server_error
from vistune.serving.api.schema import AttentionRequest, ChatRequest, unused_header
from vistune.serving.api.service import ActiveRequest, ModelService

METHODS = {CHAT: "POST", ATTENTION: "POST", "/v1/models": "GET", "/health": "GET", "/ready": "GET", "/metrics": "GET"}
OTHER_APIS = {  # paths of other APIs that clients may try -> the API's name
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
Responses = dict[int | str, dict[str, Any]]  # of a route, as FastAPI documents them


class EventStream(StreamingResponse):
    """An answer that is sent while it is generated. Its request is released even if the client has left already."""

    def __init__(self, active: ActiveRequest, lines: AsyncIterator[str], headers: dict[str, str]) -> None:
        super().__init__(lines, media_type="text/event-stream", headers={"X-Accel-Buffering": "no", **headers})
        self.active = active

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.active.release()


def make_app(service: ModelService) -> FastAPI:
    """Return the application with all routes of a service."""
    app = FastAPI(title="vistune", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    add_error_handlers(app, service)
    add_status_routes(app, service)

    @app.post(
        ATTENTION,
        openapi_extra=request_body(ATTENTION, AttentionRequest, service.name),
        responses=responses(schema.AttentionBody),
    )
    async def attention(request: Request) -> Response:
        body, unused = await attention_maps(service, request)
        return JSONResponse(body, headers=unused_header(unused))

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
        responses=responses(schema.ChatCompletion, streams=True),
    )
    async def chat(request: Request) -> Response:
        active, chat_request = await service.admit(request)
        headers = unused_header(active.unused)
        if chat_request.stream:
            return EventStream(active, stream_lines(active, chat_request, request.state.request_id), headers)
        try:
            text = await _whole_text(request, active)
            assert active.answer is not None
            return JSONResponse(completion_body(service.name, text, active.answer), headers=headers)
        finally:
            active.release()

    return app


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

    @app.get("/health", responses=responses(schema.Health, unavailable=schema.Health))
    async def health() -> Response:
        alive = service.engine.is_stepping
        return JSONResponse({"status": "ok" if alive else "engine stopped"}, 200 if alive else 503)

    @app.get("/ready", responses=responses(schema.Readiness, unavailable=schema.Readiness))
    async def ready() -> Response:
        is_ready = service.engine.is_stepping and not service.is_draining
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(service.metrics.page(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models/", include_in_schema=False)
    @app.get("/v1/models", responses=responses(schema.ModelList))
    async def models() -> Response:
        return JSONResponse(schema.ModelList(object="list", data=[service.model_body()]))

    @app.get("/v1/models/{name:path}", responses=responses(schema.ModelBody))
    async def model(name: str) -> Response:
        if name.rstrip("/") != service.name:
            message = f"model: not a model of this server; it serves {service.name!r}"
            raise Refusal(404, message, code="model_not_found", param="model")
        return JSONResponse(service.model_body())


def responses(body: type[object], *, unavailable: type[object] | None = None, streams: bool = False) -> Responses:
    """Document the responses of a route: its body, OpenAI's errors, and a body for status 503 if that is no error."""
    documented: Responses = {
        200: {"model": body, "description": "The answer"},
        "4XX": {"model": schema.ErrorBody, "description": "An error of the request"},
        "5XX": {"model": schema.ErrorBody, "description": "An error of the server"},
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


async def _whole_text(request: Request, active: ActiveRequest) -> str:
    """Return the whole answer; raise ClientDisconnect as soon as the client has gone."""

    async def collect() -> str:
        return "".join([piece async for piece in active.text()])

    async def disconnected() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = asyncio.create_task(collect()), asyncio.create_task(disconnected())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise ClientDisconnect
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()


def completion_body(name: str, text: str, answer: PendingAnswer) -> schema.ChatCompletion:
    """Return the body of a finished answer."""
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": name,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": answer.finish_reason,
            }
        ],
        "usage": usage(answer),
    }


def usage(answer: PendingAnswer) -> schema.Usage:
    """Return the token counts of an answer."""
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "total_tokens": answer.prompt_tokens + answer.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": answer.reused_tokens},
    }


async def stream_lines(active: ActiveRequest, chat_request: ChatRequest, request_id: str) -> AsyncIterator[str]:
    """Yield server-sent events. An error is an event too, and [DONE] always comes last."""
    options = chat_request.stream_options
    with_usage = options is not None and bool(options.include_usage)
    head = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": chat_request.model,
    }

    def chunk(delta: dict[str, str], finish_reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return event({**head, "choices": [choice], **({"usage": None} if with_usage else {})})

    try:
        yield chunk({"role": "assistant", "content": ""})
        async for piece in active.text():
            yield chunk({"content": piece}) if piece else ": waiting for text\n\n"
        assert active.answer is not None
        yield chunk({}, active.answer.finish_reason)
        if with_usage:
            yield event({**head, "choices": [], "usage": usage(active.answer)})
    except Refusal as refusal:
        active.service.metrics.rejects.labels(refusal.code).inc()
        yield event(refusal.body)
    except Exception as error:
        log_error(request_id, error)
        yield event(server_error(request_id).body)
    yield "data: [DONE]\n\n"


def event(value: dict[str, Any]) -> str:
    """Format one server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"


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

"""OpenAI's routes on a Service, those of whoever runs it, and the page with what it asks beside.

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
from vistune.serving.api import openapi, static, wrong_routes
from vistune.serving.api.attention_maps import looks
from vistune.serving.api.guard import CHAT, LOOKS, log_error, server_error
from vistune.serving.api.refusal import Refusal
from vistune.serving.api.schema import ChatRequest, LookRequest, unused_header
from vistune.serving.api.service import Place, Service


class Stream(StreamingResponse):
    """An answer as it is said; its place is left even where the client went before the first byte."""

    def __init__(self, place: Place, lines: AsyncIterator[str], headers: dict[str, str]) -> None:
        super().__init__(lines, media_type="text/event-stream", headers={"X-Accel-Buffering": "no", **headers})
        self.place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.place.leave()


def make_app(service: Service) -> FastAPI:
    app = FastAPI(title="vistune", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)

    @app.exception_handler(Refusal)
    async def _refused(request: Request, refusal: Refusal) -> Response:
        service.metrics.rejects.labels(refusal.code).inc()
        return refusal.response()

    @app.exception_handler(ClientDisconnect)
    async def _gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # for the count; nobody reads it

    @app.exception_handler(Exception)
    async def _failed(request: Request, error: Exception) -> Response:  # raised again, and logged by the guard
        return server_error(request.state.request_id).response()

    @app.exception_handler(HTTPException)
    async def _other(request: Request, error: HTTPException) -> Response:
        words = wrong_routes.words(error.status_code, request, (error.headers or {}).get("Allow", ""))
        return Refusal(error.status_code, words, code=f"http_{error.status_code}", headers=error.headers).response()

    @app.get("/health", responses=openapi.replies(openapi.HEALTH, unready=openapi.HEALTH))
    async def health() -> Response:
        alive = service.engine.is_stepping
        return JSONResponse({"status": "ok" if alive else "engine stopped"}, 200 if alive else 503)

    @app.get("/ready", responses=openapi.replies(openapi.READY, unready=openapi.READY))
    async def ready() -> Response:
        is_ready = service.engine.is_stepping and not service.is_draining
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(service.metrics.page(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models/", include_in_schema=False)
    @app.get("/v1/models", responses=openapi.replies(openapi.MODELS))
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(service)]}

    @app.get("/v1/models/{name:path}", responses=openapi.replies(openapi.MODEL))
    async def model(name: str) -> dict[str, Any]:
        if name.rstrip("/") != service.name:
            message = f"model: there is no such model here; this server's is {service.name!r}"
            raise Refusal(404, message, code="model_not_found", param="model")
        return _model(service)

    @app.post(
        LOOKS, openapi_extra=openapi.asked(LOOKS, LookRequest, service.name), responses=openapi.replies(openapi.FOUND)
    )
    async def where(request: Request) -> Response:
        found, unused = await looks(service, request)
        return JSONResponse(found, headers=unused_header(unused))

    async def page(request: Request) -> Response:
        kind, data = static.contents()[request.scope["path"]]
        return Response(data, media_type=kind, headers=static.HEADERS)

    for path in sorted(static.PATHS):
        app.add_api_route(path, page, methods=["GET", "HEAD"], include_in_schema=False)

    @app.post(
        CHAT,
        openapi_extra=openapi.asked(CHAT, ChatRequest, service.name),
        responses=openapi.replies(openapi.COMPLETION, streams=True),
    )
    async def chat(request: Request) -> Response:
        place, asked = await service.admit(request)
        headers = unused_header(place.unused)
        if asked.stream:
            return Stream(place, stream_lines(place, asked, request.state.request_id), headers)
        try:
            text = await _whole(request, place)
            assert place.answer is not None
            return JSONResponse(whole_body(service.name, text, place.answer), headers=headers)
        finally:
            place.leave()

    return app


def _model(service: Service) -> dict[str, Any]:
    limits: dict[str, Any] = {"max_output_tokens": service.limits.max_tokens, "max_pictures": service.limits.images}
    if service.engine.context != float("inf"):
        limits["max_model_len"] = int(service.engine.context)
    return {"id": service.name, "object": "model", "created": service.started, "owned_by": "vistune", **limits}


async def _whole(request: Request, place: Place) -> str:
    """The whole answer. Raises ClientDisconnect as soon as nobody waits for it."""

    async def collect() -> str:
        return "".join([piece async for piece in place.listen()])

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = asyncio.create_task(collect()), asyncio.create_task(gone())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise ClientDisconnect
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()


def whole_body(name: str, text: str, answer: PendingAnswer) -> dict[str, Any]:
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


def usage(answer: PendingAnswer) -> dict[str, Any]:
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "total_tokens": answer.prompt_tokens + answer.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": answer.reused_tokens},
    }


async def stream_lines(place: Place, asked: ChatRequest, request_id: str) -> AsyncIterator[str]:
    """Server-sent events; an error on the way is one too, and [DONE] always comes last."""
    with_usage = asked.stream_options is not None and bool(asked.stream_options.include_usage)
    head = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": asked.model,
    }

    def chunk(delta: dict[str, str], finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return event({**head, "choices": [choice], **({"usage": None} if with_usage else {})})

    try:
        yield chunk({"role": "assistant", "content": ""})
        async for piece in place.listen():
            yield chunk({"content": piece}) if piece else ": still at it\n\n"
        assert place.answer is not None
        yield chunk({}, place.answer.finish_reason)
        if with_usage:
            yield event({**head, "choices": [], "usage": usage(place.answer)})
    except Refusal as refusal:
        place.service.metrics.rejects.labels(refusal.code).inc()
        yield event(refusal.body)
    except Exception as error:
        log_error(request_id, error)
        yield event(server_error(request_id).body)
    yield "data: [DONE]\n\n"


def event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"

"""An OpenAI-compatible teacher on a loopback port that misbehaves on request, and records what it billed.

`behave(request)` returns a Behaviour (status, body, headers, delay, drip, cut) for each request, also of the Batch API.
The service speaks HTTP/1.1 over plain sockets, so that its answers can be broken in any way.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from vistune.datagen.teachers.prompts import system_prompt

USAGE = {"prompt_tokens": 900, "completion_tokens": 120}
TEXTS = {
    "en": {
        "conversation": "Question:\nIs it a calm scene?\n===\nAnswer:\nYes, it looks calm and quiet.\n===\n"
        "Question:\nHow is the light?\n===\nAnswer:\nThe light is soft and even.",
        "detail": "The scene is calm and wide, with soft light that falls evenly on everything, nothing is in a hurry.",
        "reasoning": "Question:\nWhat mood does it give?\n===\nAnswer:\nA quiet one, since nothing moves in haste and "
        "the light stays soft and even.",
        "caption": "A calm and quiet scene in soft light.",
    },
    "ko": {
        "conversation": "질문:\n분위기가 어떤가요?\n===\n답변:\n조용하고 차분합니다.\n===\n"
        "질문:\n빛은 어떤가요?\n===\n답변:\n부드럽고 고르게 퍼져 있습니다.",
        "detail": "전체적으로 조용하고 차분한 장면이며 부드러운 빛이 고르게 퍼져 있어 편안한 느낌을 줍니다.",
        "reasoning": "질문:\n어떤 느낌을 주나요?\n===\n답변:\n서두르는 기색이 전혀 없고 빛도 "
        "부드러워 전체적으로 평온한 느낌을 줍니다.",
        "caption": "부드러운 빛 속의 조용하고 차분한 장면.",
    },
}


@dataclass
class Request:
    """One request as the service received it; `billed` once the answer has begun. Times in seconds."""

    number: int
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at: float
    billed: bool = False
    status: int = 0

    @property
    def key(self) -> str:
        return self.headers.get("x-request-key", "")

    @property
    def tree(self) -> Any:
        return json.loads(self.body)


@dataclass
class Behaviour:
    """What the service does with one request.

    - body: None for a good completion
    - cut: number of bytes before the connection is reset
    - drip: seconds per byte
    - hang: send nothing after the headers
    """

    status: int = 200
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    drip: float = 0.0
    cut: int | None = None
    hang: bool = False


def error(status: int, code: str = "", message: str = "no", **headers: str) -> Behaviour:
    body = json.dumps({"error": {"message": message, "type": code, "code": code}}).encode()
    return Behaviour(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


def kind_of(tree: Any) -> tuple[str, str]:
    """Return the (kind, language) that a request asks for, by its system prompt."""
    system = tree["messages"][0]["content"]
    for language in ("en", "ko"):
        for kind in TEXTS[language]:
            if system.startswith(system_prompt(kind, language)):
                return kind, language
    raise AssertionError(f"not one of our prompts: {system[:80]!r}")


def completion(text: Any, *, model: str = "fake-1", finish_reason: str = "stop", usage: Any = USAGE) -> bytes:
    message = {"role": "assistant", "content": text}
    tree = {"id": "x", "model": model, "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}]}
    return json.dumps(tree | ({"usage": usage} if usage is not None else {})).encode()


def says(text: Any, **message: Any) -> bytes:
    """Return a completion whose message has further fields, such as `reasoning_content`."""
    tree = json.loads(completion(text))
    tree["choices"][0]["message"] |= message
    return json.dumps(tree).encode()


def streamed(body: bytes, *, usage: bool = True, done: bool = True, piece: int = 7) -> Behaviour:
    """Return a completion as server-sent events: the message in pieces, the usage in a separate chunk."""
    tree = json.loads(body)
    choice = tree["choices"][0]
    head = {"id": "x", "object": "chat.completion.chunk", "model": tree["model"]}
    deltas: list[dict[str, Any]] = [{"role": "assistant"}]
    for name, value in choice["message"].items():
        if name != "role" and isinstance(value, str):
            deltas += [{name: value[k : k + piece]} for k in range(0, len(value), piece)]
        elif name != "role":
            deltas.append({name: value})
    chunks = [head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    if done:
        end = {"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}
        chunks.append(head | {"choices": [end]})
    if usage:
        chunks.append(head | {"choices": [], "usage": tree.get("usage")})
    lines = [": keep-alive", *(f"data: {json.dumps(chunk)}" for chunk in chunks), *(["data: [DONE]"] if done else [])]
    return Behaviour(body="\n\n".join([*lines, ""]).encode(), headers={"Content-Type": "text/event-stream"})


def good(tree: Any) -> bytes:
    kind, language = kind_of(tree)
    return completion(TEXTS[language][kind])


class FakeService:
    """The service, on the event loop that runs `serving`; `behave` may be changed at any time."""

    def __init__(self, behave: Callable[[Request], Behaviour] = lambda request: Behaviour()) -> None:
        self.behave = behave
        self.asked: list[Request] = []
        self.under_way = 0
        self.most_under_way = 0
        self.files: dict[str, dict[str, Any]] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.batch_step: Callable[[dict[str, Any]], None] = complete_batch

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, limit=1 << 26)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def chats(self) -> list[Request]:
        return [request for request in self.asked if request.path.endswith("/chat/completions")]

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return False to end the connection."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:]) if k}
        if headers.get("transfer-encoding") == "chunked":
            body = await _read_chunks(reader)
        else:
            body = await reader.readexactly(int(headers.get("content-length", "0")))
        request = Request(len(self.asked), method, path, headers, body, asyncio.get_running_loop().time())
        self.asked.append(request)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            return await self._answer(request, writer)
        finally:
            self.under_way -= 1

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        chat = request.path.endswith("/chat/completions")
        behaviour = self.behave(request)
        await asyncio.sleep(behaviour.delay)
        content = behaviour.body
        if content is None:
            content = good(request.tree) if chat else self._batch_api(request)
        request.billed = chat and behaviour.status == 200
        request.status = behaviour.status
        headers = {"Content-Type": "application/json", **behaviour.headers}
        lines = [f"HTTP/1.1 {behaviour.status} X", f"Content-Length: {len(content)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        if behaviour.hang:
            await writer.drain()
            await asyncio.sleep(3600)
        if behaviour.drip:
            for k in range(len(content)):
                writer.write(content[k : k + 1])
                await writer.drain()
                await asyncio.sleep(behaviour.drip)
        elif behaviour.cut is not None:
            writer.write(content[: behaviour.cut])
            await writer.drain()
            writer.transport.abort()
            return False
        else:
            writer.write(content)
        await writer.drain()
        return True

    def _batch_api(self, request: Request) -> bytes:
        """Serve files and batches. A batch advances by `batch_step` each time it is read."""
        path = request.path.split("?")[0].removeprefix("/v1/")
        if request.method == "POST" and path == "files":
            found = re.search(rb'filename="([^"]+)"\r\n(?:[^\r]*\r\n)*\r\n(.*)\r\n--', request.body, re.DOTALL)
            assert found is not None
            name = f"file-{len(self.files)}"
            self.files[name] = {"id": name, "filename": found.group(1).decode(), "content": found.group(2)}
            return json.dumps({"id": name, "filename": self.files[name]["filename"]}).encode()
        if request.method == "POST" and path == "batches":
            name = f"batch-{len(self.batches)}"
            self.batches[name] = {"id": name, "status": "validating", **request.tree}
            return json.dumps(self.batches[name]).encode()
        if path.startswith("files/") and path.endswith("/content"):
            return self.files[path.split("/")[1]]["content"]  # type: ignore[no-any-return]
        if path in ("files", "batches"):
            table = self.files if path == "files" else self.batches
            listed = [{k: v for k, v in entry.items() if k != "content"} for entry in reversed(table.values())]
            return json.dumps({"data": listed, "has_more": False}).encode()
        batch = self.batches[path.split("/")[1]]
        self.batch_step({"batch": batch, "files": self.files})
        return json.dumps(batch).encode()


class FakeTeacher(FakeService):
    """A service in a separate thread, until it is closed."""

    def __init__(self, behave: Callable[[Request], Behaviour] = lambda request: Behaviour()) -> None:
        super().__init__(behave)
        started = threading.Event()
        self.thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self.thread.start()
        started.wait()

    def _run(self, started: threading.Event) -> None:
        async def serve() -> None:
            self.loop = asyncio.get_running_loop()
            self.closing = asyncio.Event()
            async with self.serving():
                started.set()
                await self.closing.wait()

        asyncio.run(serve())

    def close(self) -> None:
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.closing.set)
            self.thread.join(5)


def complete_batch(
    given: dict[str, Any], line: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda asked: answer_line(asked)
) -> None:
    """Answer every line of a batch at once; `line` makes an output line from an input line (None: no output)."""
    batch, files = given["batch"], given["files"]
    if batch["status"] != "validating":
        return
    asked = [json.loads(row) for row in files[batch["input_file_id"]]["content"].split(b"\n") if row.strip()]
    lines = [made for made in map(line, asked) if made is not None]
    name = f"file-{len(files)}"
    files[name] = {"id": name, "filename": "out", "content": b"".join(json.dumps(x).encode() + b"\n" for x in lines)}
    batch |= {"status": "completed", "output_file_id": name}


def answer_line(asked: dict[str, Any]) -> dict[str, Any]:
    body = json.loads(good(asked["body"]))
    return {"custom_id": asked["custom_id"], "response": {"status_code": 200, "body": body}, "error": None}


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    data = b""
    while size := int(await reader.readline(), 16):
        data += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return data

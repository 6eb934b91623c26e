"""One model behind an engine, as the event loop uses it: places, bodies, prompts, answers.

body -> place -> ChatRequest -> messages -> Example -> engine -> pieces, heard in the event loop
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from fastapi import Request

from vistune.errors import DataError, RecipeError
from vistune.generation import Assistant, Engine, PendingAnswer, alternate_turns, read_data_url
from vistune.generation.batch import Prompt, hash_prompt
from vistune.generation.messages import ChatMessage, ImagePart, is_data_url, is_link, one_message, url_error
from vistune.processor import load_bytes
from vistune.serving.api.fetch import Fetcher
from vistune.serving.api.limits import Limits
from vistune.serving.api.memory import LARGE_BYTES, give_back
from vistune.serving.api.metrics import Metrics
from vistune.serving.api.refusal import Refusal, of_data, of_image
from vistune.serving.api.schema import ChatRequest, read_request
from vistune.types import ImageRef, Message

NO_LINKS = (
    "a link, and this server fetches none",
    'send the image as "data:image/jpeg;base64," and then its bytes in base64, or start the server with '
    "--allow-fetch-from and the link's host",
)
READERS = 2  # threads that decode pictures and encode text: what they hold at once is bounded
T = TypeVar("T")


class Place:
    """One of the server's places: an answer that waits or runs. Left once, whatever happens."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.answer: PendingAnswer | None = None
        self.began = time.monotonic()
        self.pieces: asyncio.Queue[str | None] = asyncio.Queue()
        self.bytes = 0  # what its body and pictures held, decoded ones too
        self.unused: Sequence[str] = ()  # paths of the unused fields of its body
        service.taken.add(self)

    def ask(self, prompt: Prompt, request: ChatRequest) -> None:
        loop = asyncio.get_running_loop()

        def listen(piece: str | None) -> None:  # in the engine's thread
            with suppress(RuntimeError):  # the loop is closed: nobody hears any more
                loop.call_soon_threadsafe(self.pieces.put_nowait, piece)

        self.answer = self.service.engine.submit(
            prompt,
            max_tokens=request.answer_tokens(self.service.limits),
            sampling=request.sampling(),
            stop=request.stop or (),
            listen=listen,
        )

    async def listen(self) -> AsyncIterator[str]:
        """The answer's pieces, and "" whenever none has come for a while. Raises what ended it early."""
        limits, metrics = self.service.limits, self.service.metrics
        said = False
        while True:
            left = max(self.began + limits.answer_seconds - time.monotonic(), 0)
            try:
                piece = await asyncio.wait_for(self.pieces.get(), min(left, limits.heartbeat_seconds))
            except TimeoutError:
                if left <= limits.heartbeat_seconds:
                    message = f"the answer took longer than {limits.answer_seconds:.0f} s"
                    raise Refusal(504, message, code="timeout") from None
                yield ""
                continue
            if piece is None:
                break
            if not said:
                metrics.first_piece.observe(time.monotonic() - self.began)
                said = True
            yield piece
        assert self.answer is not None
        if self.answer.error is not None:
            raise self.answer.error
        if self.answer.finish_reason == "cancelled":
            raise shutting_down()

    def leave(self) -> None:
        if self not in self.service.taken:
            return
        self.service.taken.discard(self)
        metrics, answer = self.service.metrics, self.answer
        if answer is not None:
            metrics.answer.observe(time.monotonic() - self.began)
            answer.cancel()
            metrics.prompt_tokens.inc(answer.prompt_tokens)
            metrics.reused_tokens.inc(answer.reused_tokens)
            metrics.answer_tokens.inc(answer.completion_tokens)
        if self.bytes > LARGE_BYTES:
            self.service.readers.submit(give_back)


class Service:
    def __init__(self, assistant: Assistant, *, name: str, limits: Limits, fetcher: Fetcher) -> None:
        self.model = assistant.model
        self.processor = assistant.processor
        self.engine = Engine(assistant.model, assistant.processor, batch_size=limits.slots)
        self.name = name
        self.limits = limits
        self.fetcher = fetcher
        self.metrics = Metrics(running=lambda: self.engine.running, waiting=lambda: self.engine.waiting)
        self.started = int(time.time())
        self.taken: set[Place] = set()
        self.is_draining = False
        self._bodies = 0  # bytes of those being read
        self.readers = ThreadPoolExecutor(READERS, thread_name_prefix="vistune reader")
        self.looker = ThreadPoolExecutor(1, thread_name_prefix="vistune looker")  # one look after the other

    def cancel_all(self) -> None:
        for place in list(self.taken):
            if place.answer is not None:
                place.answer.cancel()

    def close(self) -> None:
        for threads in (self.readers, self.looker):
            threads.shutdown(wait=False, cancel_futures=True)
        self.engine.close()

    async def admit(self, request: Request) -> tuple[Place, ChatRequest]:
        """Read a request and submit its prompt. Raises Refusal; then no place is taken."""
        async with self.enter(request) as (place, body):
            asked, place.unused = await self.in_reader(lambda: read_request(body, model=self.name, limits=self.limits))
            place.ask(await self._prompt(place, asked), asked)
            # Pictures may be megabytes, an answer may take minutes.
            return place, asked.model_copy(update={"messages": []})

    @asynccontextmanager
    async def enter(self, request: Request) -> AsyncIterator[tuple[Place, bytes]]:
        """A place, and the body; the place is left where what is done with it raises. Raises Refusal."""
        held = [0]
        try:
            body = await self._read_body(request, held)
            self.refuse_when_full()
            place = Place(self)
            place.bytes = len(body)
            try:
                yield place, body
            except BaseException:
                place.leave()
                raise
        finally:
            self._bodies -= held[0]

    def refuse_when_full(self) -> None:
        """Before a body is waited for, and again once it is there. Raises Refusal."""
        if self.is_draining:
            raise shutting_down()
        if len(self.taken) >= self.limits.places:
            message = f"{self.limits.places} requests are running or waiting; try again"
            raise Refusal(429, message, code="queue_full", headers={"Retry-After": "1"})

    async def _read_body(self, request: Request, held: list[int]) -> bytes:
        """The body within its limits of bytes and seconds; `held[0]` counts what is kept of it."""
        most, close = self.limits.body_bytes, {"Connection": "close"}
        too_large = Refusal(413, f"the body is larger than {most} bytes", code="body_too_large", headers=close)
        if int(request.headers.get("content-length", 0)) > most:
            raise too_large
        chunks = []
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                async for chunk in request.stream():
                    chunks.append(chunk)
                    held[0] += len(chunk)
                    self._bodies += len(chunk)
                    if held[0] > most:
                        raise too_large
                    if self._bodies > self.limits.bodies_bytes:
                        message = "too much is being sent at once; try again"
                        raise Refusal(429, message, code="bodies_full", headers={"Retry-After": "1", **close})
        except TimeoutError:
            message = f"the body did not come within {self.limits.body_seconds:.0f} s"
            raise Refusal(408, message, code="body_timeout", headers=close) from None
        return b"".join(chunks)

    async def _prompt(self, place: Place, request: ChatRequest) -> Prompt:
        prompt = await self.encoded(
            place, request.messages, lambda messages: hash_prompt(self.processor.encode_prompt(messages))
        )
        if len(prompt) >= self.engine.context:
            most = f"{self.engine.context:.0f}"
            message = f"the prompt takes {len(prompt)} tokens, the model reads {most}; shorten it"
            raise Refusal(400, message, code="context_length_exceeded", param="messages")
        return prompt

    async def encoded(self, place: Place, messages: Sequence[ChatMessage], encode: Callable[[list[Message]], T]) -> T:
        """What `encode` makes of the messages, their pictures read. Raises Refusal."""
        fetched = await self._fetch(messages)

        def work() -> T:
            try:
                return encode(self._messages(place, messages, fetched))
            except (DataError, RecipeError) as error:  # RecipeError: the template refuses these roles
                raise of_data(error) from None

        return await self.in_reader(work)

    async def _fetch(self, messages: Sequence[ChatMessage]) -> dict[str, bytes]:
        """Fetch the images that are links: path of each URL -> its bytes. Raises Refusal for other texts."""
        fetched: dict[str, bytes] = {}
        for path, url in image_urls(messages):
            if is_data_url(url):
                continue
            if not (self.fetcher.hosts and is_link(url)):
                raise of_image(url_error(url, path, links=NO_LINKS), path)
            fetched[path] = await self.fetcher.image(url.strip(), path)
            if sum(map(len, fetched.values())) > self.limits.body_bytes:
                why = f"{path}: with it the images are larger than {self.limits.body_bytes} bytes"
                raise Refusal(400, why, code="invalid_image", param=path)
        return fetched

    def _messages(self, taken: Place, given: Sequence[ChatMessage], fetched: dict[str, bytes]) -> list[Message]:
        """The conversation in turns. Images are decoded one by one, until the sum of their pixels is too large."""
        pixels = 0

        def load(part: ImagePart, part_path: str) -> ImageRef:
            nonlocal pixels
            path = url_path(part_path)
            try:
                image = load_bytes(fetched[path], path) if path in fetched else read_data_url(part.image_url.url, path)
            except DataError as error:
                raise of_image(error, path) from None
            pixels += image.width * image.height
            taken.bytes += 4 * image.width * image.height
            if pixels > self.limits.pixels:
                why = f"{path}: with it the images have more than {self.limits.pixels} pixels"
                raise Refusal(400, why, code="invalid_image", param=path)
            return ImageRef(image)

        return alternate_turns([one_message(message, f"messages[{k}]", load) for k, message in enumerate(given)])

    async def in_reader(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.readers, work)


def shutting_down() -> Refusal:
    return Refusal(503, "the server is shutting down", code="shutting_down", headers={"Retry-After": "5"})


def image_urls(messages: Sequence[ChatMessage]) -> list[tuple[str, str]]:
    """The path and the URL of every image."""
    return [
        (url_path(f"messages[{k}].content[{i}]"), part.image_url.url)
        for k, message in enumerate(messages)
        for i, part in enumerate(message.parts)
        if isinstance(part, ImagePart)
    ]


def url_path(part_path: str) -> str:
    return f"{part_path}.image_url.url"

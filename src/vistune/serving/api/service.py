"""Connect the web server's event loop to one model and its inference engine.

body -> ActiveRequest -> ChatRequest -> messages -> prompt -> engine -> pieces of text
"""

from __future__ import annotations

import asyncio
import ctypes
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request

from vistune.errors import DataError, RecipeError
from vistune.generation import Assistant, Engine, alternate_turns, read_data_url
from vistune.generation.fields import is_data_url, is_link, url_error
from vistune.generation.logprobs import TokenTexts
from vistune.generation.messages import ChatMessage, ImagePart, one_message
from vistune.generation.sequence import Prompt, hash_prompt
from vistune.processor import load_bytes
from vistune.serving.api import Limits
from vistune.serving.api.active import ActiveRequest, shutting_down_error
from vistune.serving.api.bodies import ModelBody
from vistune.serving.api.fetch import Fetcher
from vistune.serving.api.guard import Refusal, conversation_refusal, image_refusal
from vistune.serving.api.metrics import ServerMetrics
from vistune.serving.api.run_samples import RunSample
from vistune.serving.api.schema import ChatRequest, read_request
from vistune.serving.api.tools import template_messages
from vistune.types import ImageRef, Message

NO_LINKS = (
    "a link, and this server fetches none",
    'send the image as "data:image/jpeg;base64," and then its bytes in base64, or start the server with '
    "--allow-fetch-from and the link's host",
)
READERS = 2  # threads that decode images and encode text; few, so that their memory is bounded
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class MessagePaths:
    """Where the messages of a conversation are in a request, for its errors.

    Attributes:
        messages: The path of each message.
        url: The path of an image's URL in its part.
        whole: The path of the conversation.
    """

    messages: tuple[str, ...]
    url: str = ".image_url.url"
    whole: str = "messages"


class ModelService:
    """A model, its engine, and the requests that use it."""

    def __init__(self, assistant: Assistant, *, name: str, limits: Limits, fetcher: Fetcher) -> None:
        self.model = assistant.model
        self.processor = assistant.processor
        self.engine = Engine(assistant.model, assistant.processor, batch_size=limits.slots)
        self.texts = TokenTexts(assistant.processor)
        self.name = name
        self.limits = limits
        self.fetcher = fetcher
        self.metrics = ServerMetrics(running=lambda: self.engine.running, waiting=lambda: self.engine.waiting)
        self.started = int(time.time())
        self.active: set[ActiveRequest] = set()
        self.is_draining = False
        self.samples: tuple[RunSample, ...] | None = None  # of the page; None: the built-in ones
        self._bodies = 0  # bytes of all bodies that are being received
        self.readers = ThreadPoolExecutor(READERS, thread_name_prefix="vistune reader")
        self.attention_thread = ThreadPoolExecutor(1, thread_name_prefix="vistune attention")  # one map at a time

    def model_body(self) -> ModelBody:
        """Describe the model as OpenAI's API does, with the limits that clients need to know."""
        body: ModelBody = {
            "id": self.name,
            "object": "model",
            "created": self.started,
            "owned_by": "vistune",
            "max_output_tokens": self.limits.max_tokens,
            "max_pictures": self.limits.images,
        }
        if self.engine.context != float("inf"):
            body["max_model_len"] = int(self.engine.context)
        return body

    def cancel_all(self) -> None:
        """Cancel all answers."""
        for active in list(self.active):
            active.cancel()

    def close(self) -> None:
        """Stop the threads and the engine."""
        for threads in (self.readers, self.attention_thread):
            threads.shutdown(wait=False, cancel_futures=True)
        self.engine.close()

    async def admit(self, request: Request) -> tuple[ActiveRequest, ChatRequest]:
        """Read a request and submit its prompt. If it raises Refusal, the request is not active."""
        async with self.enter(request) as (active, body):
            chat, active.unused = await self.in_reader(
                lambda: read_request(
                    body, model=self.name, limits=self.limits, has_tools=self.processor.tools is not None
                )
            )
            settings = await self.in_reader(lambda: chat.settings(self.limits, self.processor, self.engine.grammars))
            active.submit([await self._prompt(active, chat)], settings)
            # The messages may hold megabytes of images, and an answer may take minutes.
            return active, chat.model_copy(update={"messages": []})

    @asynccontextmanager
    async def enter(self, request: Request) -> AsyncIterator[tuple[ActiveRequest, bytes]]:
        """Receive the body and admit the request; release it if the block raises.

        Raises Refusal if the server is full, or the body too large or too slow.
        """
        received = [0]
        try:
            body = await self._read_body(request, received)
            self.refuse_when_full()
            active = ActiveRequest(self)
            active.bytes = len(body)
            try:
                yield active, body
            except BaseException:
                active.release()
                raise
        finally:
            self._bodies -= received[0]

    def refuse_when_full(self) -> None:
        """Raise Refusal if no more requests are admitted. Called before the body is received, and again after it."""
        if self.is_draining:
            raise shutting_down_error()
        if len(self.active) >= self.limits.max_active:
            message = f"{self.limits.max_active} requests are running or waiting; try again"
            raise Refusal(429, message, code="queue_full", headers={"Retry-After": "1"})

    async def _read_body(self, request: Request, received: list[int]) -> bytes:
        """Return the body; `received[0]` counts its bytes, also if it fails.

        Raises Refusal if it is too large or too slow, or if all bodies together are too large.
        """
        most, close = self.limits.body_bytes, {"Connection": "close"}
        too_large = Refusal(413, f"the body is larger than {most} bytes", code="body_too_large", headers=close)
        if int(request.headers.get("content-length", 0)) > most:
            raise too_large
        chunks = []
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                async for chunk in request.stream():
                    chunks.append(chunk)
                    received[0] += len(chunk)
                    self._bodies += len(chunk)
                    if received[0] > most:
                        raise too_large
                    if self._bodies > self.limits.bodies_bytes:
                        message = "too many bytes are being sent at once; try again"
                        raise Refusal(429, message, code="bodies_full", headers={"Retry-After": "1", **close})
        except TimeoutError:
            message = f"the body did not arrive within {self.limits.body_seconds:.0f} s"
            raise Refusal(408, message, code="body_timeout", headers=close) from None
        return b"".join(chunks)

    async def _prompt(self, active: ActiveRequest, request: ChatRequest) -> Prompt:
        def encode(messages: list[Message]) -> Prompt:
            if not request.uses_tools:
                return hash_prompt(self.processor.encode_prompt(alternate_turns(messages)))
            template = self.processor.tools
            assert template is not None
            chat, images = template_messages(request.messages, messages)
            return hash_prompt(self.processor.encode_pieces(template.render(chat, images, request.template_tools())))

        prompt = await self.encoded(active, request.messages, encode)
        self.refuse_long(prompt, "messages")
        return prompt

    def refuse_long(self, prompt: Prompt, param: str) -> None:
        """Raise Refusal if a prompt leaves no room for an answer."""
        if len(prompt) >= self.engine.context:
            most = f"{self.engine.context:.0f}"
            message = f"the prompt has {len(prompt)} tokens, the model reads at most {most}; shorten it"
            raise Refusal(400, message, code="context_length_exceeded", param=param)

    async def encoded(
        self,
        active: ActiveRequest,
        messages: Sequence[ChatMessage],
        encode: Callable[[list[Message]], T],
        paths: MessagePaths | None = None,
    ) -> T:
        """Load the images of the messages and return the result of `encode`. Raises Refusal."""
        paths = paths or MessagePaths(tuple(f"messages[{k}]" for k in range(len(messages))))
        fetched = await self._fetch(image_urls(messages, paths))

        def work() -> T:
            try:
                return encode(self._messages(active, messages, fetched, paths))
            except (DataError, RecipeError) as error:  # RecipeError: the template refuses these roles
                raise conversation_refusal(error, paths.whole) from None

        return await self.in_reader(work)

    async def _fetch(self, urls: Sequence[tuple[str, str]]) -> dict[str, bytes]:
        """Fetch the images that are links; return their bytes by the path of the URL. Raises Refusal for other URLs."""
        fetched: dict[str, bytes] = {}
        for path, url in urls:
            if is_data_url(url):
                continue
            if not (self.fetcher.hosts and is_link(url)):
                raise image_refusal(url_error(url, path, links=NO_LINKS), path)
            fetched[path] = await self.fetcher.image(url.strip(), path)
            if sum(map(len, fetched.values())) > self.limits.body_bytes:
                message = f"{path}: the images up to this one are larger than {self.limits.body_bytes} bytes"
                raise Refusal(400, message, code="invalid_image", param=path)
        return fetched

    def _messages(
        self, active: ActiveRequest, given: Sequence[ChatMessage], fetched: dict[str, bytes], paths: MessagePaths
    ) -> list[Message]:
        """Return the messages. Images are decoded one by one, until they have too many pixels together."""
        pixels = 0

        def load(part: ImagePart, part_path: str) -> ImageRef:
            nonlocal pixels
            path = part_path + paths.url
            try:
                image = load_bytes(fetched[path], path) if path in fetched else read_data_url(part.image_url.url, path)
            except DataError as error:
                raise image_refusal(error, path) from None
            pixels += image.width * image.height
            active.bytes += 4 * image.width * image.height
            if pixels > self.limits.pixels:
                message = f"{path}: the images up to this one have more than {self.limits.pixels} pixels"
                raise Refusal(400, message, code="invalid_image", param=path)
            return ImageRef(image)

        return [one_message(message, path, load) for message, path in zip(given, paths.messages, strict=True)]

    def return_memory(self) -> None:
        """Return freed memory to the system, in a reader thread."""
        self.readers.submit(return_freed_memory)

    async def in_reader(self, work: Callable[[], T]) -> T:
        """Run `work` in a reader thread."""
        return await asyncio.get_running_loop().run_in_executor(self.readers, work)


def image_urls(messages: Sequence[ChatMessage], paths: MessagePaths) -> list[tuple[str, str]]:
    """Return the path and the URL of every image."""
    return [
        (f"{path}.content[{i}]{paths.url}", part.image_url.url)
        for message, path in zip(messages, paths.messages, strict=True)
        for i, part in enumerate(message.parts)
        if isinstance(part, ImagePart)
    ]


def return_freed_memory() -> None:
    """Return freed pages to the system; glibc would keep hundreds of megabytes after a few large images."""
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)

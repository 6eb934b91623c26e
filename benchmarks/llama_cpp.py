"""Answer a benchmark's requests with llama.cpp's own server (xllamacpp), started on loopback over a GGUF export."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
from PIL import Image

CONTEXT = 1024  # tokens per stream


class LlamaCpp:
    """A server over the two GGUF files of a folder, with llama.cpp's own settings but for threads and streams."""

    def __init__(self, folder: Path, streams: int, threads: int) -> None:
        import xllamacpp

        files = {path.name.startswith("mmproj-"): path for path in folder.glob("*.gguf")}
        settings = xllamacpp.CommonParams()
        settings.model.path, settings.mmproj.path = str(files[False]), str(files[True])
        settings.n_ctx, settings.n_parallel, settings.port, settings.verbosity = CONTEXT * streams, streams, 0, 0
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
        settings.fit_params, settings.use_jinja = False, True
        self.server = xllamacpp.Server(settings)
        self.streams = streams

    def answer(self, requests: Sequence[tuple[str, str | None]], tokens: int) -> int:
        """Answer all requests (text, image as data URL) at once, greedily; return the number of generated tokens."""
        with ThreadPoolExecutor(self.streams) as threads:
            return sum(threads.map(lambda request: self._answer(*request, tokens), requests))

    def _answer(self, text: str, url: str | None, tokens: int) -> int:
        content: list[dict[str, Any]] = [{"type": "text", "text": text}]
        if url is not None:
            content.insert(0, {"type": "image_url", "image_url": {"url": url}})
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": tokens, "temperature": 0,
                "cache_prompt": False}  # fmt: skip
        reply = httpx2.post(f"{self.server.listening_address}/v1/chat/completions", json=body, timeout=600)
        return int(reply.raise_for_status().json()["usage"]["completion_tokens"])


def data_url(image: Image.Image) -> str:
    """Return an image as a data URL."""
    written = io.BytesIO()
    image.save(written, "PNG")
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()

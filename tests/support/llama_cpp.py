"""llama.cpp's own server (xllamacpp), started on loopback, and its answers with log-probabilities."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image


@dataclass(frozen=True)
class Reply:
    """An answer; log-probabilities by token id at its first position; tokens of the prompt with image slots."""

    text: str
    first: dict[int, float]
    prompt_tokens: int


class LlamaServer:
    """A server over the two GGUF files of a folder. Keys and values are f32, as in our model."""

    def __init__(self, folder: Path) -> None:
        engine: Any = pytest.importorskip("xllamacpp", reason="needs xllamacpp, a prebuilt llama.cpp")
        language, projector = (
            next(path for path in folder.glob("*.gguf") if path.name.startswith("mmproj-") == is_projector)
            for is_projector in (False, True)
        )
        settings = engine.CommonParams()
        settings.model.path, settings.mmproj.path = str(language), str(projector)
        settings.n_ctx, settings.n_parallel, settings.port, settings.verbosity = 1024, 1, 0, 0
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
        settings.warmup = settings.fit_params = False
        settings.use_jinja = True
        settings.cache_type_k = settings.cache_type_v = engine.ggml_type.GGML_TYPE_F32
        settings.flash_attn_type = engine.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.server = engine.Server(settings)

    def post(self, path: str, body: Any) -> Any:
        return httpx2.post(self.server.listening_address + path, json=body, timeout=120).raise_for_status().json()

    def ask(self, question: str, *images: Image.Image, tokens: int = 12) -> Reply:
        """Return the greedy answer to a question about images."""
        content = [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in images]
        reply = self.post(
            "/v1/chat/completions",
            {
                "messages": [{"role": "user", "content": [*content, {"type": "text", "text": question}]}],
                "max_tokens": tokens,
                "temperature": 0,
                "logprobs": True,
                "top_logprobs": 20,
            },
        )
        choice = reply["choices"][0]
        first = choice["logprobs"]["content"][0]["top_logprobs"]
        return Reply(
            choice["message"]["content"],
            {entry["id"]: entry["logprob"] for entry in first},
            reply["usage"]["prompt_tokens"],
        )

    def ids(self, text: str, *, special: bool = False) -> list[int]:
        """Return the ids of a text, without the token that begins every text. `special`: read special tokens."""
        body = {"content": text, "add_special": False, "parse_special": special}
        return list(self.post("/tokenize", body)["tokens"])

    def rendered(self, messages: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
        """Return a conversation as the server renders it, and the mark in it that stands for an image."""
        shown = [{**message, "content": _parts(message["content"])} for message in messages]
        prompt = str(self.post("/apply-template", {"messages": shown})["prompt"])
        properties = httpx2.get(self.server.listening_address + "/props", timeout=120).raise_for_status().json()
        return prompt, str(properties["media_marker"])


def _parts(content: Any) -> Any:
    """Return a message's content with its images as URLs."""
    if isinstance(content, str):
        return content
    return [
        {"type": "image_url", "image_url": {"url": _data_url(part["image"])}} if part["type"] == "image" else part
        for part in content
    ]


def _data_url(image: Image.Image) -> str:
    written = io.BytesIO()
    image.save(written, "PNG")
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()

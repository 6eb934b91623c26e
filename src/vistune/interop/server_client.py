"""Request greedy answers, with log-probabilities if possible, from an OpenAI-compatible server; start llama.cpp's
server.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import torch
from PIL import Image

from vistune.errors import CheckpointError, RecipeError, TeacherError, VistuneError, reason_of
from vistune.interop.certificate import TOP
from vistune.interop.gguf_parts import gguf_files

SECONDS = 600.0  # for one answer; a large model on a CPU is slow
SLOTS = 4  # answers that llama.cpp's server gives at once
NOT_OPENAI = "name the address of a server that has /v1/chat/completions"
REFUSED = (400, 422)  # answers of servers that do not know a field


@dataclass(frozen=True)
class ReplyStep:
    """A token of an answer and the likeliest tokens of its position; by id if the server gives ids, else by text."""

    token: int | str
    logprobs: Mapping[int | str, float]


@dataclass(frozen=True)
class Reply:
    """An answer. `steps` is empty if the server gives no log-probabilities."""

    text: str
    prompt_tokens: int | None
    steps: tuple[ReplyStep, ...]


class OpenAIServer:
    """A server at an address, with or without `/v1`. `owner`: an object that keeps the server running."""

    def __init__(self, url: str, owner: object = None) -> None:
        self.url = url.rstrip("/").removesuffix("/chat/completions").removesuffix("/v1")
        self.owner = owner
        self._has_logprobs = True
        key = os.environ.get("OPENAI_API_KEY", "").strip()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        is_local = self.url.startswith(("http://127.0.0.1", "http://localhost"))  # never behind a proxy
        self._client = httpx2.Client(timeout=SECONDS, headers=headers, trust_env=not is_local)
        models = self._json("GET", "/v1/models")
        try:
            self.model = str(models["data"][0]["id"])
        except (KeyError, IndexError, TypeError):
            raise RecipeError(f"{self.url}: /v1/models lists no model", NOT_OPENAI) from None

    def ask(self, messages: Sequence[Mapping[str, Any]], max_tokens: int) -> Reply:
        """Return the greedy answer to a conversation."""
        body = {"model": self.model, "messages": with_urls(messages), "max_tokens": max_tokens, "temperature": 0}
        path = "/v1/chat/completions"
        if self._has_logprobs:
            response = self._send("POST", path, {**body, "logprobs": True, "top_logprobs": TOP})
            self._has_logprobs = response.status_code not in REFUSED
        if not self._has_logprobs:
            response = self._send("POST", path, body)
        tree = self._checked(response, path)
        try:
            choice = tree["choices"][0]
            listed = (choice.get("logprobs") or {}).get("content") or []
            count = (tree.get("usage") or {}).get("prompt_tokens")
            return Reply(str(choice["message"]["content"] or ""), count, tuple(map(_step, listed)))
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            reason = reason_of(error)
            raise RecipeError(f"{self.url}: {path} gives no answer in OpenAI's form: {reason}", NOT_OPENAI) from None

    def render(self, messages: Sequence[Mapping[str, Any]]) -> tuple[str, str] | None:
        """Return a prompt as the server renders it, and its mark of an image; None if the server does not show it."""
        response = self._send("POST", "/apply-template", {"messages": with_urls(messages)})
        properties = self._send("GET", "/props")
        try:
            mark = str(properties.json().get("media_marker") or "<__media__>")
            return (str(response.json()["prompt"]), mark) if response.status_code == 200 else None
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def tokenize(self, text: str) -> list[int] | None:
        """Return the ids of a text with special tokens; None if the server does not show them."""
        body = {"content": text, "add_special": False, "parse_special": True}
        response = self._send("POST", "/tokenize", body)
        try:
            return [int(token) for token in response.json()["tokens"]] if response.status_code == 200 else None
        except (ValueError, KeyError, TypeError):
            return None

    def _json(self, method: str, path: str) -> Any:
        return self._checked(self._send(method, path), path)

    def _send(self, method: str, path: str, body: object = None) -> httpx2.Response:
        try:
            return self._client.request(method, self.url + path, json=body)
        except httpx2.InvalidURL as error:
            raise RecipeError(f"{self.url}: not an address: {reason_of(error)}", NOT_OPENAI) from None
        except httpx2.HTTPError as error:
            raise TeacherError(
                f"{self.url}: the server does not answer: {reason_of(error)}", "start the server, or check the address"
            ) from None

    def _checked(self, response: httpx2.Response, path: str) -> Any:
        """Return a response's JSON. Raises a VistuneError for an error status or another content."""
        status = response.status_code
        if status in (401, 403):
            raise RecipeError(f"{self.url}: refuses the request: HTTP {status}", "set OPENAI_API_KEY to its key")
        if status >= 500:
            raise TeacherError(f"{self.url}: {path} fails: HTTP {status}: {response.text[:200]}", "repair the server")
        if status != 200:
            raise RecipeError(f"{self.url}: {path} answers HTTP {status}: {response.text[:200]}", NOT_OPENAI)
        try:
            return response.json()
        except ValueError:
            raise RecipeError(f"{self.url}: {path} does not answer with JSON", NOT_OPENAI) from None


def _step(entry: Mapping[str, Any]) -> ReplyStep:
    def key(listed: Mapping[str, Any]) -> int | str:
        return int(listed["id"]) if "id" in listed else str(listed["token"]).strip()

    return ReplyStep(key(entry), {key(listed): float(listed["logprob"]) for listed in entry.get("top_logprobs") or ()})


def with_urls(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return messages with images as data URLs of PNG files."""
    return [
        {**message, "content": [
            {"type": "image_url", "image_url": {"url": data_url(part["image"])}} if part["type"] == "image" else part
            for part in message["content"]
        ]}
        for message in messages
    ]  # fmt: skip


def data_url(image: Image.Image) -> str:
    """Return an image as the data URL of a PNG file."""
    written = io.BytesIO()
    image.save(written, "PNG")
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()


def serve_gguf(folder: Path, context: int) -> OpenAIServer:
    """Start llama.cpp's server on loopback over the two files of a GGUF export; it ends with the returned object.

    Keys and values are f32, as in the model that the certificate describes.

    Args:
        context: Tokens of the longest prompt and its answer.
    """
    language, projector = gguf_files(folder)
    try:
        import xllamacpp as engine
    except ModuleNotFoundError:
        raise RecipeError("--with llama.cpp needs the package xllamacpp", "pip install xllamacpp") from None
    settings: Any = engine.CommonParams()
    settings.model.path, settings.mmproj.path = str(language), str(projector)
    settings.n_ctx, settings.n_parallel, settings.port, settings.verbosity = context * SLOTS, SLOTS, 0, 0
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = torch.get_num_threads()
    settings.warmup = settings.fit_params = False
    settings.use_jinja = True
    settings.cache_type_k = settings.cache_type_v = engine.ggml_type.GGML_TYPE_F32
    settings.flash_attn_type = engine.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    try:
        server: Any = engine.Server(settings)
        return OpenAIServer(server.listening_address, server)
    except VistuneError:
        raise
    except Exception as error:  # its errors have no common type
        reason = reason_of(error)
        raise CheckpointError(f"{folder}: llama.cpp cannot load it: {reason}", "export the model again") from None

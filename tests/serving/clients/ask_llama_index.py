"""OpenAILike of llama-index, unchanged: python ask_llama_index.py BASE_URL PNG -> a JSON object of what it answered."""

from __future__ import annotations

import asyncio
import json
import sys
from importlib.metadata import version
from typing import Any

from llama_index.core.base.llms.types import ImageBlock, TextBlock
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike


def main(base_url: str, shown_image: str) -> dict[str, Any]:
    model = OpenAILike(
        model="tiny", api_base=base_url, api_key="unused", is_chat_model=True, context_window=1024, temperature=0,
        max_tokens=12, max_retries=0,
    )  # fmt: skip
    talk = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="What is it?")]
    first = model.chat(talk)
    said: dict[str, Any] = {"version": version("llama-index-llms-openai-like"), "plain": first.message.content}
    said["streamed"] = "".join(str(chunk.delta or "") for chunk in model.stream_chat(talk))
    talk += [first.message, ChatMessage(role="user", content="Where?")]
    said["again"] = model.chat(talk).message.content
    for name, image in {
        "image": ImageBlock(path=shown_image),
        "image with a mime type": ImageBlock(path=shown_image, image_mimetype="image/png", detail="high"),
    }.items():
        blocks = [TextBlock(text="What colour is it?"), image]
        said[name] = model.chat([ChatMessage(role="user", blocks=blocks)]).message.content
    said["complete"] = model.complete("What is it?").text
    said["async"] = asyncio.run(model.achat(talk[:2])).message.content
    engine = SimpleChatEngine.from_defaults(llm=model, system_prompt="Be brief.")
    said["engine"] = engine.chat("What is it?").response
    said["engine again"] = engine.chat("Where?").response
    return said


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))

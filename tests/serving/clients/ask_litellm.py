"""litellm, unchanged: python ask_litellm.py BASE_URL PNG -> a JSON object of what it was answered."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from importlib.metadata import version
from typing import Any

import litellm

TO_SAY: dict[str, Any] = {"temperature": 0, "max_tokens": 12, "api_key": "unused", "num_retries": 0}


def main(base_url: str, image: str) -> dict[str, Any]:
    with open(image, "rb") as file:
        url = "data:image/png;base64," + base64.b64encode(file.read()).decode()
    asked: dict[str, Any] = {"model": "openai/tiny", "api_base": base_url, **TO_SAY}
    talk: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is it?"}]
    first = litellm.completion(messages=talk, **asked)
    said: dict[str, Any] = {"version": version("litellm"), "plain": first.choices[0].message.content}
    chunks = litellm.completion(messages=talk, stream=True, stream_options={"include_usage": True}, **asked)
    said["streamed"] = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    # What it keeps of other providers goes back with the history.
    history = {
        **first.choices[0].message.model_dump(),
        "reasoning_content": "It is red.",
        "thinking_blocks": [{"type": "thinking", "thinking": "It is red.", "signature": "x"}],
        "provider_specific_fields": {"refusal": None, "citations": [1]},
    }
    talk += [first.choices[0].message, {"role": "user", "content": "Where?"}]
    said["again"] = litellm.completion(messages=talk, **asked).choices[0].message.content
    talk[2] = history
    said["again as a dict"] = litellm.completion(messages=talk, **asked).choices[0].message.content
    shown = [
        {"type": "text", "text": "What colour is it?", "cache_control": {"type": "ephemeral"}},
        {"type": "image_url", "image_url": {"url": url, "format": "image/png"}},
    ]
    asking_image = [{"role": "user", "content": shown}]
    said["image"] = litellm.completion(messages=asking_image, **asked).choices[0].message.content
    shown[1] = {"type": "image_url", "image_url": url}
    said["image as text"] = litellm.completion(messages=asking_image, **asked).choices[0].message.content
    vllm = {**asked, "model": "hosted_vllm/tiny"}
    said["as a vLLM"] = litellm.completion(messages=talk[:2], **vllm).choices[0].message.content
    later = asyncio.run(litellm.acompletion(messages=talk[:2], **asked))
    said["async"] = later.choices[0].message.content
    return said


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))

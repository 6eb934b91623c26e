"""The official client, unchanged: python ask_openai.py BASE_URL PNG -> a JSON object of what it was answered."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from typing import Any, Literal

import openai
from pydantic import BaseModel


class Shape(BaseModel):
    colour: Literal["red", "blue"]


TO_SAY: dict[str, Any] = {"model": "tiny", "temperature": 0, "max_tokens": 12}


def main(base_url: str, shown_image: str) -> dict[str, Any]:
    client = openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0)
    with open(shown_image, "rb") as file:
        url = "data:image/png;base64," + base64.b64encode(file.read()).decode()
    talk: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is it?"}]
    first = client.chat.completions.create(messages=talk, **TO_SAY)
    said: dict[str, Any] = {
        "version": openai.__version__,
        "models": [model.id for model in client.models.list()],
        "plain": first.choices[0].message.content,
    }
    chunks = client.chat.completions.create(
        messages=talk, stream=True, stream_options={"include_usage": True, "include_obfuscation": False}, **TO_SAY
    )
    said["streamed"] = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    with client.chat.completions.stream(messages=talk, **TO_SAY) as events:
        said["helper"] = "".join(event.delta for event in events if event.type == "content.delta")
    # The client's own message goes back as it is, and as a dict.
    talk += [first.choices[0].message, {"role": "user", "content": "Where?"}]
    said["again"] = client.chat.completions.create(messages=talk, **TO_SAY).choices[0].message.content
    talk[2] = first.choices[0].message.model_dump()
    said["again as a dict"] = client.chat.completions.create(messages=talk, **TO_SAY).choices[0].message.content
    shown = [{"type": "text", "text": "What colour is it?"}, {"type": "image_url", "image_url": {"url": url}}]
    image = client.chat.completions.with_raw_response.create(
        messages=[{"role": "user", "content": shown}], user="me", store=False, metadata={"a": "b"}, **TO_SAY
    )
    said["image"] = image.parse().choices[0].message.content
    said["ignored"] = image.headers.get("x-ignored-parameters")

    async def at_once() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=base_url, api_key="unused", max_retries=0) as other:
            asked = [other.chat.completions.create(messages=talk[:2], **TO_SAY) for _ in range(4)]
            return [answer.choices[0].message.content for answer in await asyncio.gather(*asked)]

    said["at once"] = sorted(set(map(str, asyncio.run(at_once()))))
    said["responses"] = client.responses.create(
        model="tiny", input="What is it?", instructions="Be brief.", temperature=0, max_output_tokens=12
    ).output_text
    parsed = client.chat.completions.parse(
        model="tiny", messages=talk[:2], temperature=0, max_tokens=200, response_format=Shape
    )
    said["parsed"] = parsed.choices[0].message.parsed.colour if parsed.choices[0].message.parsed else None
    return said


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))

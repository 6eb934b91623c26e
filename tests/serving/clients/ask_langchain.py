"""langchain-openai, unchanged: python ask_langchain.py BASE_URL PNG -> a JSON object of what it was answered."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from importlib.metadata import version
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI


def main(base_url: str, image: str) -> dict[str, Any]:
    with open(image, "rb") as file:
        data = base64.b64encode(file.read()).decode()
    model = ChatOpenAI(
        model="tiny", base_url=base_url, api_key="unused", temperature=0, max_tokens=12, max_retries=0,
        stream_usage=True,
    )  # fmt: skip
    talk: list[Any] = [SystemMessage("Be brief."), HumanMessage("What is it?", id="msg_1", name="me")]
    first = model.invoke(talk)
    said: dict[str, Any] = {"version": version("langchain-openai"), "plain": first.text}
    said["streamed"] = "".join(str(chunk.text) for chunk in model.stream(talk))
    talk += [first, HumanMessage("Where?")]
    said["again"] = model.invoke(talk).text
    # An answer of another provider, with its content blocks and their ids.
    blocks: list[Any] = [
        {"type": "reasoning", "reasoning": "Hm.", "id": "rs_1"},
        {"type": "text", "text": first.text, "id": "lc_1", "annotations": []},
    ]
    talk[2] = AIMessage(blocks, id="run-1", response_metadata={"model_provider": "openai"})
    said["again from blocks"] = model.invoke(talk).text
    question = {"type": "text", "text": "What colour is it?", "id": "lc_2"}
    for name, block in {
        "image": {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        "image block": {"type": "image", "base64": data, "mime_type": "image/png", "id": "lc_3"},
        "older image block": {"type": "image", "source_type": "base64", "data": data, "mime_type": "image/png"},
    }.items():
        said[name] = model.invoke([HumanMessage([question, block])]).text
    chain = ChatPromptTemplate.from_messages([("system", "Be brief."), ("human", "{question}")]) | model
    said["chain"] = chain.invoke({"question": "What is it?"}).text
    said["async"] = asyncio.run(model.ainvoke(talk[:2])).text
    return said


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))

"""What scenes.yaml needs: a question's picture and text, and when a reply is right, as task `scenes` marks it."""

from pathlib import Path
from typing import Any

from PIL import Image


def doc_to_visual(row: dict[str, Any]) -> list[Image.Image]:
    return [Image.open(Path("heldout") / row["image"]).convert("RGB")]


def doc_to_text(row: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> str:
    return str(row["text"])


def process_results(row: dict[str, Any], results: list[str]) -> dict[str, float]:
    reply, gold = (" ".join(text.split()).removesuffix(".").lower() for text in (results[0], row["answer"]))
    return {"accuracy": float(reply == gold)}

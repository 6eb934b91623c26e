"""Write the chat messages that ask a remote teacher about an image: system prompt, examples, and the image's context.

The context has the layout of LLaVA's appendix (arXiv 2304.08485): one caption per line, a blank line, then one
"label: [x0, y0, x1, y1]" per line, relative to the image, with at most three decimals. The prompts are in `prompts/`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from vistune.types import AnnotatedImage, Box

# The parts of an image's description that each kind is shown.
SHOWN: Mapping[str, tuple[str, ...]] = {
    "conversation": ("captions",),
    "detail": ("captions", "boxes"),
    "reasoning": ("captions", "boxes"),
    "caption": ("captions", "boxes"),
}
OWN_LANGUAGES = ("en", "ko")  # languages that have prompts and instructions
LANGUAGE_NAMES = {
    "de": "German",
    "es": "Spanish",
    "fr": "French",
    "ja": "Japanese",
    "vi": "Vietnamese",
    "zh": "Chinese",
}
ASK_FOR_QUESTION = (
    "Begin with the request that a person would make for such a text, in this form:\n"
    "Question:\n(the request)\n===\nAnswer:\n(the text)"
)
Message = dict[str, Any]  # a chat message of the OpenAI API
DATA_URL_TYPES = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".webp": "webp", ".gif": "gif"}


@cache
def prompts(language: str) -> Mapping[str, Any]:
    """Return the prompts of a language. Other languages use the English prompts with a line added."""
    name = language if language in OWN_LANGUAGES else "en"
    path = resources.files("vistune.datagen.teachers") / "prompts" / f"{name}.json"
    tree: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return tree


def system_prompt(kind: str, language: str, *, see: bool = False) -> str:
    """Return the system prompt of a kind; `see`: the message also has the image."""
    tree = prompts(language)
    parts = [tree[kind]["system"]]
    if language not in OWN_LANGUAGES:
        parts.append(tree["other_language"].format(language=LANGUAGE_NAMES.get(language, language)))
        if kind in ("detail", "caption"):
            parts.append(ASK_FOR_QUESTION)
    if see:
        parts.append(tree["see"])
    return "\n\n".join(parts)


def context(captions: Sequence[str], boxes: Sequence[Box], kind: str) -> str:
    """Describe an image in text. If it has none of the annotations that a kind uses, all annotations are used."""
    shown = SHOWN[kind]
    caption_lines = [" ".join(text.split()) for text in captions] if "captions" in shown else []
    box_lines = [box_line(box) for box in boxes] if "boxes" in shown or not caption_lines else []
    return "\n".join(caption_lines) + ("\n\n" if caption_lines and box_lines else "") + "\n".join(box_lines)


def box_line(box: Box) -> str:
    numbers = ", ".join(f"{round(value, 3):g}" for value in (box.x0, box.y0, box.x1, box.y1))
    name = " ".join([*box.attributes.values(), box.label])
    return f"{name}: [{numbers}]"


def messages(image: AnnotatedImage, kind: str, language: str, *, see: bool = False) -> list[Message]:
    """Return the system prompt, the examples and the image's context; with `see`, also the image file."""
    chat: list[Message] = [{"role": "system", "content": system_prompt(kind, language, see=see)}]
    if language in OWN_LANGUAGES:
        for shot in prompts(language)[kind]["shots"]:
            boxes = [Box(label, *corners) for label, *corners in shot.get("boxes", ())]
            chat.append({"role": "user", "content": context(shot["captions"], boxes, kind)})
            chat.append({"role": "assistant", "content": shot["reply"]})
    text = context(image.captions, image.boxes, kind)
    if image.crowds and "boxes" in SHOWN[kind]:
        text += f"\nmany more: {', '.join(image.crowds)}"
    chat.append({"role": "user", "content": [{"type": "text", "text": text}, _image_part(image)] if see else text})
    return chat


def _image_part(image: AnnotatedImage) -> dict[str, object]:
    kind = DATA_URL_TYPES.get(image.path.suffix.lower(), "jpeg")
    data = base64.b64encode(image.path.read_bytes()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{data}"}}

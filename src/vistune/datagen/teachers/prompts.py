"""What a teacher is asked: our own system prompts and examples, and what each kind is shown of a picture.

AnnotatedImage + kind + language -> chat messages (the layout of arXiv 2304.08485, appendix: captions one a line, a
blank line, one "label: [x0, y0, x1, y1]" a line, relative to the picture, at most three decimals)
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from vistune.types import AnnotatedImage, Box

SHOWN: Mapping[str, tuple[str, ...]] = {
    "conversation": ("captions",),
    "detail": ("captions", "boxes"),
    "reasoning": ("captions", "boxes"),
    "caption": ("captions", "boxes"),
}
OWN_LANGUAGES = ("en", "ko")  # those that prompts and instructions are written in
LANGUAGE_NAMES = {
    "de": "German",
    "es": "Spanish",
    "fr": "French",
    "ja": "Japanese",
    "vi": "Vietnamese",
    "zh": "Chinese",
}
ASKED_BY_TEACHER = (
    "Begin with the request that a person would make for such a text, in this form:\n"
    "Question:\n(the request)\n===\nAnswer:\n(the text)"
)
DATA_URL_TYPES = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".webp": "webp", ".gif": "gif"}


@cache
def prompts(language: str) -> Mapping[str, Any]:
    """The prompt file of a language; other languages than our own use the English one with a line added."""
    name = language if language in OWN_LANGUAGES else "en"
    return json.loads(
        (resources.files("vistune.datagen.teachers") / "prompts" / f"{name}.json").read_text(encoding="utf-8")
    )


def system_prompt(kind: str, language: str, *, see: bool = False) -> str:
    tree = prompts(language)
    parts = [tree[kind]["system"]]
    if language not in OWN_LANGUAGES:
        parts.append(tree["other_language"].format(language=LANGUAGE_NAMES.get(language, language)))
        if kind in ("detail", "caption"):
            parts.append(ASKED_BY_TEACHER)
    if see:
        parts.append(tree["see"])
    return "\n\n".join(parts)


def context(captions: Sequence[str], boxes: Sequence[Box], kind: str) -> str:
    """What stands for the picture. A kind that would be shown nothing is shown all that is known."""
    shown = SHOWN[kind]
    lines = [" ".join(text.split()) for text in captions] if "captions" in shown else []
    places = [box_line(box) for box in boxes] if "boxes" in shown or not lines else []
    return "\n".join(lines) + ("\n\n" if lines and places else "") + "\n".join(places)


def box_line(box: Box) -> str:
    numbers = ", ".join(f"{round(value, 3):g}" for value in (box.x0, box.y0, box.x1, box.y1))
    name = " ".join([*box.attributes.values(), box.label])
    return f"{name}: [{numbers}]"


def messages(image: AnnotatedImage, kind: str, language: str, *, see: bool = False) -> list[dict[str, Any]]:
    """System prompt, examples, and the picture's context; with `see` the picture's bytes too."""
    asked: list[dict[str, Any]] = [{"role": "system", "content": system_prompt(kind, language, see=see)}]
    if language in OWN_LANGUAGES:
        for shot in prompts(language)[kind]["shots"]:
            boxes = [Box(label, *corners) for label, *corners in shot.get("boxes", ())]
            asked.append({"role": "user", "content": context(shot["captions"], boxes, kind)})
            asked.append({"role": "assistant", "content": shot["reply"]})
    text = context(image.captions, image.boxes, kind)
    if image.crowds and "boxes" in SHOWN[kind]:
        text += f"\nmany more: {', '.join(image.crowds)}"
    asked.append({"role": "user", "content": [{"type": "text", "text": text}, _image(image)] if see else text})
    return asked


def _image(image: AnnotatedImage) -> dict[str, Any]:
    kind = DATA_URL_TYPES.get(image.path.suffix.lower(), "jpeg")
    data = base64.b64encode(image.path.read_bytes()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{data}"}}

"""Are the things in a free description the things in the picture? Recall and precision of colour-shape pairs.

pictures + boxes -> a fixed instruction in each language -> text -> named pairs, as a multiset, against the boxes
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from vistune.generation import generate
from vistune.grounding import lexicon as words
from vistune.model import VisionLanguageModel
from vistune.processor import Processor
from vistune.types import AnnotatedImage, ImageRef, Message

INSTRUCTIONS = {"en": "Describe the picture in detail.", "ko": "이 이미지를 한국어로 상세히 설명해주세요."}

Pairs = Counter[tuple[str, str]]


def named_pairs(text: str, language: str) -> Pairs:
    """(colour, shape) pairs that a text names, each as often as it does."""
    colors = {words.color_word(color, language): color for color in words.colors()}
    shapes = {words.noun(label, language): label for label in words.objects() if words.is_shape(label)}
    listed = sorted(shapes, key=len, reverse=True)
    pattern = f"({'|'.join(map(re.escape, colors))})\\s+({'|'.join(map(re.escape, listed))})"
    found = re.findall(pattern, text.lower() if language == "en" else text)
    return Counter((colors[color], shapes[shape]) for color, shape in found)


def describe(
    model: VisionLanguageModel,
    processor: Processor,
    images: Sequence[AnnotatedImage],
    *,
    max_tokens: int = 160,
    advance: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """Recall and precision over all descriptions, by language, and the texts themselves."""
    result: dict[str, Any] = {"texts": []}
    hits_all = named_all = there_all = 0
    for language, instruction in INSTRUCTIONS.items():
        prompts = [processor.encode_prompt([Message("user", (ImageRef(i.path), instruction))]) for i in images]
        said = generate(model, processor, prompts, max_tokens=max_tokens, advance=advance)
        hits = named = there = 0
        for image, completion in zip(images, said, strict=True):
            gold = Counter((box.attributes["color"], box.label) for box in image.boxes)
            told = named_pairs(completion.text, language)
            hits += sum((gold & told).values())
            named += sum(told.values())
            there += sum(gold.values())
            result["texts"].append({"image": str(image.path), "language": language, "text": completion.text})
        result[language] = {"recall": hits / max(there, 1), "precision": hits / max(named, 1)}
        hits_all, named_all, there_all = hits_all + hits, named_all + named, there_all + there
    result["recall"] = hits_all / max(there_all, 1)
    result["precision"] = hits_all / max(named_all, 1)
    return result

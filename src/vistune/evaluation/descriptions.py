"""Measure whether free descriptions name the things in an image: recall and precision of colour-shape pairs.

images + a fixed instruction in each language -> descriptions -> colour-shape pairs that they name, as a multiset
named pairs + pairs of the boxes -> recall, precision
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vistune.generation import generate
from vistune.grounding import lexicon
from vistune.model import VisionLanguageModel
from vistune.processor import Processor
from vistune.types import AnnotatedImage, ImageRef, Message

INSTRUCTIONS = {"en": "Describe the picture in detail.", "ko": "이 이미지를 한국어로 상세히 설명해주세요."}

Pairs = Counter[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class PairCounts:
    """Numbers of colour-shape pairs: named by the text, present in the image, and both."""

    named: int = 0
    there: int = 0
    hits: int = 0

    @property
    def recall(self) -> float:
        return self.hits / max(self.there, 1)

    @property
    def precision(self) -> float:
        return self.hits / max(self.named, 1)

    def __add__(self, other: PairCounts) -> PairCounts:
        return PairCounts(self.named + other.named, self.there + other.there, self.hits + other.hits)

    def to_dict(self) -> dict[str, float]:
        return {"recall": self.recall, "precision": self.precision}


@dataclass(frozen=True, slots=True)
class Description:
    image: Path
    language: str
    text: str


@dataclass(frozen=True, slots=True)
class DescriptionScore:
    """All descriptions, and the pairs that they name by language."""

    texts: tuple[Description, ...]
    by_language: Mapping[str, PairCounts]

    @property
    def overall(self) -> PairCounts:
        return sum(self.by_language.values(), PairCounts())

    def to_dict(self) -> dict[str, object]:
        texts = [{"image": str(each.image), "language": each.language, "text": each.text} for each in self.texts]
        return {
            "texts": texts,
            **{language: counts.to_dict() for language, counts in self.by_language.items()},
            **self.overall.to_dict(),
        }


def named_pairs(text: str, language: str) -> Pairs:
    """Return the (colour, shape) pairs that a text names, each as often as it does."""
    colors = {lexicon.color_word(color, language): color for color in lexicon.colors()}
    shapes = {lexicon.noun(label, language): label for label in lexicon.objects() if lexicon.is_shape(label)}
    longest_first = sorted(shapes, key=len, reverse=True)
    pattern = f"({'|'.join(map(re.escape, colors))})\\s+({'|'.join(map(re.escape, longest_first))})"
    matches = re.findall(pattern, text.lower() if language == "en" else text)
    return Counter((colors[color], shapes[shape]) for color, shape in matches)


def describe(
    model: VisionLanguageModel,
    processor: Processor,
    images: Sequence[AnnotatedImage],
    *,
    advance: Callable[[int], None] = lambda count: None,
) -> DescriptionScore:
    """Have a model describe images in each language, and compare the pairs it names with the boxes."""
    texts: list[Description] = []
    by_language = {}
    for language, instruction in INSTRUCTIONS.items():
        prompts = [processor.encode_prompt([Message("user", (ImageRef(i.path), instruction))]) for i in images]
        completions = generate(model, processor, prompts, max_tokens=160, advance=advance)
        counts = PairCounts()
        for image, completion in zip(images, completions, strict=True):
            there = Counter((box.attributes["color"], box.label) for box in image.boxes)
            named = named_pairs(completion.text, language)
            counts += PairCounts(named.total(), there.total(), (there & named).total())
            texts.append(Description(image.path, language, completion.text))
        by_language[language] = counts
    return DescriptionScore(tuple(texts), by_language)

"""What is to be written about which picture, decided by the seed alone.

AnnotatedImages + Wishes -> orders (picture, kind, language, number)
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vistune.errors import RecipeError
from vistune.registry import lookup
from vistune.types import KINDS, AnnotatedImage


@dataclass(frozen=True, slots=True)
class Request:
    """One sample to write; `number` counts the orders of one kind and language for one picture."""

    image: AnnotatedImage
    kind: str
    language: str
    number: int

    @property
    def name(self) -> str:
        """The sample's id."""
        return f"{self.image.id}-{self.kind}-{self.language}" + (f"-{self.number}" if self.number else "")


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """What to write: kinds, languages, and how many instructions a picture and language gets.

    Without `mix` every picture gets each kind in each language. With it (conversation : detail : reasoning, as in
    58:23:77) instruction kinds are dealt over the pictures in that proportion, `per_image` for each language;
    captions are written for each picture either way.
    """

    kinds: tuple[str, ...] = KINDS
    languages: tuple[str, ...] = ("en",)
    mix: tuple[int, int, int] | None = None
    per_image: int = 1
    seed: int = 0


def make_requests(images: Sequence[AnnotatedImage], wishes: GenerationConfig) -> list[Request]:
    """Every order of a run, picture by picture."""
    for kind in wishes.kinds:
        lookup(kind, dict.fromkeys(KINDS), "kind")
    if wishes.mix is None:
        return [
            order
            for image in images
            for language in wishes.languages
            for kind in wishes.kinds
            for order in (_captions(image, language) if kind == "caption" else [Request(image, kind, language, 0)])
        ]
    places = [(image, language) for image in images for language in wishes.languages]
    dealt = _deal(wishes.mix, len(places) * wishes.per_image)
    random.Random(f"{wishes.seed}/mix").shuffle(dealt)
    result = []
    for k, (image, language) in enumerate(places):
        if "caption" in wishes.kinds:
            result += _captions(image, language)
        mine = dealt[k * wishes.per_image : (k + 1) * wishes.per_image]
        seen: Counter[str] = Counter()
        for kind in mine:
            result.append(Request(image, kind, language, seen[kind]))
            seen[kind] += 1
    return result


def own_captions(image: AnnotatedImage, language: str) -> list[str]:
    """The picture's captions in that language: Korean by its letters; all others count as English."""
    if language not in ("en", "ko"):
        return []
    return [text for text in image.captions if bool(re.search("[가-힣]", text)) == (language == "ko")]


def refuse_untranslated(images: Sequence[AnnotatedImage], languages: Sequence[str], source: object) -> None:
    """Raise RecipeError if the rule teacher can write nothing: no boxes, and captions only in other languages."""
    captions = [text for image in images for text in image.captions]
    if not captions or any(image.boxes or image.crowds for image in images):
        return
    if any(own_captions(image, language) for image in images for language in languages):
        return
    korean = any(own_captions(image, "ko") for image in images)
    english = any(own_captions(image, "en") for image in images)
    has = " and ".join(name for name, there in (("English", english), ("Korean", korean)) if there)
    raise RecipeError(
        f"{source}: its captions are {has}, there are no boxes, and the rule teacher does not translate into "
        f"{', '.join(languages)}",
        "add boxes or captions in that language, or let a model write: --teacher openai --model NAME",
    )


def _captions(image: AnnotatedImage, language: str) -> list[Request]:
    """One order for each caption that the picture has in the language; one to be written where it has none."""
    each = [replace(image, captions=(text,)) for text in own_captions(image, language)] or [image]
    return [Request(alone, "caption", language, number) for number, alone in enumerate(each)]


def _deal(mix: tuple[int, int, int], total: int) -> list[str]:
    """`total` kinds in the proportion `mix`, by largest remainder."""
    names = ("conversation", "detail", "reasoning")
    if min(mix) < 0 or sum(mix) == 0:
        raise RecipeError(f"mix {mix}: shares must be 0 or more, one of them above 0", "write for example 58:23:77")
    exact = [total * share / sum(mix) for share in mix]
    counts = [int(share) for share in exact]
    for k in sorted(range(3), key=lambda k: counts[k] - exact[k])[: total - sum(counts)]:
        counts[k] += 1
    return [name for name, count in zip(names, counts, strict=True) for _ in range(count)]

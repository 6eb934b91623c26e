"""Write samples by rule from boxes and captions, or with a remote model.

The requests in this module are shared by both teachers: the seed decides which samples a run writes, for each image,
kind and language.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vistune.errors import RecipeError
from vistune.grounding.claims import find_classes
from vistune.registry import lookup
from vistune.types import KINDS, PREFERENCE, AnnotatedImage


@dataclass(frozen=True, slots=True)
class Request:
    """One sample to write; `number` counts the requests of one kind and language for one image."""

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
    """Which samples to write.

    Without `mix`, every image gets each kind in each language. With `mix` (conversation : detail : reasoning, such as
    58:23:77), the kinds of instructions are distributed over the images in that proportion, `per_image` samples per
    image and language; captions and preference pairs are still written for every image. With `held_out`, samples about
    this share of the images are written to a separate file, with test questions about these images.
    """

    kinds: tuple[str, ...] = KINDS
    languages: tuple[str, ...] = ("en",)
    mix: tuple[int, int, int] | None = None
    per_image: int = 1
    seed: int = 0
    held_out: float | None = None


def make_requests(images: Sequence[AnnotatedImage], config: GenerationConfig) -> list[Request]:
    """Return every request of a run, image by image."""
    for kind in config.kinds:
        lookup(kind, dict.fromkeys((*KINDS, PREFERENCE)), "kind")
    pairs = [(image, language) for image in images for language in config.languages]
    requests: list[Request] = []
    if config.mix is None:
        for image, language in pairs:
            for kind in config.kinds:
                requests += _captions(image, language) if kind == "caption" else [Request(image, kind, language, 0)]
        return requests
    kinds = deal_kinds(config.mix, len(pairs) * config.per_image)
    random.Random(f"{config.seed}/mix").shuffle(kinds)
    for k, (image, language) in enumerate(pairs):
        if "caption" in config.kinds:
            requests += _captions(image, language)
        if PREFERENCE in config.kinds:
            requests.append(Request(image, PREFERENCE, language, 0))
        numbers: Counter[str] = Counter()
        for kind in kinds[k * config.per_image : (k + 1) * config.per_image]:
            requests.append(Request(image, kind, language, numbers[kind]))
            numbers[kind] += 1
    return requests


def own_captions(image: AnnotatedImage, language: str) -> list[str]:
    """Return the captions in a language. Captions with Korean letters are Korean, all others count as English."""
    if language not in ("en", "ko"):
        return []
    return [text for text in image.captions if bool(re.search("[가-힣]", text)) == (language == "ko")]


def needs_request(request: Request) -> bool:
    """Return whether a remote teacher must be asked; captions that the image already has are copied."""
    return request.kind != "caption" or not own_captions(request.image, request.language)


def refuse_untranslated(images: Sequence[AnnotatedImage], config: GenerationConfig, source: object) -> None:
    """Raise RecipeError if the rule teacher can write nothing: no boxes, and captions only in other languages.

    Conversations in every language can ask for the classes that captions name.
    """
    languages = config.languages
    captions = [text for image in images for text in image.captions]
    if not captions or any(image.boxes or image.crowds for image in images):
        return
    if any(own_captions(image, language) for image in images for language in languages):
        return
    if "conversation" in config.kinds and any(find_classes(text, code) for text in captions for code in ("en", "ko")):
        return
    names = {"en": "English", "ko": "Korean"}
    present = [name for code, name in names.items() if any(own_captions(image, code) for image in images)]
    raise RecipeError(
        f"{source}: its captions are {' and '.join(present)}, there are no boxes, and the rule teacher does not "
        f"translate into {', '.join(languages)}",
        "add boxes or captions in that language, or let a model write: --teacher openai --model NAME",
    )


def _captions(image: AnnotatedImage, language: str) -> list[Request]:
    """Return a request for each caption of the image in the language, or one for a caption to be written."""
    variants = [replace(image, captions=(text,)) for text in own_captions(image, language)] or [image]
    return [Request(variant, "caption", language, number) for number, variant in enumerate(variants)]


def deal_kinds(mix: tuple[int, int, int], total: int) -> list[str]:
    """Return `total` kinds in the proportion `mix`, rounded by largest remainder."""
    names = ("conversation", "detail", "reasoning")
    if min(mix) < 0 or sum(mix) == 0:
        raise RecipeError(f"mix {mix}: shares must be 0 or more, one of them above 0", "write for example 58:23:77")
    exact = [total * share / sum(mix) for share in mix]
    counts = [int(share) for share in exact]
    for k in sorted(range(3), key=lambda k: counts[k] - exact[k])[: total - sum(counts)]:
        counts[k] += 1
    return [name for name, count in zip(names, counts, strict=True) for _ in range(count)]

"""Write preference pairs from boxes by rule: both answers of each pair, and the claim in which they differ."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vistune.datagen.teachers import Request
from vistune.grounding import Scene, brief_cue
from vistune.grounding.annotated import BOX_DIGITS, scene_of
from vistune.grounding.pairs import Claim, MatchedPair, match_pairs, word_pair
from vistune.types import AnnotatedImage

BRIEF_SHARE = 0.4  # of pairs with a short answer; the others are sentences, like most answers of a chat


@dataclass(frozen=True, slots=True)
class WrittenPair:
    """A prompt with its two answers, and the claim in which they differ."""

    prompt: str
    chosen: str
    rejected: str
    claim: Claim


def rounded(image: AnnotatedImage) -> AnnotatedImage:
    """Return an image with its boxes as `generate` stores them, so that `check` sees the same boxes."""
    return replace(
        image,
        boxes=tuple(
            replace(box, **{side: round(getattr(box, side), BOX_DIGITS) for side in ("x0", "y0", "x1", "y1")})
            for box in image.boxes
        ),
    )


def pairs_of(requests: Sequence[Request], seed: int) -> dict[str, list[WrittenPair]]:
    """Return the pairs of each request by its name; pairs in one language are matched with each other."""
    written: dict[str, list[WrittenPair]] = {}
    for language in sorted({request.language for request in requests}):
        chosen = [request for request in requests if request.language == language]
        scenes: list[tuple[str, Scene]] = [
            (f"{seed}/{request.name}", scene_of(rounded(request.image), language)) for request in chosen
        ]
        for request, (name, _), pairs in zip(chosen, scenes, match_pairs(scenes), strict=True):
            written[request.name] = _write(pairs, language, random.Random(name))
    return written


def _write(pairs: Sequence[MatchedPair], language: str, rng: random.Random) -> list[WrittenPair]:
    written = []
    for pair in pairs:
        chosen, rejected = word_pair(pair, language, rng)
        if rng.random() < BRIEF_SHARE:
            prompt, answers = f"{chosen.question}\n{brief_cue(language)}", (chosen.answer, rejected.answer)
        else:
            prompt, answers = chosen.question, (chosen.sentence, rejected.sentence)
        written.append(WrittenPair(prompt, *answers, pair.claim))
    return written

"""Choose images that are not trained on, and ask questions about them whose answers are certain."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vistune.datagen.generate import GeneratedData, image_names
from vistune.datagen.teachers import GenerationConfig, rule
from vistune.datagen.teachers.prompts import OWN_LANGUAGES
from vistune.errors import RecipeError
from vistune.grounding import brief_cue
from vistune.grounding.annotated import scene_of
from vistune.grounding.balance import fit_balance
from vistune.types import AnnotatedImage

FEWEST_IMAGES = 10  # in each part; fewer say nothing


def choose_held_out(images: Sequence[AnnotatedImage], share: float | None, seed: int) -> frozenset[Path]:
    """Choose the images that are held out; none without a share. The order of the images makes no difference.

    Raises RecipeError if fewer than ten images would be held out, or fewer than ten left to train on.
    """
    if share is None:
        return frozenset()
    if not 0 < share < 1:
        raise RecipeError(f"held-out share {share:g}: must be between 0 and 1", "a tenth is usual: 0.1")
    ids = {image.path: image.id for image in images}
    paths = sorted(ids, key=lambda path: _digest(ids[path], seed))
    count = round(share * len(paths))
    if min(count, len(paths) - count) < FEWEST_IMAGES:
        raise RecipeError(
            f"{count} of {len(paths)} images would be held out; {FEWEST_IMAGES} are needed, and as many to train on",
            "change the share, or use more images",
        )
    return frozenset(paths[:count])


def _digest(image_id: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{image_id}".encode()).digest()


def separate_held_out(
    generated: GeneratedData,
    images: Sequence[AnnotatedImage],
    held_out: Collection[Path],
    config: GenerationConfig,
) -> GeneratedData:
    """Move the samples about held-out images out of the training data, and ask test questions about these images."""
    if not held_out:
        return generated
    names = image_names(images)[1]
    held = {names[path] for path in held_out}
    about = [image for image in images if image.path in held_out]
    return replace(
        generated,
        rows=[row for row in generated.rows if row["image"] not in held],
        held_out=[row for row in generated.rows if row["image"] in held],
        questions=list(questions_about(about, names, config.languages, config.seed)),
    )


def questions_about(
    images: Sequence[AnnotatedImage], names: Mapping[Path, str], languages: Sequence[str], seed: int
) -> Iterator[dict[str, str]]:
    """Yield records of the task `file` about images with captions or boxes, balanced like the rule teacher's data.

    Only English and Korean questions can be written. `names`: the name of each image in one of the image folders.
    """
    for language in (each for each in languages if each in OWN_LANGUAGES):
        scenes = [(f"{seed}/{image.id}-held-out-{language}", scene_of(image, language)) for image in images]
        balance = fit_balance([item for item in scenes if not item[1].drawn], rule.LONGEST_CONVERSATION)
        for image, (name, scene) in zip(images, scenes, strict=True):
            rng = random.Random(name)
            for number, item in enumerate(rule.questions(scene, language, rng, balance)):
                yield {
                    "question_id": f"{image.id}-{language}-{number}",
                    "image": names[image.path],
                    "text": f"{item.question}\n{brief_cue(language)}",
                    "answer": item.answer,
                    "type": item.type,
                    "language": language,
                }

"""The offline teacher: dialogues written from captions and boxes alone, by rule, English and Korean.

AnnotatedImage + kind + language + chance -> turns (question, answer) that the boxes settle, or None
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from vistune.datagen.grounding import evidence
from vistune.datagen.orders import own_captions
from vistune.datagen.replies import Turns
from vistune.facts import QUESTION_TYPES, Scene, ask, brief_cue, caption, description, reason
from vistune.types import AnnotatedImage

BRIEF_SHARE = 0.75  # of conversations: short answers, asked for in the first turn as LLaVA-1.5's data does
LONGEST_CONVERSATION = 8  # turns


@cache
def instructions() -> Mapping[str, Any]:
    return json.loads((resources.files("vistune.datagen") / "instructions.json").read_text(encoding="utf-8"))


def write(image: AnnotatedImage, kind: str, language: str, rng: random.Random, number: int = 0) -> Turns | None:
    """The turns of one sample, or None where captions and boxes do not give enough to say.

    `number`: how many samples of this kind and language the picture has already; each gets another instruction.
    """
    scene = Scene(image.boxes, image.crowds)
    if not scene.colored:
        scene = Scene(image.boxes, image.crowds, frozenset(evidence(image)))
    if kind == "conversation":
        return conversation(scene, language, rng)
    if kind == "reasoning":
        turn = reason(scene, language, rng)
        return (turn,) if turn else None
    if not image.boxes and (kind == "detail" or not own_captions(image, language)):
        return None
    asked = instruction(image.id, kind, language, number)
    said = _detail(image, scene, language, rng) if kind == "detail" else _caption(image, scene, language, rng)
    return ((asked, said),)


def instruction(image_id: str, kind: str, language: str, number: int) -> str:
    """The question of a detail or caption sample; each sample of a picture gets another one."""
    choices = instructions()[kind][language]
    chosen: str = choices[(random.Random(image_id).randrange(len(choices)) + number) % len(choices)]
    return chosen


def conversation(scene: Scene, language: str, rng: random.Random, *, turns: int = LONGEST_CONVERSATION) -> Turns | None:
    """Questions of different types about one picture, all brief or all in sentences; no question twice."""
    brief = rng.random() < BRIEF_SHARE
    kinds = list(QUESTION_TYPES)
    rng.shuffle(kinds)
    asked: dict[str, str] = {}
    for kind in kinds + kinds:
        if len(asked) == turns:
            break
        item = ask(scene, kind, language, rng)
        if item is not None:
            asked.setdefault(item.question, item.answer if brief else item.sentence)
    if not asked:
        return None
    rows = list(asked.items())
    if brief:
        rows[0] = (f"{rows[0][0]}\n{brief_cue(language)}", rows[0][1])
    return tuple(rows)


def _detail(image: AnnotatedImage, scene: Scene, language: str, rng: random.Random) -> str:
    """What the boxes settle; of a photograph, what people said of it first: boxes do not know what is going on."""
    said = description(scene, language, rng)
    if scene.colored or not own_captions(image, language):
        return said
    opening = _clean(rng.choice(own_captions(image, language)))
    opening = opening[:1].upper() + opening[1:]
    return f"{opening}{'' if opening.endswith(('.', '!', '?')) else '.'} {said}"


def _caption(image: AnnotatedImage, scene: Scene, language: str, rng: random.Random) -> str:
    """One of the picture's own captions in that language, else one written from its boxes."""
    own = own_captions(image, language)
    return _clean(rng.choice(own)) if own else caption(scene, language, rng)


def _clean(text: str) -> str:
    return " ".join(text.split())

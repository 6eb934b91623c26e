"""The offline teacher: dialogues written from captions and boxes alone, by rule, English and Korean.

AnnotatedImage + kind + language + chance -> turns (question, answer) that the boxes settle, or None
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import replace
from functools import cache
from importlib import resources
from typing import Any

from vistune.datagen.teachers.replies import Turns
from vistune.datagen.teachers.requests import own_captions
from vistune.grounding import QUESTION_TYPES, Scene, ask, brief_cue, caption, description, reason
from vistune.grounding import lexicon as words
from vistune.grounding.claims import supported_classes
from vistune.types import AnnotatedImage

BRIEF_SHARE = 0.75  # of conversations: short answers, asked for in the first turn as LLaVA-1.5's data does
LONGEST_CONVERSATION = 8  # turns
TRIES = 4  # at a question of a type that has not been asked yet


@cache
def instructions() -> Mapping[str, Any]:
    return json.loads((resources.files("vistune.datagen.teachers") / "instructions.json").read_text(encoding="utf-8"))


def write(image: AnnotatedImage, kind: str, language: str, rng: random.Random, number: int = 0) -> Turns | None:
    """The turns of one sample, or None where captions and boxes do not give enough to say.

    `number`: how many samples of this kind and language the picture has already; each gets another instruction.
    """
    scene = _scene(image, language)
    if kind == "conversation":
        return conversation(scene, language, rng)
    if kind == "reasoning":
        turn = reason(scene, language, rng)
        return (turn,) if turn else None
    if not image.boxes and (kind == "detail" or not own_captions(image, language)):
        return None
    asked = instruction(image.id, kind, language, number, subject="drawing" if scene.drawn else "photograph")
    said = _detail(image, scene, language, rng) if kind == "detail" else _caption(image, scene, language, rng)
    return ((asked, said),)


def _scene(image: AnnotatedImage, language: str) -> Scene:
    """The boxes under the names by which the language speaks of them; what captions tell of is never denied."""
    spoken = {label: words.label_in(label, language) for label in {*image.crowds, *(box.label for box in image.boxes)}}
    if "toilet" in spoken.values():
        spoken |= {label: "washbasin" for label, name in spoken.items() if name == "sink"}  # Korean names the two apart
    boxes = tuple(replace(box, label=spoken[box.label]) for box in image.boxes)
    scene = Scene(boxes, tuple(dict.fromkeys(spoken[label] for label in image.crowds)))
    return scene if scene.colored else replace(scene, also_present=frozenset(supported_classes(image)))


def setting_of(image: AnnotatedImage) -> str:
    """The place, in Korean, that at least two English captions name (or the only one); empty where they disagree."""
    captions = own_captions(image, "en")
    found: Counter[str] = Counter()
    for text in captions:
        rest = text.lower()
        for place, korean in words.word_lists("ko")["settings"].items():
            if re.search(rf"\b{place}\b(?! (?:signs?|chairs?|lights?|bench|benches|lamps?|table)\b)", rest):
                found[korean] += 1
                break  # the longer names stand first: a skate park is no park
    ranked = found.most_common(2)
    if not ranked or ranked[0][1] < min(2, len(captions)) or (len(ranked) > 1 and ranked[0][1] == ranked[1][1]):
        return ""
    return ranked[0][0]


def instruction(image_id: str, kind: str, language: str, number: int, *, subject: str = "photograph") -> str:
    """The question of a detail or caption sample; each sample of a picture gets another one."""
    choices = instructions()[subject][kind][language]
    chosen: str = choices[(random.Random(image_id).randrange(len(choices)) + number) % len(choices)]
    return chosen


def conversation(scene: Scene, language: str, rng: random.Random, *, turns: int = LONGEST_CONVERSATION) -> Turns | None:
    """Questions of different types about one picture, all brief or all in sentences; no question twice."""
    brief = rng.random() < BRIEF_SHARE
    kinds = list(QUESTION_TYPES)
    rng.shuffle(kinds)
    asked: dict[Hashable, tuple[str, str]] = {}
    named: frozenset[str] = frozenset()
    for kind in kinds + kinds:
        if len(asked) == turns:
            break
        for _ in range(TRIES):
            item = ask(scene, kind, language, rng)
            known = not scene.drawn and kind == "existence" and item is not None and item.labels <= named
            if item is None or (item.topic not in asked and not known):
                break
        if item is not None and not known:  # nor is it asked whether there is what has been spoken of
            named |= item.labels
            asked.setdefault(item.topic, (item.question, item.answer if brief else item.sentence))
    if not asked:
        return None
    rows = list(asked.values())
    if brief:
        rows[0] = (f"{rows[0][0]}\n{brief_cue(language)}", rows[0][1])
    return tuple(rows)


def _detail(image: AnnotatedImage, scene: Scene, language: str, rng: random.Random) -> str:
    """What the boxes settle; of a photograph, what people said of it first: boxes do not know what is going on."""
    own = own_captions(image, language)
    if scene.colored or not own:
        return description(scene, language, rng, setting=setting_of(image) if language == "ko" else "")
    opening = _clean(rng.choice(own))
    opening = opening[:1].upper() + opening[1:]
    return description(scene, language, rng, opening=opening if opening.endswith((".", "!", "?")) else f"{opening}.")


def _caption(image: AnnotatedImage, scene: Scene, language: str, rng: random.Random) -> str:
    """One of the picture's own captions in that language, else one written from its boxes."""
    own = own_captions(image, language)
    return _clean(rng.choice(own)) if own else caption(scene, language, rng, setting_of(image))


def _clean(text: str) -> str:
    return " ".join(text.split())

"""The offline teacher: writes samples from captions and boxes by rule, in English and Korean."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from importlib import resources

from vistune.datagen.teachers import own_captions
from vistune.datagen.teachers.replies import Turns
from vistune.grounding import QUESTION_TYPES, QuestionAnswer, Scene, brief_cue, caption, description, reason
from vistune.grounding import lexicon as words
from vistune.grounding.annotated import scene_of
from vistune.grounding.balance import AnswerBalance, choose
from vistune.grounding.questions import draw, word
from vistune.types import AnnotatedImage

BRIEF_SHARE = 0.75  # of conversations with short answers, which their first turn asks for, as in LLaVA-1.5's data
LONGEST_CONVERSATION = 8  # turns
Instructions = Mapping[str, Mapping[str, Mapping[str, list[str]]]]
UNBALANCED = AnswerBalance()
TRIES = 4  # to find a question of a type that has not been asked yet


@cache
def instructions() -> Instructions:
    """Return the questions for descriptions and captions, by subject, kind and language."""
    path = resources.files("vistune.datagen.teachers") / "instructions.json"
    tree: Instructions = json.loads(path.read_text(encoding="utf-8"))
    return tree


def write(
    image: AnnotatedImage,
    kind: str,
    language: str,
    rng: random.Random,
    number: int = 0,
    balance: AnswerBalance = UNBALANCED,
) -> Turns | None:
    """Write the turns of one sample; return None if captions and boxes do not give enough to say.

    Args:
        number: How many samples of this kind and language the image already has; each gets another instruction.
        balance: The answers of the data set, for conversations.
    """
    scene = scene_of(image, language)
    if kind == "conversation":
        return conversation(scene, language, rng, balance)
    if kind == "reasoning":
        turn = reason(scene, language, rng)
        return (turn,) if turn else None
    if not image.boxes and (kind == "detail" or not own_captions(image, language)):
        return None
    question = instruction(image.id, kind, language, number, subject="drawing" if scene.drawn else "photograph")
    text = _detail(image, scene, language, rng) if kind == "detail" else _caption(image, scene, language, rng)
    return ((question, text),)


def setting_of(image: AnnotatedImage) -> str:
    """Return the Korean word for the place that at least two English captions name, or the only caption.

    Return "" if captions disagree.
    """
    captions = own_captions(image, "en")
    settings: Counter[str] = Counter()
    for text in captions:
        for place, korean in words.word_lists("ko")["settings"].items():  # longer names first: "skate park", "park"
            pattern = rf"\b{place}\b(?! (?:signs?|chairs?|lights?|bench|benches|lamps?|table)\b)"
            if re.search(pattern, text.lower()):
                settings[korean] += 1
                break
    ranked = settings.most_common(2)
    if not ranked or ranked[0][1] < min(2, len(captions)) or (len(ranked) > 1 and ranked[0][1] == ranked[1][1]):
        return ""
    return ranked[0][0]


def instruction(image_id: str, kind: str, language: str, number: int, *, subject: str = "photograph") -> str:
    """Return the question of a detail or caption sample; each sample of an image gets another one."""
    choices = instructions()[subject][kind][language]
    return choices[(random.Random(image_id).randrange(len(choices)) + number) % len(choices)]


def conversation(scene: Scene, language: str, rng: random.Random, balance: AnswerBalance = UNBALANCED) -> Turns | None:
    """Write questions of different types about one image. Either all answers are brief, or all are sentences."""
    items = questions(scene, language, rng, balance)
    if not items:
        return None
    brief = rng.random() < BRIEF_SHARE
    pairs = [(item.question, item.answer if brief else item.sentence) for item in items]
    if brief:
        pairs[0] = (f"{pairs[0][0]}\n{brief_cue(language)}", pairs[0][1])
    return tuple(pairs)


def questions(
    scene: Scene, language: str, rng: random.Random, balance: AnswerBalance = UNBALANCED
) -> Sequence[QuestionAnswer]:
    """Ask about one image; no question is asked twice."""
    if scene.drawn:
        return _about_drawing(scene, language, rng)
    return _about_photograph(scene, language, rng, balance)


def _about_photograph(
    scene: Scene, language: str, rng: random.Random, balance: AnswerBalance
) -> Sequence[QuestionAnswer]:
    """Ask about each aspect of an object once, and skip those that could be guessed; see `grounding.balance`."""
    chosen = choose(scene, balance, rng, LONGEST_CONVERSATION)
    return [word(content, kind, language, rng) for kind, content in chosen]


def _about_drawing(scene: Scene, language: str, rng: random.Random) -> Sequence[QuestionAnswer]:
    """Ask two questions of each type; none is asked twice."""
    contents = {kind: contents_of(scene) for kind, contents_of in QUESTION_TYPES.items()}
    kinds = list(contents)
    rng.shuffle(kinds)
    written: dict[Hashable, QuestionAnswer] = {}
    for kind in kinds + kinds:
        if len(written) == LONGEST_CONVERSATION:
            break
        for _ in range(TRIES):
            item = draw(contents[kind], kind, language, rng)
            if item is None:
                break
            if item.topic not in written:
                written[item.topic] = item
                break
    return list(written.values())


def _detail(image: AnnotatedImage, scene: Scene, language: str, rng: random.Random) -> str:
    """Describe the boxes. A photograph's description opens with a caption: boxes do not show what is going on."""
    captions = own_captions(image, language)
    if scene.colored or not captions:
        return description(scene, language, rng, setting=setting_of(image) if language == "ko" else "")
    opening = _one_line(rng.choice(captions))
    opening = opening[:1].upper() + opening[1:]
    return description(scene, language, rng, opening=opening if opening.endswith((".", "!", "?")) else f"{opening}.")


def _caption(image: AnnotatedImage, scene: Scene, language: str, rng: random.Random) -> str:
    """Return one of the image's own captions in the language, or write one from its boxes."""
    captions = own_captions(image, language)
    return _one_line(rng.choice(captions)) if captions else caption(scene, language, rng, setting_of(image))


def _one_line(text: str) -> str:
    return " ".join(text.split())

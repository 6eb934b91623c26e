"""The drawn world on disk: a COCO folder that any COCO tool reads, and question files with exact answers.

count, seed -> OUT/SPLIT/*.jpg, OUT/annotations/{captions,instances}_SPLIT.json, OUT/questions_SPLIT.jsonl
Categories are shapes; colour and size are each annotation's `attributes`. Captions are English and Korean in turn.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vistune.files import write_jsonl
from vistune.grounding import QUESTION_TYPES, Scene, ask, brief_cue, caption
from vistune.scenes.draw import render
from vistune.scenes.world import SHAPES, SIDE, DrawnScene, make_scene

SPLITS = ("train", "heldout", "combinations")


@dataclass(frozen=True, slots=True)
class DrawnFolder:
    """Where the pictures and questions of each split lie."""

    path: Path
    counts: dict[str, int]


def write_world(
    out: Path, *, count: int, seed: int, tests: int | None = None, advance: Callable[[int], None] = lambda n: None
) -> DrawnFolder:
    """Draw `count` training scenes and `tests` scenes (a tenth, at least 20) for each of the two test splits."""
    tests = max(20, count // 10) if tests is None else tests
    counts = {"train": count, "heldout": tests, "combinations": tests}
    (out / "annotations").mkdir(parents=True, exist_ok=True)
    first = 1
    for split, number in counts.items():
        _write_split(out, split, first=first, count=number, seed=seed, advance=advance)
        first += number
    return DrawnFolder(out, counts)


def scenes_of(split: str, count: int, seed: int) -> Iterator[DrawnScene]:
    """The scenes of a split; splits and seeds never share a stream of chance.

    The two test splits hold at least two things a scene, so that every type of question can be asked.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    for _ in range(count):
        yield make_scene(rng, held_out=split == "combinations", counts=(1, 5) if split == "train" else (2, 5))


def _write_split(out: Path, split: str, *, first: int, count: int, seed: int, advance: Callable[[int], None]) -> None:
    (out / split).mkdir(exist_ok=True)
    chance = random.Random(f"{seed}/{split}")
    images: list[dict[str, Any]] = []
    captions: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    questions: list[dict[str, Any]] = []
    for number, drawn in enumerate(scenes_of(split, count, seed), start=first):
        name = f"{number:012d}.jpg"
        buffer = io.BytesIO()
        Image.fromarray(render(drawn)).save(buffer, "JPEG", quality=92)
        (out / split / name).write_bytes(buffer.getvalue())
        images.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
        scene = Scene(drawn.boxes())
        for language in ("en", "ko"):
            text = caption(scene, language, chance)
            captions.append({"id": len(captions) + 1, "image_id": number, "caption": text, "language": language})
        instances.extend(_instances(drawn, number, len(instances)))
        if split != "train":
            questions.extend(_questions(scene, name, chance))
        advance(1)
    categories = [{"id": k, "name": shape, "supercategory": "shape"} for k, shape in enumerate(SHAPES, start=1)]
    for kind, rows, extra in (("captions", captions, {}), ("instances", instances, {"categories": categories})):
        content = {
            "info": {"description": "vistune drawn scenes", "seed": seed},
            "images": images,
            "annotations": rows,
            **extra,
        }
        (out / "annotations" / f"{kind}_{split}.json").write_text(
            json.dumps(content, ensure_ascii=False), encoding="utf-8"
        )
    if questions:
        write_jsonl(out / f"questions_{split}.jsonl", questions)


def _instances(drawn: DrawnScene, image: int, before: int) -> Iterator[dict[str, Any]]:
    for number, thing in enumerate(drawn.things, start=before + 1):
        x, y, side = thing.x - thing.radius, thing.y - thing.radius, 2 * thing.radius
        yield {
            "id": number,
            "image_id": image,
            "category_id": SHAPES.index(thing.shape) + 1,
            "bbox": [x, y, side, side],
            "area": side * side,
            "iscrowd": 0,
            "attributes": {"color": thing.color, "size": thing.size},
        }


def _questions(scene: Scene, image: str, chance: random.Random) -> Iterator[dict[str, Any]]:
    """One question of each type that the scene settles, in one language or the other by chance."""
    for kind in QUESTION_TYPES:
        language = chance.choice(("en", "ko"))
        asked = ask(scene, kind, language, chance)
        if asked is not None:
            yield {
                "question_id": f"{image.removesuffix('.jpg')}-{kind}",
                "image": image,
                "text": f"{asked.question}\n{brief_cue(language)}",
                "answer": asked.answer,
                "type": kind,
                "language": language,
            }

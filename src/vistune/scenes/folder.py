"""Write drawn scenes as a COCO folder, with question files that have exact answers.

The files are OUT/SPLIT/*.jpg, OUT/annotations/{captions,instances}_SPLIT.json and OUT/questions_SPLIT.jsonl. Categories
are shapes; colour and size are `attributes` of each annotation. Each image has an English and a Korean caption.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vistune.files import write_jsonl
from vistune.grounding import QUESTION_TYPES, Scene, ask, brief_cue, caption
from vistune.scenes.draw import SHAPES, SIDE, DrawnScene, make_scene, render

SPLITS = ("train", "heldout", "combinations")
JsonObject = dict[str, object]


@dataclass(frozen=True, slots=True)
class DrawnFolder:
    """A written folder, and the number of images of each split."""

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
    """Yield the scenes of a split; each split and seed has its own random generator.

    Scenes of the two test splits have at least two shapes, so that every type of question can be asked.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    for _ in range(count):
        yield make_scene(rng, held_out=split == "combinations", counts=(1, 5) if split == "train" else (2, 5))


def _write_split(out: Path, split: str, *, first: int, count: int, seed: int, advance: Callable[[int], None]) -> None:
    (out / split).mkdir(exist_ok=True)
    rng = random.Random(f"{seed}/{split}")
    images: list[JsonObject] = []
    captions: list[JsonObject] = []
    instances: list[JsonObject] = []
    questions: list[JsonObject] = []
    for number, drawn in enumerate(scenes_of(split, count, seed), start=first):
        name = f"{number:012d}.jpg"
        buffer = io.BytesIO()
        Image.fromarray(render(drawn)).save(buffer, "JPEG", quality=92)
        (out / split / name).write_bytes(buffer.getvalue())
        images.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
        scene = Scene(drawn.boxes())
        for language in ("en", "ko"):
            text = caption(scene, language, rng)
            captions.append({"id": len(captions) + 1, "image_id": number, "caption": text, "language": language})
        instances.extend(_instances(drawn, number, len(instances)))
        if split != "train":
            questions.extend(_questions(scene, name, rng))
        advance(1)
    categories = [{"id": k, "name": shape, "supercategory": "shape"} for k, shape in enumerate(SHAPES, start=1)]
    for kind, records, extra in (("captions", captions, {}), ("instances", instances, {"categories": categories})):
        content = {
            "info": {"description": "vistune drawn scenes", "seed": seed},
            "images": images,
            "annotations": records,
            **extra,
        }
        (out / "annotations" / f"{kind}_{split}.json").write_text(
            json.dumps(content, ensure_ascii=False), encoding="utf-8"
        )
    if questions:
        write_jsonl(out / f"questions_{split}.jsonl", questions)


def _instances(drawn: DrawnScene, image: int, before: int) -> Iterator[JsonObject]:
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


def _questions(scene: Scene, image: str, rng: random.Random) -> Iterator[JsonObject]:
    """Yield one question of each type that the scene decides, in a random language."""
    for kind in QUESTION_TYPES:
        language = rng.choice(("en", "ko"))
        asked = ask(scene, kind, language, rng)
        if asked is not None:
            yield {
                "question_id": f"{image.removesuffix('.jpg')}-{kind}",
                "image": image,
                "text": f"{asked.question}\n{brief_cue(language)}",
                "answer": asked.answer,
                "type": kind,
                "language": language,
            }

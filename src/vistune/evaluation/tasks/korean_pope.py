"""A Korean POPE built from boxes: yes-no questions about objects that are or are not in an image.

COCO annotations -> the objects in each image, and as many absent ones (random, frequent or co-occurring) -> questions

A fixed seed decides every choice, so a folder always gives the same questions with the same ids.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

from vistune.errors import DataError
from vistune.evaluation.parsing import yes_or_no
from vistune.evaluation.predictions import Prediction
from vistune.evaluation.release import field_of, image_folder, matching, release_json
from vistune.evaluation.task import OFFICIAL, Benchmark, Facts, Marked, make_question
from vistune.evaluation.tasks.pope import Pope
from vistune.grounding import lexicon
from vistune.types import Question

SPLITS = ("random", "popular", "adversarial")
QUESTION = "이 이미지에 {}[이/가] 있습니까? 예 또는 아니오로 답하세요."
SEED = 0
IMAGES = 500  # at most, as in POPE
KINDS = 3  # kinds of things in the image, and as many others, that each split asks about


class KPope(Pope):
    """A reply is read by its Korean yes or no; one that says neither is wrong."""

    facts = Facts(
        about="POPE's three splits in Korean, built here from a COCO folder's boxes",
        files=("annotations/instances_SPLIT.json (one)", "SPLIT/ (its images)"),
        source="https://cocodataset.org or any folder in COCO's form, such as `vistune scenes` draws",
        licence="annotations CC BY 4.0; images: COCO's terms",
        size="up to 500 images, 18 questions each",
        paper="https://arxiv.org/abs/2305.10355",
    )
    rules: tuple[str, ...] = (OFFICIAL,)

    def questions(self) -> Sequence[Question]:
        path = _instances(self.folder)
        split = path.name.split(".")[0].removeprefix("instances_")
        folder = image_folder(path.parent.parent if path.parent.name == "annotations" else path.parent, split, "images")
        things, names = things_of(release_json(path), path)
        chosen = choose_images(things)
        absent = AbsentThings(things)
        questions = []
        for image in chosen:
            rng = random.Random(f"{SEED}/{names[image]}")
            present = rng.sample(sorted(things[image]), KINDS)
            for kind in SPLITS:
                missing = absent.of(image, kind, rng)
                for number, (noun, label) in enumerate(
                    pair
                    for both in zip(present, missing, strict=False)
                    for pair in zip(both, ("yes", "no"), strict=True)
                ):
                    name = f"{kind}-{image}-{number}"
                    questions.append(
                        _question(name, noun, label, folder / names[image], f"{path}: image {image}", kind)
                    )
        return sorted(questions, key=lambda question: SPLITS.index(question.tags["split"]))

    def identify(self, prediction: Prediction) -> str:
        return prediction.id

    def parse(self, question: Question, reply: str, rule: str) -> str | None:
        return yes_or_no(reply)

    def mark(self, question: Question, text: str | None, rule: str = OFFICIAL) -> Marked:
        """Mark a reply. An unparsed one is wrong, other than in POPE."""
        return Benchmark.mark(self, question, text, rule)


def _question(name: str, noun: str, label: str, image: Path, location: str, split: str) -> Question:
    text = lexicon.particles(QUESTION.format(noun))
    return make_question(name, text, image, answer=label, origin=location, split=split, bare=text, language="ko")


def _instances(folder: Path) -> Path:
    """Return the instances file of a COCO folder; of several, that of the validation split."""
    if folder.is_file():
        return folder
    parent = folder / "annotations" if (folder / "annotations").is_dir() else folder
    files = matching(parent, "instances_*.json")
    chosen = files if len(files) == 1 else [path for path in files if path.name.startswith("instances_val")]
    if len(chosen) == 1:
        return chosen[0]
    if not files:
        raise DataError(f"{parent}/instances_*.json: no such file", "name a folder in COCO's form")
    listed = ", ".join(path.name for path in chosen or files)
    raise DataError(
        f"{parent}/instances_*.json: several files match: {listed}", f"name one, such as --data {(chosen or files)[0]}"
    )


def things_of(tree: object, path: Path) -> tuple[dict[int, set[str]], dict[int, str]]:
    """Return the Korean nouns of the things in each image, crowds included, and its file name, both by image id.

    Labels with the same Korean noun are one thing.

    Raises:
        DataError: A row is not in COCO's form.
    """
    nouns: dict[int, str] = {}
    for location, row in _rows(tree, "categories", path):
        nouns[field_of(row, "id", int, location)] = lexicon.noun(field_of(row, "name", str, location), "ko")
    names: dict[int, str] = {}
    for location, row in _rows(tree, "images", path):
        names[field_of(row, "id", int, location)] = field_of(row, "file_name", str, location)
    things: dict[int, set[str]] = {image: set() for image in sorted(names)}
    for location, row in _rows(tree, "annotations", path):
        image, kind = field_of(row, "image_id", int, location), field_of(row, "category_id", int, location)
        if image not in things or kind not in nouns:
            raise DataError(f"{location}: names an image or a category that is not in the file", "correct or remove it")
        things[image].add(nouns[kind])
    return things, names


def _rows(tree: object, name: str, path: Path) -> Iterator[tuple[str, object]]:
    rows = tree.get(name) if isinstance(tree, dict) else None
    if not isinstance(rows, list):
        raise DataError(f"{path}: {name}: expected a list", "check that the file is in COCO's form")
    return ((f"{path}: {name}[{number}]", row) for number, row in enumerate(rows))


def choose_images(things: Mapping[int, set[str]]) -> list[int]:
    """Choose at most IMAGES images that show KINDS kinds of things and lack as many, in the order of their ids."""
    every = set().union(*things.values())
    suitable = [image for image, nouns in things.items() if len(nouns) >= KINDS and len(every - nouns) >= KINDS]
    if not suitable:
        raise DataError(
            f"no image shows {KINDS} kinds of things and lacks {KINDS} others", "use a folder with more annotations"
        )
    return sorted(random.Random(SEED).sample(suitable, min(IMAGES, len(suitable))))


class AbsentThings:
    """Chooses things that an image lacks: random ones, frequent ones, or those that co-occur with its things."""

    def __init__(self, things: Mapping[int, set[str]]) -> None:
        self.things = things
        self.frequency = Counter(noun for nouns in things.values() for noun in sorted(nouns))
        self.together: Counter[tuple[str, str]] = Counter()
        for nouns in things.values():
            for pair in combinations(sorted(nouns), 2):
                self.together[pair] += 1
                self.together[pair[::-1]] += 1

    def of(self, image: int, split: str, rng: random.Random) -> list[str]:
        """Return KINDS things; equal ranks are sorted by name."""
        present = self.things[image]
        lacking = sorted(set(self.frequency) - present)
        if split == "random":
            return rng.sample(lacking, KINDS)
        if split == "popular":
            return sorted(lacking, key=lambda noun: -self.frequency[noun])[:KINDS]
        return sorted(lacking, key=lambda noun: -sum(self.together[noun, other] for other in present))[:KINDS]

"""A Korean POPE from boxes: yes-no questions about what is in a picture and what is not, as POPE builds them.

COCO annotations -> the things each picture has -> as many it has not, by chance, frequency and company -> questions
The seed decides every choice, so that a folder always gives the same questions with the same ids.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

from vistune.errors import DataError
from vistune.evaluation.parsing.free_replies import yes_or_no
from vistune.evaluation.release import field_of, image_folder, matching, release_json
from vistune.evaluation.task import OFFICIAL, Facts, Marked, ask
from vistune.evaluation.tasks.pope import Pope
from vistune.grounding import lexicon
from vistune.types import Question

SPLITS = ("random", "popular", "adversarial")
QUESTION = "이 이미지에 {}[이/가] 있습니까? 예 또는 아니오로 답하세요."
SEED = 0
IMAGES = 500  # as in POPE, of those that show enough kinds of things
KINDS = 3  # kinds of things asked about that are there, and as many that are not, in each split


class KPope(Pope):
    """Read by the Korean yes or no of a reply; one that says neither counts as wrong."""

    facts: ClassVar[Facts] = Facts(
        about="POPE's three splits in Korean, built here from a COCO folder's boxes",
        files=("annotations/instances_SPLIT.json (one)", "SPLIT/ (its pictures)"),
        source="https://cocodataset.org or any folder in COCO's form, such as `vistune scenes` draws",
        licence="annotations CC BY 4.0; pictures: COCO's terms",
        size="up to 500 pictures, 18 questions each",
        paper="https://arxiv.org/abs/2305.10355",
    )
    rules: tuple[str, ...] = (OFFICIAL,)

    def questions(self) -> Sequence[Question]:
        path = _instances(self.folder)
        split = path.name.split(".")[0].removeprefix("instances_")
        folder = image_folder(path.parent.parent if path.parent.name == "annotations" else path.parent, split, "images")
        things, names = things_of(release_json(path), path)
        chosen = choose_images(things)
        absent = Absent(things)
        found = []
        for image in chosen:
            chance = random.Random(f"{SEED}/{names[image]}")
            present = chance.sample(sorted(things[image]), KINDS)
            for kind in SPLITS:
                missing = absent.of(image, kind, chance)
                for number, (noun, label) in enumerate(
                    pair
                    for both in zip(present, missing, strict=False)
                    for pair in zip(both, ("yes", "no"), strict=True)
                ):
                    name = f"{kind}-{image}-{number}"
                    found.append(_question(name, noun, label, folder / names[image], f"{path}: image {image}", kind))
        return sorted(found, key=lambda question: SPLITS.index(question.tags["split"]))

    def identify(self, prediction: Any) -> str:
        return str(prediction.id)

    def parse(self, question: Question, reply: str, rule: str) -> str | None:
        return yes_or_no(reply)

    def mark(self, question: Question, text: str | None, rule: str = OFFICIAL) -> Marked:
        answer = None if text is None else yes_or_no(text)
        return Marked(question, text, answer, float(answer == question.answer))


def _question(name: str, noun: str, label: str, image: Path, origin: str, split: str) -> Question:
    text = lexicon.particles(QUESTION.format(noun))
    return ask(name, text, image, answer=label, origin=origin, split=split, bare=text, language="ko")


def _instances(folder: Path) -> Path:
    """The one instances file of a COCO folder; of several the validation split's. Raises DataError otherwise."""
    if folder.is_file():
        return folder
    where = folder / "annotations" if (folder / "annotations").is_dir() else folder
    there = matching(where, "instances_*.json")
    found = there if len(there) == 1 else [path for path in there if path.name.startswith("instances_val")]
    if len(found) == 1:
        return found[0]
    if not there:
        raise DataError(f"{where}/instances_*.json: no such file", "name a folder in COCO's form")
    listed = ", ".join(path.name for path in found or there)
    raise DataError(
        f"{where}/instances_*.json: several fit: {listed}", f"name one, such as --data {(found or there)[0]}"
    )


def things_of(tree: Any, path: Path) -> tuple[dict[int, set[str]], dict[int, str]]:
    """(Korean nouns of what each picture shows, crowds included; file names), by picture id.

    Labels with one Korean noun are one thing. Raises DataError naming the row that is not COCO's.
    """
    nouns: dict[int, str] = {}
    for place, row in _rows(tree, "categories", path):
        nouns[field_of(row, "id", int, place)] = lexicon.noun(field_of(row, "name", str, place), "ko")
    names: dict[int, str] = {}
    for place, row in _rows(tree, "images", path):
        names[field_of(row, "id", int, place)] = field_of(row, "file_name", str, place)
    things: dict[int, set[str]] = {image: set() for image in sorted(names)}
    for place, row in _rows(tree, "annotations", path):
        image, kind = field_of(row, "image_id", int, place), field_of(row, "category_id", int, place)
        if image not in things or kind not in nouns:
            raise DataError(f"{place}: names a picture or a category that the file has not", "mend or remove it")
        things[image].add(nouns[kind])
    return things, names


def _rows(tree: Any, name: str, path: Path) -> Iterator[tuple[str, Any]]:
    rows = tree.get(name) if isinstance(tree, dict) else None
    if not isinstance(rows, list):
        raise DataError(f"{path}: {name}: a COCO file has a list here", "check that the file is in COCO's form")
    return ((f"{path}: {name}[{number}]", row) for number, row in enumerate(rows))


def choose_images(things: Mapping[int, set[str]]) -> list[int]:
    """Pictures with at least KINDS kinds of things, PICTURES at most, by the seed, in the order of their ids."""
    every = set().union(*things.values())
    fit = [image for image, found in things.items() if len(found) >= KINDS and len(every - found) >= KINDS]
    if not fit:
        raise DataError(
            f"no picture shows {KINDS} kinds of things and lacks {KINDS} others", "take a folder with more annotations"
        )
    return sorted(random.Random(SEED).sample(fit, min(IMAGES, len(fit))))


class Absent:
    """Things that a picture lacks: any of them, the most frequent, or those most often seen with what it shows."""

    def __init__(self, things: Mapping[int, set[str]]) -> None:
        self.things = things
        self.frequency = Counter(noun for found in things.values() for noun in sorted(found))
        self.company: Counter[tuple[str, str]] = Counter()
        for found in things.values():
            for pair in combinations(sorted(found), 2):
                self.company[pair] += 1
                self.company[pair[::-1]] += 1

    def of(self, image: int, split: str, chance: random.Random) -> list[str]:
        """KINDS of them; equal ranks stand in the order of their names."""
        there = self.things[image]
        lacking = sorted(set(self.frequency) - there)
        if split == "random":
            return chance.sample(lacking, KINDS)
        if split == "popular":
            return sorted(lacking, key=lambda noun: -self.frequency[noun])[:KINDS]
        return sorted(lacking, key=lambda noun: -sum(self.company[noun, other] for other in there))[:KINDS]

"""The checks accept correct texts: the rule teacher's, people's captions, our own examples and GPT-4's answers."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from vistune.datagen import read_coco
from vistune.datagen.checks import CHECKS, Candidate, check_reply, run_checks
from vistune.datagen.teachers.prompts import OWN_LANGUAGES, SHOWN, prompts
from vistune.datagen.teachers.rule import write
from vistune.types import AnnotatedImage, Box

GROUNDING = ("ungrounded_object", "count", "position")
GPT4_KINDS = {"conv": "conversation", "detail": "detail", "complex": "reasoning"}


def images_of(coco_mini: Path) -> list[AnnotatedImage]:
    return [image for split in ("train2017", "val2017") for image in read_coco(coco_mini, split=split)]


@pytest.mark.parametrize("language", OWN_LANGUAGES)
@pytest.mark.parametrize("kind", SHOWN)
def test_the_rule_teacher_contradicts_nothing(coco_mini: Path, kind: str, language: str) -> None:
    """An image with one box may have too little to say; no other failure is found."""
    judged, images = 0, images_of(coco_mini)
    for image in images:
        turns = write(image, kind, language, random.Random(image.id))
        if turns is None:
            continue
        judged += 1
        codes = {failure.code for failure in run_checks(Candidate(image, kind, language, turns))}
        assert codes <= {"length"}, (image.id, turns)
    assert judged >= 0.75 * len(images) > 0


def test_captions_by_people_are_seldom_rejected(coco_mini: Path) -> None:
    """Compare each caption with the boxes and the other captions: only few objects are named by nobody else."""
    found: Counter[str] = Counter()
    count = 0
    for image in images_of(coco_mini):
        for caption in image.captions:
            others = tuple(other for other in image.captions if other != caption)
            count += 1
            candidate = Candidate(replace(image, captions=others), "caption", "en", (("", caption),))
            found.update(failure.code for failure in run_checks(candidate))
    assert found.keys() <= {"ungrounded_object"}
    assert found["ungrounded_object"] <= 0.02 * count


def test_a_text_on_another_image_is_refused(coco_mini: Path) -> None:
    """Descriptions by the rule teacher against another image's captions and boxes: nine in ten name what is absent."""
    images = images_of(coco_mini)
    judged = refused = 0
    for image, other in zip(images, images[7:] + images[:7], strict=True):
        turns = write(image, "detail", "en", random.Random(image.id))
        if turns is None or {box.label for box in image.boxes} <= {box.label for box in other.boxes}:
            continue
        judged += 1
        failures = run_checks(Candidate(other, "detail", "en", turns))
        refused += any(failure.code in GROUNDING for failure in failures)
    assert judged >= 0.5 * len(images)
    assert refused >= 0.9 * judged


def gpt4(shared: Path) -> list[dict[str, str]]:
    path = shared / "data" / "llava-coco30" / "gpt4_qa.jsonl"
    return [json.loads(line) for line in path.open(encoding="utf-8")]


def test_no_answer_of_gpt4_fails_a_check_that_needs_no_boxes(shared: Path) -> None:
    rows = gpt4(shared)
    assert len(rows) == 90
    for row in rows:
        unseen = AnnotatedImage(row["id"], Path(row["image"]), (), (), ())
        written = Candidate(unseen, GPT4_KINDS[row["type"]], "en", ((row["instruction"], row["output"]),))
        assert {code for code, check in CHECKS.items() if check(written)} <= {"ungrounded_object"}, row


def test_a_description_of_another_image_is_rejected(shared: Path) -> None:
    """At least nine in ten of GPT-4's descriptions name a class that its texts about another image do not."""
    rows = [row for row in gpt4(shared) if row["type"] == "detail"]
    refused = 0
    for row, other in zip(rows, rows[7:] + rows[:7], strict=True):
        texts = tuple(each["output"] for each in gpt4(shared) if each["id"] == other["id"])
        image = AnnotatedImage(other["id"], Path(other["image"]), texts, (), ())
        refused += bool(run_checks(Candidate(image, "detail", "en", (("", row["output"]),))))
    assert refused >= 0.9 * len(rows)


@pytest.mark.parametrize("language", OWN_LANGUAGES)
@pytest.mark.parametrize("kind", SHOWN)
def test_our_own_examples_pass(kind: str, language: str) -> None:
    for shot in prompts(language)[kind]["shots"]:
        boxes = tuple(Box(label, *corners) for label, *corners in shot.get("boxes", ()))
        image = AnnotatedImage("shot", Path("shot.jpg"), tuple(shot["captions"]), boxes)
        failures = check_reply(shot["reply"], image, kind, language).failures
        assert not failures, shot["reply"]


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("zh", "一只棕色的狗在沙滩上跳起来接住红色的飞盘，旁边站着一位女士，她正看着这只狗，身后是大海。"),
        ("ja", "茶色の犬が砂浜で赤いフリスビーを追いかけて跳び上がり、その横で女性が海を背に見守っています。"),
    ],
)
def test_scripts_without_spaces_are_not_too_short(language: str, text: str) -> None:
    image = AnnotatedImage("beach", Path("beach.jpg"), (), ())
    assert run_checks(Candidate(image, "detail", language, (("", text),))) == ()
    [failure] = run_checks(Candidate(image, "detail", language, (("", text[:8]),)))
    assert failure.code == "length"

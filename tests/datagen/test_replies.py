"""Replies written by hand as teachers write them, each with the faults that a careful reader finds in it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from vistune.datagen.checks import CHECKS, judge_reply
from vistune.types import AnnotatedImage, Box

TREE = json.loads((Path(__file__).parent / "replies.json").read_text(encoding="utf-8"))
REPLIES: list[dict[str, Any]] = TREE["replies"]
CODES = {*CHECKS, "shape", "turn_order"}


def picture(name: str) -> AnnotatedImage:
    """A made-up picture of the fixture; no file stands behind it."""
    tree = TREE["pictures"][name]
    boxes = tuple(Box(label, *corners) for label, *corners in tree["boxes"])
    return AnnotatedImage(name, Path(f"{name}.jpg"), tuple(tree["captions"]), boxes, tuple(tree.get("crowds", ())))


def readable(number: int, reply: dict[str, Any]) -> str:
    return "-".join(
        [f"{number:03}", *(reply["faults"] or ["good"]), *(reply[k] for k in ("language", "kind", "picture"))]
    )


@pytest.mark.parametrize("reply", [pytest.param(reply, id=readable(k, reply)) for k, reply in enumerate(REPLIES)])
def test_faults_are_those_a_careful_reader_finds(reply: dict[str, Any]) -> None:
    _, faults = judge_reply(reply["reply"], picture(reply["picture"]), reply["kind"], reply["language"])
    assert {fault.code for fault in faults} == set(reply["faults"]), faults


def test_there_are_enough_replies_of_each_sort() -> None:
    good = [reply["language"] for reply in REPLIES if not reply["faults"]]
    bad = [reply["language"] for reply in REPLIES if reply["faults"]]
    for half in (good, bad):
        assert len(half) >= 100
        assert half.count("ko") >= len(half) / 3
    times = Counter((code, reply["language"]) for reply in REPLIES for code in reply["faults"])
    assert {code for code, _ in times} == CODES
    assert all(times[code, language] >= 2 for code in CODES for language in ("en", "ko"))
    assert len({reply["reply"] for reply in REPLIES if reply["reply"].strip()}) >= len(REPLIES) - 2

"""Pictures flow: after a few minutes on eighty photographs a model names what their captions name, and no other's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vistune import api
from vistune.datagen import GenerationConfig
from vistune.grounding.claims import find_classes
from vistune.recipe import load_recipe


def classes(text: str) -> set[str]:
    return {mention.label for mention in find_classes(text, "en")}


@pytest.mark.soak
def test_eighty_photographs_are_known_by_heart(shared: Path, tmp_path: Path) -> None:
    """Asked as in training, the same photograph gives back >= 90 % of its captions' objects, another one few."""
    data = tmp_path / "data"
    api.generate_data(shared / "data" / "coco-mini", data, GenerationConfig(languages=("en",)), split="train2017")
    api.train(load_recipe("quickstart", [f"data={data / 'messages.jsonl'}"]), tmp_path / "run")
    assistant = api.load(tmp_path / "run")
    rows = [json.loads(line) for line in (data / "messages.jsonl").open(encoding="utf-8")]
    asked = [(row["images"][0], row["messages"][0]["content"][1]["text"], row["messages"][1]["content"])
             for row in rows if row["kind"] == "caption"]  # fmt: skip
    photographs = sorted({image for image, _, _ in asked})
    other = dict(zip(photographs, photographs[40:] + photographs[:40], strict=True))
    folder = shared / "data" / "coco-mini" / "train2017"
    shares = []
    for shown in (lambda image: image, other.__getitem__):
        named = wanted = 0
        for image, question, caption in asked:
            objects = classes(caption)
            named += len(objects & classes(assistant.ask(folder / shown(image), question, max_tokens=96)))
            wanted += len(objects)
        shares.append(named / wanted)
    print(f"same photograph {shares[0]:.3f}, another one {shares[1]:.3f}")
    assert shares[0] >= 0.9
    assert shares[1] <= 0.3

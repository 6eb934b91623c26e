"""A small data set that can be learnt by heart, and a recipe over tiny random backbones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from training_stages import MakeRecipe

from vistune.recipe import Recipe, validate


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = []
    for k, color in enumerate([(220, 30, 30), (30, 200, 40), (40, 60, 220), (240, 220, 40)] * 3):
        Image.new("RGB", (32, 32), color).save(tmp_path / f"{k}.png")
        answer = ("red", "green", "blue", "yellow")[k % 4]
        turns = [{"from": "human", "value": "<image>\nWhat colour?"}, {"from": "gpt", "value": answer}]
        row: dict[str, Any] = {"id": str(k), "image": f"{k}.png", "kind": "caption", "conversations": turns}
        rows.append(row)
    rows.append({"id": "text", "kind": "caption", "conversations": turns_without_image()})
    (tmp_path / "data.json").write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
    return tmp_path / "data.json"


def turns_without_image() -> list[dict[str, str]]:
    return [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "네"}]


@pytest.fixture
def make_recipe(tiny_backbones: Path, data: Path) -> MakeRecipe:
    def make(*stages: dict[str, Any], **changes: Any) -> Recipe:
        model = {"vision": str(tiny_backbones / "vision"), "language": str(tiny_backbones / "language")}
        return validate({"model": model, "data": str(data), "stages": list(stages), **changes}, "test")

    return make

"""`why`: a model's whole history out of its folder, and what has changed since."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from vistune import api
from vistune.cli.app import app
from vistune.datagen import GenerationConfig
from vistune.recipe import Recipe, validate

STAGE: dict[str, Any] = {"name": "tune", "learn": {"projector": 1e-3}, "steps": 1, "samples_per_step": 2}


def described(folder: Path) -> Path:
    """A table of two pictures that somebody has described."""
    for name, colour in (("a", (200, 30, 30)), ("b", (30, 30, 200))):
        Image.new("RGB", (32, 32), colour).save(folder / f"{name}.png")
    rows = [{"image": f"{name}.png", "captions": ["A red car beside a dog."]} for name in "ab"]
    table = folder / "table.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return table


def recipe_of(backbones: Path, data: Path) -> Recipe:
    model = {"vision": str(backbones / "vision"), "language": str(backbones / "language")}
    return validate({"name": "first", "seed": 3, "model": model, "data": str(data), "stages": [STAGE]}, "test")


def test_a_history_reaches_back_to_the_teacher_and_the_first_backbones(tiny_backbones: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    api.generate_data(described(tmp_path), tmp_path / "data", GenerationConfig(seed=5))
    first = api.train(recipe_of(tiny_backbones, tmp_path / "data"), tmp_path / "first")
    going_on = validate({"from": str(first), "data": str(tmp_path / "data"), "stages": [STAGE]}, "test")
    second = api.train(going_on, tmp_path / "second")
    newest, oldest = (entry.to_dict() for entry in api.why(second))
    assert newest["from"]["unchanged"] is True
    assert newest["from"]["model"] == oldest["model"]
    assert (oldest["recipe"], oldest["seed"]) == ("first", 3)
    assert oldest["stages"] == [{"name": "tune", "learn": {"projector": 1e-3}, "finished": True}]
    assert oldest["backbones"] == {part: str(tiny_backbones / part) for part in ("vision", "language")}
    (data,) = oldest["data"]
    assert data["unchanged"] is True
    assert data["written"]["teacher"] == {"name": "rule"}
    assert (data["written"]["source"], data["written"]["seed"]) == ("table.jsonl", 5)
    assert {"python", "torch", "vistune"} <= oldest["versions"].keys()

    (tmp_path / "data" / "samples.json").write_text("[]")
    (Path(oldest["model"]) / "manifest.json").write_text("{}")
    newest, oldest = (entry.to_dict() for entry in api.why(second))
    assert oldest["data"][0]["unchanged"] is False
    assert newest["from"]["unchanged"] is False
    shown = CliRunner().invoke(app, ["why", str(second)])
    assert shown.exit_code == 0
    assert shown.stdout.count("CHANGED SINCE") == 3
    assert "written by the rule teacher from table.jsonl" in shown.stdout
    assert json.loads(CliRunner().invoke(app, ["why", str(second), "--json"]).stdout) == [
        entry.to_dict() for entry in api.why(second)
    ]


@pytest.mark.parametrize("beside", ["[1, 2]", "{}"])
def test_somebody_elses_file_beside_the_data_tells_nothing(tiny_backbones: Path, tmp_path: Path, beside: str) -> None:
    torch.set_num_threads(1)
    api.generate_data(described(tmp_path), tmp_path / "data", GenerationConfig())
    (tmp_path / "data" / "generate.json").write_text(beside)
    (entry,) = api.why(api.train(recipe_of(tiny_backbones, tmp_path / "data"), tmp_path / "run"))
    assert [source.written for source in entry.data] == [None]

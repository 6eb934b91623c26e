"""A small run of the quickstart's recipe, trained through the Python API."""

from __future__ import annotations

from pathlib import Path

import pytest

import vistune

FEW_STEPS = {"stages.align.steps": 1, "stages.tune.steps": 1}


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    vistune.draw_scenes(str(folder / "world"), count=12, tests=20)
    vistune.generate_data(
        str(folder / "world"), str(folder / "data"), split="train", language="en", kinds=("caption", "conversation")
    )
    return folder


@pytest.fixture(scope="session")
def run(scenes: Path) -> vistune.Run:
    return vistune.train("quickstart", str(scenes / "run"), data=str(scenes / "data"), overrides=FEW_STEPS)

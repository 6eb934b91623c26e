"""A fake teacher on a loopback port, and a folder of images to ask about."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_teacher import FakeTeacher
from paid_runs import CANARY
from PIL import Image

from vistune.types import AnnotatedImage, Box


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)


@pytest.fixture
def teacher() -> Iterator[FakeTeacher]:
    fake = FakeTeacher()
    yield fake
    fake.close()


@pytest.fixture
def images(tmp_path: Path) -> list[AnnotatedImage]:
    """Twelve images, each with a caption and a box; beside them the prices of the fake teacher."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "prices.yaml").write_text("models: {fake-1: {input: 10, output: 100}}\n")
    made = []
    for k in range(12):
        path = folder / f"{k:03}.jpg"
        Image.new("RGB", (32, 32), (20 * k, 10, 10)).save(path)
        made.append(AnnotatedImage(path.stem, path, (f"Scene number {k}.",), (Box("dog", 0.1, 0.1, 0.5, 0.5),)))
    return made

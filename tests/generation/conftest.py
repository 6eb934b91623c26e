"""The models that this room's tests share, each made once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from reference import Bench, make


@pytest.fixture(scope="session")
def make_bench(tiny_backbones: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bench]:
    """A kind's model, the same to all who ask."""
    return cache(lambda kind: make(kind, tiny_backbones, tmp_path_factory.mktemp("language")))

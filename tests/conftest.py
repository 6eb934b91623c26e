"""Fixtures that every room's tests share: the fixtures folder, a real tiny tokenizer, real tiny backbones."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of fixtures beside the project; what needs it is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("../shared is absent: fixtures of real photographs and official files are not here")
    return SHARED

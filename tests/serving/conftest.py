"""A real server on loopback with a tiny random model, and connections that say exactly what they are given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from reference import Bench, make, save
from running_servers import Running, running

from vistune.serving.api import Limits


@pytest.fixture(scope="session")
def bench(tiny_backbones: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make("grouped heads", tiny_backbones, tmp_path_factory.mktemp("language"))


@pytest.fixture(scope="session")
def model_folder(bench: Bench, tiny_backbones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(bench, tiny_backbones, tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def served(bench: Bench) -> Iterator[Running]:
    """A server with its usual limits, shared by the tests that leave it as it was."""
    with running(bench, limits=Limits(slots=4)) as found:
        yield found

"""A whole model folder with random weights, for all that asks a model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tqdm import tqdm

from vistune.checkpoint import save
from vistune.model import build, read_spec
from vistune.processor import Processor, load_tokenizer
from vistune.recipe import Model, Recipe, Stage


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_backbones: Path) -> Path:
    return save_model(tmp_path_factory.mktemp("saved") / "model", tiny_backbones, seed=0)


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory, tiny_backbones: Path) -> Path:
    return save_model(tmp_path_factory.mktemp("saved") / "other", tiny_backbones, seed=1)


def save_model(folder: Path, backbones: Path, seed: int) -> Path:
    parts = Model(vision=str(backbones / "vision"), language=str(backbones / "language"))
    recipe = Recipe(model=parts, stages=(Stage(name="align", learn={"projector": 1e-3}, steps=1),))
    spec = read_spec(parts)
    processor = Processor(load_tokenizer(parts.language), spec)
    save(folder, build(parts, spec, seed=seed), processor, recipe=recipe, learnt={"projector"})
    return folder


@pytest.fixture
def forkable() -> Iterator[None]:
    """Forked children have none of their parent's threads; killed ones must hold no lock that it shares with them."""
    threads, interval = torch.get_num_threads(), tqdm.monitor_interval
    torch.set_num_threads(1)
    tqdm.monitor_interval = 0
    tqdm.set_lock(threading.RLock())  # in place of a lock between processes: transformers shows bars while it loads
    yield
    torch.set_num_threads(threads)
    tqdm.monitor_interval = interval

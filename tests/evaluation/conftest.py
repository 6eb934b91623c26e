"""A complete model folder with random weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers.utils import logging

from vistune.model import build, read_spec
from vistune.processor import Processor, load_tokenizer
from vistune.recipe import Model, Recipe, Stage
from vistune.runs.checkpoint import save, snapshot


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
    model = build(parts, spec, seed=seed)
    save(folder, model, processor, recipe=recipe, tensors=snapshot(model, {"projector"}))
    return folder


@pytest.fixture
def forkable() -> Iterator[None]:
    """Forked children have none of their parent's threads; killed ones must hold no lock that it shares with them.

    A progress bar's lock is such a one, so transformers shows none while it loads.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()
    torch.set_num_threads(threads)

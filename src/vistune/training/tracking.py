"""Send every step's values to the trackers that a recipe names, in addition to metrics.jsonl.

recipe's `track` -> open_trackers() -> track(stage, step, values) -> tensorboard's event files, a wandb or trackio run
A tracker is imported only if a recipe names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vistune.errors import RecipeError

Track = Callable[[str, int, Mapping[str, float]], None]


def track_nothing(stage: str, step: int, values: Mapping[str, float]) -> None:
    """Do nothing: no tracker is named."""


@contextmanager
def tensorboard(out: Path, name: str, settings: Mapping[str, object]) -> Iterator[Track]:
    """Write event files to OUT/tensorboard; `tensorboard --logdir OUT` shows them."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(out / "tensorboard")) as writer:

        def track(stage: str, step: int, values: Mapping[str, float]) -> None:
            for key, value in values.items():
                writer.add_scalar(f"{stage}/{key}", value, step)

        yield track


@contextmanager
def _hosted(module: Any, out: Path, name: str, settings: Mapping[str, object]) -> Iterator[Track]:
    """Start a run of wandb or of trackio, which has the same calls.

    A stage's step is logged as a value: the trackers' own step may only grow.
    """
    run = module.init(project="vistune", name=name, config=dict(settings))
    try:
        yield lambda stage, step, values: run.log(
            {f"{stage}/step": step, **{f"{stage}/{k}": v for k, v in values.items()}}
        )
    finally:
        run.finish()


@contextmanager
def wandb(out: Path, name: str, settings: Mapping[str, object]) -> Iterator[Track]:
    """Start a run of Weights & Biases, set up by its own variables such as WANDB_MODE=offline."""
    import wandb as module

    with _hosted(module, out, name, settings) as track:
        yield track


@contextmanager
def trackio(out: Path, name: str, settings: Mapping[str, object]) -> Iterator[Track]:
    """Start a run of trackio, on this machine unless its own settings name another one."""
    import trackio as module

    with _hosted(module, out, name, settings) as track:
        yield track


TRACKERS: Mapping[str, Callable[..., AbstractContextManager[Track]]] = {
    "tensorboard": tensorboard,
    "wandb": wandb,
    "trackio": trackio,
}


def refuse_missing(names: Sequence[str]) -> None:
    """Raise RecipeError if a tracker is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise RecipeError(f"track: {name} is not installed", f"pip install {name}, or leave it out of `track`")


@contextmanager
def open_trackers(names: Sequence[str], out: Path, name: str, settings: Mapping[str, object]) -> Iterator[Track]:
    """Open the trackers; return one function for all. `settings`: the resolved recipe, for trackers that show it."""
    with ExitStack() as stack:
        trackers = [stack.enter_context(TRACKERS[key](out, name, settings)) for key in names]

        def track(stage: str, step: int, values: Mapping[str, float]) -> None:
            for each in trackers:
                each(stage, step, values)

        yield track

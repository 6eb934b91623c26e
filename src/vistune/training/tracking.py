"""Trackers by name beside metrics.jsonl, which is always there: each a callable that takes a step's values.

recipe's `track` -> opened() -> track(stage, step, values) -> tensorboard's event files, a wandb or trackio run
A tracker is imported when a recipe names it; what is not installed is said before anything else is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vistune.errors import RecipeError

Track = Callable[[str, int, Mapping[str, float]], None]


@contextmanager
def tensorboard(out: Path, name: str, settings: Mapping[str, Any]) -> Iterator[Track]:
    """Event files in OUT/tensorboard, read by `tensorboard --logdir OUT`."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(out / "tensorboard")) as writer:

        def track(stage: str, step: int, values: Mapping[str, float]) -> None:
            for key, value in values.items():
                writer.add_scalar(f"{stage}/{key}", value, step)

        yield track


@contextmanager
def _hosted(module: Any, out: Path, name: str, settings: Mapping[str, Any]) -> Iterator[Track]:
    """wandb, or trackio, which has the same calls: steps of stages count on, since theirs may only grow."""
    run = module.init(project="vistune", name=name, config=dict(settings))
    try:
        yield lambda stage, step, values: run.log(
            {f"{stage}/step": step, **{f"{stage}/{k}": v for k, v in values.items()}}
        )
    finally:
        run.finish()


@contextmanager
def wandb(out: Path, name: str, settings: Mapping[str, Any]) -> Iterator[Track]:
    """A run of Weights & Biases; WANDB_MODE=offline and its other variables are its own."""
    import wandb as module

    with _hosted(module, out, name, settings) as track:
        yield track


@contextmanager
def trackio(out: Path, name: str, settings: Mapping[str, Any]) -> Iterator[Track]:
    """A run of trackio, on this machine unless it is told otherwise."""
    import trackio as module

    with _hosted(module, out, name, settings) as track:
        yield track


TRACKERS: Mapping[str, Callable[..., Any]] = {"tensorboard": tensorboard, "wandb": wandb, "trackio": trackio}


def refuse_missing(names: Sequence[str]) -> None:
    """Raise RecipeError for a tracker that is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise RecipeError(f"track: {name} is not installed", f"pip install {name}, or leave it out of `track`")


@contextmanager
def opened(names: Sequence[str], out: Path, name: str, settings: Mapping[str, Any]) -> Iterator[Track]:
    """One callable for all of them; `settings`: the resolved recipe, for trackers that show it."""
    with ExitStack() as stack:
        open_ones = [stack.enter_context(TRACKERS[key](out, name, settings)) for key in names]

        def track(stage: str, step: int, values: Mapping[str, float]) -> None:
            for one in open_ones:
                one(stage, step, values)

        yield track

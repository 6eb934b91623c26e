"""What looks wrong in a run that goes on, in words: each a question to its history, answered by a sentence or nothing.

losses of the steps so far (or a validation's) -> what is doubtful, and what to look at
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

STILL_STEPS, STILL = 50, 1e-4  # a loss that moves less than this share of itself over so many steps stands still
NEAR = 10  # steps that are averaged, so that one hard batch is no alarm
ABOVE_BEGINNING, ABOVE_BEST = 1.5, 3.0  # times: a loss that is over both has been lost
BLIND = 0.01  # share of its loss that a model must lose without pictures, to be said to see


def stands_still(losses: Sequence[float]) -> str | None:
    """The loss does not move: nothing is learnt, whatever the bar says."""
    recent = losses[-STILL_STEPS:]
    if len(recent) < STILL_STEPS or max(recent) - min(recent) > STILL * abs(statistics.fmean(recent)):
        return None
    return (
        f"the loss has stood at {recent[-1]:.4f} for {STILL_STEPS} steps: nothing is learnt; look at the rates in "
        "`learn`, and whether the rows differ (vistune show)"
    )


def explodes(losses: Sequence[float]) -> str | None:
    """The loss is far above where it began and where it has been."""
    if len(losses) < 2 * NEAR:
        return None
    now, beginning = statistics.fmean(losses[-NEAR:]), statistics.fmean(losses[:NEAR])
    best = min(statistics.fmean(losses[k : k + NEAR]) for k in range(0, len(losses) - NEAR + 1, NEAR))
    if now <= ABOVE_BEGINNING * beginning or now <= ABOVE_BEST * best:
        return None
    return (
        f"the loss explodes: {now:.3f} over the last {NEAR} steps, it began at {beginning:.3f} and was {best:.3f} at "
        "its best; stop, and lower the rates in `learn` or raise warmup_share"
    )


def learns_nothing(supervised_tokens: int, step: int) -> str | None:
    """Not one token of the step is learnt."""
    if supervised_tokens:
        return None
    return f"step {step} has no supervised token: nothing is learnt from it; see vistune show for what a row learns"


def is_blind(loss: float, without_images: float) -> str | None:
    """The measured loss is the same when every picture is grey."""
    if without_images - loss > BLIND * loss:
        return None
    return (
        f"the model is blind: its loss on validation rows is {loss:.4f} with their pictures and "
        f"{without_images:.4f} with grey ones; look at the pictures' folder, the aligning stage and the rates"
    )

"""Find out from the losses whether training goes wrong: each check returns a warning, or None."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from vistune.training.step_report import StepReport

CONSTANT_STEPS, CONSTANT = 50, 1e-4  # a loss is constant if it moves by less than this share over so many steps
WINDOW = 10  # steps that are averaged, so that one hard batch raises no alarm
ABOVE_START, ABOVE_BEST = 1.5, 3.0  # a loss explodes if it is above both multiples
BLIND = 0.01  # a model that sees loses at least this share of its loss by the images


def diagnose(losses: Sequence[float], report: StepReport, validation: Mapping[str, float]) -> dict[str, str]:
    """Run all checks on a stage's losses so far, its last step and its validation; return {problem: warning}."""
    checks = {
        "constant": constant_loss(losses),
        "explodes": exploding_loss(losses),
        "unsupervised": unsupervised_step(report.supervised_tokens, report.step),
    }
    if "validation_loss_without_pictures" in validation:
        checks["blind"] = blind_model(validation["validation_loss"], validation["validation_loss_without_pictures"])
    return {problem: warning for problem, warning in checks.items() if warning}


def constant_loss(losses: Sequence[float]) -> str | None:
    """Warn if the loss does not move."""
    recent = losses[-CONSTANT_STEPS:]
    if len(recent) < CONSTANT_STEPS or max(recent) - min(recent) > CONSTANT * abs(statistics.fmean(recent)):
        return None
    return (
        f"the loss has been {recent[-1]:.4f} for {CONSTANT_STEPS} steps: the model learns nothing; check the rates in "
        "`learn`, and whether the samples differ (vistune show)"
    )


def exploding_loss(losses: Sequence[float]) -> str | None:
    """Warn if the loss is far above its start and its best."""
    if len(losses) < 2 * WINDOW:
        return None
    now, start = statistics.fmean(losses[-WINDOW:]), statistics.fmean(losses[:WINDOW])
    best = min(statistics.fmean(losses[k : k + WINDOW]) for k in range(0, len(losses) - WINDOW + 1, WINDOW))
    if now <= ABOVE_START * start or now <= ABOVE_BEST * best:
        return None
    return (
        f"the loss explodes: {now:.3f} over the last {WINDOW} steps, {start:.3f} at the start and {best:.3f} at its "
        "best; stop, and lower the rates in `learn` or raise warmup_share"
    )


def unsupervised_step(supervised_tokens: int, step: int) -> str | None:
    """Warn if the step has no supervised token."""
    if supervised_tokens:
        return None
    return f"step {step} has no supervised token, so it trains nothing; vistune show prints the tokens of a sample"


def blind_model(loss: float, loss_without_images: float) -> str | None:
    """Warn if the validation loss is the same with grey images."""
    if loss_without_images - loss > BLIND * loss:
        return None
    return (
        f"the model does not use its images: its validation loss is {loss:.4f} with them and "
        f"{loss_without_images:.4f} with grey ones; check the images' folder, the aligning stage and the rates"
    )

"""Report a training stage: a parameter table at the start, metrics at every step, warnings when something looks wrong.

StepReport -> note of the progress bar, line of metrics.jsonl, values for trackers, warnings
"""

from __future__ import annotations

import importlib
import resource
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch

from vistune.errors import RecipeError
from vistune.model import VisionLanguageModel
from vistune.planner.work import matmul_peak
from vistune.progress import OnMessage
from vistune.runs.folder import MetricsLog, log
from vistune.training.blind_check import BlindCheck
from vistune.training.optimizer import Optimizer
from vistune.training.trainer import StepReport, Trainer

HISTORY = 10_000  # losses that are kept
CONSTANT_STEPS, CONSTANT = 50, 1e-4  # a loss is constant if it moves by less than this share over these steps
WINDOW = 10  # steps that are averaged, so that one hard batch raises no alarm
ABOVE_START, ABOVE_BEST = 1.5, 3.0  # a loss explodes if it is above both multiples
BLIND = 0.01  # a model that sees loses at least this share of its loss by the images
LOSSES = ("with_image", "wrong_image", "without_image")  # of a blind check, for the trackers
STRAGGLER_STEPS = 50  # steps over which processes are compared
SLOW = 1.3  # a process is slow above this multiple of the median

Track = Callable[[str, int, Mapping[str, float]], None]


def parameter_rows(model: VisionLanguageModel, optimizer: Optimizer) -> str:
    """Format a line per part: its parameters, how many are trained, at which peak rate, with which weight decay."""
    lines = []
    for part, parameters in model.parts().items():
        if not parameters:
            continue
        groups = [group for group in optimizer.param_groups if group["part"] == part]
        trainable = sum(p.numel() for group in groups for p in group["params"])
        rates = "/".join(f"{rate:g}" for rate in sorted({group["peak"] for group in groups}))
        decays = "/".join(f"{decay:g}" for decay in sorted({group["weight_decay"] for group in groups}, reverse=True))
        total = sum(p.numel() for _, p in parameters)
        shown = f"{trainable:,}" if trainable else "frozen"
        lines.append(f"{part:<12}{total:>16,}{shown:>16}{rates:>10}{decays:>8}")
    return "\n".join(lines)


def peak_memory(device: str) -> float:
    """Return the peak in MB: allocated memory of a GPU, resident memory of a process on a CPU."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


class StepLog:
    """Report a stage's steps; `write` is called in the first process only.

    Args:
        track: Called with every step's values, for the trackers of the recipe.
    """

    def __init__(self, trainer: Trainer, metrics: MetricsLog, *, on_message: OnMessage, track: Track) -> None:
        self.stage = trainer.stage
        self.metrics = metrics
        self.on_message = on_message
        self.track = track
        self.device = trainer.device
        dtype = torch.bfloat16 if trainer.bf16 else torch.float32
        precision = "tf32" if self.stage.precision == "tf32" else "fp32"
        self.peak = matmul_peak(trainer.device, dtype, precision) * trainer.world.size
        self.stragglers = StragglerMonitor()
        # The history of a resumed run begins before it was stopped.
        lines = metrics.read() if trainer.world.is_first else []
        self.losses = [line["loss"] for line in lines if line["stage"] == self.stage.name and not line.get("left_out")]
        self.warned: set[str] = set()
        if trainer.world.is_first:
            on_message(
                f"stage {self.stage.name}\n"
                "part              parameters           learn      rate   decay\n"
                f"{parameter_rows(trainer.model, trainer.optimizer)}\n"
                f"MFU is over {self.peak / 1e9:,.0f} GFLOP/s, the measured speed of a large matrix product"
            )

    def utilisation(self, report: StepReport) -> float:
        """Return the step's needed FLOP/s over the peak of all processes (MFU), 0 to 1."""
        return report.flops / report.seconds / self.peak

    def step_values(self, report: StepReport) -> dict[str, float]:
        """Return what the progress of a stage shows of a step."""
        return {
            "step": report.step,
            "loss": report.loss,
            "learning_rate": report.learning_rate,
            "tokens_per_second": report.tokens_per_second,
            "supervised_share": report.supervised_share,
            "mfu": self.utilisation(report),
            "memory_gb": peak_memory(self.device) / 1e3,
        }

    def note(self, report: StepReport) -> str:
        """Format a step for the progress bar."""
        return (
            f"loss {report.loss:.3f} · {report.tokens_per_second:,.0f} tokens/s · "
            f"{100 * report.supervised_share:.0f} % supervised · "
            f"MFU {100 * self.utilisation(report):.0f} % · {peak_memory(self.device) / 1e3:.1f} GB"
        )

    def write(self, report: StepReport, validation: Mapping[str, float], checked: BlindCheck | None = None) -> None:
        """Write a line of metrics.jsonl and the trackers' values; warn of new problems and of a slow process."""
        values = {
            "loss": report.loss,
            "learning_rate": report.learning_rate,
            "gradient_norm": report.gradient_norm,
            "tokens": report.tokens,
            "supervised_tokens": report.supervised_tokens,
            "supervised_share": report.supervised_share,
            "padding_waste": 1 - report.tokens / max(report.computed_tokens, 1),
            "tokens_per_second": report.tokens_per_second,
            "mfu": self.utilisation(report),
            "peak_memory_mb": round(peak_memory(self.device)),
            "seconds": report.seconds,
            **report.preference,
            **validation,
        }
        warnings = self._new_warnings(report, validation, checked)
        line: dict[str, object] = {"step": report.step, "stage": self.stage.name, **values}
        line["loss_hex"] = report.loss.hex()
        line["peak_gflops"] = round(self.peak / 1e9)  # differs after a resume, or if other work held the cores
        line["by_source"] = {name: asdict(source) for name, source in report.by_source.items()}
        if checked is not None:
            line["blind_check"] = checked.to_dict()
            values |= {f"blind_check.{form}": getattr(checked, form) for form in LOSSES}
            self.on_message(f"stage {self.stage.name}: {checked.summary}")
        if report.skip_reason:
            line["left_out"] = True
            warnings = [report.skip_reason, *warnings]
        self.metrics.log(**line, **({"doubts": warnings} if warnings else {}))
        self.track(self.stage.name, report.step, values)
        for warning in warnings:
            self.on_message(f"stage {self.stage.name}, step {report.step}: {warning}")
        if (slow := self.stragglers.slow(report.busy)) is not None:
            log.warning("%s", slow)

    def _new_warnings(
        self, report: StepReport, validation: Mapping[str, float], checked: BlindCheck | None
    ) -> list[str]:
        """Return the new problems of a step. A problem is reported once, and again if it went away and came back."""
        if not report.skip_reason:
            self.losses = [*self.losses[-HISTORY:], report.loss]
        checks = {
            "constant": constant_loss(self.losses),
            "explodes": exploding_loss(self.losses),
            "unsupervised": unsupervised_step(report.supervised_tokens, report.step),
            "blind": blind_model(validation) if checked is None else checked.warning,
        }
        warnings = {problem: warning for problem, warning in checks.items() if warning}
        new = [warning for problem, warning in warnings.items() if problem not in self.warned]
        self.warned = set(warnings)
        return new


def constant_loss(losses: Sequence[float]) -> str | None:
    """Warn if the loss does not move."""
    recent = losses[-CONSTANT_STEPS:]
    if len(recent) < CONSTANT_STEPS or max(recent) - min(recent) > CONSTANT * abs(statistics.fmean(recent)):
        return None
    return (
        f"the loss has been {recent[-1]:.4f} for {CONSTANT_STEPS} steps: training has no effect; check the rates in "
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


def blind_model(validation: Mapping[str, float]) -> str | None:
    """Warn if the validation loss is the same with grey images."""
    if "validation_loss_without_pictures" not in validation:
        return None
    loss, grey_loss = validation["validation_loss"], validation["validation_loss_without_pictures"]
    if grey_loss - loss > BLIND * loss:
        return None
    return (
        f"the model does not use its images: its validation loss is {loss:.4f} with them and {grey_loss:.4f} with grey "
        "ones; check the image folder, the alignment stage and the learning rates"
    )


class StragglerMonitor:
    """Find a process that is slower than the others, which all wait for it at every step."""

    def __init__(self) -> None:
        self.steps: list[Sequence[float]] = []

    def slow(self, busy: Sequence[float]) -> str | None:
        """Add a step; after every fiftieth return a message if a rank was slow.

        `busy`: seconds of computation of this step, by rank.
        """
        self.steps.append(busy)
        if len(self.steps) < STRAGGLER_STEPS:
            return None
        means = [statistics.fmean(own) for own in zip(*self.steps, strict=True)]
        self.steps.clear()
        worst, middle = max(means), statistics.median(means)
        if worst <= SLOW * middle:
            return None
        return (
            f"rank {means.index(worst)} slows the others down: {worst:.3f} s per step over the last {STRAGGLER_STEPS} "
            f"steps, the median process needs {middle:.3f} s"
        )


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
def hosted(package: str, out: Path, name: str, settings: Mapping[str, object]) -> Iterator[Track]:
    """Start a run of wandb or of trackio, which has the same calls; each reads settings such as WANDB_MODE itself.

    A stage's step is logged as a value: the trackers' own step may only grow.
    """
    run = importlib.import_module(package).init(project="vistune", name=name, config=dict(settings))
    try:
        yield lambda stage, step, values: run.log(
            {f"{stage}/step": step, **{f"{stage}/{k}": v for k, v in values.items()}}
        )
    finally:
        run.finish()


TRACKERS: Mapping[str, Callable[[Path, str, Mapping[str, object]], AbstractContextManager[Track]]] = {
    "tensorboard": tensorboard,
    "wandb": partial(hosted, "wandb"),
    "trackio": partial(hosted, "trackio"),
}


def refuse_missing(names: Sequence[str]) -> None:
    """Raise RecipeError if a tracker is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise RecipeError(f"track: {name} is not installed", f"pip install {name}, or remove it from `track`")


@contextmanager
def open_trackers(names: Sequence[str], out: Path, name: str, settings: Mapping[str, object]) -> Iterator[Track]:
    """Open the trackers of a recipe and yield one function for all; a tracker is imported only if it is named.

    `settings`: the resolved recipe, for trackers that show it.
    """
    with ExitStack() as stack:
        trackers = [stack.enter_context(TRACKERS[key](out, name, settings)) for key in names]

        def track(stage: str, step: int, values: Mapping[str, float]) -> None:
            for each in trackers:
                each(stage, step, values)

        yield track

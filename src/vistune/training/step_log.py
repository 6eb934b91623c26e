"""Report a training stage: a parameter table at the start, metrics at every step, warnings when the loss looks wrong.

StepReport -> note of the progress bar, line of metrics.jsonl, values for trackers, warnings of diagnostics.py
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from dataclasses import asdict

import torch

from vistune.model import VisionLanguageModel
from vistune.planner.work import matmul_peak
from vistune.progress import OnMessage
from vistune.runs.metrics import MetricsLog, StragglerMonitor, log
from vistune.training import diagnostics
from vistune.training.optimizer import Optimizer
from vistune.training.step_report import StepReport
from vistune.training.tracking import Track, track_nothing
from vistune.training.trainer import Trainer

HISTORY = 10_000  # losses that are kept


def parameter_table(model: VisionLanguageModel, optimizer: Optimizer) -> str:
    """Format a line per part: its parameters, how many are trained, at which peak rate, with which weight decay."""
    lines = [f"{'part':<12}{'parameters':>16}{'learn':>16}{'rate':>10}{'decay':>8}"]
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
        track: Called with every step's values, such as the trackers of the recipe.
    """

    def __init__(
        self, trainer: Trainer, metrics: MetricsLog, *, on_message: OnMessage, track: Track = track_nothing
    ) -> None:
        self.stage = trainer.stage
        self.metrics = metrics
        self.on_message = on_message
        self.track = track
        self.device = trainer.device
        dtype = torch.bfloat16 if trainer.bf16 else torch.float32
        precision = "tf32" if self.stage.precision == "tf32" else "fp32"
        self.peak = matmul_peak(trainer.device, dtype, precision) * trainer.world.size
        self.pace = StragglerMonitor()
        # The history of a resumed run begins before it was stopped.
        lines = metrics.read() if trainer.world.is_first else []
        self.losses = [line["loss"] for line in lines if line["stage"] == self.stage.name and not line.get("left_out")]
        self.warned: set[str] = set()
        if trainer.world.is_first:
            table = parameter_table(trainer.model, trainer.optimizer)
            mfu = f"MFU is over {self.peak / 1e9:,.0f} GFLOP/s, the measured speed of a large matrix product"
            on_message(f"stage {self.stage.name}\n{table}\n{mfu}")

    def utilisation(self, report: StepReport) -> float:
        """Return the step's needed FLOP/s over the peak of all processes (MFU), 0 to 1."""
        return report.flops / report.seconds / self.peak

    def note(self, report: StepReport) -> str:
        """Format a step for the progress bar."""
        return (
            f"loss {report.loss:.3f} · {report.tokens_per_second:,.0f} tokens/s · "
            f"{100 * report.supervised_share:.0f} % supervised · "
            f"MFU {100 * self.utilisation(report):.0f} % · {peak_memory(self.device) / 1e3:.1f} GB"
        )

    def write(self, report: StepReport, validation: Mapping[str, float]) -> None:
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
            **validation,
        }
        warnings = self._new_warnings(report, validation)
        line: dict[str, object] = {"step": report.step, "stage": self.stage.name, **values}
        line["loss_hex"] = report.loss.hex()
        line["peak_gflops"] = round(self.peak / 1e9)  # differs after a resume, or if other work held the cores
        line["by_source"] = {name: asdict(source) for name, source in report.by_source.items()}
        if report.skip_reason:
            line["left_out"] = True
            warnings = [report.skip_reason, *warnings]
        self.metrics.log(**line, **({"doubts": warnings} if warnings else {}))
        self.track(self.stage.name, report.step, values)
        for warning in warnings:
            self.on_message(f"stage {self.stage.name}, step {report.step}: {warning}")
        if (slow := self.pace.slow(report.busy)) is not None:
            log.warning("%s", slow)

    def _new_warnings(self, report: StepReport, validation: Mapping[str, float]) -> list[str]:
        """Diagnose the step; each problem is reported once, and again after it had gone away."""
        if not report.skip_reason:
            self.losses = [*self.losses[-HISTORY:], report.loss]
        warnings = diagnostics.diagnose(self.losses, report, validation)
        new = [warning for problem, warning in warnings.items() if problem not in self.warned]
        self.warned = set(warnings)
        return new

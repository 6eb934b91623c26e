"""What a person and a file get to see of a stage: before it what learns, at each step how it goes, in doubt words.

model + stage -> table · StepReport -> note of the bar, line of metrics.jsonl, values for trackers · history -> doubts
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch

from vistune.model import VisionLanguageModel
from vistune.planner.flops import matmul_peak
from vistune.progress import OnMessage
from vistune.runs.metrics import MetricsLog, StragglerMonitor, log
from vistune.training import doubts
from vistune.training.trainer import StepReport, Trainer

HISTORY = 10_000  # losses that are kept


def what_learns(model: VisionLanguageModel, trainer: Trainer) -> str:
    """A line for each part: parameters, how many of them learn, at which peak rate, with which decay."""
    lines = [f"{'part':<12}{'parameters':>16}{'learn':>16}{'rate':>10}{'decay':>8}"]
    for part, parameters in model.parts().items():
        if not parameters:
            continue
        groups = [group for group in trainer.optimizer.param_groups if group["part"] == part]
        learning = sum(p.numel() for group in groups for p in group["params"])
        rates = "/".join(f"{rate:g}" for rate in sorted({group["peak"] for group in groups}))
        decays = "/".join(f"{decay:g}" for decay in sorted({group["weight_decay"] for group in groups}, reverse=True))
        total = sum(p.numel() for _, p in parameters)
        shown = f"{learning:,}" if learning else "frozen"
        lines.append(f"{part:<12}{total:>16,}{shown:>16}{rates:>10}{decays:>8}")
    return "\n".join(lines)


def peak_memory(device: str) -> float:
    """MB: of a GPU the most that was allocated, of a CPU the most resident memory."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


class Watching:
    """A stage's eyes: tells what learns, then what is doubtful, once; `log` each step, in the first process alone.

    `track` gets every step's values, whatever tracker is behind it.
    """

    def __init__(
        self,
        trainer: Trainer,
        metrics: MetricsLog,
        *,
        on_message: OnMessage,
        track: Callable[[str, int, Mapping[str, float]], None] = lambda stage, step, values: None,
    ) -> None:
        self.stage = trainer.stage
        self.metrics = metrics
        self.on_message = on_message
        self.track = track
        self.device = trainer.device
        precision = torch.bfloat16 if trainer.bf16 else torch.float32
        products = "tf32" if self.stage.precision == "tf32" else "fp32"
        self.peak = matmul_peak(trainer.device, precision, products) * trainer.world.size
        self.pace = StragglerMonitor()
        # What a resumed run has learnt before is its history too.
        rows = metrics.read() if trainer.world.is_first else []
        self.losses = [row["loss"] for row in rows if row["stage"] == self.stage.name and not row.get("left_out")]
        self.told: set[str] = set()
        if trainer.world.is_first:
            over = f"MFU is over {self.peak / 1e9:,.0f} GFLOP/s, a large product's speed here"
            on_message(f"stage {self.stage.name}\n{what_learns(trainer.model, trainer)}\n{over}")

    def utilisation(self, report: StepReport) -> float:
        """The step's needed FLOP/s over the peak of all processes (MFU), 0 to 1."""
        return report.flops / report.seconds / self.peak

    def note(self, report: StepReport) -> str:
        share = report.supervised_tokens / max(report.tokens, 1)
        return (
            f"loss {report.loss:.3f} · {report.tokens_per_second:,.0f} tokens/s · {100 * share:.0f} % supervised · "
            f"MFU {100 * self.utilisation(report):.0f} % · {peak_memory(self.device) / 1e3:.1f} GB"
        )

    def log(self, report: StepReport, measured: Mapping[str, float] | None = None) -> None:
        """A line of metrics.jsonl, the trackers' values, what has become doubtful, and which process is slow."""
        values = {
            "loss": report.loss,
            "learning_rate": report.learning_rate,
            "gradient_norm": report.gradient_norm,
            "tokens": report.tokens,
            "supervised_tokens": report.supervised_tokens,
            "supervised_share": report.supervised_tokens / max(report.tokens, 1),
            "padding_waste": 1 - report.tokens / max(report.computed_tokens, 1),
            "tokens_per_second": report.tokens_per_second,
            "mfu": self.utilisation(report),
            "peak_memory_mb": round(peak_memory(self.device)),
            "seconds": report.seconds,
            **(measured or {}),
        }
        found = self._doubts(report, measured or {})
        line: dict[str, Any] = {"step": report.step, "stage": self.stage.name, **values}
        line["loss_hex"] = report.loss.hex()
        line["peak_gflops"] = round(self.peak / 1e9)  # another after a resume, or where other work held the cores
        line["by_source"] = report.by_source
        if report.left_out:
            line["left_out"] = True
            found = [f"it is left out: {report.left_out}", *found]
        self.metrics.log(**line, **({"doubts": found} if found else {}))
        self.track(self.stage.name, report.step, values)
        for words in found:
            self.on_message(f"stage {self.stage.name}, step {report.step}: {words}")
        if (slow := self.pace.slow(report.busy)) is not None:
            log.warning("%s", slow)

    def _doubts(self, report: StepReport, measured: Mapping[str, float]) -> list[str]:
        """What is doubtful now and was not said before; a doubt that has passed may come back."""
        self.losses = [*self.losses[-HISTORY:], *([] if report.left_out else [report.loss])]
        asked = {
            "still": doubts.stands_still(self.losses),
            "explodes": doubts.explodes(self.losses),
            "nothing": doubts.learns_nothing(report.supervised_tokens, report.step),
        }
        if "validation_loss_without_pictures" in measured:
            asked["blind"] = doubts.is_blind(measured["validation_loss"], measured["validation_loss_without_pictures"])
        found = [words for key, words in asked.items() if words and key not in self.told]
        self.told = {key for key, words in asked.items() if words}
        return found

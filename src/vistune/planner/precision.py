"""Choose fp32 or bf16 for a stage with `precision: auto`: measure both on this CPU once, and keep the measurement.

sizes + stage + load + device -> PrecisionChoice: bf16 if it makes the stage's work LEAST_SPEEDUP times as fast

A measurement is a file in the cache folder. The file's name is a hash of everything that the measurement depends on:
CPU, torch, our code, the sizes. Later runs read it, so they choose the same precision
(docs/decisions/0040-measured-precision.md).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from vistune.errors import DiskError
from vistune.files import own_code, user_cache, write_json
from vistune.model.precision import uses_bf16
from vistune.planner.precision_probe import HeadShape, LayerShape, Part, Timing, measure, parts_of
from vistune.planner.sizes import Load, ModelSizes, assumed_load, setup_of
from vistune.recipe import Stage
from vistune.types import Spec

LEAST_SPEEDUP = 1.15  # of bf16, from which on it is chosen
NARROWEST = 256  # width of a language model that is measured; in a narrower one norms and casts take as long
CODE = ("planner/precision_probe.py", "model/attention.py", "model/loss.py")  # what is timed


@dataclass(frozen=True, slots=True)
class PrecisionChoice:
    """The precision of a stage.

    Attributes:
        speedup: Time of the stage's work in fp32 over that in bf16; None if it was not measured.
        remarks: Faults of the cache, for the user.
    """

    precision: str
    speedup: float | None = None
    remarks: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """Describe the choice on one line; "" if nothing was measured."""
        if self.speedup is None:
            return ""
        if self.precision == "bf16":
            return (
                f"precision bf16: the layers of this stage are {self.speedup:.1f} times as fast as in fp32 on this CPU "
                "(measured; set precision: fp32 to override)"
            )
        return (
            f"precision fp32: in bf16 the layers of this stage would be {self.speedup:.2f} times as fast on this CPU, "
            f"less than {LEAST_SPEEDUP} (measured; set precision: bf16 to override)"
        )


def choose_precision(sizes: ModelSizes, spec: Spec, stage: Stage, load: Load | None, device: str) -> PrecisionChoice:
    """Choose the precision of a stage with `precision: auto`.

    A GPU uses bf16 if it supports it. A CPU is measured, except for a narrow language model, which uses fp32.
    `load`: None for shards, whose samples are not known before they are read: they are assumed.
    """
    if device.startswith("cuda"):
        return PrecisionChoice("bf16" if uses_bf16("auto", device) else "fp32")
    if sizes.language.width < NARROWEST:
        return PrecisionChoice("fp32")
    setup = setup_of(stage, bf16=False)
    parts = parts_of(sizes, setup, load or assumed_load(stage, spec, None), stage.tokens_per_row)
    timings, remarks = cached_timings([part.shape for part in parts])
    speedup = speedup_of(parts, timings)
    return PrecisionChoice("bf16" if speedup >= LEAST_SPEEDUP else "fp32", speedup, remarks)


def choices_on_cpu(
    sizes: ModelSizes, spec: Spec, stages: Sequence[Stage], loads: Sequence[Load]
) -> list[PrecisionChoice]:
    """Return the precision of each stage on this CPU, as a run would choose it for these loads."""
    return [
        PrecisionChoice(stage.precision)
        if stage.precision != "auto"
        else choose_precision(sizes, spec, stage, None if stage.shards is not None else load, "cpu")
        for stage, load in zip(stages, loads, strict=True)
    ]


def speedup_of(parts: Sequence[Part], timings: Sequence[Timing]) -> float:
    """Return how many times as fast the work of all parts is in bf16."""
    in_fp32 = sum(part.passes * timing.fp32 for part, timing in zip(parts, timings, strict=True))
    in_bf16 = sum(part.passes * timing.bf16 for part, timing in zip(parts, timings, strict=True))
    return in_fp32 / in_bf16


def cached_timings(shapes: Sequence[LayerShape | HeadShape]) -> tuple[list[Timing], tuple[str, ...]]:
    """Read the timings of these shapes on this machine, or measure and keep them; also return faults of the cache."""
    file, remarks = cache_file(shapes), []
    try:
        return _read_timings(file, len(shapes)), ()
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        remarks.append(f"{file}: the stored measurement of precisions cannot be read ({reason}); measured again")
    timings = measure(shapes)
    try:
        write_json(file, {"seconds": [[timing.fp32, timing.bf16] for timing in timings], "of": measurement_key(shapes)})
    except DiskError as error:
        remarks.append(
            f"the measurement of precisions is not stored, so another run may choose another precision: {error.message}"
        )
    return timings, tuple(remarks)


def _read_timings(file: Path, count: int) -> list[Timing]:
    """Read a stored measurement. Raises an error if the file is not one."""
    values = json.loads(file.read_text(encoding="utf-8"))
    timings = [Timing(float(fp32), float(bf16)) for fp32, bf16 in values["seconds"]]
    if len(timings) != count or not all(0 < seconds < 1e6 for each in timings for seconds in asdict(each).values()):
        raise ValueError(f"`seconds` does not list {count} pairs of seconds")
    return timings


def cache_file(shapes: Sequence[LayerShape | HeadShape]) -> Path:
    """Return the file of a measurement on this machine."""
    key = json.dumps(measurement_key(shapes), sort_keys=True)
    return user_cache() / "precision" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def measurement_key(shapes: Sequence[LayerShape | HeadShape]) -> dict[str, object]:
    """Return everything that a measurement depends on. One thread measures, so the number of threads is not in it."""
    return {
        "cpu": dict(torch.cpu.get_capabilities()),
        "torch": torch.__version__,
        "code": own_code(*CODE),
        "shapes": [asdict(shape) for shape in shapes],
    }

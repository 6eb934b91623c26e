"""What checkpoints cost the loop: seconds that saving in the background takes from it, as a share of a minute.

python benchmarks/checkpoint.py [--shared ../shared] [--stages stage1,lora,full] [--steps 24] [--rows 665298]

The real run on the backbones of benchmarks/train.py (CLIP 8x384, Llama 8x512), with two checkpoints a run, written by
the run's own thread. Lost is what the steps took beyond their median from one checkpoint's beginning until it is on
disk, with the copy of all tensors before; the share is of a minute, as if there were one checkpoint a minute.
`--rows`: also, how long a run over so many rows takes to plan again at its resume, until its first step is loaded.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from train import SAMPLES, prepare, recipe_of

MINUTE = 60.0


def run(work: Path, stage: str, steps: int) -> dict[str, float]:
    """One run in this process; when each checkpoint begins and ends is noted beside the run."""
    from vistune.console import silent
    from vistune.recipe import validate
    from vistune.training import Run, checkpoints_of
    from vistune.training.saving import Saver

    tree = recipe_of(work, stage, "fp32", steps).model_dump(mode="json", exclude_none=True, by_alias=True)
    tree["stages"][0]["save_every"] = steps // 3
    out = work / f"run-{stage}"
    writing: list[tuple[float, float]] = []
    real = Saver.begin

    def begin(self: Saver, write: Any) -> None:
        def timed() -> None:
            began = time.perf_counter()
            write()
            writing.append((began, time.perf_counter()))

        real(self, timed)

    Saver.begin = begin  # type: ignore[method-assign]
    made = Run(validate(tree, "benchmark"), out, watch=silent)
    ends: list[float] = []
    log = made.metrics.log

    def log_and_note(**values: Any) -> None:
        log(**values)
        ends.append(time.perf_counter())

    made.metrics.log = log_and_note  # type: ignore[method-assign]
    made.start(resume=False)
    Saver.begin = real  # type: ignore[method-assign]
    seconds = [later - earlier for earlier, later in pairwise(ends)]
    usual = statistics.median(seconds)
    saves = writing[1:-1]  # without the rehearsal and the last one, for which nothing waits
    # A step's time runs to the next step's end: the copy lies in the step that follows the checkpoint's own.
    lost = [sum(took - usual for end, took in zip(ends[1:], seconds, strict=True)
                if began < end and end - took < done) for began, done in saves]  # fmt: skip
    size = sum(file.stat().st_size for file in checkpoints_of(out)[0].rglob("*"))
    return {
        "step_s": usual,
        "lost_s": statistics.fmean(lost),
        "written_s": statistics.fmean(done - began for began, done in saves),
        "mb": size / 1e6,
    }


def resume(rows: int, folder: Path) -> tuple[float, float]:
    """Seconds of planning a run of so many rows for the first time, and again, until its first step is loaded."""
    from vistune.console import silent
    from vistune.data import Loader
    from vistune.recipe import validate
    from vistune.training import Run, plan_run

    words = ["red", "green", "blue", "yellow", "small", "large", "circle", "square", "left", "above", "below"]
    with open(folder / "rows.json", "w", encoding="utf-8") as file:
        for row in range(rows):
            said = " ".join(words[(row + 7 * k) % len(words)] for k in range(8 + row % 40))
            turns = [{"from": "human", "value": f"Say {row}."}, {"from": "gpt", "value": said}]
            line = json.dumps({"id": str(row), "conversations": turns})
            file.write(("[\n" if row == 0 else ",\n") + line)
        file.write("\n]\n")
    stage = {"name": "tune", "learn": {"projector": 1e-3}, "epochs": 1, "samples_per_step": 128}
    recipe = validate({"data": str(folder / "rows.json"), "stages": [stage]}, "benchmark")
    made = Run(recipe, folder / "run", watch=silent)
    took = []
    for _ in range(2):
        began = time.perf_counter()
        planned = plan_run(recipe, made.processor, silent)[0][0]
        Loader(planned.samples, planned.processor, planned.plan).load(len(planned.plan.steps) // 2)
        took.append(time.perf_counter() - began)
    return took[0], took[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--stages", default="stage1,lora,full")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rows", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        if given.stages:
            prepare(work, given.shared, SAMPLES * given.steps)
        for stage in filter(None, given.stages.split(",")):
            found = run(work, stage, given.steps)
            print(
                f"{stage}: step {found['step_s']:.2f} s; checkpoint {found['mb']:.0f} MB, written in "
                f"{found['written_s']:.2f} s, holds the loop up {found['lost_s']:.2f} s: "
                f"{found['lost_s'] / MINUTE:.1%} of the time at one a minute",
                flush=True,
            )
        if given.rows:
            first, again = resume(given.rows, work)
            print(f"{given.rows:,} rows: read and planned in {first:.1f} s; again, first step loaded, in {again:.1f} s")


if __name__ == "__main__":
    main()

"""What checkpoints cost the loop: seconds that saving in the background takes from it, as a share of a minute.

python benchmarks/checkpoint.py [--shared ../shared] [--stages stage1,lora,full] [--steps 24] [--rows 665298] [--tiny]

The real run on the backbones of benchmarks/train.py (CLIP 8x384, Llama 8x512), with two checkpoints a run, written by
the run's own thread. Lost is what the steps took beyond their median from one checkpoint's beginning until it is on
disk, with the copy of all tensors before; the share is of a minute, as if there were one checkpoint a minute.
`--rows`: also, how long a run over so many rows with half as many pictures takes at its resume: to plan again, and from
the loaded model until its first step begins.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import tempfile
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from machine import Results, add_json
from ours import SAMPLES, Setup, recipe_of
from pairs import prepare
from PIL import Image

MINUTE = 60.0
TOKENS_PER_ROW = 2048


def run(work: Path, stage: str, steps: int) -> dict[str, float]:
    """One run in this process; when each checkpoint begins and ends is noted beside the run."""
    from vistune.progress import no_progress
    from vistune.recipe import validate
    from vistune.runs.folder import checkpoints_of
    from vistune.training import Run
    from vistune.training.checkpointing import Saver

    setup = Setup(stage, "fp32", steps, TOKENS_PER_ROW)
    tree = recipe_of(work, setup).model_dump(mode="json", exclude_none=True, by_alias=True)
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
    made = Run(validate(tree, "benchmark"), out, progress=no_progress)
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


def write_rows(rows: int, folder: Path) -> None:
    """As many rows as that, nineteen in twenty of a picture of their own or of two rows, and short answers."""
    words = ["red", "green", "blue", "yellow", "small", "large", "circle", "square", "left", "above", "below"]
    names = [f"set{k % 5}/train/{k:012d}.png" for k in range(rows // 2 + 1)]
    for k in range(5):
        (folder / "pictures" / f"set{k}" / "train").mkdir(parents=True)
    for k, name in enumerate(names):
        if k % 50_000 == 0:  # a file system allows one file so many names
            first = folder / "pictures" / name
            Image.new("RGB", (64, 64), "red").save(first)
        else:
            os.link(first, folder / "pictures" / name)
    with open(folder / "rows.json", "w", encoding="utf-8") as file:
        for row in range(rows):
            said = " ".join(words[(row + 7 * k) % len(words)] for k in range(8 + row % 40))
            shown = {} if row % 20 == 0 else {"image": names[row % len(names)]}
            asked = f"<image>\nSay {row}." if shown else f"Say {row}."
            turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": said}]
            line = json.dumps({"id": str(row), **shown, "conversations": turns})
            file.write(("[\n" if row == 0 else ",\n") + line)
        file.write("\n]\n")


class Began(Exception):
    """The first step begins."""


def resume(rows: int, folder: Path) -> tuple[float, float, float]:
    """A run over so many rows, stopped after two steps, and gone on with.

    Seconds in which it was planned for the first time and at its resume, and from the loaded model to the first step.
    """
    from vistune.errors import Stopped
    from vistune.progress import no_progress
    from vistune.recipe import validate
    from vistune.training import Run, Trainer
    from vistune.training import run as module

    write_rows(rows, folder)
    stage = {"name": "tune", "learn": {"projector": 1e-3}, "epochs": 1, "samples_per_step": 128}
    data = {"file": str(folder / "rows.json"), "images": str(folder / "pictures")}
    recipe = validate({"data": [data], "stages": [stage]}, "benchmark")
    planned: list[float] = []
    loaded: list[float] = []
    plan_run, model, train_step = module.plan_run, Run._first_model, Trainer.train_step

    def timed_plan(*given: Any) -> Any:
        began = time.perf_counter()
        found = plan_run(*given)
        planned.append(time.perf_counter() - began)
        return found

    def timed_model(self: Run, *given: Any) -> Any:
        found = model(self, *given)
        loaded.append(time.perf_counter())
        return found

    def stop(self: Trainer, step: int, *given: Any) -> Any:
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        if step == 2:
            loaded.append(time.perf_counter() - loaded[-1])
            raise Began
        return train_step(self, step, *given)

    module.plan_run, Run._first_model, Trainer.train_step = timed_plan, timed_model, stop  # type: ignore[method-assign]
    for go_on, end in ((False, Stopped), (True, Began)):
        with suppress(end):
            Run(recipe, folder / "run", progress=no_progress).start(resume=go_on)
    return planned[0], planned[1], loaded[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--stages", default="stage1,lora,full")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="tiny backbones, which shows only that the script runs")
    add_json(parser)
    given = parser.parse_args()
    results = Results.begin(given.json)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        os.environ["VISTUNE_CACHE"] = str(work / "cache")
        if given.stages:
            prepare(work, given.shared, SAMPLES * given.steps, "tiny" if given.tiny else "small")
        for stage in filter(None, given.stages.split(",")):
            found = run(work, stage, given.steps)
            results.add(
                f"{stage}: step {found['step_s']:.2f} s; checkpoint {found['mb']:.0f} MB, written in "
                f"{found['written_s']:.2f} s, holds the loop up {found['lost_s']:.2f} s: "
                f"{found['lost_s'] / MINUTE:.1%} of the time at one a minute",
                stage=stage,
                **found,
            )
        if given.rows:
            first, again, began = resume(given.rows, work)
            results.add(
                f"{given.rows:,} rows: read and planned in {first:.1f} s; resumed, planned in {again:.1f} s, and from "
                f"the loaded model to the first step {began:.1f} s",
                rows=given.rows,
                planned_s=first,
                planned_again_s=again,
                first_step_s=began,
            )


if __name__ == "__main__":
    main()

"""The quickstart: all steps on the built-in scenes, from drawing them to the report and summary.json.

The file's name begins with an underscore because `vistune.quickstart` is the function.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vistune import api
from vistune.errors import DataError, RecipeError
from vistune.files import write_json
from vistune.progress import Progress, no_progress
from vistune.recipe import load_recipe

if TYPE_CHECKING:
    from vistune.evaluation import DescriptionScore, EvaluationResult
    from vistune.evaluation.results import GroupResult


@dataclass(frozen=True, slots=True)
class Size:
    """How much the quickstart draws, trains and evaluates."""

    scenes: int = 3000
    tests: int = 250
    steps: int = 540  # of stage 2; the recipe has more, for images that the tiny backbones have never seen
    blind_questions: int = 600
    descriptions: int = 60


def quickstart(
    out: Path,
    *,
    size: Size | None = None,
    overrides: Sequence[str] = (),
    language: str = "en",
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Run all steps on the built-in scenes and return the summary.

    Args:
        overrides: Changes to the recipe `quickstart`, such as `seed=1`.
        language: Of the report: en or ko.

    Raises:
        RecipeError: `out` has a run already.
    """
    from vistune.datagen import GenerationConfig
    from vistune.runs.folder import checkpoints_of

    if (out / "run.json").exists():
        raise RecipeError(f"{out}: holds a run already", f"look at {out / 'report.html'}, or give another --out")
    size = size or Size()
    world, data = out / "world", out / "data"
    recipe = load_recipe("quickstart", [f"data={data / 'samples.json'}", f"stages.tune.steps={size.steps}", *overrides])
    clock = Clock()
    api.draw_scenes(world, count=size.scenes, seed=recipe.seed, tests=size.tests, progress=progress)
    clock.mark("draw")
    wishes = GenerationConfig(languages=("en", "ko"), mix=(6, 1, 1), per_image=3, seed=recipe.seed)
    api.generate_data(world, data, wishes, split="train", progress=progress)
    clock.mark("generate")
    checked = api.check_data(recipe.data, recipe=recipe, progress=progress)
    if checked.faults:
        raise DataError(
            f"{data}: {len(checked.faults)} faults, the first: {checked.faults[0].detail}", "run vistune check"
        )
    clock.mark("check")
    api.train(recipe, out, progress=progress)
    clock.mark("train")
    aligned = checkpoints_of(out)[0]
    evals = out / "evals"
    asked = size.blind_questions
    stage_1 = api.evaluate(
        aligned, task="scenes", data=world, out=evals, blind=False, name="align", limit=asked, progress=progress
    )
    stage_2 = api.evaluate(out, task="scenes", data=world, out=evals, blind_limit=asked, progress=progress)
    unseen = api.evaluate(out, task="combinations", data=world, out=evals, blind=False, progress=progress)
    described = api.describe(out, world, "heldout", out=evals, limit=size.descriptions, progress=progress)
    clock.mark("evaluate")
    summary = summarise(stage_1, stage_2, unseen, described)
    summary |= {"seconds": clock.seconds, "peak_memory_mb": peak_memory_mb(), "seed": recipe.seed}
    write_json(out / "summary.json", summary)
    api.write_report(out, language=language)
    clock.mark("report")
    # Written again with the seconds of the report, which reads this file.
    write_json(out / "summary.json", summary)
    return summary


def summarise(
    stage_1: EvaluationResult, stage_2: EvaluationResult, unseen: EvaluationResult, described: DescriptionScore
) -> dict[str, Any]:
    """The few numbers that say whether the model sees; accuracies 0-1."""

    def by(groups: Mapping[str, GroupResult]) -> dict[str, dict[str, float]]:
        names = {"with_image": "tune", "without_image": "without_image", "wrong_image": "wrong_image"}
        return {
            name: {
                **{names[condition]: estimate.value for condition, estimate in group.accuracy.items()},
                "majority": group.majority,
            }
            for name, group in groups.items()
        }

    if stage_2.without_image is None or stage_2.wrong_image is None or stage_2.gap is None:
        raise DataError("the quickstart's test questions are about fewer than two images", "draw more scenes")
    intervals = {
        "align": stage_1.intervals["with_image"],
        "tune": stage_2.intervals["with_image"],
        "without_image": stage_2.intervals["without_image"],
        "wrong_image": stage_2.intervals["wrong_image"],
        "heldout_combinations": unseen.intervals["with_image"],
    }
    return {
        "accuracy": {
            "majority": stage_2.majority,
            "align": stage_1.metrics["accuracy"],
            "tune": stage_2.metrics["accuracy"],
            "without_image": stage_2.without_image["accuracy"],
            "wrong_image": stage_2.wrong_image["accuracy"],
            "heldout_combinations": unseen.metrics["accuracy"],
        },
        "intervals": {name: interval.to_dict() for name, interval in intervals.items()},
        "gap": stage_2.gap.to_dict(),
        "by_type": by(stage_2.by_type),
        "by_language": by(stage_2.by_language),
        "descriptions": described.overall.to_dict(),
    }


class Clock:
    """Seconds by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def mark(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step] = round(now - self.last, 1)
        self.last = now


def peak_memory_mb() -> int:
    """Return the peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

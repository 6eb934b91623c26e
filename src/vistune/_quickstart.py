"""The quickstart: all steps from data to the report and summary.json, on the built-in scenes or a user's photographs.

The file's name begins with an underscore because `vistune.quickstart` is the function.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from vistune import api
from vistune.errors import DataError, RecipeError
from vistune.files import write_json
from vistune.notebook import notebook_progress
from vistune.progress import Progress
from vistune.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from vistune.evaluation.descriptions import PairCounts
    from vistune.evaluation.results import Estimate, Gap, GroupResult


@dataclass(frozen=True, slots=True)
class Size:
    """How much the quickstart draws, trains and evaluates."""

    scenes: int = 3000
    tests: int = 250
    steps: int = 540  # of stage 2; the recipe has more, for images that the tiny backbones have never seen
    blind_questions: int = 600
    descriptions: int = 60


@dataclass(frozen=True, slots=True)
class Photographs:
    """A user's annotated photographs, and the backbones to train on them.

    Attributes:
        data: A source of `vistune generate`: a folder of images with annotations, or a table.
        split: Split of the source; needed if it has several.
        recipe: Name of a shipped recipe, or a YAML file.
        vision, language_model: Folders or hub names of the backbones; by default those of the recipe.
        languages: Languages of questions and answers.
        labels: File with words for labels that are not in the lexicon.
        held_out: Share of the images that is only used for evaluation.
    """

    data: str | PathLike[str]
    split: str | None = None
    recipe: str = "smol"
    vision: str | None = None
    language_model: str | None = None
    languages: tuple[str, ...] = ("en", "ko")
    labels: str | PathLike[str] | None = None
    held_out: float = 0.1

    @property
    def overrides(self) -> list[str]:
        """The backbones as overrides of the recipe."""
        named = {"vision": self.vision, "language": self.language_model}
        return [f"model.{part}={name}" for part, name in named.items() if name is not None]


@dataclass(frozen=True, slots=True)
class QuickstartSummary:
    """The results of a quickstart: accuracies, and the accuracy gain from seeing the image.

    Attributes:
        accuracy: Accuracies from 0 to 1 by name: `align` and `tune` after stages 1 and 2; for stage 2 also without the
            image, with a wrong one and, for the built-in scenes, on unseen combinations; `majority` for always giving
            the most frequent answer.
        intervals: The same accuracies with their 95 % intervals, except `majority`.
        gap: The accuracy gain from seeing the image.
        by_type, by_language: Accuracies of stage 2 by question type and by language.
        descriptions: Recall and precision of the objects that free descriptions of the built-in scenes name.
        seconds: Duration of each step.
        peak_memory_mb: Peak memory of this process.
    """

    accuracy: Mapping[str, float]
    intervals: Mapping[str, Estimate]
    gap: Gap
    by_type: Mapping[str, Mapping[str, float]]
    by_language: Mapping[str, Mapping[str, float]]
    descriptions: PairCounts | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_memory_mb: int = 0
    seed: int = 0

    def to_dict(self) -> dict[str, object]:
        """Return the summary as JSON values, as in summary.json."""
        return {
            "accuracy": dict(self.accuracy),
            "intervals": {name: interval.to_dict() for name, interval in self.intervals.items()},
            "gap": self.gap.to_dict(),
            "by_type": {name: dict(group) for name, group in self.by_type.items()},
            "by_language": {name: dict(group) for name, group in self.by_language.items()},
            **({} if self.descriptions is None else {"descriptions": self.descriptions.to_dict()}),
            "seconds": dict(self.seconds),
            "peak_memory_mb": self.peak_memory_mb,
            "seed": self.seed,
        }


def quickstart(
    out: str | PathLike[str],
    *,
    photographs: Photographs | None = None,
    size: Size | None = None,
    overrides: Sequence[str] = (),
    language: str = "en",
    progress: Progress = notebook_progress,
) -> QuickstartSummary:
    """Run all steps on the built-in scenes, or on a user's photographs, and return the summary.

    Args:
        overrides: Changes to the recipe, such as `seed=1`. The recipe is `quickstart`, or that of `photographs`.
        language: Language of the report, en or ko.

    Raises:
        RecipeError: `out` contains a run already, or there are too few photographs to hold some out.
        DataError: The captions and boxes of the photographs give no questions about the held-out ones.
    """
    out = Path(out)
    if (out / "run.json").exists():
        raise RecipeError(f"{out}: contains a run already", f"look at {out / 'report.html'}, or give another --out")
    size, clock = size or Size(), Clock()
    if photographs is None:
        recipe = _draw_and_generate(out, size, overrides, clock, progress)
    else:
        recipe = _generate_from(photographs, out, overrides, clock, progress)
    checked = api.check_data(recipe.data, recipe=recipe, progress=progress)
    if checked.faults:
        raise DataError(
            f"{out / 'data'}: {len(checked.faults)} faults, the first: {checked.faults[0].detail}", "run vistune check"
        )
    clock.mark("check")
    api.train(recipe, out, progress=progress)
    clock.mark("train")
    summary = evaluate_scenes(out, size, progress) if photographs is None else evaluate_photographs(out, size, progress)
    clock.mark("evaluate")
    summary = replace(summary, seconds=dict(clock.seconds), peak_memory_mb=peak_memory_mb(), seed=recipe.seed)
    write_json(out / "summary.json", summary.to_dict())
    api.write_report(out, language=language)
    clock.mark("report")
    # The report reads this file. Write it again with the seconds that the report took.
    summary = replace(summary, seconds=clock.seconds)
    write_json(out / "summary.json", summary.to_dict())
    return summary


def _draw_and_generate(out: Path, size: Size, overrides: Sequence[str], clock: Clock, progress: Progress) -> Recipe:
    """Draw the scenes, generate data about them, and return the recipe."""
    from vistune.datagen import GenerationConfig

    world, data = out / "world", out / "data"
    recipe = load_recipe("quickstart", [f"data={data / 'samples.json'}", f"stages.tune.steps={size.steps}", *overrides])
    api.draw_scenes(world, count=size.scenes, seed=recipe.seed, tests=size.tests, progress=progress)
    clock.mark("draw")
    config = GenerationConfig(languages=("en", "ko"), mix=(6, 1, 1), per_image=3, seed=recipe.seed)
    api.generate_data(world, data, config, split="train", progress=progress)
    clock.mark("generate")
    return recipe


def _generate_from(
    photographs: Photographs, out: Path, overrides: Sequence[str], clock: Clock, progress: Progress
) -> Recipe:
    """Generate data about the photographs, and return the recipe. Held-out photographs are its validation data."""
    from vistune.datagen import GenerationConfig

    data = out / "data"
    validation = f"validation={{data: [{json.dumps(str(data / 'held_out.json'))}]}}"
    recipe = load_recipe(
        photographs.recipe, [f"data={data / 'samples.json'}", validation, *photographs.overrides, *overrides]
    )
    config = GenerationConfig(
        kinds=("caption", "conversation", "detail"),
        languages=photographs.languages,
        seed=recipe.seed,
        held_out=photographs.held_out,
    )
    generated = api.generate_data(
        photographs.data, data, config, split=photographs.split, labels=photographs.labels, progress=progress
    )
    clock.mark("generate")
    if not generated.questions:
        raise DataError(
            f"{photographs.data}: captions and boxes give no question about the held-out photographs",
            "add boxes, or captions that name objects; to train without evaluation, use vistune train",
        )
    return recipe


def evaluate_scenes(run: Path, size: Size, progress: Progress) -> QuickstartSummary:
    """Evaluate both stages and return the summary; the caller fills in seconds, memory and seed."""
    evals, world = run / "evals", run / "world"
    summary = _evaluate_stages(run, "scenes", world, size, progress)
    unseen = api.evaluate(run, task="combinations", data=world, out=evals, blind=False, progress=progress)
    described = api.describe(run, world, "heldout", out=evals, limit=size.descriptions, progress=progress)
    return replace(
        summary,
        accuracy={**summary.accuracy, "heldout_combinations": unseen.metrics["accuracy"]},
        intervals={**summary.intervals, "heldout_combinations": unseen.intervals["with_image"]},
        descriptions=described.overall,
    )


def evaluate_photographs(run: Path, size: Size, progress: Progress) -> QuickstartSummary:
    """Evaluate both stages on the questions about held-out photographs."""
    return _evaluate_stages(run, "file", run / "data" / "questions.jsonl", size, progress)


def _evaluate_stages(run: Path, task: str, data: Path, size: Size, progress: Progress) -> QuickstartSummary:
    from vistune.runs.folder import checkpoints_of

    aligned, evals, questions = checkpoints_of(run)[0], run / "evals", size.blind_questions
    stage_1 = api.evaluate(
        aligned, task=task, data=data, out=evals, blind=False, name="align", limit=questions, progress=progress
    )
    stage_2 = api.evaluate(run, task=task, data=data, out=evals, blind_limit=questions, progress=progress)
    majority, gap = stage_2.majority, stage_2.gap
    if stage_2.without_image is None or stage_2.wrong_image is None or gap is None or majority is None:
        raise DataError(f"{data}: its questions are about fewer than two images", "use more images")
    return QuickstartSummary(
        accuracy={
            "majority": majority,
            "align": stage_1.metrics["accuracy"],
            "tune": stage_2.metrics["accuracy"],
            "without_image": stage_2.without_image["accuracy"],
            "wrong_image": stage_2.wrong_image["accuracy"],
        },
        intervals={
            "align": stage_1.intervals["with_image"],
            "tune": stage_2.intervals["with_image"],
            "without_image": stage_2.intervals["without_image"],
            "wrong_image": stage_2.intervals["wrong_image"],
        },
        gap=gap,
        by_type=_accuracies(stage_2.by_type),
        by_language=_accuracies(stage_2.by_language),
    )


def _accuracies(groups: Mapping[str, GroupResult]) -> dict[str, dict[str, float]]:
    names = {"with_image": "tune", "without_image": "without_image", "wrong_image": "wrong_image"}
    return {
        name: {
            **{names[condition]: estimate.value for condition, estimate in group.accuracy.items()},
            "majority": group.majority,
        }
        for name, group in groups.items()
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

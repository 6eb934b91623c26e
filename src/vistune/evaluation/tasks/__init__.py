"""Name every benchmark in `TASKS`; each file of this folder defines one or a few related ones."""

from collections.abc import Mapping
from pathlib import Path

from vistune.errors import RecipeError
from vistune.evaluation.task import Benchmark
from vistune.evaluation.tasks.documents import ChartQA, DocVqa, InfoVqa, OcrBench
from vistune.evaluation.tasks.file import File
from vistune.evaluation.tasks.image_choices import Ai2d, KMMStar, Kreta, MMStar, RealWorldQA, SeedBench2Plus
from vistune.evaluation.tasks.judged import LlavaBench, MMVet
from vistune.evaluation.tasks.korean import KDtcBench, KLlavaW, KMMBench, Koffvqa, KSeed
from vistune.evaluation.tasks.korean_pope import KPope
from vistune.evaluation.tasks.mmbench import MMBench, MMBenchCn
from vistune.evaluation.tasks.mme import Mme
from vistune.evaluation.tasks.mmmu import Mmmu
from vistune.evaluation.tasks.multiple_choice import ScienceQA, Seed
from vistune.evaluation.tasks.paired import HallusionBench, NaturalBench
from vistune.evaluation.tasks.pope import Pope
from vistune.evaluation.tasks.scenes import Combinations, HeldOut
from vistune.evaluation.tasks.vqa import Gqa, TextVqa, VizWiz, VqaV2
from vistune.registry import lookup

TASKS: Mapping[str, type[Benchmark]] = {
    "scenes": HeldOut,
    "combinations": Combinations,
    "file": File,
    "scienceqa": ScienceQA,
    "pope": Pope,
    "mme": Mme,
    "seed": Seed,
    "gqa": Gqa,
    "vqav2": VqaV2,
    "textvqa": TextVqa,
    "vizwiz": VizWiz,
    "mmbench": MMBench,
    "mmbench-cn": MMBenchCn,
    "mmbench-ko": KMMBench,  # what VLMEvalKit calls K-MMBench
    "mmvet": MMVet,
    "llava-bench": LlavaBench,
    "mmmu": Mmmu,
    "mmstar": MMStar,
    "ai2d": Ai2d,
    "chartqa": ChartQA,
    "docvqa": DocVqa,
    "infovqa": InfoVqa,
    "ocrbench": OcrBench,
    "realworldqa": RealWorldQA,
    "seed2plus": SeedBench2Plus,
    "hallusionbench": HallusionBench,
    "naturalbench": NaturalBench,
    "k-mmbench": KMMBench,
    "k-seed": KSeed,
    "k-dtcbench": KDtcBench,
    "k-llava-w": KLlavaW,
    "koffvqa": Koffvqa,
    "k-pope": KPope,
    "k-mmstar": KMMStar,
    "kreta": Kreta,
}


def open_task(name: str, folder: Path, what: str = "task", *, match: str | None = None) -> Benchmark:
    """Return the task called `name`, or `package.module:CLASS`, for a data folder.

    Args:
        match: The text of `--match`, for a task that has this setting.

    Raises RecipeError if there is none, or if it is not a complete class derived from Benchmark.
    """
    task: object = lookup(name, TASKS, what)
    if not isinstance(task, type) or not issubclass(task, Benchmark):
        kind = "a class that is not derived from Benchmark" if isinstance(task, type) else type(task).__name__
        raise RecipeError(f"{what} {name!r} is {kind}", "name a class derived from vistune.evaluation.Benchmark")
    if missing := task.__abstractmethods__:
        raise RecipeError(f"{what} {name!r} does not define {', '.join(sorted(missing))}", "define it in the class")
    opened = task(folder)
    if match is not None:
        if not hasattr(opened, "match"):
            raise RecipeError(
                f"--match {match}: {name} has its own rules", "remove --match; only the task file uses it"
            )
        opened.match = match
    return opened


__all__ = ["TASKS", "open_task"]

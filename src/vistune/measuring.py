"""Scoring answers that are there already: no model is loaded, and torch is never imported.

data folder + predictions file (+ a judge) -> figures, and the upload for the benchmark's server
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vistune.console import Watch, silent
from vistune.errors import RecipeError
from vistune.files import write_atomic

BLIND_QUESTIONS = (
    600  # also asked without and with a wrong picture: a seeded subset says enough in a fraction of the time
)

if TYPE_CHECKING:
    from vistune.evaluation import Facts, Measured
    from vistune.remote import Endpoint


def score(
    task: str,
    data: Path,
    predictions: Path,
    *,
    parse: str = "official",
    submission: Path | None = None,
    judge: Endpoint | None = None,
    judgements: Path | None = None,
    opinions: int = 1,
    watch: Watch = silent,
) -> Measured:
    """Score anybody's predictions by the benchmark's own protocol; `submission` also writes the server's upload.

    `judge` grades what free answers need; what it said is kept in `judgements`, by default beside the predictions, and
    the same call again asks for nothing twice · `opinions`: how often each answer is graded, for tasks that average.
    """
    from vistune import evaluation
    from vistune.registry import lookup

    made = lookup(task, evaluation.TASKS, "task")(data)
    if opinions != 1:
        if not hasattr(made, "judge_runs"):
            raise RecipeError(f"{task} takes one opinion on each answer", "leave --opinions out")
        made.judge_runs = opinions
    upload = submission is not None
    if judge is None:
        found = evaluation.score(task, made, predictions, rule=parse, upload=upload)
    else:
        from vistune.evaluation.judge import RemoteJudge

        with watch("judge", 0) as advance:
            remote = RemoteJudge(judge, judgements or predictions.with_name(f"{predictions.name}.judge"), advance)
            found = evaluation.score(task, made, predictions, rule=parse, judge=remote, upload=upload)
        found = found.told_by(remote.describe())
    if submission is not None and found.upload is not None:
        write_atomic(submission, found.upload[1])
    return found


def tasks() -> dict[str, Facts]:
    """Every task by name: what to download, from where, under which licence."""
    from vistune.evaluation import TASKS

    return {name: task.facts for name, task in TASKS.items()}

"""A recipe from its first stage to its last: plan everything, then learn, save, and resume where it was.

Recipe + data -> planned stages -> Trainer by stage -> OUT/{recipe.yaml, run.json, metrics.jsonl, checkpoints/}
The cursor to resume from is (stage, step); checkpoints are committed by rename, so a kill leaves only whole ones.
"""

from __future__ import annotations

import platform
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from vistune import checkpoint
from vistune.data import Loader, StagePlan, data_file, plan_stage, read_samples
from vistune.errors import CheckpointError, RecipeError, Stopped, TooManyRejects
from vistune.files import sha256_of, write_atomic, write_json, write_jsonl
from vistune.model import VisionLanguageModel, add_adapters, build, merge_adapters, read_spec
from vistune.processor import Processor, load_tokenizer
from vistune.recipe import Recipe, Stage, dump, source_of, stage_steps
from vistune.training.metrics import Metrics
from vistune.training.state import Cursor, load_state, save_state
from vistune.training.trainer import StepReport, Trainer
from vistune.types import Reject, Sample

Advance = Callable[..., None]
Watch = Callable[[str, int], AbstractContextManager[Advance]]


@dataclass(frozen=True, slots=True)
class Planned:
    """A stage with its samples, the processor in its template, and all its steps."""

    stage: Stage
    samples: Sequence[Sample]
    processor: Processor
    plan: StagePlan


def plan_run(recipe: Recipe, processor: Processor, watch: Watch) -> tuple[list[Planned], list[Reject]]:
    """Read and encode the data of every stage before any learns, so that mistakes show in the first minute."""
    planned, rejects = [], []
    for number, stage in enumerate(recipe.stages):
        sources = stage.data if stage.data is not None else recipe.data
        if not sources:
            raise RecipeError(f"stage {stage.name}: no data", "add data=FILE, or stages.NAME.data in the recipe")
        samples: list[Sample] = []
        for source in sources:
            result = read_samples(source, kinds=stage.kinds, on_bad_sample=recipe.on_bad_sample)
            samples += result.samples
            rejects += result.rejects
            if len(result.rejects) > recipe.reject_limit * result.rows:
                raise TooManyRejects(
                    f"{source.file}: {len(result.rejects)} of {result.rows} rows rejected, "
                    f"first: {result.rejects[0].detail}",
                    "mend the rows or raise reject_limit",
                )
        fitted = processor.with_template(stage.template or recipe.model.template)
        fitted.check()
        with watch(f"plan {stage.name}", len(samples)) as advance:
            lengths = []
            for sample in samples:
                lengths.append(fitted.length(sample))
                advance(1)
        plan = plan_stage(
            lengths,
            [sample.origin for sample in samples],
            samples_per_step=stage.samples_per_step,
            tokens_per_row=stage.tokens_per_row,
            steps=stage_steps(stage, len(samples)),
            seed=recipe.seed + number,
        )
        planned.append(Planned(stage, samples, fitted, plan))
    return planned, rejects


def checkpoints_of(out: Path) -> list[Path]:
    """Committed checkpoints, oldest first."""
    folder = out / "checkpoints"
    return sorted(path for path in folder.iterdir() if (path / "manifest.json").is_file()) if folder.is_dir() else []


class Run:
    """A run folder and the model in it."""

    def __init__(self, recipe: Recipe, out: Path, *, watch: Watch) -> None:
        self.recipe = recipe
        self.out = out
        self.watch = watch
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.metrics = Metrics(out / "metrics.jsonl")
        self.learnt: set[str] = set()
        self.spec = read_spec(recipe.model)
        tokenizer = load_tokenizer(source_of(recipe.model.language, "language"))
        self.processor = Processor(tokenizer, self.spec)

    def start(self, *, resume: bool) -> None:
        """Run all stages, or go on where the newest checkpoint stands. Raises Stopped after SIGTERM."""
        latest = self._latest(resume)
        planned, rejects = plan_run(self.recipe, self.processor, self.watch)
        self.out.mkdir(parents=True, exist_ok=True)
        write_atomic(self.out / "recipe.yaml", dump(self.recipe))
        write_jsonl(self.out / "rejects.jsonl", ({"id": r.id, "reason": r.reason, "detail": r.detail} for r in rejects))
        model, first, cursor_folder = self._model(latest, planned)
        self._status("running", self.recipe.stages[0].name, 0)
        with stop_requested() as stopping:
            for number in range(first, len(planned)):
                model = self._stage(model, number, planned[number], cursor_folder, stopping)
                cursor_folder = None
        self._status("finished", self.recipe.stages[-1].name, len(planned[-1].plan.steps))

    def _latest(self, resume: bool) -> Path | None:
        saved = checkpoints_of(self.out)
        if not resume:
            if saved or (self.out / "metrics.jsonl").exists():
                raise RecipeError(f"{self.out}: holds a run already", "add --resume to go on, or give another folder")
            return None
        for path in reversed(saved):
            try:
                checkpoint.verify(path)
                return path
            except CheckpointError as error:
                write_json(self.out / "skipped_checkpoint.json", {"path": path.name, "reason": str(error)})
        return None

    def _model(self, latest: Path | None, planned: Sequence[Planned]) -> tuple[VisionLanguageModel, int, Path | None]:
        """The model, the first stage to run, and the checkpoint whose state that stage goes on from."""
        if latest is None:
            self.metrics.cut(0)
            return build(self.recipe.model, self.spec, seed=self.recipe.seed).to(self.device), 0, None
        extra = checkpoint.read_parts(latest)["extra"]
        if extra["recipe_stages"] != [stage.name for stage in self.recipe.stages]:
            raise CheckpointError(
                f"{latest}: has the stages {extra['recipe_stages']}", "resume with the run's own recipe"
            )
        self.learnt = set(extra["learnt"])
        model, _ = checkpoint.load(latest, device=self.device)
        done = sum(len(item.plan.steps) for item in planned[: extra["stage"]])
        self.metrics.cut(done + extra["step"])
        finished = extra["step"] == len(planned[extra["stage"]].plan.steps)
        return model, extra["stage"] + finished, None if finished else latest

    def _stage(
        self,
        model: VisionLanguageModel,
        number: int,
        planned: Planned,
        cursor_folder: Path | None,
        stopping: Callable[[], bool],
    ) -> VisionLanguageModel:
        stage, steps = planned.stage, len(planned.plan.steps)
        if cursor_folder is None:
            self._prepare(model, stage, number)
        model.set_learning(stage.learn)
        self.learnt |= set(stage.learn)
        loader = Loader(planned.samples, planned.processor, planned.plan, workers=self.recipe.workers)
        trainer = Trainer(model, loader, stage, device=self.device)
        start = 0
        if cursor_folder is not None:
            start = load_state(cursor_folder / "state", trainer.optimizer, plan=planned.plan.digest).step
        with self.watch(stage.name, steps) as advance:
            advance(start)

            def after_step(report: StepReport) -> None:
                self._log(stage, report)
                advance(1, note=f"loss {report.loss:.3f} · {report.tokens_per_second:,.0f} tokens/s")
                done = report.step + 1
                asked = stopping()
                if done == steps or asked or (stage.save_every and done % stage.save_every == 0):
                    self._save(model, trainer, number, planned, done)
                if asked and done < steps:
                    self._status("preempted", stage.name, done)
                    raise Stopped(f"{self.out}: stopped at step {done} of stage {stage.name}", "go on with --resume")

            trainer.run(start, after_step)
        return model

    def _prepare(self, model: VisionLanguageModel, stage: Stage, number: int) -> None:
        """Earlier adapters become part of the weights; a LoRA stage begins with fresh ones."""
        torch.manual_seed(self.recipe.seed + number)
        if model.adapted:
            model.language = merge_adapters(model.language)
            self.learnt = (self.learnt - {"adapters"}) | {"language"}
        if stage.lora is not None:
            model.language = add_adapters(model.language, stage.lora)

    def _log(self, stage: Stage, report: StepReport) -> None:
        self.metrics.log(
            step=report.step,
            stage=stage.name,
            loss=report.loss,
            loss_hex=report.loss.hex(),
            learning_rate=report.learning_rate,
            gradient_norm=report.gradient_norm,
            tokens=report.tokens,
            supervised_tokens=report.supervised_tokens,
            tokens_per_second=report.tokens_per_second,
            seconds=report.seconds,
        )

    def _save(self, model: VisionLanguageModel, trainer: Trainer, number: int, planned: Planned, done: int) -> None:
        stage, finished = planned.stage, done == len(planned.plan.steps)
        extra = {
            "stage": number,
            "step": done,
            "finished": finished,
            "learnt": sorted(self.learnt),
            "recipe_stages": [s.name for s in self.recipe.stages],
        }
        cursor = Cursor(stage.name, done, planned.plan.digest)

        def state(draft: Path) -> None:
            if not finished:
                save_state(draft / "state", trainer.optimizer, cursor)

        checkpoint.save(
            self.out / "checkpoints" / f"{number + 1}-{stage.name}-{done:06d}",
            model,
            self.processor,
            recipe=self.recipe,
            learnt=self.learnt,
            extra=extra,
            also=state,
        )
        self._prune()
        self._status("running", stage.name, done)

    def _prune(self) -> None:
        """Keep stage ends and the newest `keep_checkpoints` of the rest."""
        between = [path for path in checkpoints_of(self.out) if not checkpoint.read_parts(path)["extra"]["finished"]]
        for path in between[: -self.recipe.keep_checkpoints]:
            shutil.rmtree(path)

    def _status(self, status: str, stage: str, step: int) -> None:
        files = sorted({data_file(s.file) for st in self.recipe.stages for s in st.data or self.recipe.data})
        content: dict[str, Any] = {
            "status": status,
            "stage": stage,
            "step": step,
            "reason": "" if status != "preempted" else "asked to stop",
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "data": {str(path): sha256_of(path) for path in files},
            "device": self.device,
        }
        write_json(self.out / "run.json", content)


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """SIGTERM sets a flag that the loop reads between steps; the handler before is put back."""
    asked = False

    def note(signum: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True

    try:
        before = signal.signal(signal.SIGTERM, note)
    except ValueError:  # not the main thread: signals go elsewhere
        yield lambda: False
        return
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGTERM, before)

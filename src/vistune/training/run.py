"""A recipe from its first stage to its last: plan everything, then learn, save, and resume where it was.

Recipe + data -> planned stages -> Trainer by stage -> OUT/{recipe.yaml, run.json, metrics.jsonl, checkpoints/}
The cursor to resume from is (stage, step); checkpoints are committed by rename, so a kill leaves only whole ones.
"""

from __future__ import annotations

import platform
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from vistune import checkpoint
from vistune.data import Loader, PixelCache
from vistune.errors import RecipeError, Stopped
from vistune.files import read_json, write_atomic, write_json, write_jsonl
from vistune.model import VisionLanguageModel, add_adapters, build, merge_adapters, read_spec
from vistune.model.language import base_of, is_quantised, load_language
from vistune.processor import Processor, load_tokenizer
from vistune.recipe import Model, Origin, Recipe, Stage, dump, source_of
from vistune.training.folder import checkpoint_name, checkpoints_of, newest_whole, prune, refuse_another_recipe, sweep
from vistune.training.metrics import Metrics
from vistune.training.plan import Planned, Watch, plan_run
from vistune.training.state import cursor_at, load_state, save_state, seed_all
from vistune.training.trainer import StepReport, Trainer


@dataclass(frozen=True, slots=True)
class Base:
    """The model that a recipe goes on from: how it reads, where its backbones lie, and its folder, made when needed.

    `origin`: what names this model and no later one · `told`: the same for who asks later, with a hash of its files ·
    `cut`: its tower learnt, and ends at the feature layer.
    """

    origin: Origin
    told: Mapping[str, Any]
    processor: Processor
    model: Model
    cut: bool
    adapted: bool
    open: Callable[[], Path]


class Run:
    """A run folder and the model in it."""

    def __init__(self, recipe: Recipe, out: Path, *, watch: Watch, base: Base | None = None) -> None:
        self.recipe = recipe
        self.out = out
        self.watch = watch
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.metrics = Metrics(out / "metrics.jsonl")
        self.learnt: set[str] = set()
        self.reached = (recipe.stages[0].name, 0)  # stage and steps done
        self.hashes: dict[str, str] = {}  # SHA-256 of each data file
        self.history: dict[str, Any] = {}
        self.pixels = PixelCache()
        self.base = base
        if base is not None:
            if base.adapted and any(stage.quantize is not None for stage in recipe.stages):
                raise RecipeError("quantize: the model of `from` has adapters, which merge into full weights only",
                                  "vistune export it --merge first, or leave quantize out")  # fmt: skip
            self.recipe = recipe.model_copy(update={"origin": base.origin, "model": base.model})
            self.processor = base.processor
        else:
            tokenizer = load_tokenizer(source_of(recipe.model.language, "language"))
            self.processor = Processor(tokenizer, read_spec(recipe.model))

    def start(self, *, resume: bool) -> None:
        """Run all stages, or go on where the newest checkpoint stands; a finished run stays as it is.

        Raises Stopped after SIGTERM, state saved.
        """
        latest = self._latest(resume)
        extra = checkpoint.read_parts(latest)["extra"] if latest is not None else None
        if latest is not None and extra is not None:
            refuse_another_recipe(latest, self.recipe, extra["stage"] + 1)
            if extra["finished"] and extra["stage"] + 1 == len(self.recipe.stages):
                self._mark_finished(extra["step"])
                return
        planned, rejects = plan_run(self.recipe, self.processor, self.watch)
        self.hashes = {str(file.path): file.digest for item in planned for file, _ in item.samples.parts}
        self.history = self._history()  # read now: what lies beside the data may change while the run learns
        self.out.mkdir(parents=True, exist_ok=True)
        sweep(self.out)
        write_atomic(self.out / "recipe.yaml", dump(self.recipe))
        write_jsonl(self.out / "rejects.jsonl", ({"id": r.id, "reason": r.reason, "detail": r.detail} for r in rejects))
        model, first, cursor_folder = self._model(latest, planned)
        self._status("running", planned[first].stage.name, extra["step"] if cursor_folder and extra else 0)
        try:
            with stop_requested() as stopping:
                for number in range(first, len(planned)):
                    model = self._stage(model, number, planned, cursor_folder, stopping)
                    cursor_folder = None
        except Stopped as stop:
            self._status("preempted", *self.reached, reason=stop.message)
            raise
        except BaseException as error:
            self._status("failed", *self.reached, reason=f"{type(error).__name__}: {error}")
            raise
        self._status("finished", *self.reached)

    def _latest(self, resume: bool) -> Path | None:
        if resume:
            return newest_whole(self.out)
        if checkpoints_of(self.out) or self.metrics.path.exists():
            raise RecipeError(f"{self.out}: holds a run already", "add --resume to go on, or give another folder")
        return None

    def _model(self, latest: Path | None, planned: Sequence[Planned]) -> tuple[VisionLanguageModel, int, Path | None]:
        """The model, the first stage to run, and the checkpoint whose state that stage goes on from."""
        if latest is None:
            self.metrics.cut(0)
            return self.first_model(self.recipe.stages[0].quantize), 0, None
        extra = checkpoint.read_parts(latest)["extra"]
        self.learnt = set(extra["learnt"])
        model, _ = checkpoint.load(latest, device=self.device, quantize=self.recipe.stages[extra["stage"]].quantize)
        done = sum(len(item.plan.steps) for item in planned[: extra["stage"]])
        self.metrics.cut(done + extra["step"])
        finished = bool(extra["finished"])
        return model, extra["stage"] + finished, None if finished else latest

    def first_model(self, quantize: int | None) -> VisionLanguageModel:
        """The backbones with a fresh projector, or the model to go on from, its adapters merged."""
        if self.base is None:
            spec = self.processor.spec
            return build(self.recipe.model, spec, seed=self.recipe.seed, quantize=quantize).to(self.device)
        model, _ = checkpoint.load(self.base.open(), device=self.device, quantize=quantize)
        self.learnt |= {"vision"} if self.base.cut else set()  # saved with the run: no whole tower lies anywhere
        if model.adapted:
            model.language = merge_adapters(model.language)
            self.learnt.add("language")
        return model

    def _stage(
        self,
        model: VisionLanguageModel,
        number: int,
        all_planned: Sequence[Planned],
        cursor_folder: Path | None,
        stopping: Callable[[], bool],
    ) -> VisionLanguageModel:
        planned, is_last = all_planned[number], number + 1 == len(all_planned)
        stage, steps = planned.stage, len(planned.plan.steps)
        if cursor_folder is None:
            self.prepare(model, stage, number)
        model.set_learning(stage.learn)
        model.set_recompute(stage.recompute)
        self.learnt |= set(stage.learn)
        loader = Loader(
            planned.samples, planned.processor, planned.plan, workers=self.recipe.workers, pixels=self.pixels
        )
        trainer = Trainer(model, loader, stage, device=self.device)
        start = 0
        if cursor_folder is not None:
            start = load_state(cursor_folder / "state", trainer.optimizer, plan=planned.plan).step
        self.reached = (stage.name, start)
        with self.watch(stage.name, steps) as advance:
            advance(start)

            def after_step(report: StepReport) -> None:
                self._log(stage, report)
                advance(1, note=f"loss {report.loss:.3f} · {report.tokens_per_second:,.0f} tokens/s")
                done = report.step + 1
                self.reached = (stage.name, done)
                asked = stopping()
                if done == steps or asked or (stage.save_every and done % stage.save_every == 0):
                    self._save(model, trainer, number, planned, done)
                if asked and not (done == steps and is_last):
                    raise Stopped(f"{self.out}: stopped at step {done} of stage {stage.name}", "go on with --resume")

            trainer.run(start, after_step)
        return model

    def prepare(self, model: VisionLanguageModel, stage: Stage, number: int, *, quantise: bool = True) -> None:
        """Earlier adapters become part of the weights; a LoRA stage begins with fresh ones."""
        seed_all(self.recipe.seed + number)
        if model.adapted:
            model.language = merge_adapters(model.language)
            self.learnt = (self.learnt - {"adapters"}) | {"language"}
        if quantise and stage.quantize is not None and not is_quantised(model.language):
            # The recipe holds that no stage before has changed the language model: it is as it lies in its folder.
            source = source_of(self.recipe.model.language, "language")
            model.language = load_language(source, base_of(model.language).dtype, stage.quantize)
            model.to(self.device)
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
            "history": self.history,
        }

        def state(draft: Path) -> None:
            if not finished:
                save_state(draft / "state", trainer.optimizer, cursor_at(stage.name, done, planned.plan))

        checkpoint.save(
            self.out / "checkpoints" / checkpoint_name(number, stage.name, done),
            model,
            self.processor,
            recipe=self.recipe,
            learnt=self.learnt,
            extra=extra,
            also=state,
        )
        prune(self.out, self.recipe.keep_checkpoints)
        self._status("running", stage.name, done)

    def _status(self, status: str, stage: str, step: int, *, reason: str = "") -> None:
        content: dict[str, Any] = {
            "status": status,
            "stage": stage,
            "step": step,
            "reason": reason,
            "versions": versions(),
            "data": self.hashes,
            "device": self.device,
        }
        write_json(self.out / "run.json", content)

    def _history(self) -> dict[str, Any]:
        """Where this model comes from, whole in every checkpoint: data and who wrote it, code, the model before."""
        data = []
        for name, digest in self.hashes.items():
            beside = Path(name).parent / "generate.json"
            told = read_json(beside) if beside.is_file() else None
            written = told.get("origin") if isinstance(told, dict) else None
            data.append({"file": name, "sha256": digest, "written": written})
        return {"data": data, "versions": versions(), "from": None if self.base is None else dict(self.base.told)}

    def _mark_finished(self, step: int) -> None:
        """A kill after the last checkpoint left everything done but this; the data need not be there any more."""
        path = self.out / "run.json"
        write_json(path, read_json(path) | {"status": "finished", "stage": self.recipe.stages[-1].name, "step": step})


def versions() -> dict[str, str]:
    """Of what decides a run's numbers."""
    names = ("vistune", "torch", "transformers", "peft", "tokenizers")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """SIGTERM and the first Ctrl-C set a flag that the loop reads between steps; a second Ctrl-C ends at once."""
    asked = False

    def note(signum: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked and signum == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread: signals go elsewhere
        yield lambda: False
        return
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""A recipe from its first stage to its last: plan everything, then learn, save, and resume where it was.

Recipe + data -> planned stages -> Trainer by stage -> OUT/{recipe.yaml, run.json, metrics.jsonl, checkpoints/}
The cursor to resume from is (stage, step); checkpoints are committed by rename, so a kill leaves only whole ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from vistune.data import PixelCache
from vistune.data.stages import PlannedStage, plan_stages
from vistune.errors import DiskError, RecipeError, Stopped
from vistune.files import Lock, write_atomic, write_json, write_jsonl
from vistune.interop.load import ParentModel, recipe_processor
from vistune.model import VisionLanguageModel, add_adapters, build, merge_adapters
from vistune.model.language import is_quantised, load_language, unwrap
from vistune.planner.precision import lay_weights_out
from vistune.progress import Progress
from vistune.recipe import Recipe, Stage, dump, source_of
from vistune.runs import checkpoint
from vistune.runs.folder import (
    checkpoint_name,
    checkpoints_of,
    mark_finished,
    newest_whole,
    prune,
    refuse_another_recipe,
    sweep,
)
from vistune.runs.metrics import MetricsLog
from vistune.runs.provenance import provenance_record, shards_of, versions
from vistune.training.compiling import compiled
from vistune.training.distributed.parallel import World
from vistune.training.distributed.sharding import copied, copying, way_of
from vistune.training.distributed.watchdog import Watchdog, beating
from vistune.training.largest import try_largest_row
from vistune.training.preflight import refuse_adapted, refuse_untrainable
from vistune.training.reading import loader_of, places_at
from vistune.training.saving import Saver, rehearse
from vistune.training.state import cursor_at, load_state, save_state, seed_all
from vistune.training.stopping import stop_requested
from vistune.training.tracking import Track, opened, refuse_missing
from vistune.training.trainer import StepReport, Trainer
from vistune.training.validation import Hooks, validator_of
from vistune.training.watching import Watching
from vistune.types import Reject


class Run:
    """A run folder and the model in it; of several processes of a `world`, rank 0 alone writes."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        *,
        progress: Progress,
        parent: ParentModel | None = None,
        world: World | None = None,
        hooks: Hooks | None = None,
    ) -> None:
        self.recipe = recipe
        self.out = out
        self.world = world or World(device="cuda" if torch.cuda.is_available() else "cpu")
        self.progress = beating(progress, self.world.pulse)
        self.hooks = hooks or Hooks()
        self.track: Track = lambda stage, step, values: None
        self.device = self.world.device
        self.saver = Saver(self.world, self._not_saved)
        self.lock: Lock | None = None
        self.metrics = MetricsLog(out / "metrics.jsonl")
        self.learnt: set[str] = set()
        self.reached = (recipe.stages[0].name, 0)  # stage and steps done
        self.hashes: dict[str, str] = {}  # SHA-256 of each data file
        self.provenance_record: dict[str, Any] = {}
        self.measured: Mapping[str, float] = {}  # by this step's validation, such as `validation_loss`
        self.pixels = PixelCache()
        self.parent = parent
        refuse_adapted(recipe, parent)
        if parent is not None:
            self.recipe = recipe.model_copy(update={"origin": parent.origin, "model": parent.model})
        self.processor = recipe_processor(recipe, parent)

    def start(self, *, resume: bool) -> None:
        """Run all stages, or go on where the newest checkpoint stands; a finished run stays as it is.

        Raises Stopped after SIGTERM, state saved. The watchdog ends the process where the run gets no further.
        """
        self._take_lock()
        with Watchdog(self.recipe.watchdog, self.world.pulse, self.out / "stacks", self._end, self.world.board):
            try:
                self._start(resume=resume or self.world.restarted)
            finally:
                self.saver.join()
                if self.lock is not None:
                    self.lock.release()

    def _start(self, *, resume: bool) -> None:
        refuse_missing(self.recipe.track)
        latest = self._latest(resume)
        self.world.agree(hashlib.sha256(str(latest and latest.name).encode()).hexdigest(), "the newest checkpoint")
        extra = checkpoint.read_parts(latest)["extra"] if latest is not None else None
        if latest is not None and extra is not None:
            refuse_another_recipe(latest, self.recipe, extra["stage"] + 1)
            if extra["finished"] and extra["stage"] + 1 == len(self.recipe.stages):
                if self.world.is_first:
                    mark_finished(self.out, self.recipe.stages[-1].name, extra["step"])
                return
        with self.world.first_alone():  # what it finds out about the data is kept, and the others read it
            planned, rejects = plan_stages(self.recipe, self.processor, self.progress)
            if latest is None and self.world.is_first:  # find errors of later stages before the first one trains
                refuse_untrainable(self.recipe, self.processor.spec, self.parent, self.world)
        for item in planned:
            known = item.plan.digest if item.stream is None else item.stream.digest
            self.world.agree(known, f"the data of stage {item.stage.name}")
        self.hashes = {str(file.path.absolute()): file.digest for item in planned for file, _ in item.samples.parts}
        self.hashes |= {shards_of(item.stage.name): item.stream.digest for item in planned if item.stream}
        # Read now: what lies beside the data may change while the run learns.
        self.provenance_record = provenance_record(self.hashes, None if self.parent is None else self.parent.recorded)
        if self.world.is_first:
            self._prepare_folder(rejects, latest)
            for words in dict.fromkeys(remark for item in planned for remark in item.remarks):
                self.hooks.on_message(words)
        model, first, cursor_folder = self._model(latest, planned)
        self._status("running", planned[first].stage.name, extra["step"] if cursor_folder and extra else 0)
        with stop_requested() as stopping:  # until all is told: launchers send SIGTERM when another process has failed
            try:
                with self._tracked():
                    for number in range(first, len(planned)):
                        model = self._stage(model, number, planned, cursor_folder, stopping)
                        cursor_folder = None
                self.metrics.settle()
            except Stopped as stop:
                self._status("preempted", *self.reached, reason=stop.message)
                raise
            except BaseException as error:
                cause = self.world.blame(error)
                self.saver.join()
                self._status("failed", *self.reached, reason=f"{type(cause).__name__}: {cause}")
                if cause is error:
                    raise
                raise cause from error
            self._status("finished", *self.reached)

    @contextmanager
    def _tracked(self) -> Iterator[None]:
        names = self.recipe.track if self.world.is_first else ()
        with opened(names, self.out, self.recipe.name, self.recipe.model_dump(mode="json")) as self.track:
            yield

    def _take_lock(self) -> None:
        if self.lock is None and self.world.is_first and self.out.is_dir():
            self.lock = Lock(self.out / "run.lock")

    def _prepare_folder(self, rejects: Sequence[Reject], latest: Path | None) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        sweep(self.out, latest)
        write_atomic(self.out / "recipe.yaml", dump(self.recipe))
        write_jsonl(self.out / "rejects.jsonl", ({"id": r.id, "reason": r.reason, "detail": r.detail} for r in rejects))

    def _latest(self, resume: bool) -> Path | None:
        if resume:
            return newest_whole(self.out, warn=self.world.is_first)
        if checkpoints_of(self.out) or self.metrics.path.exists():
            raise RecipeError(f"{self.out}: holds a run already", "add --resume to go on, or give another folder")
        return None

    def _model(
        self, latest: Path | None, planned: Sequence[PlannedStage]
    ) -> tuple[VisionLanguageModel, int, Path | None]:
        """The model, the first stage to run, and the checkpoint whose state that stage goes on from."""
        if latest is None:
            self._cut_metrics(0)
            return self.first_model(self.recipe.stages[0].quantize), 0, None
        extra = checkpoint.read_parts(latest)["extra"]
        self.learnt = set(extra["learnt"])
        model, _ = checkpoint.load(latest, device=self.device, quantize=self.recipe.stages[extra["stage"]].quantize)
        self._cut_metrics(sum(len(item.plan.steps) for item in planned[: extra["stage"]]) + extra["step"])
        finished = bool(extra["finished"])
        return model, extra["stage"] + finished, None if finished else latest

    def _cut_metrics(self, keep: int) -> None:
        if self.world.is_first:
            self.metrics.cut(keep)

    def first_model(self, quantize: int | None) -> VisionLanguageModel:
        """The backbones with a fresh projector, or the model to go on from, its adapters merged."""
        if self.parent is None:
            made = build(self.recipe.model, self.processor.spec, seed=self.recipe.seed, quantize=quantize)
            return made.to(self.device)
        # Rank 0 alone brings a model of another layout in.
        folder = self.world.listed(str(self.parent.bring_in()) if self.world.is_first else "")[0]
        model, _ = checkpoint.load(Path(folder), device=self.device, quantize=quantize)
        self.learnt |= self.parent.trained_parts
        if model.adapted:
            model.language = merge_adapters(model.language)
        return model

    def _stage(
        self,
        model: VisionLanguageModel,
        number: int,
        all_planned: Sequence[PlannedStage],
        cursor_folder: Path | None,
        stopping: Callable[[], bool],
    ) -> VisionLanguageModel:
        planned, is_last = all_planned[number], number + 1 == len(all_planned)
        stage, steps = planned.stage, len(planned.plan.steps)
        if cursor_folder is None:
            self.prepare(model, stage, number)
        model.set_trainable(stage.learn)
        model.set_recompute(stage.recompute)
        self.learnt |= set(stage.learn)
        way = way_of(self.recipe, stage, model, self.world)
        halved = lay_weights_out(model, self.recipe.stages, stage, way, self.device, self.learnt)
        loader = loader_of(planned, model, self.world, workers=self.recipe.workers, pixels=self.pixels, out=self.out,
                           on_message=self.hooks.on_message, progress=self.progress, stopping=stopping)  # fmt: skip
        trainer = Trainer(model, loader, stage, device=self.device, world=self.world, way=way,
                          seed=self.recipe.seed + number)  # fmt: skip
        start = 0
        if cursor_folder is not None:
            cursor = load_state(cursor_folder / "state", trainer.optimizer, plan=planned.plan)
            start = cursor.step
            loader.resume(cursor.lanes)
        else:
            self._rehearse(model, trainer, number)
            try_largest_row(
                trainer, planned, self.recipe.model, way, halved, on_message=self.hooks.on_message, stopping=stopping
            )
        self.reached = (stage.name, start)
        left_out = self.world.gather(self.metrics.left_out(stage.name) if self.world.is_first else 0)[0][0]
        trainer.may_leave_out = self.recipe.bad_steps - int(left_out)
        watching = Watching(trainer, self.metrics, on_message=self.hooks.on_message, track=self.track)
        validator = validator_of(self.recipe.validation, planned, trainer, self.out, self.hooks, self.pixels)
        with self.progress(stage.name, steps) as advance:
            advance(start)

            def after_step(report: StepReport) -> None:
                done = report.step + 1
                self.measured = validator.measure(done) if validator is not None and validator.is_due(done) else {}
                if self.world.is_first:
                    watching.log(report, self.measured)
                advance(1, note=watching.note(report))
                self.reached = (stage.name, done)
                asked = self.world.any(stopping())
                if done == steps or asked or (stage.save_every and done % stage.save_every == 0):
                    self._save(model, trainer, number, planned, done)
                if done == steps or asked:
                    self.saver.finish()
                if asked and not (done == steps and is_last):
                    raise self._stopped()

            with compiled(trainer, way, trainer.needed.token * planned.tokens, self.hooks.on_message):
                done = trainer.run(start, after_step)
        if done < steps:
            if done > start and done % (stage.save_every or steps):  # else it is saved already
                self._save(model, trainer, number, planned, done)
            self.saver.finish()
            raise self._stopped()
        if self.world.size > 1 and not is_last:  # as a resumed run would: slices cannot be changed into another model
            model, _ = checkpoint.load(checkpoints_of(self.out)[-1], device=self.device, quantize=stage.quantize)
        return model

    def _stopped(self) -> Stopped:
        stage, step = self.reached
        return Stopped(f"{self.out}: stopped at step {step} of stage {stage}", "go on with --resume")

    def prepare(self, model: VisionLanguageModel, stage: Stage, number: int, *, quantise: bool = True) -> None:
        """Earlier adapters become part of the weights; a LoRA stage begins with fresh ones."""
        seed_all(self.recipe.seed + number)
        if model.adapted:
            model.language = merge_adapters(model.language)
            self.learnt = (self.learnt - {"adapters"}) | {"language"}
        if quantise and stage.quantize is not None and not is_quantised(model.language):
            # The recipe holds that no stage before has changed the language model: it is as it lies in its folder.
            source = source_of(self.recipe.model.language, "language")
            model.language = load_language(source, unwrap(model.language).dtype, stage.quantize)
            model.to(self.device)
        if stage.lora is not None:
            model.language = add_adapters(model.language, stage.lora)

    def _rehearse(self, model: VisionLanguageModel, trainer: Trainer, number: int) -> None:
        """Save in full before the first step, with all that later stages will have learnt too."""
        learnt = self.learnt.union(*(stage.learn for stage in self.recipe.stages[number:]))
        tensors = checkpoint.snapshot(model, learnt, copying(self.world))
        state_bytes = 8 * sum(p.numel() for p in trainer.learning)  # AdamW's two moments, in fp32

        def write(folder: Path) -> None:
            checkpoint.save(folder, model, self.processor, recipe=self.recipe, tensors=tensors)

        self.saver.begin(lambda: rehearse(self.out / "checkpoints" / ".rehearsal", write, state_bytes=state_bytes))
        self.saver.finish()

    def _save(
        self, model: VisionLanguageModel, trainer: Trainer, number: int, planned: PlannedStage, done: int
    ) -> None:
        """Copy what is to be saved; it is written while the loop goes on."""
        stage, finished = planned.stage, done == len(planned.plan.steps)
        extra = {
            "stage": number,
            "step": done,
            "finished": finished,
            "learnt": sorted(self.learnt),
            "history": self.provenance_record,
            "measured": dict(self.measured),
        }
        learnt, take = frozenset(self.learnt), copying(self.world)
        tensors = checkpoint.snapshot(model, learnt, take)
        optimizer = [] if finished else copied(trainer.optimizer.state_dict(), take)
        lanes = places_at(trainer.loader, done, self.world)

        def state(draft: Path) -> None:
            if not finished:
                save_state(draft / "state", optimizer, cursor_at(stage.name, done, planned.plan, lanes))

        def write() -> None:
            checkpoint.save(
                self.out / "checkpoints" / checkpoint_name(number, stage.name, done),
                model,
                self.processor,
                recipe=self.recipe,
                extra=extra,
                write_more=state,
                tensors=tensors,
            )
            prune(self.out, self.recipe.keep_checkpoints)
            self._status("running", stage.name, done)

        self.saver.begin(write)

    def _not_saved(self, error: BaseException) -> None:
        with suppress(DiskError):  # the disk may be full for this too; the log has said it
            self._status("running", *self.reached, reason=f"a checkpoint was not saved: {error}")

    def _end(self, reason: str) -> None:
        """The watchdog's word, whichever process it comes from: rank 0 may be the one that is stuck."""
        self._write_status("failed", *self.reached, reason=reason)

    def _status(self, status: str, stage: str, step: int, *, reason: str = "") -> None:
        if self.world.is_first:
            self._write_status(status, stage, step, reason=reason)

    def _write_status(self, status: str, stage: str, step: int, *, reason: str = "") -> None:
        known = {"versions": versions(), "data": self.hashes, "device": self.device}
        write_json(self.out / "run.json", {"status": status, "stage": stage, "step": step, "reason": reason, **known})

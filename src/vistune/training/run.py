"""Run a recipe from its first stage to its last: plan everything, then train, save, and resume.

Recipe + data -> planned stages -> Trainer by stage -> OUT/{recipe.yaml, run.json, metrics.jsonl, checkpoints/}
A run resumes from (stage, step); checkpoints are committed by rename, so a killed run leaves complete ones only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from vistune.data import Loader, PixelCache, ShouldStop, never_stop
from vistune.data.stages import PlannedStage, plan_stages
from vistune.errors import DiskError, RecipeError, Stopped
from vistune.files import Lock, write_atomic, write_json, write_jsonl
from vistune.interop.load import ParentModel, as_resolved, recipe_processor
from vistune.model import VisionLanguageModel, build
from vistune.model.kernel_caches import limit_kernel_caches
from vistune.model.language import is_quantised, load_language, unwrap
from vistune.model.part_adapters import merge_parts, put_adapters
from vistune.model.precision import parts_in_bf16, store_in_bf16
from vistune.processor import Processor
from vistune.progress import Advance, Progress, ignore_advance
from vistune.recipe import Recipe, Stage, dump, source_of
from vistune.runs import checkpoint
from vistune.runs.folder import (
    MetricsLog,
    checkpoint_name,
    checkpoints_of,
    mark_finished,
    newest_whole,
    prune,
    refuse_another_recipe,
    sweep,
)
from vistune.runs.provenance import provenance_record, shards_of, versions
from vistune.training.blind_check import BlindCheck, blind_check
from vistune.training.checkpointing import Cursor, ResumePoint, Saver, load_state, rehearse, save_state
from vistune.training.distributed.parallelism import choose_parallelism, take_on_first, take_states
from vistune.training.distributed.watchdog import Watchdog, with_heartbeat
from vistune.training.distributed.world import World, stop_requested
from vistune.training.largest_row import try_largest_row
from vistune.training.precision import choose_precisions, read_record, to_record, with_precisions
from vistune.training.preflight import refuse_adapted, refuse_untrainable
from vistune.training.reference import attach_reference
from vistune.training.stage import LoaderOptions, StageTraining, compiled, make_loader, positions_at
from vistune.training.step_log import StepLog, Track, open_trackers, refuse_missing
from vistune.training.trainer import StepReport, Trainer, seed_all
from vistune.training.validation import Hooks, Validator, validator_of
from vistune.types import Reject


class Run:
    """A run folder and the model trained in it. If a `world` has several processes, only rank 0 writes."""

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
        limit_kernel_caches()
        refuse_adapted(recipe, parent)
        self.processor = recipe_processor(recipe, parent)
        if parent is not None:
            recipe = recipe.model_copy(update={"origin": parent.origin, "model": parent.model})
        recipe = recipe.model_copy(update={"model": as_resolved(recipe.model, self.processor.spec)})
        self.recipe = recipe
        self.parent = parent
        self.out = out
        self.world = world or World(device="cuda" if torch.cuda.is_available() else "cpu")
        self.device = self.world.device
        self.progress = with_heartbeat(progress, self.world.heartbeat)
        self.advance: Advance = ignore_advance  # of the stage that is being trained
        self.hooks = hooks or Hooks()
        self.track: Track
        self.stopping: ShouldStop = never_stop  # returns whether the run is asked to stop
        self.metrics = MetricsLog(out / "metrics.jsonl")
        self.saver = Saver(self.world, self._note_unsaved)
        self.lock: Lock | None = None
        self.pixels = PixelCache()
        self.trained: set[str] = set()  # parts, so far
        self.reached = (recipe.stages[0].name, 0)  # stage and steps done
        self.stages: Sequence[Stage] = recipe.stages  # once the run has started: with fp32 or bf16 in place of `auto`
        self.precision: Mapping[str, object] = {}  # choices for `precision: auto`, as recorded
        self.hashes: dict[str, str] = {}  # SHA-256 of each data file
        self.provenance_record: Mapping[str, object] = {}
        self.validation: Mapping[str, float] = {}  # this step's values, such as `validation_loss`
        self.blind_checks: dict[str, BlindCheck] = {}  # by stage, for stages that end in this process

    def start(self, *, resume: bool) -> None:
        """Train all stages, or continue from the newest checkpoint; a finished run stays as it is.

        Raises Stopped after SIGTERM, with the state saved. The watchdog ends the process if the run makes no progress.
        """
        self._take_lock()
        with Watchdog(self.recipe.watchdog, self.world.heartbeat, self.out / "stacks", self._end, self.world.board):
            try:
                self._start(resume=resume or self.world.restarted)
            finally:
                self.saver.join()
                if self.lock is not None:
                    self.lock.release()

    def _start(self, *, resume: bool) -> None:
        refuse_missing(self.recipe.track)
        point = self._resume_point(resume)
        if point is not None and point.next_stage == len(self.recipe.stages):
            if self.world.is_first:
                mark_finished(self.out, self.recipe.stages[-1].name, point.step)
            return
        if point is not None and self.processor.spec.template == "tokenizer":
            self.processor = Processor.load(point.folder / "tokenizer")  # with the date on which the run began
        stages, rejects = self._plan(resumed=point is not None)
        if self.world.is_first:
            self._prepare_folder(rejects, point)
            for remark in dict.fromkeys(remark for planned in stages for remark in planned.remarks):
                self.hooks.on_message(remark)
            for planned in stages:
                if planned.held_out.note:
                    self.hooks.on_message(planned.held_out.note)
        model = self._first_model(stages, point)
        stages = self._resolve_precisions(stages, model, point)
        first = 0 if point is None else point.next_stage
        unfinished = None if point is None or point.finished else point
        self._write_status("running", stages[first].stage.name, 0 if unfinished is None else unfinished.step)
        names = self.recipe.track if self.world.is_first else ()
        trackers = open_trackers(names, self.out, self.recipe.name, self.recipe.model_dump(mode="json"))
        # The flag covers all that is written below: launchers send SIGTERM when another process has failed.
        with stop_requested() as self.stopping, self._recording_the_end(), trackers as self.track:
            for number in range(first, len(stages)):
                model = self._train_stage(model, stages[number], number, unfinished if number == first else None)
            self.metrics.settle()

    def _resume_point(self, resume: bool) -> ResumePoint | None:
        """Return the newest complete checkpoint's position, or None. Raises RecipeError for another recipe."""
        folder = None
        if resume:
            folder = newest_whole(self.out, warn=self.world.is_first)
        elif checkpoints_of(self.out) or self.metrics.path.exists():
            raise RecipeError(
                f"{self.out}: contains a run already", "add --resume to continue it, or give another folder"
            )
        self.world.agree(hashlib.sha256(str(folder and folder.name).encode()).hexdigest(), "the newest checkpoint")
        if folder is None:
            return None
        point = ResumePoint.read(folder)
        refuse_another_recipe(folder, self.recipe, point.stage + 1)
        return point

    def _plan(self, *, resumed: bool) -> tuple[list[PlannedStage], list[Reject]]:
        """Plan all stages, the same in all processes."""
        with self.world.first_alone():  # rank 0 caches what it finds out about the data, and the others read it
            stages, rejects = plan_stages(self.recipe, self.processor, self.progress)
            if not resumed and self.world.is_first:  # find errors of later stages before the first one trains
                refuse_untrainable(self.recipe, self.processor.spec, self.parent, self.world)
        for planned in stages:
            digest = planned.plan.digest if planned.stream is None else planned.stream.digest
            self.world.agree(digest, f"the data of stage {planned.stage.name}")
        self.hashes = {str(file.path.absolute()): file.digest for each in stages for file, _ in each.samples.parts}
        self.hashes |= {shards_of(each.stage.name): each.stream.digest for each in stages if each.stream}
        # Read now: the files next to the data may change while the run trains.
        self.provenance_record = provenance_record(self.hashes, None if self.parent is None else self.parent.recorded)
        return stages, rejects

    def _resolve_precisions(
        self, stages: Sequence[PlannedStage], model: VisionLanguageModel, point: ResumePoint | None
    ) -> list[PlannedStage]:
        """Return the stages with fp32 or bf16 in place of `precision: auto`."""
        recorded = {} if point is None else read_record(point.precision, stages, self.device)
        choices = choose_precisions(
            stages, self.recipe.model, model, self.world, recorded=recorded, on_message=self.hooks.on_message
        )
        self.precision = to_record(choices, self.device)
        resolved = with_precisions(stages, choices)
        self.stages = [planned.stage for planned in resolved]
        return resolved

    def _take_lock(self) -> None:
        if self.lock is None and self.world.is_first and self.out.is_dir():
            self.lock = Lock(self.out / "run.lock")

    def _prepare_folder(self, rejects: Sequence[Reject], point: ResumePoint | None) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        sweep(self.out, None if point is None else point.folder)
        write_atomic(self.out / "recipe.yaml", dump(self.recipe))
        write_jsonl(self.out / "rejects.jsonl", ({"id": r.id, "reason": r.reason, "detail": r.detail} for r in rejects))

    def _first_model(self, stages: Sequence[PlannedStage], point: ResumePoint | None) -> VisionLanguageModel:
        """Return the model to train; metrics written after its checkpoint are removed."""
        if self.world.is_first:
            earlier = 0 if point is None else sum(len(each.plan.steps) for each in stages[: point.stage]) + point.step
            self.metrics.cut(earlier)
        if point is None:
            return self.first_model(self.recipe.stages[0].quantize)
        self.trained = set(point.trained)
        return self._load(point.folder, self.recipe.stages[point.stage])

    def _load(self, folder: Path, stage: Stage) -> VisionLanguageModel:
        model, _ = checkpoint.load(folder, device=self.device, quantize=stage.quantize)
        return model

    def first_model(self, quantize: int | None) -> VisionLanguageModel:
        """Load the backbones with a fresh projector, or the model of `from` with its adapters merged."""
        if self.parent is None:
            model = build(self.recipe.model, self.processor.spec, seed=self.recipe.seed, quantize=quantize)
            return model.to(self.device)
        # Only rank 0 converts a model of another layout.
        folder = self.world.gather_text(str(self.parent.bring_in()) if self.world.is_first else "")[0]
        model, _ = checkpoint.load(Path(folder), device=self.device, quantize=quantize)
        self.trained |= self.parent.trained_parts
        merge_parts(model)
        return model

    def prepare(self, model: VisionLanguageModel, stage: Stage, number: int, *, quantise: bool = True) -> None:
        """Prepare the model for a stage: merge earlier adapters into the weights, add fresh ones for LoRA."""
        seed_all(self.recipe.seed + number)
        if merged := merge_parts(model):
            self.trained = (self.trained - {"adapters"}) | merged
        if quantise and stage.quantize is not None and not is_quantised(model.language):
            # The recipe's validation ensures that no earlier stage has changed the language model.
            source = source_of(self.recipe.model.language, "language")
            model.language = load_language(source, unwrap(model.language).dtype, stage.quantize)
            model.to(self.device)
        if stage.lora is not None:
            put_adapters(model, stage.lora)

    def make_trainer(self, model: VisionLanguageModel, planned: PlannedStage, number: int) -> StageTraining:
        """Set a prepared model up for a stage: its trainable, recomputed, sharded and bf16 parts."""
        stage = planned.stage
        model.set_trainable(stage.learn)
        model.set_recompute(stage.recompute)
        self.trained |= set(stage.learn)
        parallelism = choose_parallelism(self.recipe, stage, model, self.world)
        bf16_parts = [] if parallelism == "fsdp" else parts_in_bf16(self.stages, self.trained, self.device)
        store_in_bf16(model, bf16_parts)
        options = LoaderOptions(
            self.recipe.workers, self.pixels, self.out, self.hooks.on_message, self.progress, self.stopping
        )
        loader = make_loader(planned, model, self.world, options)
        trainer = Trainer(model, loader, stage, device=self.device, world=self.world, parallelism=parallelism,
                          seed=self.recipe.seed + number)  # fmt: skip
        return StageTraining(planned, number, trainer, parallelism, tuple(bf16_parts))

    def _train_stage(
        self, model: VisionLanguageModel, planned: PlannedStage, number: int, point: ResumePoint | None
    ) -> VisionLanguageModel:
        """Train one stage, from its beginning or from a checkpoint within it; return the model for the next one."""
        if point is None:
            self.prepare(model, planned.stage, number)
        training = self.make_trainer(model, planned, number)
        trainer = training.trainer
        if point is None:
            start = 0
            self._rehearse_saving(training)
            try_largest_row(training, self.recipe.model, on_message=self.hooks.on_message, stopping=self.stopping)
        else:
            cursor = load_state(point.folder / "state", trainer.optimizer, plan=planned.plan)
            start = cursor.step
            trainer.loader.resume(cursor.lanes)
        self.reached = (planned.stage.name, start)
        trainer.skips_left = self._skips_left(planned.stage)
        log = StepLog(trainer, self.metrics, on_message=self.hooks.on_message, track=self.track)
        validator = validator_of(self.recipe.validation, planned, trainer, self.out, self.hooks, self.pixels)
        attach_reference(
            trainer,
            validator,
            self.out,
            resumed=point is not None,
            progress=self.progress,
            stopping=self.stopping,
        )
        done = self._train(training, start, log, validator)
        if done < training.steps:
            if done > start and not training.saves_at(done):  # else it is saved already
                self._save(training, done)
            self.saver.finish()
            raise self._stopped()
        if self.world.size > 1 and not self._is_last(number):  # as in a resumed run: shards cannot become another model
            return self._load(checkpoints_of(self.out)[-1], planned.stage)
        return model

    def _is_last(self, number: int) -> bool:
        return number + 1 == len(self.recipe.stages)

    def _train(self, training: StageTraining, start: int, log: StepLog, validator: Validator | None) -> int:
        """Train a stage's steps: after each one validate, log and save. Raises Stopped if the run is asked to stop."""
        trainer, stage = training.trainer, training.planned.stage
        with self.progress(stage.name, training.steps) as self.advance:
            if start:
                self.advance(start, event="resumed")

            def after_step(report: StepReport) -> None:
                done = report.step + 1
                self.validation = validator.measure(done) if validator is not None and validator.is_due(done) else {}
                checked = self._check_blindness(training) if done == training.steps else None
                if self.world.is_first:
                    log.write(report, self.validation, checked)
                self.advance(1, note=log.note(report), values=log.step_values(report))
                if self.validation:
                    self.advance(0, event="validation", values=self.validation)
                self.reached = (stage.name, done)
                asked_to_stop, is_end = self.world.any(self.stopping()), done == training.steps
                if asked_to_stop or training.saves_at(done):
                    self._save(training, done)
                if asked_to_stop or is_end:
                    self.saver.finish()
                if asked_to_stop and not (is_end and self._is_last(training.number)):
                    raise self._stopped()

            flops = trainer.work.token * training.planned.tokens
            with compiled(trainer, training.parallelism, flops, self.hooks.on_message):
                return trainer.run(start, after_step)

    def _check_blindness(self, training: StageTraining) -> BlindCheck | None:
        """Measure at the end of a stage whether the model uses its images."""
        planned, loader = training.planned, training.trainer.loader
        if not len(planned.held_out.samples):
            return None
        pixels = loader.pixels if isinstance(loader, Loader) else self.pixels
        checked = blind_check(planned, training.trainer, pixels)
        if checked is not None:
            self.blind_checks[planned.stage.name] = checked
        return checked

    def _skips_left(self, stage: Stage) -> int:
        """Count the updates that the stage may still skip; rank 0 knows how many it has skipped."""
        skipped = self.metrics.skipped_steps(stage.name) if self.world.is_first else 0
        return self.recipe.bad_steps - int(self.world.gather(skipped)[0][0])

    def _rehearse_saving(self, training: StageTraining) -> None:
        """Save a whole checkpoint before the first step, with all parts that later stages train too."""
        model, trainer = training.trainer.model, training.trainer
        trained = self.trained.union(*(stage.learn for stage in self.recipe.stages[training.number :]))
        tensors = checkpoint.snapshot(model, trained, take_on_first(self.world))
        state_bytes = 8 * sum(p.numel() for p in trainer.trainable)  # AdamW's two moments, in fp32

        def write(folder: Path) -> None:
            checkpoint.save(folder, model, self.processor, recipe=self.recipe, tensors=tensors)

        self.saver.begin(lambda: rehearse(self.out / "checkpoints" / ".rehearsal", write, state_bytes=state_bytes))
        self.saver.finish()

    def _save(self, training: StageTraining, done: int) -> None:
        """Write a checkpoint. On a GPU, tensors are copied now and written while training continues."""
        planned, trainer, finished = training.planned, training.trainer, done == training.steps
        extra = {
            "stage": training.number,
            "step": done,
            "finished": finished,
            "learnt": sorted(self.trained),
            "history": self.provenance_record,
            "measured": dict(self.validation),
            "precision": self.precision,
        }
        trained, take = frozenset(self.trained), take_on_first(self.world)
        tensors = checkpoint.snapshot(trainer.model, trained, take)
        optimizer = [] if finished else take_states(trainer.optimizer.state_dict(), take)
        lanes, plan = positions_at(trainer.loader, done, self.world), planned.plan

        def write_state(draft: Path) -> None:
            if not finished:
                cursor = Cursor(planned.stage.name, done, plan.digest, dict(plan.made_from), lanes)
                save_state(draft / "state", optimizer, cursor)

        path = self.out / "checkpoints" / checkpoint_name(training.number, planned.stage.name, done)

        def write() -> None:
            checkpoint.save(
                path,
                trainer.model,
                self.processor,
                recipe=self.recipe,
                extra=extra,
                write_more=write_state,
                tensors=tensors,
            )
            prune(self.out, self.recipe.keep_checkpoints)
            self._write_status("running", planned.stage.name, done)
            self.advance(0, event="checkpoint", values={"checkpoint": path})

        self.saver.begin(write)

    @contextmanager
    def _recording_the_end(self) -> Iterator[None]:
        """Write to run.json how the block ends. If another process caused its error, raise that cause."""
        try:
            yield
        except Stopped as stop:
            self._write_status("preempted", *self.reached, reason=stop.message)
            raise
        except BaseException as error:
            cause = self.world.cause_of(error)
            self.saver.join()
            self._write_status("failed", *self.reached, reason=f"{type(cause).__name__}: {cause}")
            if cause is error:
                raise
            raise cause from error
        self._write_status("finished", *self.reached)

    def _stopped(self) -> Stopped:
        stage, step = self.reached
        return Stopped(
            f"{self.out}: stopped at step {step} of stage {stage}", f"continue with vistune train --resume {self.out}"
        )

    def _note_unsaved(self, error: BaseException) -> None:
        with suppress(DiskError):  # the disk may be full for this file too; the log has the error
            self._write_status("running", *self.reached, reason=f"a checkpoint was not saved: {error}")

    def _end(self, reason: str) -> None:
        """Record why the watchdog ends the run, in any process: rank 0 may be the one that is stuck."""
        self._write_status("failed", *self.reached, reason=reason, from_any_rank=True)

    def _write_status(
        self, status: str, stage: str, step: int, *, reason: str = "", from_any_rank: bool = False
    ) -> None:
        if self.world.is_first or from_any_rank:
            known = {"versions": versions(), "data": self.hashes, "device": self.device, "precision": self.precision}
            write_json(
                self.out / "run.json", {"status": status, "stage": stage, "step": step, "reason": reason, **known}
            )

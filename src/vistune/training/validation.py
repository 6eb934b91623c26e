"""Measure a stage on its validation split: the loss, some answers, and scores that the caller adds.

validation samples + the current model -> {validation_loss, …} in the step's metrics, and answers in samples.jsonl

Validation does not change the training. It may use random numbers, but the generators are seeded again before every
training row.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from vistune.data import Loader, PixelCache
from vistune.data.stages import PlannedStage
from vistune.files import read_jsonl, write_jsonl
from vistune.generation import Assistant
from vistune.progress import OnMessage, Progress, no_progress
from vistune.recipe import Validation
from vistune.training.distributed.watchdog import with_heartbeat
from vistune.training.preference import MEASURES
from vistune.training.trainer import Trainer
from vistune.types import IMAGE_ID, Batch, ImageRef

Evaluate = Callable[[Assistant, Progress], Mapping[str, float]]
log = logging.getLogger("vistune.training")


@dataclass(frozen=True, slots=True)
class Hooks:
    """The callables that a run gets from its caller.

    Attributes:
        on_message: Called with each message for the user.
        evaluate: Returns further scores of the current model by name, such as those of benchmarks.
    """

    on_message: OnMessage = log.info
    evaluate: Evaluate | None = None


@contextmanager
def evaluating(trainer: Trainer) -> Iterator[None]:
    """Keep the model in evaluation mode and without gradients while the block lasts."""
    trainer.model.eval()
    try:
        # Not compiled: answering would compile further graphs.
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        trainer.model.set_trainable(trainer.stage.learn)


class Validator:
    """Measure a stage's validation split; all processes call it together, only rank 0 writes."""

    def __init__(
        self,
        settings: Validation,
        planned: PlannedStage,
        trainer: Trainer,
        out: Path,
        *,
        pixels: PixelCache,
        evaluate: Evaluate | None,
    ) -> None:
        assert planned.validation is not None
        self.settings = settings
        self.planned = planned
        self.trainer = trainer
        self.samples = planned.validation.samples
        self.file = out / "samples.jsonl"
        # A sharded model answers with all processes or not at all.
        self.can_answer = not any(isinstance(p, DTensor) for p in trainer.model.parameters())
        self.evaluate = evaluate
        self.measures: dict[str, float] = {}  # of preference pairs, at the last measurement
        world = trainer.world
        self.loader = Loader(
            planned.validation.samples,
            planned.processor,
            planned.validation.plan,
            pixels=pixels,
            share=(world.rank, world.size),
            pair_documents=planned.stage.pair_documents,
        )

    def is_due(self, done: int) -> bool:
        """Return whether to measure after `done` steps: as often as set, and at the stage's end."""
        return self._is_last(done) or (self.settings.every is not None and done % self.settings.every == 0)

    def _is_last(self, done: int) -> bool:
        return done == len(self.planned.plan.steps)

    def measure(self, done: int) -> dict[str, float]:
        """Return the mean loss per supervised token, at the stage's end also with grey images, and further scores."""
        with evaluating(self.trainer):
            loss, with_images = self._loss()
            values = {"validation_loss": loss, **self.measures}
            if self._is_last(done) and with_images:
                values["validation_loss_without_pictures"], _ = self._loss(grey=True)
            if self.can_answer and self.trainer.world.is_first:
                assistant = Assistant(self.trainer.model, self.planned.processor)
                self._write_answers(assistant, done)
                if self.evaluate is not None:
                    progress = with_heartbeat(no_progress, self.trainer.world.heartbeat)
                    values |= self.evaluate(self._as_saved(), progress)
        return values

    def _as_saved(self) -> Assistant:
        """Return the model with the template and image rules of its checkpoint, not those of the stage."""
        spec = self.trainer.model.spec
        processor = self.planned.processor.with_template(spec.template).with_image_mode(spec.image_mode)
        return Assistant(self.trainer.model, processor)

    def _loss(self, *, grey: bool = False) -> tuple[float, bool]:
        """Return (mean loss, whether any row has an image)."""
        total, count, images = 0.0, 0, 0
        measures = np.zeros(len(MEASURES))
        with closing(self.loader.steps()) as steps:
            for _, batches in steps:
                for batch in batches:
                    shown = _in_grey(batch) if grey else batch
                    if self.planned.stage.pair_documents:
                        own = self.trainer.measure_pairs(shown)
                        measures, loss = measures + own, float(own[0])
                    else:
                        loss = self.trainer.loss_sum(shown)
                    total += loss
                    count += batch.units
                    images += int((batch.input_ids == IMAGE_ID).any())
        by_process = self.trainer.world.gather(total, count, images, *measures.tolist())
        totals, counts, with_images = zip(*(values[:3] for values in by_process), strict=True)
        if self.planned.stage.pair_documents and not grey:
            means = np.array([values[3:] for values in by_process]).sum(0) / max(sum(counts), 1)
            names = (f"validation_{name}" for name in MEASURES[1:])
            self.measures = dict(zip(names, means[1:].tolist(), strict=True))
        return sum(totals) / max(sum(counts), 1), any(with_images)

    def _write_answers(self, assistant: Assistant, done: int) -> None:
        """Write the first question of some samples, its reference answer, and the model's answer."""
        stage = self.planned.stage.name
        # A run that was killed writes the answers of its last steps again.
        earlier = [line for _, line in read_jsonl(self.file)] if self.file.is_file() else []
        lines = [line for line in earlier if line.get("stage") != stage or int(line.get("step", 0)) < done]
        for sample in self.samples[: self.settings.answers]:
            first = next(k for k, message in enumerate(sample.messages) if message.role == "assistant")
            question = sample.messages[:first]
            self.trainer.world.heartbeat.beat()
            answer = assistant.chat(question, max_tokens=self.settings.answer_tokens).text
            images = [str(part.source) for message in question for part in message.parts if isinstance(part, ImageRef)]
            line: dict[str, object] = {"stage": stage, "step": done, "id": sample.id, "question": question[-1].text}
            lines.append({**line, "images": images, "wanted": sample.messages[first].text, "said": answer})
        if self.settings.answers:
            write_jsonl(self.file, lines)


def validator_of(
    settings: Validation | None, planned: PlannedStage, trainer: Trainer, out: Path, hooks: Hooks, pixels: PixelCache
) -> Validator | None:
    """Make the validator of a stage; None if it has no validation split."""
    if settings is None or planned.validation is None:
        return None
    validator = Validator(settings, planned, trainer, out, pixels=pixels, evaluate=hooks.evaluate)
    if planned.validation.shared and trainer.world.is_first:
        hooks.on_message(
            f"stage {planned.stage.name}: {planned.validation.shared} images of the validation split are trained on too"
        )
    if not validator.can_answer and (settings.answers or hooks.evaluate is not None) and trainer.world.is_first:
        hooks.on_message(f"stage {planned.stage.name}: under fsdp only the loss is measured, no question is answered")
    return validator


def _in_grey(batch: Batch) -> Batch:
    """Return the row with every image in one grey; cached features become zeros."""
    value = 0.0 if batch.images.is_floating_point() else 127
    return replace(batch, images=torch.full_like(batch.images, value))

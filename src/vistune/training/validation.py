"""A stage measured on rows that it never learns from: their loss, some answers, and whatever else is asked of it.

Held rows + the model as it is -> {validation_loss, …} for the step's line · samples.jsonl: what it says to questions
Nothing here changes what is learnt: chance is drawn anew for every row that is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from vistune.data import Loader, PixelCache
from vistune.data.stages import PlannedStage
from vistune.files import read_jsonl, write_jsonl
from vistune.generation import Assistant
from vistune.progress import OnMessage, Progress, no_progress
from vistune.recipe import Validation
from vistune.training.distributed.watchdog import beating
from vistune.training.trainer import Trainer
from vistune.types import IMAGE_ID, Batch, ImageRef, Message

Evaluate = Callable[[Assistant, Progress], Mapping[str, float]]
log = logging.getLogger("vistune.training")


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a run is handed by whoever starts it.

    Attributes:
        on_message: Called with each message for the user.
        evaluate: Returns further figures of the current model by name, such as benchmark scores.
    """

    on_message: OnMessage = log.info
    evaluate: Evaluate | None = None


class Validator:
    """Measures a stage's held rows; all processes call it together, rank 0 alone writes.

    `evaluate`: further figures of the model as it is, such as benchmarks', by name.
    """

    def __init__(
        self,
        wanted: Validation,
        planned: PlannedStage,
        trainer: Trainer,
        out: Path,
        *,
        pixels: PixelCache,
        evaluate: Evaluate | None,
    ) -> None:
        assert planned.validation is not None
        self.wanted = wanted
        self.planned = planned
        self.trainer = trainer
        self.samples = planned.validation.samples
        self.file = out / "samples.jsonl"
        # A model in slices answers with all processes or not at all.
        self.whole = not any(isinstance(p, DTensor) for p in trainer.model.parameters())
        self.evaluate = evaluate
        world = trainer.world
        self.loader = Loader(
            planned.validation.samples,
            planned.processor,
            planned.validation.plan,
            pixels=pixels,
            share=(world.rank, world.size),
        )

    def is_due(self, done: int) -> bool:
        """Every so many steps, and at the stage's end."""
        return self._is_last(done) or (self.wanted.every is not None and done % self.wanted.every == 0)

    def _is_last(self, done: int) -> bool:
        return done == len(self.planned.plan.steps)

    def measure(self, done: int) -> dict[str, float]:
        """The held rows' mean loss by supervised token; at the stage's end also with grey pictures; and all figures."""
        with self._asking():
            loss, with_images = self._loss()
            found = {"validation_loss": loss}
            if self._is_last(done) and with_images:
                found["validation_loss_without_pictures"], _ = self._loss(grey=True)
            if self.whole and self.trainer.world.is_first:
                assistant = Assistant(self.trainer.model, self.planned.processor)
                self._write_answers(assistant, done)
                if self.evaluate is not None:
                    found |= self.evaluate(self._as_kept(), beating(no_progress, self.trainer.world.pulse))
        return found

    def _as_kept(self) -> Assistant:
        """The model as its checkpoint will be asked: in its own template and picture rules, not the stage's."""
        spec = self.trainer.model.spec
        processor = self.planned.processor.with_template(spec.template).with_image_mode(spec.image_mode)
        return Assistant(self.trainer.model, processor)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """The model in evaluation mode, without gradients; learning goes on as before behind the block."""
        model = self.trainer.model
        model.eval()
        try:
            # As it is, not compiled: answering would have graphs of its own.
            with torch.no_grad(), torch.compiler.set_stance("force_eager"):
                yield
        finally:
            model.set_trainable(self.trainer.stage.learn)

    def _loss(self, *, grey: bool = False) -> tuple[float, bool]:
        """The mean loss, and whether any row shows a picture."""
        total, count, images = 0.0, 0, 0
        with closing(self.loader.steps()) as steps:
            for _, batches in steps:
                for batch in batches:
                    total += self.trainer.loss_sum(_in_grey(batch) if grey else batch)
                    count += batch.supervised
                    images += int((batch.input_ids == IMAGE_ID).any())
        sums, counts, shown = zip(*self.trainer.world.gather(total, count, images), strict=True)
        return sum(sums) / max(sum(counts), 1), any(shown)

    def _write_answers(self, assistant: Assistant, done: int) -> None:
        """The first question of some held rows, the answer that is wanted, and the model's."""
        place = {"stage": self.planned.stage.name, "step": done}
        rows = [row for row in _read(self.file) if not _is_later(row, place)]
        for sample in self.samples[: self.wanted.answers]:
            first = next(k for k, message in enumerate(sample.messages) if message.role == "assistant")
            asked: tuple[Message, ...] = sample.messages[:first]
            self.trainer.world.pulse.beat()
            said = assistant.chat(asked, max_tokens=self.wanted.answer_tokens).text
            images = [str(part.source) for message in asked for part in message.parts if isinstance(part, ImageRef)]
            question = {"id": sample.id, "question": asked[-1].text, "images": images}
            rows.append({**place, **question, "wanted": sample.messages[first].text, "said": said})
        if self.wanted.answers:
            write_jsonl(self.file, rows)


def validator_of(
    wanted: Validation | None, planned: PlannedStage, trainer: Trainer, out: Path, hooks: Hooks, pixels: PixelCache
) -> Validator | None:
    """None where the stage measures nothing."""
    if wanted is None or planned.validation is None:
        return None
    made = Validator(wanted, planned, trainer, out, pixels=pixels, evaluate=hooks.evaluate)
    if planned.validation.shared and trainer.world.is_first:
        hooks.on_message(
            f"stage {planned.stage.name}: {planned.validation.shared} pictures of the validation are learnt from too"
        )
    if not made.whole and (wanted.answers or hooks.evaluate is not None) and trainer.world.is_first:
        hooks.on_message(f"stage {planned.stage.name}: under fsdp the loss alone is measured, no question is answered")
    return made


def _in_grey(batch: Batch) -> Batch:
    """The row with every picture in one grey; where it holds features of a frozen tower, these are zeros."""
    value = 0.0 if batch.images.is_floating_point() else 127
    return replace(batch, images=torch.full_like(batch.images, value))


def _read(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(path)] if path.is_file() else []


def _is_later(row: Mapping[str, Any], place: Mapping[str, Any]) -> bool:
    """Of the same step or a later one of the stage: a run that was killed says it again."""
    return row.get("stage") == place["stage"] and int(row.get("step", 0)) >= int(place["step"])

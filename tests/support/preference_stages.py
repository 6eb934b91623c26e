"""Preference pairs about coloured images, a stage that trains on them, and the same pairs read by transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vistune.data import Loader
from vistune.data.stages import PlannedStage, plan_stages
from vistune.model import VisionLanguageModel
from vistune.model.language import read_as_transformers
from vistune.progress import no_progress
from vistune.training import Run
from vistune.types import IGNORE, Batch

COLORS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220), "yellow": (240, 220, 40)}
DPO: dict[str, Any] = {
    "name": "dpo",
    "objective": "dpo",
    "learn": {"projector": 2e-3, "language": 2e-3},
    "steps": 4,
    "samples_per_step": 5,
    "precision": "fp32",
    "save_every": 2,
}


def write_pairs(folder: Path, count: int = 12) -> Path:
    """Write pairs with answers of different lengths; one of them has an earlier turn."""
    names, rows = list(COLORS), []
    for k in range(count):
        Image.new("RGB", (32, 24), COLORS[names[k % 4]]).save(folder / f"pair-{k}.png")
        turns = [{"from": "human", "value": "<image>\nWhat colour?"}]
        if k == 1:
            turns += [{"from": "gpt", "value": "Bright."}, {"from": "human", "value": "Which?"}]
        wrong = names[(k + 1 + k // 4) % 4]
        row = {"id": f"pair-{k}", "image": f"pair-{k}.png", "conversations": turns, "kind": "preference"}
        rows.append({**row, "chosen": f"It is {names[k % 4]}.", "rejected": f"It is {wrong}" + ", I think." * (k % 2)})
    path = folder / "pairs.json"
    path.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n", encoding="utf-8")
    return path


def first_step(run: Run) -> tuple[VisionLanguageModel, PlannedStage, list[Batch]]:
    """Return the model of the first stage, ready to train, and the packed rows of its first step."""
    [planned], _ = plan_stages(run.recipe, run.processor, no_progress)
    model = run.first_model(None)
    run.prepare(model, planned.stage, 0)
    model.set_trainable(planned.stage.learn)
    model.eval()
    loader = Loader(planned.samples, planned.processor, planned.plan, pair_documents=planned.stage.pair_documents)
    return model, planned, loader.load(0)


def separate_log_probabilities(model: VisionLanguageModel, batch: Batch) -> Tensor:
    """Return the log-probability of each answer, each document read by itself by transformers' own attention."""
    images = model.features(batch)
    embedded = model.embed(batch.input_ids, images)
    sums = []
    for begin, end in zip(batch.starts[:-1].tolist(), batch.starts[1:].tolist(), strict=True):
        hidden = read_as_transformers(model.language, embedded[None, begin:end])[0]
        logits = hidden.float() @ model.head.weight.float().T
        labels = batch.labels[begin + 1 : end]
        chosen = labels != IGNORE
        tokens = logits[:-1][chosen].log_softmax(-1).gather(1, labels[chosen, None])
        sums.append(tokens.sum())
    return torch.stack(sums)

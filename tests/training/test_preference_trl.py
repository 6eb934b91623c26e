"""Losses and gradients of preference pairs equal those of TRL's DPOTrainer (optional: pip install trl)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from preference_stages import DPO, first_step, write_pairs
from training_stages import MakeRecipe
from transformers import AutoModelForCausalLM, AutoTokenizer

from vistune.processor import collate
from vistune.progress import no_progress
from vistune.training import Run
from vistune.training.distributed.parallelism import ModelWithLoss
from vistune.types import IGNORE, Example

PAIRS = [
    {"prompt": "What colour?", "chosen": " It is red.", "rejected": " It is blue, I think."},
    {"prompt": "How many dogs can you see?", "chosen": " Two dogs.", "rejected": " Three."},
    {"prompt": "Where?", "chosen": " On the left of the image.", "rejected": " On the right of the image."},
]


@pytest.mark.parametrize(
    ("loss", "settings"), [("sigmoid", {}), ("sigmoid", {"beta": 0.5}), ("ipo", {"loss": "ipo", "beta": 0.3})]
)
def test_loss_and_gradients_equal_those_of_trl(
    make_recipe: MakeRecipe, tiny_backbones: Path, tmp_path: Path, loss: str, settings: dict[str, Any]
) -> None:
    pytest.importorskip("trl")
    pytest.importorskip("datasets")
    os.environ["ACCELERATE_USE_CPU"] = "1"
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    torch.set_num_threads(1)
    folder = tiny_backbones / "language"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    policy = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = DPOConfig(
        output_dir=str(tmp_path / "trl"),
        beta=settings.get("beta", 0.1),
        loss_type=[loss],
        per_device_train_batch_size=len(PAIRS),
        use_cpu=True,
        bf16=False,
        report_to=[],
        gradient_checkpointing=False,
        disable_dropout=True,
    )
    peer = DPOTrainer(
        policy, reference, args=config, train_dataset=Dataset.from_list(PAIRS), processing_class=tokenizer
    )
    torch.manual_seed(0)
    with torch.no_grad():  # a policy that differs from the reference
        for parameter in policy.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    inputs = next(iter(peer.get_train_dataloader()))
    theirs = peer.compute_loss(policy, inputs)
    theirs.backward()

    stage = {**DPO, "preference": settings, "learn": {"language": 1e-3}}
    recipe = make_recipe(stage, data=str(write_pairs(tmp_path)), blind_check=0)
    model, planned, _ = first_step(Run(recipe, tmp_path / "run", progress=no_progress))
    row = collate(_examples(inputs))
    compute = ModelWithLoss(model, planned.stage.preference_loss)
    model.language.load_state_dict(reference.state_dict())
    with torch.no_grad():
        row_with_reference = replace(row, reference=compute(row)[1])
    model.language.load_state_dict(policy.state_dict())
    total, _ = compute(row_with_reference)
    ours = total / row.units
    ours.backward()

    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    wanted = {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}
    gradients = {name: p.grad for name, p in model.language.named_parameters() if p.grad is not None}
    assert set(gradients) == set(wanted)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-3, atol=1e-5)


def _examples(inputs: dict[str, torch.Tensor]) -> list[Example]:
    """Return TRL's padded batch (all chosen sides, then all rejected ones) as pairs without images."""
    documents = []
    for ids, attended, answer in zip(
        inputs["input_ids"], inputs["attention_mask"], inputs["completion_mask"], strict=True
    ):
        documents.append((ids[attended == 1], ids.masked_fill(answer == 0, IGNORE)[attended == 1]))
    pairs = zip(documents[: len(PAIRS)], documents[len(PAIRS) :], strict=True)
    return [
        Example(
            torch.cat([chosen[0], rejected[0]]),
            torch.cat([chosen[1], rejected[1]]),
            torch.zeros((0, 3, 32, 32), dtype=torch.uint8),
            documents=(len(chosen[0]), len(rejected[0])),
        )
        for chosen, rejected in pairs
    ]

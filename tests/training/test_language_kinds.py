"""Training, selftest and answers on language models that run unpacked, or rotate long documents differently."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import torch
from language_table import ACCEPTED
from tiny_models import tiny_of
from training_stages import PLAIN_LORA, TUNE, MakeRecipe, train

import vistune
from vistune import api
from vistune.recipe import Recipe
from vistune.types import Message

KINDS = [
    "granite 4",
    "gemma2",
    "phi3, long",
    "granite",
    *(pytest.param(name, marks=pytest.mark.soak) for name in ("opt", "biogpt", "bloom", "llama, dynamic", "lfm2")),
]


def recipe_on(kind: str, folder: Path, make_recipe: MakeRecipe, backbones: Path, stage: dict[str, object]) -> Recipe:
    """A recipe whose language model is of this kind, with the tiny backbones' tokenizer."""
    shutil.copytree(backbones / "language", folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    changes = {"vocab_size": 400, "eos_token_id": 2, **ACCEPTED[kind].changes}
    if "max_position_embeddings" in changes:  # an embedding per position must be enough for the data
        changes["max_position_embeddings"] = max(changes["max_position_embeddings"], 128)
    tiny_of(ACCEPTED[kind].architecture, changes).save_pretrained(folder)
    model = {"vision": str(backbones / "vision"), "language": str(folder)}
    return make_recipe({**stage, "steps": 2, "save_every": None}, model=model)


@pytest.mark.parametrize("kind", KINDS)
def test_selftest_compares_it_with_transformers_without_false_alarms(
    kind: str, make_recipe: MakeRecipe, tmp_path: Path, tiny_backbones: Path
) -> None:
    torch.set_num_threads(1)
    recipe = recipe_on(kind, tmp_path / "language", make_recipe, tiny_backbones, TUNE)
    rows = api.selftest(recipe)
    assert [row.arrangement for row in rows] == [
        "transformers' own attention",
        "one by one",
        "two halves, turned round",
    ]
    assert all(row.equal for row in rows), [row.to_dict() for row in rows]


def test_selftest_catches_a_long_document_that_changes_its_neighbours(
    make_recipe: MakeRecipe, tmp_path: Path, tiny_backbones: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LongRoPE as transformers computes it: by the longest document of the row."""
    torch.set_num_threads(1)
    monkeypatch.setattr("vistune.model.language.rotate_by_document", lambda model: None)
    recipe = recipe_on("phi3, long", tmp_path / "language", make_recipe, tiny_backbones, TUNE)
    assert not api.selftest(recipe)[0].equal


@pytest.mark.parametrize("kind", ["granite 4", "gemma2"])
def test_it_trains_and_answers_unpacked_and_says_so_once(
    kind: str, make_recipe: MakeRecipe, tmp_path: Path, tiny_backbones: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.set_num_threads(1)
    recipe = recipe_on(kind, tmp_path / "language", make_recipe, tiny_backbones, PLAIN_LORA)
    with caplog.at_level(logging.WARNING, logger="vistune.model"):
        assert len(train(recipe, tmp_path / "run")) == 2
    (said,) = [record.getMessage() for record in caplog.records if "runs unpacked" in record.getMessage()]
    assert ACCEPTED[kind].unpacked in said

    assistant = vistune.load(str(tmp_path / "run"))
    questions = ["Hello?", "What colour is the sky, and why?", "네?"]
    prompts = [assistant.processor.encode_prompt([Message("user", (text,))]) for text in questions]
    together = [assistant.engine.submit(prompt, max_tokens=8) for prompt in prompts]
    alone = [assistant.ask(None, text, max_tokens=8) for text in questions]
    assert [answer.result().text for answer in together] == alone

"""Runs on a language model that has a chat template of its own, and a recipe that names none."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import processors
from training_stages import ALIGN, TUNE, MakeRecipe, ask_to_stop, train, weights

from vistune.data.show import show
from vistune.errors import RecipeError, Stopped
from vistune.interop.load import load
from vistune.processor import Processor, load_tokenizer
from vistune.progress import no_progress
from vistune.recipe import DataSource, Recipe, load_recipe
from vistune.runs.folder import checkpoints_of
from vistune.training import Run
from vistune.training.preflight import check_recipe
from vistune.types import Message

CHAT = (
    "{% if messages[0].role != 'system' %}Today Date: {{ strftime_now('%d %B %Y') }}\n{% endif %}"
    "{% for m in messages %}{{ m.role | upper }}: {{ m.content }}{{ eos_token if m.role == 'assistant' else '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
WITHOUT_END_OF_PROMPT = CHAT.replace("ASSISTANT:{% endif %}", "ASSISTANT: <think>\n{% endif %}")


def write_template(folder: Path, source: str) -> None:
    """Save a tokenizer with this template, which puts `<s>` before every text."""
    tokenizer: Any = load_tokenizer(folder)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    tokenizer.chat_template = source
    tokenizer.save_pretrained(folder)


@pytest.fixture
def language(tiny_backbones: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "language"
    shutil.copytree(tiny_backbones / "language", folder)
    write_template(folder, CHAT)
    return folder


@pytest.fixture
def recipe(make_recipe: MakeRecipe, tiny_backbones: Path, language: Path) -> Recipe:
    model = {"vision": str(tiny_backbones / "vision"), "language": str(language)}
    return make_recipe({**ALIGN, "steps": 2}, {**TUNE, "steps": 4}, model=model)


def test_a_recipe_without_a_template_uses_the_tokenizers_own(recipe: Recipe, tmp_path: Path) -> None:
    train(recipe, tmp_path / "run")
    assert load_recipe(str(tmp_path / "run" / "recipe.yaml")).model.template == "tokenizer"
    processor = load(tmp_path / "run").processor
    prompt = processor.tokenizer.decode(processor.encode_prompt((Message("user", ("What?",)),)).input_ids)
    assert prompt.startswith("Today Date: ")
    assert prompt.endswith("\nUSER: What?\nASSISTANT:")


def test_a_recipes_template_wins(recipe: Recipe) -> None:
    named = recipe.model_copy(update={"model": recipe.model.model_copy(update={"template": "v1"})})
    assert check_recipe(named).spec.template == "v1"


def test_a_language_model_without_a_chat_template_gets_v1(make_recipe: MakeRecipe) -> None:
    assert check_recipe(make_recipe(TUNE)).spec.template == "v1"


def test_a_template_that_cannot_be_trained_with_is_refused_before_any_record(recipe: Recipe, language: Path) -> None:
    write_template(language, WITHOUT_END_OF_PROMPT)
    with pytest.raises(RecipeError, match="its generation prompt ends with '<think>") as refused:
        check_recipe(recipe)
    assert "samples" not in str(refused.value)


def test_show_uses_the_tokenizers_own_template_too(recipe: Recipe, language: Path) -> None:
    source = DataSource(file=recipe.data[0].file)
    shown = show(source, tokenizer=str(language), index=0)[0]
    assert load_tokenizer(language).decode(shown.input_ids[:5]).startswith("Today")
    assert show(source, template="v1", tokenizer=str(language), index=0)[0].input_ids != shown.input_ids


def test_a_resumed_run_keeps_the_template_with_which_it_began(recipe: Recipe, language: Path, tmp_path: Path) -> None:
    """The date in the prompt is that of the first day, also if the run ends on another."""
    train(recipe, tmp_path / "whole")
    run = Run(recipe, tmp_path / "stopped", progress=no_progress)
    ask_to_stop(run, "tune", 2)
    with pytest.raises(Stopped):
        run.start(resume=False)
    write_template(language, CHAT.replace("Today Date", "Date of another day"))
    train(recipe, tmp_path / "stopped", resume=True)
    ours, theirs = (weights(checkpoints_of(tmp_path / name)[-1]) for name in ("stopped", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    source = Processor.load(checkpoints_of(tmp_path / "stopped")[-1] / "tokenizer").chat_template
    assert "Date of another day" not in source

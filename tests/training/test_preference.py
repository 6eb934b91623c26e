"""Preference tuning: losses by hand and by transformers, packing, the reference, resuming, validation, bad input."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from preference_stages import DPO, first_step, separate_log_probabilities, write_pairs
from training_processes import Ranks, train_each_as_rank
from training_stages import ALIGN, TUNE, MakeRecipe, ask_to_stop, assert_same_runs, train, weights

from vistune import api
from vistune.cli.log import in_language
from vistune.data import all_samples
from vistune.errors import DataError, RecipeError, Stopped
from vistune.files import read_json
from vistune.processor import collate, encode_pair, load_tiles
from vistune.progress import no_progress
from vistune.recipe import DataSource, Preference, dump
from vistune.runs.folder import MetricsLog, checkpoints_of
from vistune.training import Run
from vistune.training.distributed.parallelism import ModelWithLoss
from vistune.training.preference import MEASURES, Answers, preference_loss
from vistune.training.validation import Hooks
from vistune.types import Batch

LORA_DPO = {**DPO, "learn": {"adapters": 5e-3}, "lora": {"rank": 4, "alpha": 8}}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_pairs(tmp_path)


def row_of(pairs: int, documents: int, reference: list[float]) -> Batch:
    starts = torch.arange(pairs * documents + 1)
    blank = torch.zeros(0, dtype=torch.int64)
    kept = torch.tensor(reference)
    return Batch(blank, blank, blank, starts, blank, 0, pair_documents=documents, reference=kept)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # beta 0.1: ratios are 2 and -1, so logits are 0.3
        ({}, math.log1p(math.exp(-0.3))),
        ({"label_smoothing": 0.1}, 0.9 * math.log1p(math.exp(-0.3)) + 0.1 * math.log1p(math.exp(0.3))),
        ({"loss": "ipo"}, (2 / 4 - -1 / 2 - 5) ** 2),
        ({"loss": "simpo", "beta": 2.0, "margin": 0.5}, math.log1p(math.exp(-(2.0 * (-8 / 4 + 9 / 2) - 0.5)))),
        (
            {"loss": "orpo"},
            2 + 0.1 * math.log1p(math.exp(-2.5 + math.log1p(-math.exp(-2)) - math.log1p(-math.exp(-4.5)))),
        ),
        ({"sft_weight": 0.5}, math.log1p(math.exp(-0.3)) + 0.5 * 8 / 4),
        ({"anchor_weight": 2.0}, math.log1p(math.exp(-0.3)) + 2 * math.log1p(math.exp(-0.2))),
    ],
)  # fmt: skip
def test_losses_are_those_of_the_papers(settings: dict[str, Any], expected: float) -> None:
    answers = Answers(torch.tensor([-8.0, -9.0]), torch.tensor([4.0, 2.0]))
    total, measures = preference_loss(answers, row_of(1, 2, [-10.0, -8.0]), Preference(**settings))
    assert float(total) == pytest.approx(expected, rel=1e-5)
    assert float(measures[0, 0]) == pytest.approx(expected, rel=1e-5)
    values = dict(zip(MEASURES, measures[0].tolist(), strict=True))
    assert values["accuracy"] == 1.0
    assert values["margin"] == pytest.approx(values["chosen_reward"] - values["rejected_reward"])
    if not settings:
        assert (values["chosen_reward"], values["rejected_reward"]) == (pytest.approx(0.2), pytest.approx(-0.1))
        assert values["kl"] == pytest.approx((-2 / 4 + 1 / 2) / 2)


def test_the_image_term_compares_the_chosen_answer_with_that_for_a_damaged_image() -> None:
    answers = Answers(torch.tensor([-8.0, -9.0, -12.0]), torch.tensor([4.0, 2.0, 4.0]))
    total, _ = preference_loss(answers, row_of(1, 3, [-10.0, -8.0, -11.0]), Preference(image_weight=2.0))
    image = 2 * math.log1p(math.exp(-0.1 * (2 - -1)))
    assert float(total) == pytest.approx(math.log1p(math.exp(-0.3)) + image, rel=1e-5)


@pytest.mark.parametrize("preference", [{}, {"image_weight": 1.0, "sft_weight": 0.2}, {"loss": "simpo", "beta": 2.0}])
def test_loss_and_gradients_equal_those_of_separate_documents_by_transformers(
    make_recipe: MakeRecipe, pairs: Path, tmp_path: Path, preference: dict[str, Any]
) -> None:
    torch.set_num_threads(1)
    stage = {**DPO, "preference": preference, "learn": {"projector": 1e-3, "language": 1e-3, "vision": 1e-3}}
    run = Run(make_recipe(stage, data=str(pairs), blind_check=0), tmp_path / "run", progress=no_progress)
    model, planned, batches = first_step(run)
    settings = planned.stage.preference_loss
    assert settings is not None
    assert sum(batch.units for batch in batches) == 5
    for batch in batches:
        documents = len(batch.starts) - 1
        row = replace(batch, reference=-3 * torch.rand(documents, generator=torch.Generator().manual_seed(0)))
        ours, measures = ModelWithLoss(model, settings)(row)
        ours.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        log_probabilities = separate_log_probabilities(model, row)
        tokens = torch.tensor([float((row.labels[a + 1 : b] != -100).sum()) for a, b in _bounds(row)])
        theirs, _ = preference_loss(Answers(log_probabilities, tokens), row, settings)
        theirs.backward()
        assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5)
        assert float(measures[:, 0].sum()) == pytest.approx(float(ours.detach()), rel=1e-5)
        for name, p in model.named_parameters():
            if p.grad is not None:
                torch.testing.assert_close(gradients[name], p.grad, rtol=1e-3, atol=2e-5)


def _bounds(batch: Batch) -> list[tuple[int, int]]:
    return list(zip(batch.starts[:-1].tolist(), batch.starts[1:].tolist(), strict=True))


def test_both_sides_share_the_tiles_and_only_last_answers_are_supervised(
    make_recipe: MakeRecipe, pairs: Path, tmp_path: Path
) -> None:
    run = Run(make_recipe(DPO, data=str(pairs), blind_check=0), tmp_path / "run", progress=no_progress)
    _, planned, _ = first_step(run)
    lengths = {sample.id: length for sample, length in zip(planned.samples, planned.plan.lengths, strict=True)}
    for sample in planned.samples:
        row = collate([encode_pair(planned.processor, sample, load_tiles)])
        assert (len(row.images), len(row.starts) - 1, row.units) == (1, 2, 1)
        assert lengths[sample.id] == len(row.input_ids)
        texts = [planned.processor.decode(row.labels[a:b][row.labels[a:b] != -100].tolist()) for a, b in _bounds(row)]
        assert sample.rejected is not None
        assert texts == [sample.messages[-1].text, sample.rejected.text]


@pytest.mark.parametrize("stage", [DPO, LORA_DPO, {**DPO, "preference": {"image_weight": 1.0}}])
def test_packed_equals_separate_equals_accumulated(make_recipe: MakeRecipe, pairs: Path, stage: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    rows = api.selftest(make_recipe(stage, data=str(pairs), blind_check=0))
    assert [row.arrangement for row in rows][1:] == ["one by one", "two halves, turned round"]
    assert all(row.equal for row in rows)


@pytest.mark.parametrize("stage", [DPO, LORA_DPO, {**DPO, "preference": {"loss": "orpo"}}])
def test_training_makes_chosen_answers_more_likely_and_resumes_exactly(
    make_recipe: MakeRecipe, pairs: Path, tmp_path: Path, stage: dict[str, Any]
) -> None:
    recipe = make_recipe({**stage, "steps": 8}, data=str(pairs), blind_check=0)
    whole = train(recipe, tmp_path / "whole")
    if stage.get("preference") is None:
        assert whole[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
        assert whole[0]["margin"] == pytest.approx(0, abs=1e-5)
    assert whole[-1]["margin"] > whole[0]["margin"]
    assert whole[-1]["loss"] < whole[0]["loss"]
    run = Run(recipe, tmp_path / "stopped", progress=no_progress)
    ask_to_stop(run, "dpo", 3)
    with pytest.raises(Stopped):
        run.start(resume=False)
    resumed = train(recipe, tmp_path / "stopped", resume=True)
    assert [row["loss_hex"] for row in resumed] == [row["loss_hex"] for row in whole]
    ours, theirs = (weights(checkpoints_of(tmp_path / name)[-1]) for name in ("stopped", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_two_processes_train_pairs_as_one_does(make_recipe: MakeRecipe, pairs: Path, tmp_path: Path) -> None:
    """Rows of 400 tokens are distributed; some steps leave a process with a blank row."""
    validation = {"share": 0.25, "answers": 0}
    stage = {**DPO, "tokens_per_row": 400, "steps": 3, "save_every": None, "preference": {"sft_weight": 0.1}}
    changes: dict[str, Any] = {"data": str(pairs), "validation": validation, "blind_check": 0}
    one = train(make_recipe(stage, **changes), tmp_path / "one")
    runs = []
    for parallel in ("ddp", "fsdp"):
        recipe = tmp_path / f"{parallel}.yaml"
        recipe.write_text(dump(make_recipe(stage, **changes, parallel=parallel)))
        runs.append((recipe, tmp_path / parallel))
    assert Ranks(train_each_as_rank, runs).ended() == [0, 0]
    proved = read_json(runs[-1][1] / "selftest.json")
    assert all(row["equal"] for row in proved)
    for _, out in runs:
        assert_same_runs(out, tmp_path / "one")
        lines = MetricsLog(out / "metrics.jsonl").read()
        for key in ("margin", "accuracy", "kl", "validation_margin", "validation_loss"):
            assert lines[-1][key] == pytest.approx(one[-1][key], rel=1e-3, abs=1e-5)


def test_validation_measures_margin_accuracy_and_kl(make_recipe: MakeRecipe, pairs: Path, tmp_path: Path) -> None:
    validation = {"share": 0.25, "every": 2, "answers": 1}
    recipe = make_recipe({**DPO, "steps": 4}, data=str(pairs), validation=validation, blind_check=4)
    lines = train(recipe, tmp_path / "run")
    measured = [line for line in lines if "validation_loss" in line]
    assert [line["step"] for line in measured] == [1, 3]
    for line in measured:
        assert 0 <= line["validation_accuracy"] <= 1
        difference = line["validation_chosen_reward"] - line["validation_rejected_reward"]
        assert line["validation_margin"] == pytest.approx(difference, abs=1e-6)
        assert math.isfinite(line["validation_kl"])


def test_a_reference_that_is_missing_or_of_other_pairs_is_refused(
    make_recipe: MakeRecipe, pairs: Path, tmp_path: Path
) -> None:
    recipe = make_recipe(DPO, data=str(pairs), blind_check=0)
    run = Run(recipe, tmp_path / "run", progress=no_progress)
    ask_to_stop(run, "dpo", 1)
    with pytest.raises(Stopped):
        run.start(resume=False)
    kept = tmp_path / "run" / "reference" / "dpo.npz"
    content = kept.read_bytes()
    kept.unlink()
    with pytest.raises(DataError, match=r"dpo.npz: the reference of stage dpo is missing"):
        train(recipe, tmp_path / "run", resume=True)
    kept.write_bytes(content[:40])
    with pytest.raises(DataError, match="the reference of stage dpo cannot be read"):
        train(recipe, tmp_path / "run", resume=True)
    other = make_recipe({**DPO, "samples_per_step": 4, "steps": 1}, data=str(pairs), blind_check=0)
    train(other, tmp_path / "other")
    kept.write_bytes((tmp_path / "other" / "reference" / "dpo.npz").read_bytes())
    with pytest.raises(DataError, match="does not fit stage dpo: it was computed for other pairs"):
        train(recipe, tmp_path / "run", resume=True)
    assert len(MetricsLog(tmp_path / "run" / "metrics.jsonl").read()) == 2


def test_sigterm_while_the_reference_is_computed(make_recipe: MakeRecipe, pairs: Path, tmp_path: Path) -> None:
    recipe = make_recipe({**DPO, "tokens_per_row": 400}, data=str(pairs), blind_check=0, workers=2)
    measured: list[int] = []

    @contextmanager
    def progress(label: str, total: int) -> Iterator[Callable[..., None]]:
        def advance(count: int = 1, **event: object) -> None:
            if label == "dpo reference":
                measured.append(count)
                if len(measured) == 1:
                    os.kill(os.getpid(), signal.SIGTERM)

        yield advance

    with pytest.raises(Stopped, match="stage dpo: stopped before its first step"):
        Run(recipe, tmp_path / "run", progress=progress).start(resume=False)
    assert len(measured) == 1
    assert not (tmp_path / "run" / "reference").exists()
    Run(recipe, tmp_path / "run", progress=progress).start(resume=True)
    assert sum(measured[1:]) == 12
    again = train(recipe, tmp_path / "again")
    ran = MetricsLog(tmp_path / "run" / "metrics.jsonl").read()
    assert [row["loss_hex"] for row in ran] == [row["loss_hex"] for row in again]


def test_samples_without_a_rejected_answer_are_refused(make_recipe: MakeRecipe, data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.json:2:rejected: is missing, but the stage's objective is dpo"):
        train(make_recipe(DPO, data=str(data)), tmp_path / "run")


def test_check_measures_both_sides_as_train_does(make_recipe: MakeRecipe, pairs: Path, tmp_path: Path) -> None:
    sources = [DataSource(file=pairs)]
    one_side, both = (
        api.check_data(sources, recipe=make_recipe({**DPO, **change})) for change in ({"objective": "sft"}, {})
    )
    assert one_side.tokens["max"] < both.tokens["min"]
    assert both.learnt_tokens > one_side.learnt_tokens
    narrow = {"tokens_per_row": both.tokens["max"] - 1}
    faults = api.check_data(sources, recipe=make_recipe(ALIGN, {**DPO, **narrow})).faults
    assert faults
    assert {fault.reason for fault in faults} == {"too_long"}
    with pytest.raises(DataError) as caught:
        train(make_recipe({**DPO, **narrow}, data=str(pairs)), tmp_path / "run")
    assert str(caught.value) == faults[0].detail
    assert not api.check_data(sources, recipe=make_recipe({**ALIGN, **narrow})).faults


def test_check_applies_to_each_file_the_rules_of_the_stages_that_read_it(
    make_recipe: MakeRecipe, data: Path, pairs: Path, tmp_path: Path
) -> None:
    sources = [DataSource(file=data), DataSource(file=pairs)]
    details = [fault.detail for fault in api.check_data(sources, recipe=make_recipe(ALIGN, DPO)).faults]
    assert len(details) == len(all_samples(sources[0]))
    assert all(":rejected: is missing, but the stage's objective is dpo" in detail for detail in details)
    with pytest.raises(DataError) as caught:
        train(make_recipe(ALIGN, DPO), tmp_path / "shared")
    assert str(caught.value) == details[0]
    longest = api.check_data(sources[1:], recipe=make_recipe(DPO)).tokens["max"]
    align, dpo = {**ALIGN, "tokens_per_row": longest - 1}, {**DPO, "tokens_per_row": longest}
    apart = make_recipe(align, {**dpo, "data": str(pairs)})
    by_kind = make_recipe({**align, "kinds": ["caption"]}, {**dpo, "kinds": ["preference"]}, data=[data, pairs])
    for number, recipe in enumerate((apart, by_kind)):
        report = api.check_data(sources, recipe=recipe)
        assert not report.faults
        assert report.tokens["max"] == longest
        assert train(recipe, tmp_path / str(number))


def test_show_says_that_it_shows_one_side(pairs: Path, data: Path) -> None:
    messages: list[str] = []
    shown = api.show(DataSource(file=pairs), index=0, on_message=messages.append)
    assert len(shown) == 1
    assert messages == [f"{pairs}: 12 preference pairs: only their chosen answers are shown"]
    assert in_language(messages[0], "ko") == f"{pairs}: 선호 쌍 12개: 선택된 답변만 보여 줍니다"
    api.show(DataSource(file=data), on_message=messages.append)
    assert len(messages) == 1


def test_ordinary_training_on_pairs_says_that_it_uses_one_side(
    make_recipe: MakeRecipe, pairs: Path, tmp_path: Path
) -> None:
    messages: list[str] = []
    recipe = make_recipe({**ALIGN, "steps": 1}, {**TUNE, "steps": 1}, data=str(pairs), blind_check=0)
    torch.set_num_threads(1)
    Run(recipe, tmp_path / "run", progress=no_progress, hooks=Hooks(on_message=messages.append)).start(resume=False)
    assert [text for text in messages if "12 preference pairs: only their chosen answers are trained on" in text]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"objective": "sft", "preference": {}}, "`preference` needs `objective: dpo`"),
        ({"preference": {"loss": "ipo", "label_smoothing": 0.1}}, "`label_smoothing` is not used by the loss ipo"),
        ({"preference": {"margin": 1}}, "`margin` is not used by the loss dpo"),
        ({"preference": {"loss": "orpo", "image_weight": 1}}, "need a reference"),
        ({"preference": {"image_weight": 1}, "cache_features": "on"}, "remove `cache_features`"),
        ({"preference": {"beta": 0}}, "beta"),
    ],
)
def test_settings_that_do_not_fit_are_refused(make_recipe: MakeRecipe, change: dict[str, Any], problem: str) -> None:
    with pytest.raises(RecipeError) as caught:
        make_recipe({**DPO, **change})
    assert problem in str(caught.value)


def test_plan_counts_both_sides(make_recipe: MakeRecipe, pairs: Path) -> None:
    recipes = (DPO, {**DPO, "objective": "sft"})
    both, chosen = (api.plan(make_recipe(stage, data=str(pairs), blind_check=0)).stages[0] for stage in recipes)
    assert (both.samples, both.row.tiles) == (chosen.samples, chosen.row.tiles)
    assert 1.8 < both.row.tokens / chosen.row.tokens < 2.3

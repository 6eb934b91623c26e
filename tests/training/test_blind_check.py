"""A blind model is noticed: at a stage's end, held-out samples with their own image, another one, and none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from training_processes import Ranks, train_as_rank
from training_stages import ALIGN, LORA, TUNE, MakeRecipe, ask_to_stop, train, weights

from vistune.data import Loader, plan_stage
from vistune.data.split import blind_check_images
from vistune.data.stages import PlannedStage, plan_stages
from vistune.errors import Stopped
from vistune.progress import no_progress
from vistune.recipe import Recipe, dump
from vistune.report.rendering import labels_of
from vistune.report.training_section import stage_summary, stage_table
from vistune.runs.folder import MetricsLog, checkpoints_of
from vistune.training import Hooks, Run
from vistune.training.blind_check import BlindCheck, Gap, forms, result_of, wrong_images
from vistune.types import ImageRef, Message, Sample

COLORS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220), "yellow": (240, 220, 40)}
SEEING = {**TUNE, "learn": {"projector": 3e-3, "language": 3e-3}, "steps": 60, "samples_per_step": 16,
          "save_every": None}  # fmt: skip


def write_data(folder: Path, name: str, answers: Sequence[str], images: Sequence[int]) -> Path:
    """Rows about plain images, one per answer, two of them about two images."""
    folder.mkdir(exist_ok=True)
    rows = []
    for k, answer in enumerate(answers):
        shown = [f"{images[k]}.png"] if k % 40 else [f"{images[k]}.png", f"{images[k + 1]}.png"]
        question = "<image>" * len(shown) + "\nWhat colour?"
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        rows.append({"id": str(k), "image": shown, "kind": "caption", "conversations": turns})
    rows.append({"id": "text", "kind": "caption", "conversations": [{"from": "human", "value": "Hello?"},
                 {"from": "gpt", "value": "네"}]})  # fmt: skip
    (folder / name).write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
    return folder / name


@pytest.fixture
def seen(tmp_path: Path) -> Path:
    """120 images of one colour each, and what they show."""
    folder = tmp_path / "images"
    folder.mkdir()
    names = list(COLORS)
    for k in range(120):
        noise = np.random.default_rng(k).integers(-20, 20, 3)
        pixel = np.clip(np.array(COLORS[names[k % 4]]) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(np.tile(pixel, (32, 32, 1))).save(folder / f"{k}.png")
    return write_data(folder, "seen.json", [names[k % 4] for k in range(120)], range(120))


def planned(recipe: Recipe, tmp_path: Path) -> list[PlannedStage]:
    return plan_stages(recipe, Run(recipe, tmp_path / "never", progress=no_progress).processor, no_progress)[0]


def images(samples: Sequence[Sample]) -> set[str]:
    return {str(image.source) for sample in samples for image in sample.images}


def run_with_messages(recipe: Recipe, out: Path) -> tuple[dict[str, BlindCheck], list[str]]:
    torch.set_num_threads(1)
    messages: list[str] = []
    run = Run(recipe, out, progress=no_progress, hooks=Hooks(messages.append))
    run.start(resume=False)
    return run.blind_checks, messages


@pytest.mark.parametrize("seed", range(3))
def test_no_stage_trains_on_a_held_out_image(seed: int, make_recipe: MakeRecipe, seen: Path, tmp_path: Path) -> None:
    """Though the second stage reads a part of the data, in a file that names the images differently."""
    rows = json.loads(seen.read_text())
    for row in rows:
        row["image"] = [f"images/{name}" for name in row.get("image", [])]
    (tmp_path / "other.json").write_text(json.dumps(rows))
    second = {**TUNE, "data": [{"file": str(tmp_path / "other.json"), "take": "last 90"}]}
    recipe = make_recipe({**ALIGN, "template": "v1"}, second, data=str(seen), seed=seed)
    stages = planned(recipe, tmp_path)
    trained = set[str]().union(*(images(stage.samples[:]) for stage in stages))
    for stage, length in zip(stages, (121, 90), strict=True):
        held = images(stage.held_out.samples[:])
        assert 8 <= len(held) <= 16
        assert not held & trained
        assert length - 25 <= len(stage.samples) < length
        assert "text" in {sample.id for sample in stage.samples}
        assert (
            f"{len(held)} images with {len(stage.held_out.samples)} samples are not trained on" in stage.held_out.note
        )


def test_what_is_held_out_depends_on_seed_and_names(make_recipe: MakeRecipe, seen: Path, tmp_path: Path) -> None:
    def held(seed: int) -> set[str]:
        stage = {**TUNE, "samples_per_step": 5}
        return images(planned(make_recipe(stage, data=str(seen), seed=seed), tmp_path)[0].held_out.samples[:])

    first = held(1)
    assert held(1) == first != held(2)
    seen.write_text(json.dumps(list(reversed(json.loads(seen.read_text())))))
    assert held(1) == first


def test_small_data_hold_nothing_out(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    assert [blind_check_images(count, 32) for count in (0, 79, 80, 400, 2000)] == [0, 0, 8, 20, 32]
    assert [blind_check_images(1000, count) for count in (0, 1, 2)] == [0, 0, 2]
    recipe = make_recipe({**TUNE, "steps": 1})
    (stage,) = planned(recipe, tmp_path)
    assert len(stage.samples) == 13
    assert "stage tune: no blind check, because the data have too few images" in stage.held_out.note
    checks, messages = run_with_messages(recipe, tmp_path / "run")
    assert checks == {}
    assert stage.held_out.note in messages
    (silent,) = planned(make_recipe({**TUNE, "steps": 1}, blind_check=0), tmp_path)
    assert silent.held_out.note == ""


def test_a_model_that_sees_passes_and_a_blind_one_is_reported(
    make_recipe: MakeRecipe, seen: Path, tmp_path: Path
) -> None:
    checks, messages = run_with_messages(make_recipe(SEEING, data=str(seen)), tmp_path / "run")
    check = checks["tune"]
    assert not check.is_blind
    assert check.gap.low > 0.05
    assert check.gap.low <= check.gap.value <= check.gap.high
    assert check.gap.value == pytest.approx(check.wrong_image - check.with_image)
    assert check.gap_without_image.value == pytest.approx(check.without_image - check.with_image)
    assert any(f"stage tune: {check.summary}" == message for message in messages)
    *others, last = MetricsLog(tmp_path / "run" / "metrics.jsonl").read()
    assert last["blind_check"] == check.to_dict()
    assert not any("blind_check" in row for row in others)
    assert "doubts" not in last
    for language, label in (("en", "held-out loss, wrong image"), ("ko", "처음 보는 샘플의 손실(다른 이미지)")):
        table = dict(stage_table([stage_summary([*others, last])], labels_of(language)))
        assert table[label] == [f"{check.wrong_image:.4f}" if check.wrong_image <= 1 else f"{check.wrong_image:.2f}"]
        assert any(cells == [f"{check.gap.value:+.3f} ({check.gap.low:+.3f} … {check.gap.high:+.3f})"]
                   for cells in table.values())  # fmt: skip

    # The same images in another order: an answer says nothing about its image.
    order = np.random.default_rng(0).permutation(120).tolist()
    guessed = write_data(seen.parent, "guessed.json", [list(COLORS)[k % 4] for k in range(120)], [*order, order[0]])
    checks, messages = run_with_messages(make_recipe({**SEEING, "steps": 12}, data=str(guessed)), tmp_path / "blind")
    assert checks["tune"].is_blind
    *_, last = MetricsLog(tmp_path / "blind" / "metrics.jsonl").read()
    (warning,) = last["doubts"]
    assert warning.startswith(("the model does not use its images: ", "the model hardly uses its images: "))
    assert "train the projector on more image-caption pairs" in warning
    assert any(message.endswith(warning) for message in messages)


def test_the_loss_with_the_image_is_that_of_training(make_recipe: MakeRecipe, seen: Path, tmp_path: Path) -> None:
    """The measured loss is the mean over all supervised tokens of the held-out samples, however they are packed."""
    recipe = make_recipe({**TUNE, "learn": {"projector": 1e-12}, "steps": 1, "save_every": None}, data=str(seen))
    torch.set_num_threads(1)
    run = Run(recipe, tmp_path / "run", progress=no_progress)
    run.start(resume=False)
    (stage,) = planned(recipe, tmp_path)
    model = run.first_model(None)
    run.prepare(model, stage.stage, 0)
    trainer = run.make_trainer(model, stage, 0).trainer
    held = stage.held_out.samples
    lengths = [stage.processor.length(sample) for sample in held]
    plan = plan_stage(lengths, samples_per_step=3, tokens_per_row=128, steps=-(-len(held) // 3), seed=0)
    with torch.no_grad():
        rows = [row for _, batches in Loader(held, stage.processor, plan).steps() for row in batches]
        total = sum(trainer.loss_sum(row) for row in rows)
    check = run.blind_checks["tune"]
    assert check.tokens == sum(row.supervised for row in rows)
    assert check.with_image == pytest.approx(total / check.tokens, rel=1e-4)
    assert (check.samples, check.images) == (len(held), len({str(sample.images[0].source) for sample in held}))


def test_the_check_does_not_change_the_training(make_recipe: MakeRecipe, seen: Path, tmp_path: Path) -> None:
    """A run over data without the held-out images, and without the check, learns bit by bit the same."""
    stages = ({**ALIGN, "template": "v1"}, {**LORA, "save_every": None})
    checked = make_recipe(*stages, data=str(seen))
    held = {sample.id for sample in planned(checked, tmp_path)[0].held_out.samples}
    stages_samples = [{sample.id for sample in stage.samples} for stage in planned(checked, tmp_path)]
    assert stages_samples[0] == stages_samples[1]
    rows = json.loads(seen.read_text())
    left = [row for row in rows if row["id"] in stages_samples[0]]
    assert len(left) + len(held) <= len(rows)
    (seen.parent / "left.json").write_text("[\n" + ",\n".join(map(json.dumps, left)) + "\n]\n")
    plain = make_recipe(*stages, data=str(seen.parent / "left.json"), blind_check=0)
    ours, theirs = train(checked, tmp_path / "checked"), train(plain, tmp_path / "plain")
    assert [row["loss_hex"] for row in ours] == [row["loss_hex"] for row in theirs]
    assert [row["step"] for row in ours if "blind_check" in row] == [5, 5]
    ours_last, theirs_last = (weights(checkpoints_of(tmp_path / name)[-1]) for name in ("checked", "plain"))
    assert all(torch.equal(ours_last[name], theirs_last[name]) for name in theirs_last)


def test_a_resumed_run_measures_the_same(make_recipe: MakeRecipe, seen: Path, tmp_path: Path) -> None:
    recipe = make_recipe({**ALIGN, "template": "v1"}, LORA, data=str(seen))
    whole = train(recipe, tmp_path / "whole")
    run = Run(recipe, tmp_path / "run", progress=no_progress)
    ask_to_stop(run, "tune", 2)
    with pytest.raises(Stopped):
        run.start(resume=False)
    resumed = train(recipe, tmp_path / "run", resume=True)
    for key in ("loss_hex", "blind_check"):
        assert [row.get(key) for row in resumed] == [row.get(key) for row in whole]


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_several_processes_measure_the_same(parallel: str, make_recipe: MakeRecipe, seen: Path, tmp_path: Path) -> None:
    """Two processes share the samples; each ends with the result of one process alone."""
    recipe = make_recipe({**TUNE, "save_every": None, "precision": "fp32"}, data=str(seen))
    alone = train(recipe, tmp_path / "alone")[-1]["blind_check"]
    (tmp_path / "recipe.yaml").write_text(dump(recipe.model_copy(update={"parallel": parallel})))
    assert Ranks(train_as_rank, tmp_path / "recipe.yaml", tmp_path / "two").ended() == [0, 0]
    shared = MetricsLog(tmp_path / "two" / "metrics.jsonl").read()[-1]["blind_check"]
    assert shared.keys() == alone.keys()
    for key, value in alone.items():
        assert shared[key] == pytest.approx(value, rel=1e-3, abs=1e-4), key


def test_cached_features_are_used(
    make_recipe: MakeRecipe, seen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISTUNE_CACHE", str(tmp_path / "cache"))
    stage = {**TUNE, "save_every": None, "precision": "fp32"}
    checks = {}
    for setting in ("off", "on"):
        recipe = make_recipe({**stage, "cache_features": setting}, data=str(seen))
        checks[setting] = train(recipe, tmp_path / setting)[-1]["blind_check"]
    for key, value in checks["off"].items():
        assert checks["on"][key] == pytest.approx(value, rel=1e-4, abs=1e-5)


def test_validation_samples_are_measured_where_there_are_any(
    make_recipe: MakeRecipe, seen: Path, tmp_path: Path
) -> None:
    shared = make_recipe({**TUNE, "steps": 1}, data=str(seen), validation={"share": 0.3}, blind_check=12)
    (stage,) = planned(shared, tmp_path)
    assert stage.validation is not None
    assert len(stage.samples) + len(stage.validation.samples) == 121
    assert len(stage.held_out.samples) == 12
    assert images(stage.held_out.samples[:]) <= images(stage.validation.samples[:])

    # Files: without the images that are trained on.
    rows = json.loads(seen.read_text())
    (seen.parent / "trained.json").write_text(json.dumps(rows[:100]))
    (seen.parent / "files.json").write_text(json.dumps(rows[90:]))
    stages = ({**ALIGN, "template": "v1"}, {**TUNE, "steps": 1})
    validation = {"data": str(seen.parent / "files.json"), "stages": ["tune"]}
    align, tune = planned(make_recipe(*stages, data=str(seen.parent / "trained.json"), validation=validation), tmp_path)
    assert len(images(align.held_out.samples[:])) >= 8  # a stage without validation holds out its own
    assert not images(align.held_out.samples[:]) & (images(align.samples[:]) | images(tune.samples[:]))
    assert len(tune.held_out.samples) >= 20
    assert not images(tune.held_out.samples[:]) & (images(align.samples[:]) | images(tune.samples[:]))


def test_an_image_that_was_removed_meanwhile_is_left_out(
    make_recipe: MakeRecipe, seen: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The stage is trained, and keeps its checkpoint."""
    recipe = make_recipe({**TUNE, "steps": 1, "save_every": None}, data=str(seen))
    (stage,) = planned(recipe, tmp_path)
    removed = stage.held_out.samples[0].images[0]
    torch.set_num_threads(1)

    def remove(message: str) -> None:
        if message.startswith("stage tune\n"):
            Path(str(removed.source)).unlink(missing_ok=True)

    run = Run(recipe, tmp_path / "run", progress=no_progress, hooks=Hooks(remove))
    run.start(resume=False)
    assert (
        run.blind_checks["tune"].samples <= len(stage.held_out.samples) - 2
    )  # its own, and that which it is wrong for
    assert "not measured by the blind check" in caplog.text
    assert len(checkpoints_of(tmp_path / "run")) == 1


def test_forms_replace_and_remove_images() -> None:
    def sample(name: str, *shown: str) -> Sample:
        parts = (*(ImageRef(Path(image)) for image in shown), "What?")
        return Sample(name, (Message("user", parts), Message("assistant", ("red",))))

    samples = [sample("a", "1.png"), sample("b", "2.png", "3.png"), sample("c", "1.png")]
    wrong = wrong_images(samples)
    assert wrong.keys() == {"1.png", "2.png", "3.png"}
    assert all(str(image.source) != path for path, image in wrong.items())
    assert len({str(image.source) for image in wrong.values()}) == 3
    own, other, none = forms(samples[1], wrong)
    assert own == samples[1]
    assert [image.source for image in other.images] == [wrong["2.png"].source, wrong["3.png"].source]
    assert other.messages[0].text == none.messages[0].text == "What?"
    assert not none.images


def test_the_interval_is_bootstrapped_by_image() -> None:
    """Ten samples of one image tell less than ten samples of ten images."""
    rng = np.random.default_rng(0)
    losses = rng.normal(2.0, 0.1, 40)
    effect = np.repeat(rng.normal(0.3, 0.3, 4), 10)
    totals = np.stack([np.full(40, 5.0), 5 * losses, 5 * (losses + effect), 5 * (losses + 1)], 1)
    by_image = result_of([str(k // 10) for k in range(40)], totals)
    by_sample = result_of([str(k) for k in range(40)], totals)
    assert by_image is not None
    assert by_sample is not None
    assert by_image.gap.value == pytest.approx(by_sample.gap.value)
    assert by_image.gap.value == pytest.approx(effect.mean())
    assert by_image.gap.high - by_image.gap.low > 1.5 * (by_sample.gap.high - by_sample.gap.low)
    assert by_image.gap_without_image.low == pytest.approx(1)
    assert (by_image.samples, by_image.images, by_image.tokens) == (40, 4, 200)
    assert result_of(["a"] * 40, totals) is None
    assert result_of([], np.zeros((0, 4))) is None
    assert result_of([str(k) for k in range(40)], np.zeros((40, 4))) is None


@pytest.mark.parametrize(
    ("gap", "blind"),
    [(Gap(0.07, 0.01, 0.13), True), (Gap(0.5, -0.1, 1.1), True), (Gap(0.5, 0.3, 0.7), False),
     (Gap(float("nan"), float("nan"), float("nan")), True)],
)  # fmt: skip
def test_a_gap_that_is_uncertain_or_negligible_is_blind(gap: Gap, blind: bool) -> None:
    check = BlindCheck(32, 32, 400, 2.68, 2.68 + gap.value, 3.58, gap, Gap(0.9, 0.7, 1.1))
    assert check.is_blind == blind
    assert ("hardly uses" in (check.warning or "")) == (blind and gap.low > 0)
    assert (check.warning is not None) == blind
    fields: dict[str, Any] = check.to_dict()
    assert fields["gap"].keys() == {"value", "low", "high"}

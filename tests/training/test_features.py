"""A frozen tower's features from disk: the same numbers as from pixels, found again, never of another tower."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from training_processes import Ranks, train_as_rank
from training_stages import ALIGN, LORA, TUNE, MakeRecipe, train

from vistune.errors import DataError, RecipeError
from vistune.progress import no_progress
from vistune.recipe import Recipe, dump, validate
from vistune.runs.folder import MetricsLog
from vistune.training import Hooks, Run


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VISTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def losses(rows: list[dict[str, Any]]) -> list[float]:
    return [row["loss"] for row in rows]


def told_by(recipe: Recipe, out: Path) -> list[str]:
    torch.set_num_threads(1)
    told: list[str] = []
    Run(recipe, out, progress=no_progress, hooks=Hooks(told.append)).start(resume=False)
    return [words for words in told if "features" in words]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_features_from_disk_give_the_losses_of_pixels(
    precision: str, make_recipe: MakeRecipe, tmp_path: Path, own_cache: Path
) -> None:
    runs = {}
    for wanted in ("off", "on"):
        steps = 4 if precision == "fp32" else 1  # a CPU without bf16 products is slow at them
        stages = [{**stage, "precision": precision, "cache_features": wanted, "steps": steps, "samples_per_step": 12}
                  for stage in (ALIGN, {**LORA, "save_every": None})]  # fmt: skip
        runs[wanted] = losses(train(make_recipe(*stages), tmp_path / wanted))
    assert runs["on"] == pytest.approx(runs["off"], rel=1e-5 if precision == "fp32" else 5e-3)
    (data,) = own_cache.glob("features/*/*.bin")
    assert data.stat().st_size == 4 * 4 * 32 * (4 if precision == "fp32" else 2)  # four, by their bytes


KINDS: dict[str, dict[str, Any]] = {
    "anyres": {"vision": "joint_clip", "image_mode": "anyres"},
    "joint": {"vision": "joint_clip", "space": "joint", "feature_tokens": "cls_patch"},
    "siglip": {"vision": "siglip"},
    "pooled": {"vision": "joint_clip", "projector": "pool2x2_mlp2x_gelu", "image_mode": "pad"},
    "naflex": {"vision": "naflex"},
    "naflex_pooled": {"vision": "naflex", "projector": "pool2x2_mlp2x_gelu"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture_is_kept(kind: str, towers: Path, tiny_backbones: Path, tmp_path: Path) -> None:
    """Tiles of several numbers, two pictures in a row, none in another."""
    listed = []
    for k, size in enumerate([(90, 40), (40, 90), (64, 64), (33, 20)]):
        Image.effect_noise(size, 60 + k).convert("RGB").save(tmp_path / f"{k}.png")
        shown = [f"{k}.png", "0.png"] if k == 1 else [f"{k}.png"]
        listed.append({"id": str(k), "image": shown, "conversations": turns("<image>" * len(shown) + "\nWhat?")})
    listed.append({"id": "none", "conversations": turns("Hello?")})
    (tmp_path / "data.json").write_text(json.dumps(listed))
    model = {**KINDS[kind], "vision": str(towers / KINDS[kind]["vision"]), "language": str(tiny_backbones / "language")}
    stage = {**TUNE, "steps": 4, "tokens_per_row": 512, "save_every": None}
    found = []
    for wanted in ("off", "on"):
        tree = {"model": model, "data": str(tmp_path / "data.json"), "stages": [{**stage, "cache_features": wanted}]}
        found.append(losses(train(validate(tree, "test"), tmp_path / wanted)))
    assert found[1] == pytest.approx(found[0], rel=1e-5)


def turns(question: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": "red"}]


def test_the_price_is_said_first_and_paid_once(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe({**ALIGN, "epochs": 3, "steps": None})
    (words,) = told_by(recipe, tmp_path / "one")
    assert "12 images read 36 times: 0.00 MB" in words
    assert told_by(recipe, tmp_path / "two") == []  # they are there
    assert losses(MetricsLog(tmp_path / "one" / "metrics.jsonl").read()) == losses(
        MetricsLog(tmp_path / "two" / "metrics.jsonl").read()
    )


def test_auto_keeps_nothing_where_pictures_are_read_once_or_the_tower_learns(
    make_recipe: MakeRecipe, tmp_path: Path, own_cache: Path
) -> None:
    train(make_recipe({**ALIGN, "epochs": 1, "steps": None}), tmp_path / "once")
    learn = {"projector": 1e-3, "vision": 1e-4}
    train(make_recipe({**TUNE, "learn": learn}), tmp_path / "learns")
    assert not (own_cache / "features").exists()
    with pytest.raises(RecipeError, match="cache_features is on, but the stage trains the vision tower"):
        train(make_recipe({**TUNE, "learn": learn, "cache_features": "on"}), tmp_path / "on")


def test_other_pictures_towers_and_modes_are_others(make_recipe: MakeRecipe, tmp_path: Path, own_cache: Path) -> None:
    """By their bytes, not by their names; a tower that has learnt is another one."""
    first = train(make_recipe(ALIGN), tmp_path / "first")
    data = make_recipe(ALIGN).data[0].file
    for path in data.parent.glob("*.png"):
        Image.effect_noise((32, 32), 80).convert("RGB").save(path)
    assert losses(train(make_recipe(ALIGN), tmp_path / "second")) != losses(first)
    assert len(list(own_cache.glob("features/*"))) == 1
    train(make_recipe({**ALIGN, "image_mode": "pad"}), tmp_path / "pad")
    assert len(list(own_cache.glob("features/*"))) == 2
    moved = {**TUNE, "learn": {"vision": 1e-2}, "save_every": None}
    train(make_recipe(moved, {**ALIGN, "template": "v1"}), tmp_path / "moved")
    assert len(list(own_cache.glob("features/*"))) == 3


def test_other_settings_of_a_tower_with_the_same_weights_are_another_one(
    make_recipe: MakeRecipe, tiny_backbones: Path, tmp_path: Path, own_cache: Path
) -> None:
    """Such as an activation function that a config has wrong, and that is mended."""
    kept = make_recipe({**ALIGN, "cache_features": "on"})
    first = losses(train(kept, tmp_path / "first"))
    vision = tmp_path / "vision"
    shutil.copytree(tiny_backbones / "vision", vision)
    config = json.loads((vision / "config.json").read_text())
    assert config["hidden_act"] == "quick_gelu"
    (vision / "config.json").write_text(json.dumps(config | {"hidden_act": "gelu_new", "layer_norm_eps": 0.1}))
    model = kept.model.model_copy(update={"vision": str(vision)})
    second = losses(train(kept.model_copy(update={"model": model}), tmp_path / "second"))
    assert second != first
    assert len(list(own_cache.glob("features/*"))) == 2


def test_no_bar_is_shown_where_nothing_is_to_be_done(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """And where two files hold one picture, the bar is full all the same."""
    bars: list[list[Any]] = []

    @contextmanager
    def progress(label: str, total: int) -> Iterator[Callable[..., None]]:
        bars.append([label, total, 0])

        def advance(count: int = 1, note: str = "", total: int | None = None, **event: object) -> None:
            bars[-1][2] += count

        yield advance

    for name in ("first", "second"):
        bars.clear()
        Run(make_recipe({**ALIGN, "cache_features": "on"}), tmp_path / name, progress=progress).start(resume=False)
        shown = [bar for bar in bars if bar[0] in ("read images", "cache features")]
        assert shown == ([["read images", 12, 12], ["cache features", 4, 4]] if name == "first" else [])


def test_a_picture_as_old_and_large_as_before_is_not_read_again_and_a_newer_one_is(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = make_recipe({**ALIGN, "cache_features": "on"})
    told_by(recipe, tmp_path / "first")
    image = tmp_path / "0.png"
    before, size = image.stat().st_mtime_ns, image.stat().st_size
    image.write_bytes(b"x" * size)  # no picture at all: reading it would say so
    os.utime(image, ns=(before, before))
    assert told_by(recipe, tmp_path / "second") == []
    image.touch()
    with pytest.raises(DataError, match=r"0\.png"):
        told_by(recipe, tmp_path / "third")


def test_features_that_no_run_has_used_for_long_are_removed(
    make_recipe: MakeRecipe, tmp_path: Path, own_cache: Path
) -> None:
    old, young = (own_cache / "features" / name for name in ("old", "young"))
    for folder, days in ((old, 31), (young, 29)):
        folder.mkdir(parents=True)
        (folder / "shard.bin").write_bytes(b"1")
        then = time.time() - days * 86400
        os.utime(folder, (then, then))
    said = told_by(make_recipe({**ALIGN, "cache_features": "on"}), tmp_path / "run")
    assert not old.exists()
    assert young.exists()
    assert any(str(old) in words for words in said)


def test_a_torn_shard_is_computed_again(make_recipe: MakeRecipe, tmp_path: Path, own_cache: Path) -> None:
    first = train(make_recipe(ALIGN), tmp_path / "first")
    (data,) = own_cache.glob("features/*/*.bin")
    data.write_bytes(data.read_bytes()[:100])
    assert losses(train(make_recipe(ALIGN), tmp_path / "again")) == losses(first)


def test_pictures_that_were_not_there_at_the_start_are_named(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    from vistune.training.features import Features
    from vistune.types import ImageRef

    run = Run(make_recipe(ALIGN), tmp_path, progress=no_progress)
    with pytest.raises(DataError, match=r"new\.png: its features are not in the cache"):
        Features(tmp_path, (4, 32), torch.float32)(ImageRef(tmp_path / "new.png"), run.processor.spec)


def test_two_processes_keep_a_part_each(make_recipe: MakeRecipe, tmp_path: Path, own_cache: Path) -> None:
    recipe = make_recipe({**ALIGN, "cache_features": "on"}, parallel="ddp")
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    assert Ranks(train_as_rank, tmp_path / "recipe.yaml", tmp_path / "two").ended() == [0, 0]
    assert len(list(own_cache.glob("features/*/*.bin"))) == 2
    alone = train(make_recipe({**ALIGN, "cache_features": "off"}), tmp_path / "alone")
    assert losses(MetricsLog(tmp_path / "two" / "metrics.jsonl").read()) == pytest.approx(losses(alone), rel=2e-5)

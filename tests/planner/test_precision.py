"""What `precision: auto` means: real passes are timed, their times decide, and the cache keeps them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vistune.planner.precision import (
    LEAST_SPEEDUP,
    cache_file,
    cached_timings,
    choose_precision,
    speedup_of,
)
from vistune.planner.precision_probe import HeadShape, LayerShape, Part, Timing, measure, parts_of
from vistune.planner.sizes import Load, RowSize, assumed_load, setup_of, sizes_of
from vistune.recipe import load_recipe

HEAD = HeadShape(width=16, vocabulary=32, trained=True)
LAYER = LayerShape(
    width=32,
    heads=4,
    key_heads=2,
    head_width=8,
    inner=48,
    gated=True,
    causal=True,
    trained=False,
    rank=4,
    backward=True,
    tokens=32,
    document=16,
)
TOWER = replace(LAYER, key_heads=4, gated=False, causal=False, rank=0, backward=False)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VISTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_every_kind_of_pass_is_timed_and_training_is_not_touched() -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    timings = measure([LAYER, replace(LAYER, trained=True, rank=0), TOWER, replace(TOWER, backward=True), HEAD])
    assert len(timings) == 5
    assert all(0 < seconds < 60 for timing in timings for seconds in (timing.fp32, timing.bf16))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_each_part_weighs_as_much_as_its_work() -> None:
    """Three passes of a part that is twice as fast, and one of a part that is half as fast: 4 seconds over 3.5."""
    parts = [Part(LAYER, 3), Part(HEAD, 1)]
    assert speedup_of(parts, [Timing(1.0, 0.5), Timing(1.0, 2.0)]) == pytest.approx(4 / 3.5)
    assert speedup_of(parts, [Timing(1.0, 1.0), Timing(1e-6, 1.0)]) < 1


def test_the_parts_of_a_stage_are_its_layers() -> None:
    recipe = load_recipe("llava-v1.5-7b-lora")
    sizes, spec = sizes_of(recipe.model)
    align, tune = (
        parts_of(sizes, setup_of(stage, bf16=False), assumed_load(stage, spec, 100), stage.tokens_per_row)
        for stage in recipe.stages
    )
    language, head, tower = (part.shape for part in tune)
    assert isinstance(language, LayerShape)
    assert isinstance(tower, LayerShape)
    assert (language.rank, language.trained, language.backward, language.causal) == (128, False, True, True)
    assert (language.head_width, language.document) == (128, 256)  # documents of 776 tokens, cut to a row of 256
    assert (tower.backward, tower.causal, tower.tokens % tower.document) == (False, False, 0)
    assert head == align[1].shape
    assert align[0].shape == replace(language, rank=0)
    full = Load(RowSize(2048, 3, 400), 1, 1, 2048.0, 0.0, 400.0, 3.0)
    (some, *_), (twice, *_) = (
        parts_of(sizes, setup_of(recipe.stages[1], bf16=False), replace(full, tokens=tokens), 2048)
        for tokens in (2048.0, 4096.0)
    )
    assert twice.passes == pytest.approx(2 * some.passes)


def test_a_measurement_is_kept_and_read() -> None:
    timings, remarks = cached_timings([LAYER, HEAD])
    assert remarks == ()
    assert cached_timings([LAYER, HEAD]) == (timings, ())
    cache_file([LAYER, HEAD]).write_text('{"seconds": [[2, 1], [3, 1]]}')
    assert cached_timings([LAYER, HEAD]) == ([Timing(2, 1), Timing(3, 1)], ())


def test_another_version_or_another_shape_is_measured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    file = cache_file([HEAD])
    assert cache_file([replace(HEAD, width=17)]) != file
    monkeypatch.setattr(torch, "__version__", "2.99.0")
    assert cache_file([HEAD]) != file
    cached_timings([HEAD])
    assert not file.exists()
    assert json.loads(cache_file([HEAD]).read_text())["of"]["torch"] == "2.99.0"


@pytest.mark.parametrize("content", ["{", "[]", '{"seconds": []}', '{"seconds": [[1, -1]]}', '{"seconds": [[1, NaN]]}'])
def test_a_broken_file_is_named_and_replaced(content: str) -> None:
    file = cache_file([HEAD])
    file.parent.mkdir(parents=True)
    file.write_text(content)
    timings, (remark,) = cached_timings([HEAD])
    assert str(file) in remark
    assert "measured again" in remark
    assert cached_timings([HEAD]) == (timings, ())


def test_a_cache_that_cannot_be_written_is_named(own_cache: Path) -> None:
    own_cache.write_text("a file, not a folder")
    timings, remarks = cached_timings([HEAD])
    assert len(timings) == 1
    assert "another run may choose another precision" in remarks[-1]


def test_bf16_is_chosen_from_fifteen_percent_on() -> None:
    recipe = load_recipe("smol")
    sizes, spec = sizes_of(recipe.model)
    stage = recipe.stages[1]
    load = assumed_load(stage, spec, 100)
    shapes = [part.shape for part in parts_of(sizes, setup_of(stage, bf16=False), load, stage.tokens_per_row)]
    file = cache_file(shapes)
    file.parent.mkdir(parents=True)
    for speedup, precision in ((LEAST_SPEEDUP + 0.01, "bf16"), (LEAST_SPEEDUP - 0.01, "fp32"), (0.6, "fp32")):
        file.write_text(json.dumps({"seconds": [[speedup, 1.0]] * len(shapes)}))
        choice = choose_precision(sizes, spec, stage, load, "cpu")
        assert choice.precision == precision
        assert choice.speedup == pytest.approx(speedup)
        assert choice.reason.startswith(f"precision {precision}: ")


def test_a_narrow_model_stays_in_fp32_unmeasured(own_cache: Path) -> None:
    recipe = load_recipe("quickstart")
    sizes, spec = sizes_of(recipe.model)
    choice = choose_precision(sizes, spec, recipe.stages[0], None, "cpu")
    assert (choice.precision, choice.speedup, choice.reason) == ("fp32", None, "")
    assert not own_cache.exists()


def test_the_quickstart_names_its_precision() -> None:
    assert [stage.precision for stage in load_recipe("quickstart").stages] == ["fp32", "fp32"]

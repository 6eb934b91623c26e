"""Trackers by name: what they are told is what metrics.jsonl holds."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from training_stages import ALIGN, TUNE, MakeRecipe, train

from vistune.errors import RecipeError
from vistune.training.tracking import TRACKERS, refuse_missing


def test_tensorboard_holds_what_metrics_hold(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows = train(make_recipe(ALIGN, TUNE, track="tensorboard"), tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    for stage in ("align", "tune"):
        for key in ("loss", "learning_rate", "mfu", "supervised_share"):
            wanted = [(row["step"], pytest.approx(row[key], rel=1e-5)) for row in rows if row["stage"] == stage]
            assert [(event.step, event.value) for event in events.Scalars(f"{stage}/{key}")] == wanted


def test_a_tracker_that_is_not_installed_is_named_before_anything_is_done(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    missing = [name for name in TRACKERS if find_spec(name) is None]
    if not missing:
        pytest.skip("all trackers are installed")
    with pytest.raises(RecipeError, match=rf"track: {missing[0]} is not installed. Fix: pip install {missing[0]}"):
        train(make_recipe(ALIGN, track=missing), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    refuse_missing(())

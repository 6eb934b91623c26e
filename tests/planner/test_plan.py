"""`plan`: rows are counted where data are on this machine, and the verb needs no network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from training_stages import MakeRecipe
from typer.testing import CliRunner

from vistune.api import dry_run, plan
from vistune.cli.app import app
from vistune.data.stages import plan_stages
from vistune.errors import RecipeError
from vistune.interop.load import recipe_processor
from vistune.planner.sizes import load_of
from vistune.progress import no_progress
from vistune.recipe import load_recipe

STAGE = {"name": "tune", "learn": {"projector": 1e-3, "language": 1e-3}, "steps": 3, "samples_per_step": 5,
         "tokens_per_row": 96}  # fmt: skip


def test_rows_are_counted_where_the_data_are_there(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(STAGE)
    (stage,) = plan(recipe).stages
    (dry,) = dry_run(recipe)
    assert (stage.steps, stage.assumed) == (dry.steps, "")
    (planned,), _ = plan_stages(recipe, recipe_processor(recipe), no_progress)
    load = load_of(planned)
    rows = [sum(planned.plan.lengths[k] for k in row) for step in planned.plan.steps for row in step]
    assert load.worst.tokens == max(rows)
    assert load.tokens == sum(rows)
    assert (load.samples, load.tiles) == (13, 12)  # an epoch: twelve pictures and a row of text


def test_plan_is_a_verb_that_needs_no_network(tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_text("gpus: {H100: 2.5}\nmodels: {teacher: {input: 1, output: 2}}\n")
    said = CliRunner().invoke(
        app,
        ["plan", "llava-v1.5-7b-lora", "--samples", "665298", "--prices", str(tmp_path / "prices.yaml"),
         "--teacher", "teacher", "--flops", "4e14", "--json"],
    )  # fmt: skip
    assert said.exit_code == 0, said.output
    found = json.loads(said.stdout)
    assert [stage["stage"] for stage in found["stages"]] == ["align", "tune"]
    assert found["stages"][1]["steps"] == 5198
    paid = {entry["device"]: entry["dollars"] for entry in found["stages"][1]["devices"]}
    hour = next(entry for entry in found["stages"][1]["devices"] if "H100" in entry["device"])
    assert paid[hour["device"]] == pytest.approx(hour["seconds"] / 3600 * 2.5)
    assert paid["this CPU"] is None
    assert found["teacher"]["dollars"] == pytest.approx(665_344 * (1000 * 1 + 250 * 2) / 1e6)
    shown = CliRunner().invoke(app, ["plan", "llava-v1.5-7b"])
    assert shown.exit_code == 0, shown.output
    assert "steps unknown (give --samples)" in shown.stdout
    devices = {line[:18].strip(): line[18:].split("  ") for line in shown.stdout.splitlines()}
    assert "does not fit" in devices["24 GB (RTX 4090)"]
    assert "fits" in devices["141 GB (H200)"]
    assert "\nGB " in CliRunner().invoke(app, ["plan", "llava-v1.5-7b", "--details"]).stdout
    known = CliRunner().invoke(app, ["plan", "quickstart", "--samples", "1000"])
    assert "\nthis CPU " in known.stdout
    assert "fits" in known.stdout
    assert "does not fit" not in known.stdout
    assert max(map(len, known.stdout.splitlines())) <= 80


@pytest.mark.parametrize("text", ["gpus: {H100: dear}", "gpus: [1]"])
def test_prices_that_are_none_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r"prices\.yaml: `gpus` must give dollars"):
        plan(load_recipe("quickstart"), prices=tmp_path / "prices.yaml")

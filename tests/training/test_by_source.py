"""A step's loss by data source: each file's kinds apart, and together the step's own loss."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from training_stages import ALIGN, TUNE, MakeRecipe, train

from vistune.data.samples import _short
from vistune.data.stages import plan_stages
from vistune.model import build, next_token_loss, read_spec
from vistune.processor import collate
from vistune.progress import no_progress
from vistune.training import Run


@pytest.fixture
def sources(data: Path) -> list[dict[str, str]]:
    """A file of captions, and one of two kinds."""
    rows = json.loads(data.read_text())
    other = data.with_name("other.json")
    turns = [
        {"from": "human", "value": "<image>\nTell me all."},
        {"from": "gpt", "value": "The circle is red. 빨간 원"},
    ]
    more = [{**row, "kind": ("detail", "reasoning")[k % 2], "conversations": turns} for k, row in enumerate(rows[:6])]
    other.write_text(json.dumps(more))
    return [{"file": str(data)}, {"file": str(other)}]


def test_each_source_has_its_loss_and_all_have_the_steps(
    make_recipe: MakeRecipe, sources: list[dict[str, str]], tmp_path: Path
) -> None:
    whole = {**TUNE, "epochs": 1, "samples_per_step": 32, "tokens_per_row": 200}
    del whole["steps"]
    lines = train(make_recipe({**ALIGN, "data": sources}, {**whole, "data": sources}), tmp_path / "run")
    folder = tmp_path.name
    names = {f"{folder}/data.json caption", f"{folder}/other.json detail", f"{folder}/other.json reasoning"}
    assert set(lines[-1]["by_source"]) == names
    for line in lines:
        parts = line["by_source"].values()
        assert sum(part["supervised_tokens"] for part in parts) == line["supervised_tokens"]
        together = sum(part["loss"] * part["supervised_tokens"] for part in parts) / line["supervised_tokens"]
        assert together == pytest.approx(line["loss"], rel=1e-5)
    told = lines[-1]["by_source"]  # three rows of each kind, whose answers are the same
    assert len({told[f"{folder}/other.json {kind}"]["supervised_tokens"] for kind in ("detail", "reasoning")}) == 1


def test_files_of_one_name_in_folders_of_one_name_are_two_sources(
    make_recipe: MakeRecipe, data: Path, tmp_path: Path
) -> None:
    files = [tmp_path / place / "mine" / "data.json" for place in ("a", "b")]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_text(data.read_text())
    sources = [{"file": str(file), "images": str(data.parent)} for file in files]
    (line,) = train(make_recipe({**ALIGN, "data": sources, "steps": 1, "samples_per_step": 26}), tmp_path / "run")
    assert set(line["by_source"]) == {f"{file} caption" for file in files}


def test_the_loss_of_every_token_is_that_of_its_document(
    make_recipe: MakeRecipe, sources: list[dict[str, str]], tmp_path: Path
) -> None:
    """A source's loss is the mean over its own documents, each taken alone."""
    recipe = make_recipe({**TUNE, "samples_per_step": 9, "steps": 1, "data": sources})
    run = Run(recipe, tmp_path / "other", progress=no_progress)
    ((item,), _) = plan_stages(recipe, run.processor, no_progress)
    lines = train(recipe, tmp_path / "run")

    model = build(recipe.model, read_spec(recipe.model), seed=recipe.seed)
    model.eval()
    sums: dict[str, list[float]] = {}
    for place in (place for row in item.plan.steps[0] for place in row):
        sample = item.samples[place]
        batch = collate([item.processor.encode(sample)])
        found = next_token_loss(model(batch), model.head, batch.labels, batch.starts)
        name = f"{tmp_path.name}/{Path(sample.origin.split(':')[0]).name} {sample.kind}"
        total = sums.setdefault(name, [0.0, 0])
        total[0] += found.tokens.sum().item()
        total[1] += found.count
    assert {name: pytest.approx(loss / count, rel=1e-4) for name, (loss, count) in sums.items()} == {
        name: part["loss"] for name, part in lines[0]["by_source"].items()
    }


def test_a_file_of_the_folder_at_hand_has_its_bare_name(tmp_path: Path) -> None:
    assert _short(Path("mine.json"), {Path("mine.json")}) == "mine.json"
    assert _short(tmp_path / "mine.json", {tmp_path / "mine.json"}) == f"{tmp_path.name}/mine.json"

"""Test that a checkpoint is complete or absent, whatever happens during a save; a damaged one is skipped by name."""

from __future__ import annotations

import json
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file, save_file
from training_disks import MAY_NOT_MOUNT, train_killed, train_on_a_small_disk
from training_processes import DEADLINE, in_child
from training_stages import ALIGN, LORA, TUNE, MakeRecipe, ask_to_stop, train, weights

from vistune.errors import CheckpointError, DiskError, Stopped
from vistune.files import read_json, write_json
from vistune.model import merge_adapters
from vistune.progress import no_progress
from vistune.recipe import Recipe, dump
from vistune.runs import checkpoint
from vistune.runs.folder import MetricsLog, checkpoints_of, find_model, newest_whole, prune
from vistune.training import Run, World
from vistune.training.checkpointing import Saver
from vistune.training.distributed.parallelism import take_on_first

BOTH = [{**ALIGN, "steps": 3, "save_every": 1}, {**LORA, "steps": 3, "save_every": 1}]


def losses(rows: list[dict[str, Any]]) -> list[str]:
    return [row["loss_hex"] for row in rows]


def kill_and_go_on(recipe: Recipe, root: Path, wanted: Path, number: int) -> bool:
    """A run killed at one point of its writing, then taken up again; False where it ended before that point."""
    out, path = root / f"killed-{number}", root / "recipe.yaml"
    path.write_text(dump(recipe))
    code = in_child(train_killed, path, out, number, False)
    assert code in (0, -signal.SIGKILL), f"exit {code} at point {number}"
    for saved in checkpoints_of(out):
        checkpoint.verify(saved)  # what has its name is whole
    begun = (out / "run.json").exists()
    assert losses(train(recipe, out, resume=begun)) == losses(train_rows(wanted))
    ours, theirs = (weights(checkpoints_of(run)[-1]) for run in (out, wanted))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not list((out / "checkpoints").glob(".*")), "what was cut off is swept"
    return code != 0


def train_rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_run_killed_while_it_saves_goes_on(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(*BOTH)
    train(recipe, tmp_path / "whole")
    for number in (40, 95, 150):
        assert kill_and_go_on(recipe, tmp_path, tmp_path / "whole", number)


@pytest.mark.soak
def test_a_run_killed_at_every_point_of_its_saving_goes_on(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Every opening, fsync, rename and removal among its checkpoints: the rehearsal, three of them, one pruned."""
    recipe = make_recipe({**LORA, "steps": 3, "save_every": 1}, keep_checkpoints=1)
    train(recipe, tmp_path / "whole")
    number = 1
    while kill_and_go_on(recipe, tmp_path, tmp_path / "whole", number):
        shutil.rmtree(tmp_path / f"killed-{number}")
        number += 1
    print(f"{number - 1} kill points")
    assert number > 60


@pytest.fixture
def run(make_recipe: MakeRecipe, tmp_path: Path) -> Path:
    """Checkpoints at steps 2 and 4 of a stage of full tuning that goes on."""
    train(make_recipe({**TUNE, "steps": 6}), tmp_path / "run")
    shutil.rmtree(checkpoints_of(tmp_path / "run")[-1])
    return tmp_path / "run"


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    changed = {
        "truncated": content[: len(content) // 2],
        "emptied": b"",
        "zeroed": bytes(len(content)),
        "flipped": content[:-1] + bytes([content[-1] ^ 1]),
    }
    if how == "deleted":
        path.unlink()
    else:
        path.write_bytes(changed[how])


def test_what_was_passed_over_outlives_nothing_that_is_whole(make_recipe: MakeRecipe, run: Path) -> None:
    """A damaged checkpoint of a later step is not among the newest that are kept, nor is it a stage's end."""
    newest = checkpoints_of(run)[-1]
    damage(newest / "parts.json", "truncated")
    recipe = make_recipe({**TUNE, "steps": 6}, keep_checkpoints=1)
    again = Run(recipe, run, progress=no_progress)
    ask_to_stop(again, "tune", 2)
    with pytest.raises(Stopped):
        again.start(resume=True)
    assert [path.name[-1] for path in checkpoints_of(run)] == ["3"]
    assert newest.with_name(f"{newest.name}.damaged").is_dir(), "for whoever wants to see what happened"
    assert [row["step"] for row in train(recipe, run, resume=True)] == list(range(6))


def test_every_damage_to_every_file_is_passed_over_by_name_and_refused_where_named(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older, newest = checkpoints_of(run)
    whole = tmp_path / "whole"
    shutil.copytree(newest, whole)
    files = [path.relative_to(newest) for path in sorted(newest.rglob("*")) if path.is_file()]
    assert {Path("state/state.pt"), Path("manifest.json"), Path("language/model.safetensors")} <= set(files)
    for name in files:
        for how in ("truncated", "emptied", "zeroed", "flipped", "deleted"):
            damage(newest / name, how)
            if name.name == "manifest.json" and how == "deleted":
                assert checkpoints_of(run) == [older]  # not committed: none at all
            else:
                caplog.clear()
                assert newest_whole(run) == older, f"{name} {how}"
                assert newest.name in caplog.text
                assert name.name in caplog.text
            with pytest.raises(CheckpointError, match=name.name.replace(".", r"\.")) as caught:
                checkpoint.load(newest)
            assert caught.value.exit_code == 2
            shutil.copy2(whole / name, newest / name)
    assert newest_whole(run) == newest


def test_a_file_of_another_run_and_a_newer_format_are_passed_over(
    run: Path, make_recipe: MakeRecipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older, newest = checkpoints_of(run)
    train(make_recipe({**TUNE, "steps": 4}, seed=1), tmp_path / "other")
    other = checkpoints_of(tmp_path / "other")[0]
    for name in ("projector.safetensors", "state/state.pt", "manifest.json"):
        mine = (newest / name).read_bytes()
        shutil.copy2(other / name, newest / name)
        assert newest_whole(run) == older
        (newest / name).write_bytes(mine)
    write_json(newest / "parts.json", {**read_json(newest / "parts.json"), "format": 99})
    checkpoint.write_manifest(newest)
    assert newest_whole(run) == older
    assert "has format 99" in caplog.text
    with pytest.raises(CheckpointError, match="has format 99"):
        checkpoint.load(newest)


def test_tensors_of_another_shape_are_refused_by_name(run: Path, make_recipe: MakeRecipe) -> None:
    newest = checkpoints_of(run)[-1]
    tensors = load_file(newest / "projector.safetensors")
    kept = {name: tensor.clone() for name, tensor in tensors.items()}
    save_file({name: t[:-1].clone() for name, t in tensors.items()}, newest / "projector.safetensors")
    checkpoint.write_manifest(newest)
    with pytest.raises(CheckpointError, match=r"projector\.safetensors"):
        train(make_recipe(TUNE), run, resume=True)
    save_file(kept, newest / "projector.safetensors")
    state = torch.load(newest / "state" / "state.pt", weights_only=True)
    state["optimizer"][0]["state"][0]["exp_avg"] = torch.zeros(3)
    torch.save(state, newest / "state" / "state.pt")
    checkpoint.write_manifest(newest)
    with pytest.raises(CheckpointError, match=r"state\.pt: its optimizer state does not fit"):
        train(make_recipe(TUNE), run, resume=True)


def saved(folder: Path, name: str, *, finished: bool = False, loss: float | None = None) -> Path:
    path = folder / "checkpoints" / name
    path.mkdir(parents=True)
    stage, _, step = name.split("-")
    measured = {} if loss is None else {"validation_loss": loss}
    extra = {"finished": finished, "stage": int(stage) - 1, "step": int(step), "measured": measured}
    write_json(path / "parts.json", {"format": checkpoint.FORMAT, "extra": extra})
    checkpoint.write_manifest(path)
    return path


def test_pruning_counts_and_removes_committed_checkpoints_of_this_run_alone(tmp_path: Path) -> None:
    run = tmp_path / "run"
    ends = saved(run, "1-align-000006", finished=True)
    mine = [saved(run, f"2-tune-{step:06d}") for step in (2, 4, 6)]
    torn = run / "checkpoints" / "2-tune-000008"
    torn.mkdir()
    foreign = run / "checkpoints" / "notes"
    foreign.mkdir()
    outside = saved(tmp_path / "elsewhere", "2-tune-000001")
    link = run / "checkpoints" / "2-tune-000001"
    link.symlink_to(outside)
    prune(run, keep=1)
    assert checkpoints_of(run) == [ends, mine[-1]]
    assert all(path.exists() for path in (torn, foreign, link, outside / "manifest.json"))


def test_the_best_of_a_stage_is_kept_and_is_the_runs_model(tmp_path: Path) -> None:
    losses = {2: 0.9, 4: 0.5, 6: 0.5, 8: 0.8, 10: 0.7, 12: None}
    mine = {step: saved(tmp_path, f"1-tune-{step:06d}", loss=loss) for step, loss in losses.items()}
    prune(tmp_path, keep=2)
    assert checkpoints_of(tmp_path) == [mine[6], mine[10], mine[12]]
    assert find_model(tmp_path) == mine[12]  # the stage goes on: its newest
    saved(tmp_path, "1-tune-000014", finished=True, loss=0.6)
    assert find_model(tmp_path) == mine[6]
    last = saved(tmp_path, "2-more-000001", finished=True)
    assert find_model(tmp_path) == last  # nothing was measured there


def test_a_save_that_cannot_be_is_said_before_the_first_step(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(DiskError, match="checkpoints"):
        train(make_recipe(ALIGN), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert read_json(tmp_path / "run" / "run.json")["status"] == "failed"


@pytest.mark.parametrize("grow", [True, False], ids=["room again", "full to the end"])
def test_a_full_disk_costs_checkpoints_and_not_the_run(make_recipe: MakeRecipe, tmp_path: Path, grow: bool) -> None:
    recipe = make_recipe({**TUNE, "steps": 20, "save_every": 4}, keep_checkpoints=20)
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    train(recipe, tmp_path / "whole")
    size = sum(f.stat().st_size for f in checkpoints_of(tmp_path / "whole")[0].rglob("*"))
    code = in_child(train_on_a_small_disk, tmp_path / "recipe.yaml", tmp_path / "run", f"{int(3.5 * size)}", grow)
    if code == MAY_NOT_MOUNT:
        pytest.skip("mounting needs root")
    rows = train_rows(tmp_path / "run")
    assert losses(rows) == losses(train_rows(tmp_path / "whole"))  # the run went on
    left = json.loads((tmp_path / "run" / "left.json").read_text())
    assert not [name for name in left if name.startswith(".")], "drafts are freed"
    told = read_json(tmp_path / "run" / "run.json")
    if grow:
        assert code == 0
        assert told["status"] == "finished"
        assert "1-tune-000020" in left
    else:
        assert code == 2
        assert told["status"] == "failed"
        assert "cannot be written: No space left on device" in told["reason"]
        assert left == ["1-tune-000004", "1-tune-000008", "1-tune-000012", "filler"]


def test_lines_wait_for_room_on_the_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    metrics = MetricsLog(tmp_path / "metrics.jsonl")
    metrics.log(step=0)
    lines = metrics.path.read_text()
    metrics.path.unlink()
    metrics.path.symlink_to("/dev/full")
    metrics.log(step=1)
    metrics.log(step=2)
    assert caplog.text.count("No space left on device") == 1
    with pytest.raises(DiskError, match="No space left on device"):
        metrics.settle()
    metrics.path.unlink()
    metrics.path.write_text(lines)
    metrics.log(step=3)
    assert [row["step"] for row in metrics.read()] == [0, 1, 2, 3]


def test_the_loop_goes_on_while_a_checkpoint_is_written() -> None:
    """And the next one waits for it; a failure is told once, and raised only where the last one matters."""
    failures: list[BaseException] = []
    saver = Saver(World(device="cuda"), failures.append)
    gate, order = threading.Event(), []

    def write(number: int) -> Callable[[], None]:
        def work() -> None:
            assert gate.wait(DEADLINE)
            order.append(number)
            if number == 1:
                raise DiskError("full", "make room")

        return work

    saver.begin(write(1))
    order.append(0)  # the loop, before the first is written
    gate.set()
    saver.begin(write(2))
    saver.finish()
    assert order == [0, 1, 2]
    assert [str(error) for error in failures] == ["full. Fix: make room"]
    saver.begin(write(1))
    with pytest.raises(DiskError, match="full"):
        saver.finish()


def test_on_a_gpu_a_checkpoint_takes_copies_also_of_what_is_on_the_cpu() -> None:
    steps = torch.tensor(1.0)  # AdamW counts its steps on the CPU
    taken, itself = take_on_first(World(device="cuda"))(steps), take_on_first(World(device="cpu"))(steps)
    steps += 1
    assert (float(taken), float(itself)) == (1.0, 2.0)


def test_on_a_cpu_the_loop_waits_for_a_checkpoint() -> None:
    """It is written from the tensors themselves, which the next step would change."""
    written: list[str] = []
    Saver(World(device="cpu"), pytest.fail).begin(lambda: written.append("checkpoint"))
    assert written == ["checkpoint"]


@pytest.mark.parametrize("resumed", [False, True])
def test_adapters_over_earlier_ones_name_the_weights_that_hold_these(
    resumed: bool, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    """PEFT alone, going by the adapters' own file, makes the model that we do, of no other checkpoint."""
    short = {**LORA, "steps": 2, "save_every": 1}
    recipe = make_recipe(short, {**short, "name": "again"})
    if resumed:
        run = Run(recipe, tmp_path / "run", progress=no_progress)
        ask_to_stop(run, "again", 0)
        with pytest.raises(Stopped):
            run.start(resume=False)
    train(recipe, tmp_path / "run", resume=resumed)
    last = checkpoints_of(tmp_path / "run")[-1]
    for earlier in checkpoints_of(tmp_path / "run")[:-1]:
        shutil.rmtree(earlier)
    by_peft = AutoPeftModelForCausalLM.from_pretrained(last / "adapter").merge_and_unload().state_dict()
    ours = merge_adapters(checkpoint.load(last)[0].language).state_dict()
    assert by_peft.keys() == ours.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(by_peft[name], tensor, msg=name)

"""A stage over shards shows every good row once an epoch, goes on to the same bits, and is the same for two."""

from __future__ import annotations

import io
import json
import random
import re
import resource
import signal
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from training_processes import Ranks, train_each_as_rank
from training_shards import STREAM, add, image, write_shard
from training_stages import MakeRecipe, assert_same_runs, start_process, train, wait_for_metrics, weights

from vistune import api
from vistune.cli.log import in_language
from vistune.data.shards import fetch_shard
from vistune.data.stages import plan_stages
from vistune.errors import CheckpointError, DataError, DiskError, RecipeError, TooManyRejects
from vistune.files import read_jsonl
from vistune.progress import no_progress
from vistune.recipe import Recipe, dump
from vistune.report.gather import report_run
from vistune.runs.folder import checkpoints_of
from vistune.runs.provenance import describe_provenance
from vistune.training import Hooks, Run, selftest


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(7):
        write_shard(folder / f"{number:05}.tar", number, 5 + number % 3)
    return folder


@pytest.fixture
def make(make_recipe: MakeRecipe, shards: Path) -> MakeRecipe:
    def of(**changes: Any) -> Recipe:
        stage = {**STREAM, "shards": str(shards / "*.tar"), **changes}
        return make_recipe({key: value for key, value in stage.items() if value is not None}, workers=1)

    return of


def order_of(run: Run, steps: int, share: tuple[int, int] = (0, 1)) -> list[list[tuple[int, tuple[str, ...]]]]:
    """(number of a row, ids of its samples), of each step."""
    from vistune.data import ShardLoader

    (planned,), _ = plan_stages(run.recipe, run.processor, no_progress)
    assert planned.stream is not None
    loader = ShardLoader(planned.stream, planned.processor, share=share, on_rejects=lambda rejects: None)
    found = []
    for _, batches in loader.steps():
        found.append([(batch.number, batch.ids) for batch in batches if batch.ids])
        if len(found) == steps:
            break
    return found


def test_a_lane_shows_its_shards_whole_one_after_another_and_all_lanes_together_all_of_them(
    make: MakeRecipe, tmp_path: Path
) -> None:
    run = Run(make(steps=40), tmp_path / "run", progress=no_progress)
    seen = [(number, name) for step in order_of(run, 40) for number, ids in step for name in ids]
    sizes = {f"{number:03}": 5 + number % 3 for number in range(7)}
    assert {name for _, name in seen} == {f"{shard}{k:03}" for shard, size in sizes.items() for k in range(size)}
    first: list[str] = []
    for lane, an_epoch in ((0, 3), (1, 2), (2, 2)):
        names, shards = [name for number, name in seen if number == lane], []
        while len(names) >= sizes[names[0][:3]]:
            shards.append(names[0][:3])
            own, names = names[: sizes[shards[-1]]], names[sizes[shards[-1]] :]
            assert sorted(own) == [f"{shards[-1]}{k:03}" for k in range(len(own))]
        assert len(shards) > an_epoch
        first += shards[:an_epoch]
    assert sorted(first) == sorted(sizes)  # an epoch: each shard in one lane, once


def test_two_processes_read_the_rows_of_one(make: MakeRecipe, tmp_path: Path) -> None:
    run = Run(make(), tmp_path / "run", progress=no_progress)
    alone = order_of(run, 9)
    both = [order_of(run, 9, (rank, 2)) for rank in range(2)]
    assert [sorted(one + other) for one, other in zip(*both, strict=True)] == alone


def test_a_killed_run_over_shards_goes_on_to_the_same_bits(make: MakeRecipe, tmp_path: Path) -> None:
    recipe = make()
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    whole = train(recipe, tmp_path / "whole")
    process = start_process(tmp_path / "recipe.yaml", tmp_path / "killed", "start")
    wait_for_metrics(tmp_path / "killed" / "metrics.jsonl", 5, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    resumed = train(recipe, tmp_path / "killed", resume=True)
    ran, wanted = ([(r["step"], r["tokens"], r["loss_hex"]) for r in rows] for rows in (resumed, whole))
    assert ran == wanted
    ours, theirs = (weights(checkpoints_of(tmp_path / run)[-1]) for run in ("killed", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert whole[-1]["loss"] < whole[0]["loss"]


def test_two_processes_learn_from_shards_what_one_learns(make: MakeRecipe, tmp_path: Path) -> None:
    train(make(), tmp_path / "one")
    runs = []
    for way in ("ddp", "fsdp"):
        path = tmp_path / f"{way}.yaml"
        path.write_text(dump(make().model_copy(update={"parallel": way})))
        runs.append((path, tmp_path / way))
    assert Ranks(train_each_as_rank, runs).ended() == [0, 0]
    for _, out in runs:
        assert_same_runs(out, tmp_path / "one")


def test_another_number_of_rows_a_step_and_other_shards_are_refused_at_resume(
    make: MakeRecipe, shards: Path, tmp_path: Path
) -> None:
    recipe = make().model_copy(update={"keep_checkpoints": 9})
    out = tmp_path / "run"
    train(recipe, out)
    for folder in checkpoints_of(out)[2:]:
        for file in sorted(folder.rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
        folder.rmdir()
    with pytest.raises(CheckpointError, match=r"tokens_per_step|rows_per_step"):
        train(make(tokens_per_step=2 * 96).model_copy(update={"keep_checkpoints": 9}), out, resume=True)
    for number in range(7):
        write_shard(shards / f"{number:05}.tar", number + 1, 6)
    with pytest.raises(DataError, match="differ from those that the run began with"):
        train(recipe, out, resume=True)


def test_other_pictures_are_other_lines(tmp_path: Path) -> None:
    """By which a resumed run knows the shard that it goes on in, whatever its words are."""
    made = []
    for name, color in (("a", "red"), ("b", "blue"), ("c", "red")):
        with tarfile.open(tmp_path / "one.tar", "w") as tar:
            add(tar, "0.png", image(color))
            add(tar, "0.txt", b"all of it")
        made.append(fetch_shard(str(tmp_path / "one.tar"), tmp_path / name).lines.read_text())
    assert made[0] == made[2] != made[1]


def test_bad_rows_and_pictures_are_set_aside_by_the_shards_own_name(
    make: MakeRecipe, shards: Path, tmp_path: Path
) -> None:
    with tarfile.open(shards / "00002.tar", "a") as tar:
        add(tar, "bad.png", b"no picture")
        add(tar, "bad.txt", b"a picture that cannot be read")
        add(tar, "worse.json", b'{"id": "worse"}')
    with pytest.raises(DataError, match=r"00002\.tar:(bad|worse)"):
        train(make(), tmp_path / "strict")
    lenient = make().model_copy(update={"on_bad_sample": "reject", "reject_limit": 0.5})
    train(lenient, tmp_path / "lenient")
    told = [row for _, row in read_jsonl(tmp_path / "lenient" / "rejects-0.jsonl")]
    assert {row["id"] for row in told} == {"bad", "worse"}
    assert all(row["origin"].startswith(str(shards / "00002.tar:")) for row in told)
    with pytest.raises(TooManyRejects, match="of shards rejected"):
        train(lenient.model_copy(update={"reject_limit": 0.01}), tmp_path / "few")


def test_a_picture_larger_than_any_is_not_read(shards: Path, tmp_path: Path) -> None:
    """A hostile .tar.gz may claim more than memory holds in a few kilobytes."""
    path = tmp_path / "bomb.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        info = tarfile.TarInfo("a.png")
        info.size = (1 << 28) + 1
        tar.addfile(info, Zeros())
    with pytest.raises(DataError, match=r"a\.png: too large \(268,435,457 bytes"):
        fetch_shard(str(path), tmp_path / "there")


class Zeros(io.RawIOBase):
    """Zeros without end."""

    def read(self, size: int = -1) -> bytes:
        return bytes(size)


def test_shards_come_through_fsspec_and_leave_nothing_behind(
    make: MakeRecipe, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    monkeypatch.setenv("VISTUNE_CACHE", str(tmp_path / "cache"))
    there = fsspec.filesystem("memory")
    for shard in shards.iterdir():
        there.pipe(f"/laion/{shard.name}", shard.read_bytes())
    for pattern in ("memory://laion/*.tar", "memory://laion/{00000..00006}.tar"):
        out = tmp_path / pattern[-8:-4]
        near, far = train(make(), tmp_path / f"near{out.name}"), train(make(shards=pattern), out)
        assert [row["loss_hex"] for row in far] == [row["loss_hex"] for row in near]
    assert list((tmp_path / "cache" / "shards").iterdir()) == []
    there.rm("/laion", recursive=True)


def test_a_shard_that_does_not_come_at_once_is_asked_for_again_whatever_its_library_raises(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiohttp's errors of a busy server or of an answer that breaks off are no OSErrors."""
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    class Busy(MemoryFileSystem):
        protocol = "busy"
        asked = 0

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return path.removeprefix("busy:/")

        def open(self, *given: Any, **named: Any) -> Any:
            Busy.asked += 1
            if Busy.asked < 4:
                raise RuntimeError("503, Service Unavailable")
            return super().open(*given, **named)

    monkeypatch.setattr("vistune.data.shards.WAITS", (0.0, 0.0, 0.0))
    fsspec.register_implementation("busy", Busy, clobber=True)
    content = (shards / "00000.tar").read_bytes()
    MemoryFileSystem().pipe("/there/a.tar", content)
    assert fetch_shard("busy://there/a.tar", tmp_path / "one").lines.is_file()
    Busy.asked = -9
    with pytest.raises(DataError, match=r"busy://there/a\.tar: cannot be fetched: RuntimeError: 503"):
        fetch_shard("busy://there/a.tar", tmp_path / "two")
    assert Busy.asked == -5
    MemoryFileSystem().rm("/there", recursive=True)


def test_parquet_shards_are_read_too(make: MakeRecipe, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    folder = tmp_path / "tables"
    folder.mkdir()
    for number in range(3):
        turns = [{"from": "human", "value": "<image>\nColour?"}, {"from": "gpt", "value": "blue"}]
        rows = [{"id": f"{number}-{k}", "image": {"bytes": image("blue")}, "conversations": turns} for k in range(4)]
        parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{number}.parquet")
    assert len(train(make(shards=str(folder / "*.parquet")), tmp_path / "run")) == 9


def test_plan_selftest_and_dry_run_read_the_first_shard(make: MakeRecipe, tmp_path: Path) -> None:
    recipe = make(steps=1000, save_every=None)
    (row,) = api.dry_run(recipe)
    assert row.shards == 7
    assert row.rows == 3000
    assert row.samples_of_first_shard in (5, 6, 7)
    (stage,) = api.plan(recipe).stages
    assert stage.steps == 1000
    assert stage.assumed == "rows as in the first shard"
    assert all(found.equal for found in selftest(Run(recipe, tmp_path / "selftest", progress=no_progress)))


def test_the_report_shows_no_rows_of_a_file_that_the_stage_did_not_read(make: MakeRecipe, tmp_path: Path) -> None:
    """The recipe names data as well, for stages without shards."""
    recipe = make(steps=2)
    assert "What colour?" in recipe.data[0].file.read_text()
    train(recipe, tmp_path / "run")
    page = report_run(tmp_path / "run").read_text()
    assert "align" in page
    assert "What colour?" not in page


def test_a_shard_is_brought_into_the_cache_and_never_into_a_small_temporary_folder(
    make: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "full"))
    recipe = make(steps=2)
    api.dry_run(recipe)
    api.plan(recipe)
    api.selftest(recipe)
    assert len(train(recipe, tmp_path / "run")) == 2


def test_a_history_says_where_the_shards_lie(make: MakeRecipe, shards: Path, tmp_path: Path) -> None:
    """Not that they are gone: their names are known, what they hold is not."""
    train(make(steps=2), tmp_path / "run")
    words = "\n".join(describe_provenance(api.why(tmp_path / "run")))
    assert f"data shards of align: {shards}/*.tar" in words
    assert "no longer there" not in words


def test_what_shards_need_is_said_of_the_recipe(make: MakeRecipe, shards: Path, tmp_path: Path) -> None:
    for changes, words in (
        ({"steps": None, "epochs": 1}, "needs `steps`"),
        ({"tokens_per_step": 100}, "a multiple of `tokens_per_row`"),
        ({"cache_features": "on"}, "cache_features"),
        ({"data": [str(shards)]}, "exclude each other"),
    ):
        with pytest.raises(RecipeError, match=words):
            make(**changes)
    for changes, words in (
        ({"tokens_per_step": 8 * 96}, "7 shards for 8 rows per step"),
        ({"shards": str(shards / "*.tgz")}, "names no shard"),
    ):
        with pytest.raises((RecipeError, DataError), match=words):
            train(make(**changes), tmp_path / "run")


def fetched(shard: Path, tmp_path: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in fetch_shard(str(shard), tmp_path / "copy").lines.read_text("utf-8").splitlines()
    ]


@pytest.mark.parametrize("damage", ["header", "cut"])
def test_a_shard_that_breaks_off_between_two_files_is_refused(shards: Path, tmp_path: Path, damage: str) -> None:
    """Python's tarfile takes both for the end, and gives the samples before."""
    shard = shards / "00000.tar"
    with tarfile.open(shard) as tar:
        at = tar.getmembers()[4].offset
    content = shard.read_bytes()
    shard.write_bytes(content[:at] if damage == "cut" else content[:at] + b"x" * 512 + content[at + 512 :])
    with pytest.raises(DataError, match=rf"00000\.tar: cannot be read as tar: breaks off at byte {at}"):
        fetched(shard, tmp_path)


def test_a_damaged_compressed_shard_is_named(tmp_path: Path) -> None:
    shard = tmp_path / "a.tar.gz"
    with tarfile.open(shard, "w:gz") as tar:
        add(tar, "a.png", random.Random(0).randbytes(100_000))
    content = bytearray(shard.read_bytes())
    content[20_000:90_000] = b"\xff" * 70_000
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.tar\.gz: cannot be read as tar"):
        fetched(shard, tmp_path)


def test_a_key_that_comes_twice_in_a_row_does_not_hide_a_sample(tmp_path: Path) -> None:
    shard = tmp_path / "a.tar"
    with tarfile.open(shard, "w") as tar:
        for caption in ("first", "second"):
            add(tar, "same.json", json.dumps({"caption": caption}).encode())
    with pytest.raises(DataError, match=r"a\.tar:same\.json: the archive contains two files of this name"):
        fetched(shard, tmp_path)


def test_the_rows_own_caption_stands_before_the_text_file(tmp_path: Path) -> None:
    shard = tmp_path / "a.tar"
    with tarfile.open(shard, "w") as tar:
        add(tar, "a.json", b'{"caption": "of the row"}')
        add(tar, "a.txt", b"of the file")
    assert fetched(shard, tmp_path)[0]["conversations"][1]["value"] == "of the row"


@pytest.mark.parametrize("mode", ["w", "w:gz"])  # the copy has no room, or only the pictures in it
def test_a_full_disk_is_no_fault_of_the_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setattr("vistune.data.shards.WAITS", ())
    shard = tmp_path / ("a.tar.gz" if mode == "w:gz" else "a.tar")
    with tarfile.open(shard, mode) as tar:  # type: ignore[call-overload]
        add(tar, "a.png", bytes(200_000))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(DiskError, match="cannot be written: File too large"):
            fetched(shard, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_fields_of_shards_that_nothing_reads_are_told_once(make: MakeRecipe, shards: Path, tmp_path: Path) -> None:
    for number in range(7):
        with tarfile.open(shards / f"{number:05}.tar", "a") as tar:
            for k in range(3):
                add(tar, f"extra{k}.png", image("red"))
                add(tar, f"extra{k}.json", json.dumps({"caption": "all of it is red", "similarity": 0.3}).encode())
    told: list[str] = []
    run = Run(make(), tmp_path / "run", progress=no_progress, hooks=Hooks(told.append, None))
    run.start(resume=False)
    [line] = [words for words in told if "similarity" in words]
    assert re.fullmatch(r'.*\.tar: field "similarity" is not read: 3 records; later shards are not counted', line)


def test_rejected_answers_of_pairs_in_shards_are_told_once(make: MakeRecipe, shards: Path, tmp_path: Path) -> None:
    pair = {"prompt": "What colour?", "chosen": "It is red.", "rejected": "It is blue."}
    for number in range(7):
        with tarfile.open(shards / f"{number:05}.tar", "a") as tar:
            add(tar, "pair.png", image("red"))
            add(tar, "pair.json", json.dumps(pair).encode())
    told: list[str] = []
    run = Run(
        make(tokens_per_row=128, tokens_per_step=384),
        tmp_path / "run",
        progress=no_progress,
        hooks=Hooks(told.append, None),
    )
    run.start(resume=False)
    [line] = [words for words in told if "preference pairs" in words]
    told_of = r".*\.tar: 1 preference pairs: only their chosen answers are trained on; later shards are not counted"
    assert re.fullmatch(told_of, line)
    assert "선택된 답변만 학습합니다. 이후 샤드는 세지 않습니다" in in_language(line, "ko")

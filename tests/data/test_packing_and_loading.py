"""The plan holds every sample once an epoch, no row overflows, and threads change nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vistune.data import Loader, PixelCache, Prefetch, SelectionRules, check, epoch_size, plan_epoch, plan_stage
from vistune.data.packing import epoch_samples, pack, shuffled
from vistune.errors import DataError
from vistune.model import read_spec
from vistune.processor import Processor, collate, load_tokenizer
from vistune.recipe import DataSource, Model
from vistune.types import IGNORE, ImageRef, Message, Sample

ORDER = [2, 1, 4, 0, 5, 7, 6, 3]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 20), st.integers(0, 5))
def test_every_epoch_holds_every_sample_once_and_no_row_overflows(lengths: list[int], per_step: int, seed: int) -> None:
    steps_an_epoch = -(-len(lengths) // per_step)
    arguments = {"samples_per_step": per_step, "tokens_per_row": 64, "steps": 2 * steps_an_epoch, "seed": seed}
    plan = plan_stage(lengths, **arguments)
    assert plan == plan_stage(lengths, **arguments)
    epochs = (plan.steps[:steps_an_epoch], plan.steps[steps_an_epoch:])
    for number, epoch in enumerate(epochs):
        alone = plan_epoch(lengths, samples_per_step=per_step, tokens_per_row=64, seed=seed, epoch=number)
        assert tuple(alone) == epoch
        assert sorted(k for step in epoch for row in step for k in row) == list(range(len(lengths)))
    assert all(sum(lengths[k] for k in row) <= 64 for step in plan.steps for row in step)


def test_the_order_is_the_same_on_every_machine() -> None:
    assert shuffled(8, seed=3, epoch=1) == ORDER
    assert shuffled(8, seed=3, epoch=2) != ORDER


@given(st.lists(st.tuples(st.integers(1, 20), st.sampled_from([0.25, 0.5, 1.0, 2.0, 2.3])), min_size=1, max_size=4))
def test_a_source_comes_as_often_as_its_weight_says(mixture: list[tuple[int, float]]) -> None:
    epochs = [
        np.bincount(epoch_samples(mixture, seed=3, epoch=k), minlength=sum(n for n, _ in mixture)) for k in range(2)
    ]
    begin = 0
    for samples, weight in mixture:
        for times in epochs:
            mine = times[begin : begin + samples]
            assert set(mine) <= {int(weight), int(weight) + 1}
            assert mine.sum() == int(weight) * samples + round((weight % 1) * samples)
        begin += samples
    assert epochs[0].sum() == epoch_size(mixture)


def test_a_part_of_a_source_is_another_one_each_epoch_and_all_of_it_is_the_plain_order() -> None:
    halves = [set(epoch_samples([(40, 0.5)], seed=0, epoch=epoch).tolist()) for epoch in range(3)]
    assert [len(half) for half in halves] == [20, 20, 20]
    assert len(set(map(frozenset, halves))) == 3
    sizes = {"samples_per_step": 4, "tokens_per_row": 64, "seed": 1, "epoch": 2}
    lengths = [5] * 30
    assert list(plan_epoch(lengths, **sizes, mixture=[(10, 1.0), (20, 1.0)])) == list(plan_epoch(lengths, **sizes))


@given(st.lists(st.integers(1, 64), min_size=1, max_size=40))
def test_packing_never_opens_a_row_that_an_earlier_one_had_room_for(lengths: list[int]) -> None:
    rows = pack(range(len(lengths)), lengths, 64)
    fills = sorted(sum(lengths[k] for k in row) for row in rows)
    assert len(fills) < 2 or fills[0] + fills[1] > 64


def test_weights_that_show_no_row_are_refused() -> None:
    with pytest.raises(DataError, match="the weights select none"):
        plan_stage([5, 6], samples_per_step=2, tokens_per_row=64, steps=3, seed=0, mixture=[(2, 0.1)])


def test_no_plan_holds_a_sample_longer_than_a_row() -> None:
    with pytest.raises(ValueError, match="65 tokens"):
        plan_stage([5, 65], samples_per_step=2, tokens_per_row=64, steps=1, seed=0)


@pytest.fixture
def processor(tiny_backbones: Path) -> Processor:
    recipe = Model(vision=str(tiny_backbones / "vision"), language=str(tiny_backbones / "language"))
    return Processor(load_tokenizer(tiny_backbones / "language"), read_spec(recipe))


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    made = []
    for k in range(9):
        Image.new("RGB", (40, 32), (20 * k, 100, 50)).save(tmp_path / f"{k}.png")
        asked = (ImageRef(tmp_path / f"{k}.png"), "What?") if k % 3 else ("What?",)
        made.append(
            Sample(str(k), (Message("user", asked), Message("assistant", ("red " * (k + 1),))), origin=f"d:{k}")
        )
    return made


def test_collate_marks_documents_and_counts_what_is_learnt(processor: Processor, samples: list[Sample]) -> None:
    examples = [processor.encode(sample) for sample in samples[:3]]
    batch = collate(examples, ["0", "1", "2"])
    assert batch.starts.tolist() == [0, *torch.tensor([len(e) for e in examples]).cumsum(0).tolist()]
    assert batch.positions[batch.starts[:-1].long()].tolist() == [0, 0, 0]
    assert batch.supervised == sum(int((e.labels[1:] != IGNORE).sum()) for e in examples)
    assert batch.images.shape == (2, 3, 32, 32)
    assert collate(examples[:1], ["0"]).images.shape == (1, 3, 32, 32)  # the blank tile of a text-only row


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(processor: Processor, samples: list[Sample], workers: int) -> None:
    lengths = [processor.length(sample) for sample in samples]
    plan = plan_stage(lengths, samples_per_step=4, tokens_per_row=300, steps=7, seed=1)
    inline = list(Loader(samples, processor, plan).steps(start=2))
    ahead = list(Loader(samples, processor, plan, prefetch=Prefetch(workers)).steps(start=2))
    assert [number for number, _ in inline] == [2, 3, 4, 5, 6]
    for (step, rows), (other, others) in zip(inline, ahead, strict=True):
        assert step == other
        for a, b in zip(rows, others, strict=True):
            assert torch.equal(a.input_ids, b.input_ids)
            assert torch.equal(a.images, b.images)
            assert a.ids == b.ids


def test_a_picture_that_broke_since_names_its_sample(
    processor: Processor, samples: list[Sample], tmp_path: Path
) -> None:
    (tmp_path / "1.png").write_bytes(b"no picture")
    plan = plan_stage([9] * 9, samples_per_step=9, tokens_per_row=300, steps=1, seed=1)
    with pytest.raises(DataError, match=r"d:1: sample '1': .*1\.png"):
        list(Loader(samples, processor, plan).steps())


def test_a_run_that_stops_early_ends_its_threads(processor: Processor, samples: list[Sample]) -> None:
    plan = plan_stage([9] * 9, samples_per_step=1, tokens_per_row=300, steps=40, seed=1)
    before = threading.active_count()
    steps = Loader(samples, processor, plan, prefetch=Prefetch(2)).steps()
    next(steps)
    assert threading.active_count() > before
    steps.close()
    assert threading.active_count() == before


def test_small_pictures_are_decoded_once_within_the_bytes_allowed(processor: Processor, samples: list[Sample]) -> None:
    tile = 3 * 32 * 32
    plan = plan_stage([9] * 9, samples_per_step=9, tokens_per_row=300, steps=2, seed=1)
    whole, narrow = PixelCache(), PixelCache(2 * tile)
    wanted, given = (list(Loader(samples, processor, plan, pixels=cache).steps()) for cache in (whole, narrow))
    assert (len(whole.tiles), whole.bytes) == (6, 6 * tile)
    assert (len(narrow.tiles), narrow.bytes) == (2, 2 * tile)
    for (_, rows), (_, others) in zip(wanted, given, strict=True):
        assert all(torch.equal(a.images, b.images) for a, b in zip(rows, others, strict=True))


def test_check_names_what_is_too_long_and_reads_on_past_a_broken_file(processor: Processor, tmp_path: Path) -> None:
    Image.new("RGB", (40, 32)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:-20])
    rows = []
    for name, answer in (("short", "red"), ("long", "red " * 100)):
        turns = [{"from": "human", "value": "<image>\n?"}, {"from": "gpt", "value": answer}]
        rows.append({"id": name, "image": "cut.png", "conversations": turns})
    (tmp_path / "d.json").write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]")
    (tmp_path / "broken.json").write_text("[{")
    sources = [DataSource(file=tmp_path / name) for name in ("gone.json", "broken.json", "d.json")]
    seen: list[tuple[str, int]] = []

    @contextmanager
    def progress(label: str, total: int) -> Iterator[Callable[..., None]]:
        yield lambda count, total=None: seen.extend([(label, count)] * count)

    report = check(sources, processor, lambda _: [SelectionRules(tokens_per_row=150)], progress=progress)
    found = [(fault.id, fault.reason) for fault in report.faults]
    assert found == [("", "bad_file"), ("", "bad_file"), ("long", "too_long"), ("short", "bad_picture")]
    assert "do not fit a row of 150" in report.faults[2].detail
    assert "1 more" in report.faults[3].detail
    assert seen == [("encode", 1), ("encode", 1), ("open images", 1)]


def test_check_gathers_every_fault_with_its_place(processor: Processor, tmp_path: Path) -> None:
    rows = []
    for name in ("good.png", "cut.png", "text.png"):
        Image.new("RGB", (40, 32)).save(tmp_path / name)
        turns = [{"from": "human", "value": "<image>\n?"}, {"from": "gpt", "value": "red"}]
        rows.append({"id": name, "image": name, "kind": "caption", "conversations": turns})
    data = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) - 20])
    (tmp_path / "text.png").write_text("<html>not found</html>")
    rows.append({"id": "bad", "conversations": []})
    (tmp_path / "d.json").write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]")
    report = check([DataSource(file=tmp_path / "d.json")], processor)
    assert sorted(fault.id for fault in report.faults) == ["bad", "cut.png", "text.png"]
    assert (report.rows, report.samples, report.images) == (4, 3, 3)
    assert report.learnt_tokens > 0
    assert all(":" in fault.origin for fault in report.faults)

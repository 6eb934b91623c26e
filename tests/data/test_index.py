"""A data file's index: the same rows, lengths and faults as reading it anew, kept only while nothing changed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vistune.data import SampleSequence, SelectionRules, check, index, select_records
from vistune.errors import DataError, RecipeError
from vistune.files import user_cache
from vistune.model import read_spec
from vistune.processor import Processor, load_tokenizer
from vistune.recipe import DataSource, Model
from vistune.records import ImageFolders, read_sample
from vistune.types import Sample

SAID = ["red", "빨간 원이 있습니다", "two <s> dots", "é", "🐶 a dog", "none"]


@pytest.fixture(params=["square", "anyres", "naflex"])
def processor(tiny_backbones: Path, towers: Path, request: pytest.FixtureRequest) -> Processor:
    vision = towers / "naflex" if request.param == "naflex" else tiny_backbones / "vision"
    model = Model(vision=str(vision), language=str(tiny_backbones / "language"), image_mode=request.param)
    return Processor(load_tokenizer(tiny_backbones / "language"), read_spec(model))


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISTUNE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, object]]:
    made: list[dict[str, object]] = []
    for k, said in enumerate(SAID):
        Image.new("RGB", (30 + 40 * k, 50)).save(tmp_path / f"{k}.png")
        turns = [{"from": "human", "value": "<image>\n무엇인가요?"}, {"from": "gpt", "value": said}]
        made.append(
            {"id": f"r{k}", "image": f"{k}.png", "kind": "caption" if k % 2 else "detail", "conversations": turns}
        )
    del made[5]["image"]
    made[5]["conversations"] = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "none"}]
    return made


def as_list(rows: list[dict[str, object]]) -> str:
    return "[\n" + " ,\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "]\n"


def as_one_line(rows: list[dict[str, object]]) -> str:
    return json.dumps(rows, ensure_ascii=False)


def as_windows_has_it(rows: list[dict[str, object]]) -> str:
    return json.dumps(rows, ensure_ascii=False, indent=1).replace("\n", "\r\n")


def as_lines(rows: list[dict[str, object]]) -> str:
    return "\n\n".join(json.dumps(row, ensure_ascii=False) + " " for row in rows)


def as_windows_lines(rows: list[dict[str, object]]) -> str:
    return "\r\n".join(json.dumps(row) for row in rows) + "\r\n"


def places(path: Path, written: str) -> list[str]:
    """Where each row must be said to lie, found by its id alone."""
    found: list[str] = []
    lines: list[int] = []
    for k in range(len(SAID)):
        lines.append(1 + written[: written.index(f'"id": "r{k}"')].rpartition("{")[0].count("\n"))
        found.append(f"{path}:{lines[k]}[{k}]" if lines[k] in lines[:k] else f"{path}:{lines[k]}")
    return found


@contextmanager
def counting(encoded: list[int]) -> Iterator[Callable[..., None]]:
    yield lambda count, total=None: encoded.extend([count] * count)


def built(path: Path, processor: Processor) -> tuple[list[Sample], list[int], int]:
    """Samples and lengths by the index, and how many rows had to be encoded for it."""
    encoded: list[int] = []
    made = index(path, [path.parent], processor, progress=lambda label, total: counting(encoded))
    assert not made.faults
    picked = SampleSequence([(made, made.of_kind(None))])
    return list(picked), made.lengths.tolist(), len(encoded)


@pytest.mark.parametrize("written", [as_list, as_one_line, as_windows_has_it, as_lines, as_windows_lines])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_rows_read_by_their_place_are_the_rows_of_the_file(
    tmp_path: Path, processor: Processor, rows: list[dict[str, object]], written: Callable[..., str], mark: str
) -> None:
    path = tmp_path / "data.json"
    path.write_bytes((mark + written(rows)).encode())
    images = ImageFolders([tmp_path])
    at = places(path, written(rows))
    wanted = [read_sample(row, place, images, Counter()) for row, place in zip(rows, at, strict=True)]
    lengths = [processor.length(sample) for sample in wanted]
    assert built(path, processor) == (wanted, lengths, len(rows))
    assert built(path, processor) == (wanted, lengths, 0)  # out of the cache


def test_another_file_template_or_missing_picture_is_noticed(
    tmp_path: Path, processor: Processor, rows: list[dict[str, object]]
) -> None:
    path = tmp_path / "data.json"
    path.write_text(as_list(rows), encoding="utf-8")
    assert built(path, processor)[2] == 6
    _, lengths, encoded = built(path, processor.with_template("llava_llama_2"))
    assert encoded == 6
    assert lengths != built(path, processor)[1]
    moved = tmp_path / "elsewhere" / "copy.json"
    moved.parent.mkdir()
    for image in tmp_path.glob("*.png"):
        (moved.parent / image.name).write_bytes(image.read_bytes())
    moved.write_text(as_list(rows), encoding="utf-8")
    samples, _, encoded = built(moved, processor)  # the same bytes: nothing is encoded again
    assert encoded == 0
    assert samples[0].images[0].source == moved.parent / "0.png"
    (tmp_path / "2.png").unlink()
    made = index(path, [tmp_path], processor)
    assert [fault.reject.id for fault in made.faults] == ["r2"]
    rows[0]["id"] = "changed"
    path.write_text(as_list(rows[:2]), encoding="utf-8")
    assert built(path, processor)[2] == 2


def test_a_damaged_cache_costs_time_only(tmp_path: Path, processor: Processor, rows: list[dict[str, object]]) -> None:
    path = tmp_path / "data.json"
    path.write_text(as_list(rows), encoding="utf-8")
    first = built(path, processor)
    (kept,) = (user_cache() / "index").iterdir()
    for length in (0, 100, kept.stat().st_size - 1):
        kept.write_bytes(kept.read_bytes()[:length])
        assert built(path, processor) == first
        assert built(path, processor)[2] == 0


def test_a_picture_damaged_since_is_a_fault_of_its_row_where_its_size_counts(
    tmp_path: Path, processor: Processor, rows: list[dict[str, object]]
) -> None:
    path = tmp_path / "data.json"
    path.write_text(as_list(rows), encoding="utf-8")
    built(path, processor)
    (tmp_path / "3.png").write_bytes(b"no picture")
    faults = index(path, [tmp_path], processor).faults
    assert [fault.reject.id for fault in faults] == (["r3"] if processor.spec.slots_vary else [])


def test_tokens_are_checked_without_pictures_only_where_none_is_needed(
    tmp_path: Path, processor: Processor, rows: list[dict[str, object]]
) -> None:
    path = tmp_path / "data.json"
    path.write_text(as_list(rows), encoding="utf-8")
    wanted = check([DataSource(file=path)], processor).tokens
    for image in tmp_path.glob("*.png"):
        image.unlink()
    if processor.spec.slots_vary:
        with pytest.raises(RecipeError, match="sizes of the images"):
            check([DataSource(file=path)], processor, images=False)
    else:
        report = check([DataSource(file=path)], processor, images=False)
        assert (report.tokens, report.faults) == (wanted, [])


def test_a_file_that_changed_during_the_run_is_named(
    tmp_path: Path, processor: Processor, rows: list[dict[str, object]]
) -> None:
    path = tmp_path / "data.json"
    path.write_text(as_list(rows), encoding="utf-8")
    made = index(path, [tmp_path], processor)
    path.write_text(as_list(rows[1:]), encoding="utf-8")
    with pytest.raises(DataError, match=r"data.json:3: cannot be read again.*changed"):
        made.sample(1)
    path.write_text(as_list(rows).replace("red", "rot"), encoding="utf-8")
    with pytest.raises(DataError, match=r"data.json:2: cannot be read again.*changed"):
        made.sample(0)


@pytest.mark.parametrize("written", [as_list, as_one_line])
def test_a_choice_takes_kinds_then_the_first_rows(
    tmp_path: Path, processor: Processor, rows: list[dict[str, object]], written: Callable[..., str]
) -> None:
    path = tmp_path / "data.json"
    del rows[4]["kind"]
    rows[2]["conversations"] = []
    path.write_text(written(rows), encoding="utf-8")

    def chosen(**settings: object) -> tuple[list[str], list[str]]:
        kinds, longest = settings.pop("kinds", None), settings.pop("longest", None)
        source = DataSource(file=path, **settings)  # type: ignore[arg-type]
        made = select_records(source, processor, SelectionRules(kinds, longest))  # type: ignore[arg-type]
        return [s.id for s in SampleSequence([(made.index, made.records)])], [
            fault.reject.reason for fault in made.faults
        ]

    assert chosen() == (["r0", "r1", "r3", "r4", "r5"], ["bad_conversations"])
    assert chosen(kinds=("caption",)) == (["r1", "r3", "r5"], ["bad_kind"])
    assert chosen(kinds=("caption",), take=2) == (["r1", "r3"], [])
    assert chosen(take=3) == (["r0", "r1", "r3"], ["bad_conversations"])
    assert chosen(take=2) == (["r0", "r1"], [])
    assert chosen(take="last 2") == (["r4", "r5"], [])
    assert chosen(take="last 4") == (["r1", "r3", "r4", "r5"], ["bad_conversations"])
    assert chosen(kinds=("caption",), take=3) == (["r1", "r3", "r5"], ["bad_kind"])
    assert chosen(kinds=("detail",), take=1) == (["r0"], [])
    picked = chosen(take="random 3")[0]
    assert sorted(picked) == picked
    assert len(set(picked)) == 3
    assert picked == chosen(take="random 3")[0]
    short = select_records(DataSource(file=path, take="random 6"), processor)  # type: ignore[arg-type]
    assert len(short.records) == 5
    [remark] = short.remarks
    assert remark == f"{path}: `take: random 6` asks for more records than there are; all 5 are used"
    enough = select_records(DataSource(file=path, take="last 5"), processor)  # type: ignore[arg-type]
    assert not enough.remarks
    assert chosen(kinds=("detail",)) == (["r0"], ["bad_conversations", "bad_kind"])
    lengths = index(path, [tmp_path], processor).lengths
    longest = int(max(lengths))
    ids, reasons = chosen(longest=longest - 1)
    assert len(ids) == sum(length < longest for length in lengths)
    assert "too_long" in reasons
    path.write_text(as_list(rows[:2]), encoding="utf-8")
    with pytest.raises(DataError, match="no record of the kind reasoning; there are caption, detail"):
        select_records(DataSource(file=path, kinds=("reasoning",)), processor)


def test_the_pictures_that_rows_show_are_known_in_their_order_without_reading_them(tmp_path: Path) -> None:
    """Of two files that show some pictures both, some rows two pictures and some none, in any order and again."""
    for k in range(6):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{k}.png")
    parts = []
    for name, shown in (("one", [[0], [], [3, 1], [0, 4]]), ("two", [[5], [3], [], [1, 5, 2]])):
        rows = [
            {"id": str(k), "images": [f"{p}.png" for p in images],
             "messages": [{"role": "user", "content": "<image>" * len(images) + "What?"},
                          {"role": "assistant", "content": "red"}]}
            for k, images in enumerate(shown)
        ]  # fmt: skip
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        made = index(tmp_path / f"{name}.jsonl", [tmp_path], None)
        parts.append((made, made.of_kind(None)[::-1] if name == "two" else made.of_kind(None)))
    picked = SampleSequence(parts)
    for places in ([0, 1, 2, 3, 4, 5, 6, 7], [7, 2, 2, 4, 0], [1], [5, 6], []):
        sources = [str(image.source) for place in places for image in picked[place].images]
        count, images = picked.images_of(np.array(places, np.int64))
        assert count == len(sources)
        found = [str(folders.find(name, "", "").source) for folders, name in images]
        assert found == list(dict.fromkeys(sources))


def test_a_bar_whose_end_was_guessed_ends_full(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    """Rows are guessed from the first megabyte, behind which these are longer."""
    rows[5]["conversations"][1]["value"] = "none " * 400_000  # type: ignore[index]
    written = tmp_path / "rows.json"
    written.write_text(as_list(rows))
    ends: list[int] = []

    @contextmanager
    def progress(label: str, total: int) -> Iterator[Callable[..., None]]:
        ends.append(total)

        def advance(count: int = 1, note: str = "", total: int | None = None) -> None:
            ends.extend([] if total is None else [total])

        yield advance

    assert len(index(written, [tmp_path], None, progress=progress).lengths) == 6
    assert ends[0] != ends[-1] == 6

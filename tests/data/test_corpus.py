"""Every case of the bad-data corpus has its one outcome: what is refused, set aside, noted or read, and where."""

from __future__ import annotations

import os
import re
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from script_modules import load_script

from vistune.data import CheckReport, SelectionRules, check, index, select_records
from vistune.errors import DataError
from vistune.model import read_spec
from vistune.processor import Processor, load_tokenizer, open_image
from vistune.recipe import DataSource, Model
from vistune.types import ImageRef

MEGABYTE = 2**20

IMAGES = load_script("corpus_images").IMAGES
for name in ("corpus_recipes", "corpus_models", "corpus_requests"):
    load_script(name)
CORPUS = load_script("make_corpus")


@pytest.fixture(scope="module")
def processor(tiny_backbones: Path) -> Processor:
    model = Model(vision=str(tiny_backbones / "vision"), language=str(tiny_backbones / "language"))
    return Processor(load_tokenizer(tiny_backbones / "language"), read_spec(model))


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    """A pipe or a device that is read ends the test, not the session."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("hangs"))
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def written(name: str, folder: Path) -> Path:
    path: Path = CORPUS.CASES[name].write(folder)
    return path


def checked(path: Path, processor: Processor) -> CheckReport:
    return check([DataSource(file=path)], processor, lambda _: [SelectionRules(tokens_per_row=CORPUS.TOKENS_PER_ROW)])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Image size", "ignore:Truncated File Read")
@pytest.mark.parametrize("name", CORPUS.CASES)
def test_check_finds_it_with_its_place(name: str, processor: Processor, tmp_path: Path) -> None:
    case = CORPUS.CASES[name]
    report = checked(written(name, tmp_path), processor)
    mended = [text for text in report.warnings if text not in {note.reason for note in report.notes}]
    said = [*(note.detail for note in report.notes), *mended]
    if case.outcome in ("reject", "refuse"):
        assert report.faults
        assert all(re.search(case.words, fault.detail.replace("\n", " ")) for fault in report.faults[:1])
        assert (report.faults[0].reason == "bad_file") == (case.outcome == "refuse")
    else:
        assert not report.faults
        assert any(re.search(case.words, text) for text in said) or not case.words
        assert said or case.outcome == "ok"
    if case.outcome == "reject":
        assert f":{case.line}" in report.faults[0].origin
    if case.outcome == "ok":
        assert not report.notes
    assert report.samples == case.good


@pytest.mark.parametrize("name", CORPUS.ROWS)
def test_training_sets_the_same_rows_aside(name: str, processor: Processor, tmp_path: Path) -> None:
    """A run reads the file by the same rules: a fault ends it with exit code 2, or is one line of its rejects."""
    case, path = CORPUS.CASES[name], written(name, tmp_path)
    if case.outcome == "refuse":
        with pytest.raises(DataError, match=case.words) as caught:
            select_records(DataSource(file=path), processor, SelectionRules(tokens_per_row=CORPUS.TOKENS_PER_ROW))
        assert caught.value.exit_code == 2
        return
    chosen = select_records(DataSource(file=path), processor, SelectionRules(tokens_per_row=CORPUS.TOKENS_PER_ROW))
    assert bool(chosen.faults) == (case.outcome == "reject")
    assert all(fault.error.exit_code == 2 and fault.error.hint for fault in chosen.faults)
    assert (chosen.lengths <= CORPUS.TOKENS_PER_ROW).all()


def test_a_row_that_is_cut_is_learnt_as_far_as_its_notes_say(processor: Processor, tmp_path: Path) -> None:
    path = written("D27-cut", tmp_path)
    chosen = select_records(DataSource(file=path), processor, SelectionRules(tokens_per_row=CORPUS.TOKENS_PER_ROW))
    (note,) = chosen.notes
    samples = {sample.id: sample for sample in map(chosen.index.sample, chosen.records.tolist())}
    assert [message.text for message in samples["bad"].messages] == ["What colour?", "red"]
    assert note.reason == "cut_short"
    row = [chosen.index.sample(row).id for row in chosen.records.tolist()].index("bad")
    assert processor.length(samples["bad"]) == chosen.lengths[row]
    narrow = select_records(DataSource(file=path), processor)
    assert not narrow.notes
    assert max(narrow.lengths) > CORPUS.TOKENS_PER_ROW


def test_missing_pictures_are_summed_up_by_folder(processor: Processor, tmp_path: Path) -> None:
    report = checked(written("D31-missing", tmp_path), processor)
    assert report.missing == {f"part{k}": 7 - k for k in range(5)}
    assert len(report.faults) == sum(range(8))


def test_a_file_that_changes_while_it_is_used_is_noticed(processor: Processor, tmp_path: Path) -> None:
    """D33; that a resumed run refuses changed data is held in tests/training/test_resuming.py."""
    path = written("D33-changed", tmp_path)
    made = index(path, [tmp_path], processor)
    path.write_bytes(path.read_bytes().replace(b"red", b"tan"))
    with pytest.raises(DataError, match=r":1: cannot be read again .*Fix: the file changed"):
        made.sample(0)
    assert index(path, [tmp_path], processor).digest != made.digest


def grown(call: Callable[[], object]) -> int:
    """By how many bytes a child's most resident memory grows in a call, whatever the call says."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            call()
            after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            os.write(write, str((after - before) * 1024).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as told:
        said = told.read()
    os.waitpid(child, 0)
    return int(said)


def test_a_line_of_200_megabytes_is_not_held(processor: Processor, tmp_path: Path) -> None:
    path = written("D08-long-line", tmp_path)
    assert path.stat().st_size > 200 * MEGABYTE
    assert grown(lambda: index(path, [tmp_path], processor)) < 200 * MEGABYTE


def refused(image: ImageRef) -> None:
    with pytest.raises(DataError):
        open_image(image)


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize("name", [name for name, made in IMAGES.items() if made.megabytes < 200])
def test_a_trap_is_refused_before_it_is_decoded(name: str, tmp_path: Path) -> None:
    made = IMAGES[name]
    (tmp_path / made.file).write_bytes(made.content())
    assert grown(lambda: refused(ImageRef(tmp_path / made.file))) < made.megabytes * MEGABYTE


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("name", [name for name, made in IMAGES.items() if made.pixel is not None])
def test_what_is_read_is_shown_as_it_must_be(name: str, tmp_path: Path) -> None:
    made = IMAGES[name]
    (tmp_path / made.file).write_bytes(made.content())
    image = open_image(ImageRef(tmp_path / made.file))
    assert image.mode == "RGB"
    assert made.size is None or image.size == made.size
    assert np.abs(np.array(image.getpixel((0, 0))) - made.pixel).max() <= made.off


def test_the_script_writes_every_case(tmp_path: Path) -> None:
    CORPUS.main(tmp_path / "corpus")
    assert {path.name for path in (tmp_path / "corpus").iterdir() if "-outside" not in path.name} == {
        *CORPUS.CASES,
        "expected.json",
        "models",
        "recipes",
        "requests",
    }
    assert sum(path.lstat().st_blocks * 512 for path in tmp_path.rglob("*")) < 200 * MEGABYTE

"""A data set's page of whatever a file holds: written, or refused in words; no picture but what training reads."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from script_modules import load_script

from vistune.errors import DataError
from vistune.report import write_data_report
from vistune.report.comparison_pages import differences
from vistune.report.rendering import thumbnail

IMAGES = load_script("corpus_images").IMAGES
for name in ("corpus_recipes", "corpus_models", "corpus_requests"):
    load_script(name)
ROWS = load_script("make_corpus").ROWS


@pytest.mark.parametrize("name", [name for name in ROWS if not name.startswith("D08")])
def test_a_page_of_bad_rows_is_written_or_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    data = ROWS[name].write(tmp_path / "data")
    with suppress(DataError):
        page = write_data_report(data).read_text(encoding="utf-8")
        assert "<html" in page
        if name.startswith("D30"):
            assert page.count("data:image/jpeg") <= 2, "the good rows' picture, and none from outside"


@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Image size")
@pytest.mark.parametrize("name", IMAGES)
def test_only_what_training_reads_is_shown(name: str, tmp_path: Path) -> None:
    made = IMAGES[name]
    path = tmp_path / made.file
    path.write_bytes(made.content())
    shown = thumbnail(made.file, [path]).uri
    if made.outcome != "reject":
        assert shown is not None
    elif name.startswith(("I02", "I03", "I04", "I14", "I15", "I18")):
        assert shown is None


def test_an_empty_list_of_a_recipe_is_absent(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("data: []\ntrack: []\nseed: 1\n")
    (tmp_path / "b.yaml").write_text("data: [{file: x}]\nseed: 1\n")
    assert differences([tmp_path / "a.yaml", tmp_path / "b.yaml"]) == [("data.0.file", [None, "x"])]

"""Reports show what a folder holds, whole in one file, and never run what a model said."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from vistune.errors import DataError, RecipeError
from vistune.report import plots, write_data_report, write_run_report
from vistune.report.rendering import drawn_text, spread
from vistune.translations import catalogue, korean_texts

RUN_SECTIONS = ["result", "training", "answers", "mistakes", "descriptions", "cost", "run"]
DATA_SECTIONS = ["counts", "lengths", "question-types", "samples", "rejects"]


class Page(HTMLParser):
    """What a browser would build of a page: tags with attributes, and text by section."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.sections: dict[str, str] = {}
        self._section = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "section":
            self._section = str(dict(attrs)["id"])
            self.sections[self._section] = ""

    def handle_data(self, data: str) -> None:
        if self._section:
            self.sections[self._section] += data

    def values(self, tag: str, name: str) -> list[str | None]:
        return [attrs.get(name) for listed, attrs in self.tags if listed == tag]


def image_count(page: Page) -> int:
    return sum(str(source).startswith("data:image/jpeg;base64,") for source in page.values("img", "src"))


def test_a_run_report_has_every_section(run_folder: Path) -> None:
    path = write_run_report(run_folder)
    assert path == run_folder / "report.html"
    page = Page(path)
    assert list(page.sections) == RUN_SECTIONS
    result = page.sections["result"]
    assert "91.4 %" in result
    assert "+51.2" in result
    assert "the image helps" in result
    assert "81.3 – 87.3" in result  # the interval of unseen combinations
    training = " ".join(page.sections["training"].split())
    assert "steps120300" in training.replace(" ", "")
    assert "480,000" in training
    assert "6 min 12 s" in page.sections["cost"]
    assert "1,843 MB" in page.sections["cost"]
    assert "9f" * 32 in page.sections["run"]
    assert "name: align" in page.sections["run"]
    assert page.values("svg", "viewbox").count(None) == 0
    assert len(page.values("svg", "viewbox")) == 2 * 3 + 2  # loss, rate and speed of two stages; types, languages


def test_twenty_answers_half_of_them_wrong_in_both_languages(run_folder: Path) -> None:
    page = Page(write_run_report(run_folder))
    assert image_count(page) == 20 + 4 + 4
    answers = page.sections["answers"]
    assert answers.count("✓ right") == answers.count("✗ wrong") == 10
    assert answers.count("· English") == answers.count("· Korean") == 10


def test_few_wrong_answers_leave_room_for_more_right_ones(run_folder: Path) -> None:
    file = run_folder / "evals" / "scenes.predictions.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    kept = [row for row in rows if row["right"] or row["question_id"] in ("0", "5", "10")]
    file.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    answers = Page(write_run_report(run_folder)).sections["answers"]
    assert (answers.count("✓ right"), answers.count("✗ wrong")) == (17, 3)


def test_answers_of_an_earlier_stage_are_shown_only_where_there_are_no_later_ones(run_folder: Path) -> None:
    assert "what stage 1 said" not in Page(write_run_report(run_folder)).sections["answers"]
    (run_folder / "evals" / "scenes.predictions.jsonl").unlink()
    assert Page(write_run_report(run_folder)).sections["answers"].count("what stage 1 said") == 20


def test_a_run_that_was_moved_keeps_its_pictures(run_folder: Path) -> None:
    moved = run_folder.rename(run_folder.parent / "moved")
    assert image_count(Page(write_run_report(moved))) == 20 + 4 + 4


def test_what_a_model_said_is_text(run_folder: Path, data_folder: Path) -> None:
    for page in (Page(write_run_report(run_folder)), Page(write_data_report(data_folder))):
        assert "script" not in {tag for tag, _ in page.tags}
        assert "<script>alert(1)</script>" in "".join(page.sections.values())


@pytest.mark.parametrize("language", ["en", "ko"])
def test_nothing_is_loaded_from_outside(run_folder: Path, data_folder: Path, language: str) -> None:
    for path in (write_run_report(run_folder, language=language), write_data_report(data_folder, language=language)):
        for tag, attrs in Page(path).tags:
            assert tag not in ("link", "script", "iframe", "object")
            for name in ("src", "href", "xlink:href", "srcset"):
                assert (attrs.get(name) or "#").startswith(
                    ("#", "data:image/jpeg;base64,", "data:image/svg+xml;base64,")
                ), (tag, attrs)
        assert not re.search(r"url\((?!#)|@import", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("gone", ["run.json", "recipe.yaml", "metrics.jsonl", "summary.json", "evals"])
def test_a_missing_file_takes_its_section_only(run_folder: Path, gone: str) -> None:
    path = run_folder / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    lost = {
        "metrics.jsonl": {"training"},
        "summary.json": {"result", "cost"},
        "evals": {"answers", "mistakes", "descriptions"},
    }
    expected = [name for name in RUN_SECTIONS if name not in lost.get(gone, set())]
    assert list(Page(write_run_report(run_folder)).sections) == expected


def test_an_empty_folder_says_so(tmp_path: Path) -> None:
    assert "Nothing to show" in write_run_report(tmp_path).read_text(encoding="utf-8")
    assert "Nothing to show" in write_data_report(tmp_path).read_text(encoding="utf-8")


def test_no_folder_is_an_error_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        write_run_report(tmp_path / "nowhere")


def test_a_summary_of_one_condition_is_enough(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"accuracy": {"align": 0.5}, "by_type": {"colour": {"tune": 0.5}}}')
    assert "50.0 %" in Page(write_run_report(tmp_path)).sections["result"]


def test_missing_and_broken_pictures_become_boxes_with_their_names(run_folder: Path) -> None:
    images = sorted((run_folder / "world" / "heldout").iterdir())
    for image in images[::2]:
        image.unlink()
    for image in images[1::2]:
        image.write_bytes(b"no picture")
    page = Page(write_run_report(run_folder))
    assert image_count(page) == 0
    assert page.values("div", "class").count("missing") == 28
    assert ".jpg" in page.sections["answers"]


def test_a_run_that_diverged_or_still_writes_is_shown(run_folder: Path) -> None:
    file = run_folder / "metrics.jsonl"
    row = {"step": 300, "stage": "tune", "loss": float("nan"), "tokens": 1, "tokens_per_second": 1.0, "seconds": 1.0}
    with open(file, "a", encoding="utf-8") as metrics:
        metrics.write(json.dumps(row) + '\n{"step": 301, "sta')
    training = Page(write_run_report(run_folder)).sections["training"]
    assert "301" in training
    assert "not a number: 1" in training


def test_a_data_report_has_every_section(data_folder: Path) -> None:
    page = Page(write_data_report(data_folder))
    assert list(page.sections) == DATA_SECTIONS
    assert image_count(page) == 20
    assert "240" in page.sections["counts"]
    assert page.sections["samples"].count("caption · English") == 5  # four groups in turn
    assert "<image>" not in page.sections["samples"]
    assert re.search(r"too little is known about the image\s*7", page.sections["rejects"])
    assert "0-reasoning-en · 0.jpg" in page.sections["rejects"]
    assert len(page.values("svg", "viewbox")) == 2


def test_a_korean_page_speaks_korean(run_folder: Path, data_folder: Path) -> None:
    page = Page(write_run_report(run_folder, language="ko"))
    assert ("html", {"lang": "ko"}) in page.tags
    assert "이미지가 도움이 됩니다" in page.sections["result"]
    assert "이미지 없음" in page.sections["result"]
    assert page.sections["answers"].count("✗ 틀림") == 10
    assert "6분 12초" in page.sections["cost"]
    assert "이미지에 대한 정보 부족" in Page(write_data_report(data_folder, language="ko")).sections["rejects"]
    with pytest.raises(RecipeError, match="kr"):
        write_run_report(run_folder, language="kr")


def test_both_languages_name_the_same_things() -> None:
    labels = {language: catalogue("report/labels", language) for language in ("en", "ko")}
    assert labels["en"].keys() == labels["ko"].keys()
    assert labels["en"]["words"].keys() <= labels["ko"]["words"].keys()


def test_the_words_of_the_gap_are_the_scorers_own() -> None:
    scoring = pytest.importorskip("vistune.evaluation.results")
    for low, high in ((0.1, 0.2), (-0.2, -0.1), (-0.1, 0.1)):
        assert scoring.describe_gap(scoring.Estimate(0.0, low, high, 9)) in korean_texts()
    assert scoring.TOO_FEW_IMAGES in korean_texts()


def test_the_same_folder_writes_the_same_bytes(run_folder: Path) -> None:
    first = write_run_report(run_folder).read_bytes()
    assert write_run_report(run_folder).read_bytes() == first


def test_a_letter_without_a_shape_is_never_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    plots._letters.cache_clear()
    monkeypatch.setattr(plots, "fonts", lambda: ("DejaVu Sans",))
    try:
        assert plots.drawable("색", "colour") == "colour"
        assert plots.drawable("colour 1-2", "#1") == "colour 1-2"
        labels = catalogue("report/labels", "ko")
        assert drawn_text("without_image", labels, "#1") == "without image"
        assert drawn_text("사용자 유형", labels, "#3") == "#3"
        assert "fonts-nanum" in (plots.missing_font("ko") or "")
        assert plots.missing_font("en") is None
    finally:
        plots._letters.cache_clear()


def test_korean_is_drawn_as_letters_and_nothing_is_said_about_fonts() -> None:
    """The bold of some Hangul families goes by another weight, of which matplotlib warns at the first drawing."""
    if len(plots.fonts()) < 2:
        pytest.skip("no font with Korean letters is installed")
    drawing = (
        "from vistune.report import plots\n"
        "for title in ('길이의 분포', '깊이의 분포', '길이의 분포'):\n"
        "    print(hash(plots.histogram([3, 4, 5], title=title, axis='토큰', median='중앙값', limit=64)))\n"
    )
    done = subprocess.run([sys.executable, "-c", drawing], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    first, other, again = done.stdout.split()
    assert first == again
    assert first != other, "two letters look the same: both are the box of a letter without a shape"


def test_names_with_signs_of_markup_or_formulas_are_drawn_as_they_are() -> None:
    svg = plots.loss_panel([0, 1], [1.0, 0.5], title="$\\bad{ <b>--> </svg>", axis="step")
    assert svg.count("<svg") == svg.count("</svg>") == 1
    assert "<b>" not in svg


def test_smoothing_keeps_a_constant_to_its_edges_and_skips_what_is_no_number() -> None:
    assert plots.smooth([2.0] * 100).tolist() == [2.0] * 100
    assert plots.smooth([2.0] * 50 + [float("inf")] + [2.0] * 49).tolist() == [2.0] * 100


def test_a_choice_takes_every_group_in_turn() -> None:
    rows = [("en", n) for n in range(90)] + [("ko", n) for n in range(3)]
    chosen = spread(rows, 8, group=lambda row: row[0], seed=1)
    assert [name for name, _ in chosen].count("ko") == 3
    assert len(set(chosen)) == 8
    assert chosen == spread(rows, 8, group=lambda row: row[0], seed=1)
    assert len(spread(rows, 200, group=lambda row: row[0], seed=1)) == 93


def test_reporting_needs_no_torch() -> None:
    code = "import sys, vistune.report; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("data.json", '[{"id": "x", "conversations": []}, {"id": "y"}]', r"data\.json:1:conversations: "),
        ("data.jsonl", '{"id": "x", "messages": []}\n3\n', r"data\.jsonl:1:messages: "),
        ("data.json", '[{"conversations": [{"from": "gpt"}]}]', r"data\.json:1:conversations\[0\]"),
    ],
)
def test_a_row_without_a_conversation_is_named(tmp_path: Path, name: str, text: str, place: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=place):
        write_data_report(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]

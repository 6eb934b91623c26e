"""The comparison page in a real browser: legible in both languages, in light and dark mode, and on a phone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from releases import RELEASES

from vistune.evaluation import TASKS, AnsweredQuestion, EvaluationResult, compare
from vistune.evaluation.results import evaluation_result
from vistune.files import write_json, write_jsonl
from vistune.report import write_comparison

MODELS = ("runs-first-checkpoints-1-align-000080", "둘째-모델", "third")
QUESTIONS = (
    ("What colour is the star?\nAnswer the question using a single word or phrase.", "red", "blue <b>star</b>"),
    ("가장 왼쪽에 있는 별은 무슨 색인가요?\n한 단어나 구로 답하세요.", "빨간색", "파란색 " * 40 + "a" * 300),
)
CONTRASTS = r"""() => {
    const numbers = (color) => color.match(/[\d.]+/g).map(Number);
    const luminance = (color) => {
        const [r, g, b] = numbers(color).map((v) => v / 255).map(
            (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (node) => {
        const color = getComputedStyle(node).backgroundColor;
        return numbers(color)[3] === 0 ? ground(node.parentElement) : color;
    };
    const speaking = [...document.querySelectorAll("main *")].filter(
        (node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim()));
    return speaking.map((node) => {
        const [a, b] = [getComputedStyle(node).color, ground(node)].map(luminance).sort((x, y) => y - x);
        return [node.textContent.slice(0, 40), (a + 0.05) / (b + 0.05)];
    });
}"""
BROKEN = """() => [...document.querySelectorAll(".figures td, .figures th")].filter(
    (cell) => cell.scrollWidth > cell.clientWidth + 1).map((cell) => cell.textContent)"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models on questions in two languages, a task with published figures, and one that a server scores."""
    base = tmp_path_factory.mktemp("compared")
    rows = []
    for k in range(24):
        prompt, gold, _ = QUESTIONS[k % 2]
        image = Image.new("RGB", (160, 120), "white")
        ImageDraw.Draw(image).ellipse((4 * k, 20, 4 * k + 50, 70), fill="red")
        image.save(base / f"{k}.png")
        rows.append({"question_id": k, "text": prompt, "answer": gold, "image": f"{k}.png"})
    write_jsonl(base / "questions.jsonl", rows)
    for name in ("pope", "vizwiz"):
        (base / name).mkdir()
        RELEASES[name](base / name)
    found = {model: [said_by(number, base, name) for name in ("file", "pope", "vizwiz")]
             for number, model in enumerate(MODELS)}  # fmt: skip
    write_json(base / "comparison.json", compare(found).to_dict())
    return base


def said_by(number: int, base: Path, name: str) -> EvaluationResult:
    """The higher a model's number, the more of its answers are right, if it sees the image."""
    task = TASKS[name](base if name == "file" else base / name)
    rows = {}
    for condition in ("with_image", "without_image"):
        rows[condition] = []
        for k, question in enumerate(task.questions()):
            right = condition == "with_image" and k % 4 <= number
            text = question.answer if right else QUESTIONS[k % 2][2]
            rows[condition].append(AnsweredQuestion(question, condition, text, task.mark(question, text).points))
    return replace(evaluation_result(name, task, rows), model=f"models/{number}")


@contextmanager
def opened(chromium: Any, page: Path, *, width: int, scheme: str) -> Iterator[Any]:
    """In the end nothing may have been asked of anybody, and nothing gone wrong."""
    context = chromium.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    asked, faults = [], []
    try:
        tab = context.new_page()
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: faults.append(message.text))
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.goto(page.as_uri())
        yield tab
        if shots := os.environ.get("VISTUNE_SCREENSHOTS"):
            Path(shots).mkdir(parents=True, exist_ok=True)
            language = tab.locator("html").get_attribute("lang")
            tab.screenshot(path=Path(shots) / f"comparison-{language}-{width}-{scheme}.png", full_page=True)
        assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
        assert faults == []
    finally:
        context.close()


@pytest.mark.parametrize(("language", "scheme"), [("en", "light"), ("ko", "dark")])
def test_the_page_is_legible(chromium: Any, folder: Path, language: str, scheme: str) -> None:
    """No wider than the screen, no word over another, text stands out from its ground (WCAG 1.4.3: 4.5 to 1)."""
    page = write_comparison(folder, language=language)
    for width in (1180, 390):
        with opened(chromium, page, width=width, scheme=scheme) as tab:
            assert tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
            assert tab.evaluate(BROKEN) == []
            images = tab.locator("article img").evaluate_all("(all) => all.map((one) => one.naturalWidth)")
            assert images
            assert all(images)
            ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (int(ground.removeprefix("rgb(").split(",")[0]) > 128) == (scheme == "light")
            for text, contrast in tab.evaluate(CONTRASTS):
                assert contrast >= 4.5, text


def test_the_page_says_who_answers_what_better_and_what_papers_say(chromium: Any, folder: Path) -> None:
    with opened(chromium, write_comparison(folder), width=1180, scheme="light") as tab:
        overview = tab.locator("#overview").inner_text()
        assert "85.90" in overview
        assert "not scored yet" in overview
        assert "arXiv 2310.03744" in overview
        own = tab.locator("#task-file")
        assert own.locator("h3").all_inner_texts()[1] == f"third against {MODELS[0]}"
        assert "third is better: the interval is above zero" in own.inner_text()
        card = own.locator("article").first.inner_text()
        assert "Reference" in card
        assert "✓" in card
        assert "✗" in card
        assert "blue <b>star</b>" in own.inner_text()
        assert "models/0" in tab.locator("header").inner_text()
    with opened(chromium, write_comparison(folder, language="ko"), width=390, scheme="light") as tab:
        text = tab.locator("main").inner_text()
        assert "모델 비교" in text
        assert "third 대 둘째-모델" in text
        assert "차이(%p)" in text
        assert "이미지가 너무 적어 신뢰 구간을 구할 수 없습니다" in text  # the folder has fewer than ten images

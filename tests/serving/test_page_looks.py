"""The page as it looks and as it is reached: where an answer looked, two languages, two themes, a phone, a keyboard."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from pages import Opened, opened
from PIL import Image
from running_servers import Running, png, saying

from vistune.serving.api import static

ANSWER = "a red circle 그리고 파란 사각형"
LIGHT = """(canvas) => {
    const pen = canvas.getContext("2d");
    const rows = 2, columns = 2, size = canvas.width;
    return [0, 1, 2, 3].map((at) => {
        const x = (at % columns + 0.5) * size / columns, y = (Math.floor(at / columns) + 0.5) * size / rows;
        return 255 - pen.getImageData(x, y, 1, 1).data[3];
    });
}"""


@pytest.fixture
def tab(chromium: Any, served: Running) -> Iterator[Opened]:
    with opened(chromium, served) as made:
        yield made


def ask(tab: Opened, *images: tuple[str, bytes], count: int = 1) -> None:
    with saying(tab.found, ANSWER):
        tab.ask("What is it?", *images)
        tab.until_answered(count)


def test_hovering_a_word_leaves_its_patches_bright(tab: Opened) -> None:
    """As bright, in their order, as the API's weights of that word."""
    ask(tab, ("circle.png", png()), ("square.png", png(colour="blue")))
    with tab.page.expect_response("**/v1/looks") as response:
        tab("#turns .eye").click()
    found = response.value.json()
    tab(".words").wait_for()
    assert tab(".words").text_content() == ANSWER == "".join(found["words"])
    assert tab(".body").is_hidden()
    assert tab("#turns .eye").get_attribute("aria-expanded") == "true"
    seen = set()
    for number, word in enumerate(found["words"]):
        tab(".word").nth(number).hover()
        weights = [weight for image in found["pictures"] for weight in image["views"][0]["weights"][number]]
        light = [value for canvas in tab(".seen canvas").all() for value in canvas.evaluate(LIGHT)]
        assert max(light) == 255
        order = sorted(range(len(weights)), key=weights.__getitem__)
        assert [light[at] for at in order] == sorted(light)
        told = tab(".share").inner_text()
        assert told.startswith(f"“{word.strip()}”: {100 * sum(weights):.0f} %")
        # A quarter of the picture: its middle lies in the outer thirds.
        corner = ("top left", "top right", "bottom left", "bottom right")[order[-1] % 4]
        assert told.endswith(f"most of it in image {1 + order[-1] // 4} at the {corner}.")
        seen.add(tuple(light))
    assert len(seen) == len(found["words"]), "each word has an overlay of its own"
    tab.shot("where it looks")
    tab("#turns .eye").click()
    assert tab(".looks").count() == 0
    assert tab.said == [ANSWER]


def test_words_are_walked_through_by_keys(tab: Opened) -> None:
    ask(tab, ("circle.png", png()))
    tab("#turns .eye").focus()
    tab.page.keyboard.press("Enter")
    words = tab.page.get_by_role("listbox", name="Words of the answer")
    words.wait_for()
    assert tab(".share").inner_text().startswith("The whole answer: ")
    words.focus()
    for key, word in (("ArrowRight", "a"), ("ArrowRight", "red"), ("End", "사각형"), ("ArrowRight", "사각형"),
                      ("ArrowLeft", "파란"), ("Home", "a")):  # fmt: skip
        tab.page.keyboard.press(key)
        selected = tab.page.get_by_role("option", selected=True)
        assert selected.all_inner_texts() == [word]
        assert words.get_attribute("aria-activedescendant") == selected.get_attribute("id")
    tab.page.keyboard.press("Escape")
    assert tab.page.get_by_role("option", selected=True).count() == 0


def test_what_cannot_be_looked_at_is_told(tab: Opened) -> None:
    with saying(tab.found, ANSWER):
        tab.ask("Hello.")
        tab.until_answered()
    assert tab("#turns .eye").count() == 0, "there is no picture"
    ask(tab, ("circle.png", png()), count=2)
    tab.found.service.is_draining = True
    try:
        tab("#turns .eye").click()
        tab(".looks-place .wrong").wait_for()
    finally:
        tab.found.service.is_draining = False
    assert tab(".looks-place .wrong").inner_text() == "The server is shutting down."
    assert tab("#turns .eye").is_enabled()
    tab("#turns .eye").click()
    tab(".words").wait_for()


def test_a_picture_of_which_a_part_is_seen_has_a_frame(chromium: Any, served: Running) -> None:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (200, 80), "red").save(buffer, "PNG")
    with opened(chromium, served) as tab:
        ask(tab, ("wide.png", buffer.getvalue()))
        tab("#turns .eye").click()
        frame, whole = (tab(selector).bounding_box() for selector in (".frame", ".seen img"))
        assert abs(frame["x"] + frame["width"] / 2 - whole["x"] - whole["width"] / 2) < 2
        assert abs(frame["width"] / whole["width"] - 0.4) < 0.02
        assert tab.page.get_by_text("The model saw only the part inside the dashed line.").is_visible()


def test_korean(chromium: Any, served: Running) -> None:
    with opened(chromium, served, locale="ko-KR") as tab:
        assert tab.page.get_attribute("html", "lang") == "ko"
        assert tab("#welcome h2").inner_text() == "이미지에 대해 무엇이 궁금하세요?"
        tab("#samples button").first.wait_for()
        samples = json.loads(static.contents()[static.SAMPLES][1])["samples"]
        assert tab("#samples button").all_inner_texts() == [sample["questions"]["ko"] for sample in samples]
        tab.shot("korean")
        ask(tab, ("원.png", png()))
        tab.page.get_by_role("button", name="주목한 곳 보기").click()
        tab(".words").wait_for()
        assert "주목의" in tab(".share").inner_text()
        # While a syllable is composed, Enter ends the syllable and sends nothing.
        tab.page.fill("#question", "원은 어디")
        tab.page.dispatch_event("#question", "keydown", {"key": "Enter", "isComposing": True})
        assert tab(".turn").count() == 1
        tab.page.fill("#question", "")
        tab.page.get_by_role("button", name="Show the page in English").click()
        assert tab.page.get_attribute("html", "lang") == "en"
        assert tab.said == [ANSWER]
        tab.page.reload()
        assert tab.page.get_attribute("html", "lang") == "en"
        assert tab("#question").get_attribute("placeholder") == "Ask about the image…"
    with opened(chromium, served, "/?lang=ko") as tab:
        assert tab("#welcome-choose strong").inner_text() == "이미지 고르기"
        outside = tab.page.evaluate("document.body.innerText.replace(/English|vistune|tiny|Enter|Shift/g, '')")
        assert not re.search("[A-Za-z]{3,}", outside)


def test_a_phone(chromium: Any, served: Running) -> None:
    width = 320  # the narrowest that WCAG 1.4.10 asks for
    settings = {"viewport": {"width": width, "height": 760}, "is_mobile": True, "has_touch": True}
    with opened(chromium, served, **settings, device_scale_factor=2) as tab:
        tab.page.add_init_script("delete Crypto.prototype.randomUUID")  # as a browser does over http beyond loopback
        tab.goto()
        tab("#samples button").first.wait_for()
        tab.shot("phone-welcome")
        with saying(served, "a_word_" * 12 + "\n```\n" + "code " * 24 + "\n```"):
            tab.ask("x" * 80, ("circle.png", png()))
            tab.until_answered()
        tab("#anew").tap()
        ask(tab, ("circle.png", png()))
        tab("#turns .eye").tap()
        tab(".word").nth(1).tap()
        assert tab(".share").inner_text().startswith("“red”")
        assert tab.page.evaluate("document.documentElement.scrollWidth") == width, "nothing is to be scrolled sideways"
        for button in tab("button:visible").all():
            box = button.bounding_box()
            assert min(box["width"], box["height"]) >= 24, "a finger hits it (WCAG 2.2, 2.5.8)"
        tab.shot("phone-looks")


@pytest.mark.parametrize("count", [1, 7])
def test_on_a_phone_pictures_leave_room_for_the_words(chromium: Any, served: Running, count: int) -> None:
    """However tall a picture is and however many there are: they stay in sight, and so does the word that is tapped."""
    settings = {"viewport": {"width": 390, "height": 760}, "is_mobile": True, "has_touch": True}
    buffer = io.BytesIO()
    Image.new("RGB", (40, 120), "red").save(buffer, "PNG")
    with opened(chromium, served, **settings) as tab:
        ask(tab, *((f"{k}.png", buffer.getvalue()) for k in range(count)))
        tab("#turns .eye").tap()
        tab(".word").last.scroll_into_view_if_needed()
        images, word = tab(".figures").bounding_box(), tab(".word").first.bounding_box()
        assert images["height"] < 0.4 * 760
        assert images["y"] + images["height"] <= word["y"]
        tab(".word").first.tap()
        assert tab(".word").first.get_attribute("aria-selected") == "true"
        assert tab.page.evaluate("document.documentElement.scrollWidth") == 390


CONTRASTS = """() => {
    const probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const style = getComputedStyle(document.documentElement);
    const luminance = (name) => {
        probe.fillStyle = style.getPropertyValue(name);
        probe.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...probe.getImageData(0, 0, 1, 1).data].map((v) => v / 255)
            .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const pairs = [["--ink", "--ground"], ["--ink", "--raised"], ["--ink", "--accent-wash"], ["--soft", "--ground"],
        ["--soft", "--raised"], ["--soft", "--sunken"], ["--accent", "--ground"], ["--accent-ink", "--accent"],
        ["--wrong", "--wrong-wash"]];
    return pairs.map(([ink, ground]) => {
        const [a, b] = [luminance(ink), luminance(ground)].sort((x, y) => y - x);
        return [ink, ground, (a + 0.05) / (b + 0.05)];
    });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(chromium: Any, served: Running, scheme: str) -> None:
    """As the system, or as chosen; text stands out from its ground (WCAG 1.4.3: 4.5 to 1)."""
    with opened(chromium, served, color_scheme=scheme) as tab:
        ground = "getComputedStyle(document.body).backgroundColor"
        usual = tab.page.evaluate(ground)
        assert (int(re.findall(r"\d+", usual)[0]) > 128) == (scheme == "light")
        for ink, behind, contrast in tab.page.evaluate(CONTRASTS):
            assert contrast >= 4.5, (ink, behind)
        if scheme == "dark":
            ask(tab, ("circle.png", png()))
            tab("#turns .eye").click()
            tab(".words").wait_for()
            tab.shot("dark")
        seen = []
        for _ in range(3):
            tab("#theme").click()
            seen.append((tab("#theme").get_attribute("aria-label"), tab.page.evaluate(ground)))
        assert [label for label, _ in seen] == ["Colours: light", "Colours: dark", "Colours: as the system"]
        assert seen[0][1] != seen[1][1]
        assert seen[2][1] == usual


FOCUSED = """() => document.activeElement.textContent || document.activeElement.ariaLabel
    || document.activeElement.id"""


def test_everything_has_a_name_and_is_reached_in_order(tab: Opened) -> None:
    ask(tab, ("circle.png", png()))
    tab.show(("square.png", png()))
    names = """(nodes) => nodes.map((node) =>
        node.getAttribute("aria-label") || node.labels?.[0]?.textContent || node.textContent)"""
    reached = tab.page.locator("button:visible, textarea:visible, input:visible").evaluate_all(names)
    assert all(name and name.strip() for name in reached)
    assert all(
        alt is not None for alt in tab("img").evaluate_all("(nodes) => nodes.map((node) => node.getAttribute('alt'))")
    )
    tab.page.reload()
    tab("#model").wait_for()
    order = []
    for _ in range(11):
        tab.page.keyboard.press("Tab")
        order.append(tab.page.evaluate(FOCUSED))
    assert order == [
        "Skip to the question", "New conversation", "Settings", "Colours: as the system", "한국어", "Edit", "Copy",
        "Answer again", "Where it looks", "Choose images", "question",
    ]  # fmt: skip
    tab("a.skip").focus()
    tab.page.keyboard.press("Enter")
    tab.page.keyboard.type("hello")
    assert tab.page.input_value("#question") == "hello"
    assert tab("#status").get_attribute("role") == "status"
    assert tab(".answer").get_attribute("aria-busy") == "false"

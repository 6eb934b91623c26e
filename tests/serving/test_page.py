"""The page in a real browser: ask and see it stream, stop, ask again, edit, reload, drop and paste, keys and errors."""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import Opened, opened
from PIL import Image
from reference import Bench
from running_servers import Gate, Running, png, running, saying, until

from vistune.serving.api import Limits, static

STORY = "There is **one** circle:\n\n- it is red\n- it is round\n\n```\na < b && c > d\n```\n빨간 원입니다."


@pytest.fixture
def tab(chromium: Any, served: Running) -> Iterator[Opened]:
    with opened(chromium, served) as made:
        yield made


def noise(width: int, height: int) -> bytes:
    """A picture that no format makes small."""
    buffer = io.BytesIO()
    Image.frombytes("RGB", (width, height), random.Random(0).randbytes(3 * width * height)).save(buffer, "PNG")
    return buffer.getvalue()


def images_of(body: dict[str, Any]) -> list[bytes]:
    urls = [part["image_url"]["url"] for message in body["messages"] if isinstance(message["content"], list)
            for part in message["content"] if part["type"] == "image_url"]  # fmt: skip
    return [base64.b64decode(url.partition(",")[2]) for url in urls]


def test_ask_and_see_the_answer_come(tab: Opened) -> None:
    with saying(tab.found, STORY), Gate(tab.found) as gate:
        tab.ask("What is it?", ("circle.png", png()))
        lengths = []
        for _ in range(3):
            for _ in range(8):
                gate.steps.release()
            until_longer(tab, lengths)
        assert tab("#stop").is_visible()
        assert not tab("#send").is_visible()
        assert tab("#status").inner_text() == "The answer is being written."
        tab.shot("streaming")
        gate.open.set()
        tab.until_answered()
    assert lengths == sorted(set(lengths))
    assert tab("#status").text_content() == f"Answer: {STORY}"
    assert tab(".body strong").inner_text() == "one"
    assert tab(".body li").all_inner_texts() == ["it is red", "it is round"]
    assert tab(".body pre").inner_text() == "a < b && c > d"
    assert tab(".question .said").inner_text() == "What is it?"
    assert tab("#send").is_visible()
    assert not tab("#stop").is_visible()
    assert images_of(tab.bodies[0]) == [png()], "a small picture goes as it is"
    tab.shot("answer")


def until_longer(tab: Opened, lengths: list[int]) -> None:
    """Wait until more of the answer is shown than before; stars are set as bold once they are all there."""
    before = lengths[-1] if lengths else 0

    def longer() -> bool:
        length = len(tab(".body").inner_text().replace("*", ""))
        if length > before:
            lengths.append(length)
        return length > before

    until(longer)


def test_stop_and_answer_again(tab: Opened) -> None:
    with saying(tab.found, "one two three four five"):
        with Gate(tab.found) as gate:
            tab.ask("Count.")
            for _ in range(6):
                gate.steps.release()
            until_longer(tab, [])
            tab("#stop").click()
            tab.until_answered()
        part = tab.said[0]
        assert "one two three four five".startswith(part)
        assert 0 < len(part) < 20
        assert tab(".note").inner_text() == "Stopped."
        until(tab.found.idle)
        tab.page.get_by_role("button", name="Answer again").click()
        tab.until_answered()
        assert tab.said == ["one two three four five"]
        assert not tab(".note").is_visible()
        with Gate(tab.found):  # Escape stops too
            tab.ask("Again.")
            tab("#stop").wait_for()
            tab.page.keyboard.press("Escape")
            tab.until_answered(2)
        assert tab(".note").nth(1).inner_text() == "Stopped."


def test_a_question_without_an_answer_is_asked_with_the_next(tab: Opened) -> None:
    with saying(tab.found, "red"):
        tab.page.context.set_offline(True)
        tab.ask("What is it?", ("circle.png", png()))
        tab.until_answered()
        tab.page.context.set_offline(False)
        tab.ask("And its colour?")
        tab.until_answered(2)
    (message,) = tab.bodies[-1]["messages"]
    assert [part.get("text", "picture") for part in message["content"]] == [
        "picture", "What is it?", "\n", "And its colour?",
    ]  # fmt: skip


def test_a_conversation_survives_a_reload_and_goes_on(tab: Opened) -> None:
    with saying(tab.found, "a red circle"):
        tab.ask("What is it?", ("circle.png", png()))
        tab.until_answered()
        tab.page.reload()
        assert tab.said == ["a red circle"]
        assert tab(".thumbnails img").count() == 1
        tab.ask("And this?", ("square.png", png(colour="blue")), ("star.png", png(colour="green")))
        tab.until_answered(2)
    assert images_of(tab.bodies[-1]) == [png(), png(colour="blue"), png(colour="green")]
    assert [message["role"] for message in tab.bodies[-1]["messages"]] == ["user", "assistant", "user"]
    assert tab("#notice").is_hidden()
    tab("#anew").click()
    assert tab("#welcome").is_visible()
    tab.page.reload()
    assert tab(".turn").count() == 0


def test_an_answer_that_a_reload_broke_off_is_kept_as_far_as_it_went(tab: Opened) -> None:
    lengths: list[int] = []
    with saying(tab.found, "one two three four five"):
        with Gate(tab.found) as gate:
            tab.ask("Count.")
            for _ in range(6):
                gate.steps.release()
            until_longer(tab, lengths)
            tab.page.reload()
            assert len(tab.said[0]) >= lengths[0]
            assert tab(".note").inner_text() == "Stopped."
        until(tab.found.idle)


def test_pictures_that_a_reload_loses_are_named(tab: Opened) -> None:
    tab.page.evaluate("sessionStorage.setItem('another page', 'x'.repeat(4_900_000))")  # of five million
    with saying(tab.found, "noise"):
        tab.ask("What is it?", ("noise.png", noise(400, 400)), ("circle.png", png()))
        tab.until_answered()
        assert "too large for this browser to store" in tab("#notice").inner_text()
        tab.page.reload()
        assert tab.said == ["noise"]
        assert tab(".thumbnails .lost").count() == 2
        asked = len(tab.bodies)
        tab.ask("And now?")
        assert "was lost in the reload" in tab("#notice").inner_text()
        assert len(tab.bodies) == asked, "the model would answer without the pictures"
        assert tab.page.input_value("#question") == "And now?"
        tab("#anew").click()
        tab.page.press("#question", "Enter")
        tab.until_answered()


def test_edit_and_send_again_drops_what_followed(tab: Opened) -> None:
    with saying(tab.found, "red"):
        for number, text in enumerate(("first", "second", "third"), start=1):
            tab.ask(text, *([("circle.png", png())] if number == 1 else []))
            tab.until_answered(number)
        tab.page.get_by_role("button", name="Edit").nth(1).click()
        area = tab.page.get_by_role("textbox", name="Edit your question")
        assert area.input_value() == "second"
        area.press("Escape")
        assert tab(".question .said").all_inner_texts() == ["first", "second", "third"]
        tab.page.get_by_role("button", name="Edit").nth(1).click()
        area.fill("another second")
        tab.shot("editing")
        tab.page.get_by_role("button", name="Send again").click()
        tab.until_answered(2)
    assert tab(".question .said").all_inner_texts() == ["first", "another second"]
    assert [message["role"] for message in tab.bodies[-1]["messages"]] == ["user", "assistant", "user"]
    assert images_of(tab.bodies[-1]) == [png()]


def test_drop_paste_and_remove(tab: Opened) -> None:
    """Files only: text that is dropped or pasted stays text."""
    give = """([event, files]) => {
        const transfer = new DataTransfer();
        for (const [name, type, text] of files) {
            const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
            transfer.items.add(new File([bytes], name, { type }));
        }
        const made = event === "paste"
            ? new ClipboardEvent(event, { clipboardData: transfer, bubbles: true, cancelable: true })
            : new DragEvent(event, { dataTransfer: transfer, bubbles: true, cancelable: true });
        document.body.dispatchEvent(made);
    }"""
    image = ["circle.png", "image/png", base64.b64encode(png()).decode()]
    tab.page.evaluate(give, ["dragenter", [image]])
    assert tab("#drop").is_visible()
    tab.page.evaluate(give, ["drop", [image, image]])
    assert tab("#drop").is_hidden()
    tab("#chosen li").nth(1).wait_for()
    tab.page.evaluate(give, ["paste", [image]])
    tab("#chosen li").nth(2).wait_for()
    tab.page.get_by_role("button", name="Remove circle.png").first.click()
    assert tab("#chosen li").count() == 2
    for name, kind, data in (
        ("notes.txt", "text/plain", b"hello"),
        ("drawing.svg", "image/svg+xml", b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>"),
        ("broken.png", "image/png", png()[:40]),
    ):
        tab.page.evaluate(give, ["drop", [[name, kind, base64.b64encode(data).decode()]]])
        tab.page.get_by_role("alert").filter(has_text=name).wait_for()
    assert tab("#chosen li").count() == 2
    tab.page.evaluate(give, ["drop", []])
    with saying(tab.found, "two"):
        tab.ask("How many?")
        tab.until_answered()
    assert images_of(tab.bodies[-1]) == [png(), png()]


def test_large_and_unusual_pictures_are_made_fit_for_the_server(tab: Opened) -> None:
    bitmap = io.BytesIO()
    Image.new("RGB", (40, 30), "teal").save(bitmap, "BMP")
    with saying(tab.found, "teal"):
        tab.show(("wide.png", noise(2560, 200)))
        assert tab("#notice").inner_text() == "wide.png was reduced in size before sending."
        tab.show(("small.bmp", bitmap.getvalue()), kind="image/bmp")
        tab.ask("Which colour?")
        tab.until_answered()
    assert tab.said == ["teal"]
    wide, small = (Image.open(io.BytesIO(data)) for data in images_of(tab.bodies[-1]))
    assert (wide.size, wide.format) == ((2048, 160), "JPEG")
    assert (small.size, small.format) == ((40, 30), "JPEG")


def test_the_end_is_followed_however_much_comes_at_once(tab: Opened) -> None:
    tab.page.evaluate("window.requestAnimationFrame = () => 1")  # nothing is drawn before the whole answer is there
    with saying(tab.found, "\n\n".join(["word"] * 60)):
        tab.ask("Tell me more.")
        tab.until_answered()
    below = "document.documentElement.scrollHeight - document.documentElement.clientHeight"
    assert tab.page.evaluate("document.documentElement.scrollTop") == tab.page.evaluate(below) > 500


def test_a_reader_who_has_gone_up_stays_there(tab: Opened) -> None:
    with saying(tab.found, "\n\n".join(["word"] * 60)):
        tab.ask("Tell me more.")
        tab.until_answered()
        with Gate(tab.found):
            tab.ask("And more.")
            tab(".turn.writing").wait_for()
            tab.page.evaluate("document.documentElement.scrollTop = 100")
        tab.until_answered(2)
    assert tab.page.evaluate("document.documentElement.scrollTop") == 100


def test_a_notice_is_in_sight_wherever_the_reader_is(tab: Opened) -> None:
    with saying(tab.found, "\n\n".join(["word"] * 60)):
        tab.ask("Tell me more.")
        tab.until_answered()
    tab.page.set_input_files("#files", [{"name": "a.txt", "mimeType": "text/plain", "buffer": b"no picture"}])
    tab("#notice").wait_for()
    assert tab.page.evaluate("document.documentElement.scrollTop") > 500
    assert 0 < tab("#notice").bounding_box()["y"] < 200


def test_samples_temperature_and_length(tab: Opened) -> None:
    assert tab(".sample").count() == 3
    tab.shot("welcome")
    for name, value in (("temperature", "0.7"), ("length", "32")):
        tab("#open-settings").click()
        tab(f"#{name}").fill(value)
        assert tab(f"#{name}-shown").inner_text() == value
        tab.shot("settings")
        tab.page.keyboard.press("Escape")
        assert tab("#settings").is_hidden()
    tab("#samples button").nth(1).click()
    tab("#chosen img").wait_for()
    samples = json.loads(static.contents()[static.SAMPLES][1])["samples"]
    assert tab.page.input_value("#question") == samples[1]["questions"]["en"]
    with saying(tab.found, "one " * 40):
        tab("#send").click()
        tab.until_answered()
    assert (tab.bodies[0]["temperature"], tab.bodies[0]["max_tokens"]) == (0.7, 32)
    assert tab(".note").inner_text() == "The answer reached the longest length. You can raise it in the settings."
    tab.page.reload()
    assert (tab.page.input_value("#temperature"), tab.page.input_value("#length")) == ("0.7", "32")


def test_copy(chromium: Any, served: Running) -> None:
    with opened(chromium, served, permissions=["clipboard-read", "clipboard-write"]) as tab, saying(served, STORY):
        tab.ask("What is it?")
        tab.until_answered()
        tab.page.get_by_role("button", name="Copy").click()
        tab.page.get_by_role("button", name="Copied").wait_for()
        assert tab.page.evaluate("navigator.clipboard.readText()") == STORY, "as it was written, not as it is shown"


def test_errors_are_told_as_the_server_tells_them(chromium: Any, bench: Bench) -> None:
    with running(bench, limits=Limits(slots=1, queue=0, max_tokens=8)) as found, opened(chromium, found) as tab:
        tab.page.locator('#length[max="8"]').wait_for(state="attached")  # the page asks the server for its limits
        with Gate(found):
            served = found.client().chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": "hm"}], stream=True
            )
            tab.ask("What is it?")
            tab.until_answered()
            told = tab(".note").inner_text()
            assert told == "No answer. The server is busy; try again in a moment."
            tab.shot("error")
        served.close()
        until(found.idle)
        with saying(found, "red"):
            tab.page.get_by_role("button", name="Try again").click()
            tab.until_answered()
            assert tab.said == ["red"]
        tab.page.context.set_offline(True)
        tab.ask("And now?")
        tab.until_answered(2)
        assert tab(".note").nth(1).inner_text() == "No answer. The server cannot be reached."
        tab.page.context.set_offline(False)
        tab.page.get_by_role("button", name="Edit").nth(1).click()
        tab.page.get_by_role("textbox", name="Edit your question").fill("word " * 1200)
        tab.page.get_by_role("button", name="Send again").click()
        tab.until_answered(2)
        assert "too long for this model. the prompt has" in tab(".note").nth(1).inner_text()


def test_an_error_within_a_stream_leaves_what_was_said(chromium: Any, bench: Bench) -> None:
    with running(bench) as found, opened(chromium, found) as tab:
        with saying(found, "one two three"):
            with Gate(found) as gate:
                tab.ask("Count.")
                for _ in range(5):
                    gate.steps.release()
                until_longer(tab, [])
                found.server.drain()
                found.service.cancel_all()
            tab.until_answered()
        assert "one two three".startswith(tab.said[0].strip())
        assert tab(".note").inner_text() == "No answer. The server is shutting down."


def test_a_key_is_asked_for_and_kept_in_the_tab_alone(chromium: Any, bench: Bench, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("sk-canary-0123456789")
    with running(bench, key_file=keys) as found, opened(chromium, found) as tab:
        dialog = tab.page.get_by_role("dialog", name="This server needs a key")
        dialog.wait_for()
        tab.shot("key")
        tab.page.keyboard.press("Escape")
        assert dialog.is_visible()
        tab.page.get_by_label("API key").fill("sk-wrong")
        tab.page.keyboard.press("Enter")
        tab.page.get_by_text("The server does not accept this key.").wait_for()
        tab.page.get_by_label("API key").fill("sk-canary-0123456789")
        tab.page.keyboard.press("Enter")
        dialog.wait_for(state="hidden")
        with saying(found, "red"):
            tab.ask("What is it?", ("circle.png", png()))
            tab.until_answered()
            tab.page.reload()
            tab("#model").wait_for()
            tab("#turns .eye").click()
            tab(".looks").wait_for()
        assert tab.page.evaluate("JSON.stringify(localStorage)").find("canary") < 0
        assert not any("canary" in url for url in tab.requested)
        assert tab.page.evaluate("sessionStorage.getItem('vistune.key')") == "sk-canary-0123456789"

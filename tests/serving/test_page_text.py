"""Test that the page shows text as text, whatever a model, a user or a file name contains."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from pages import Opened, opened
from running_servers import Running, png, saying

from vistune.files import read_json
from vistune.serving.api import static

PAYLOADS = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<svg onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>", "<iframe src=javascript:alert(1)></iframe>",
    "<iframe srcdoc='<script>parent.alert(1)</script>'></iframe>", "<body onload=alert(1)>",
    "<a href=javascript:alert(1)>x</a>", "[x](javascript:alert(1))", "[x](https://evil.example/steal)",
    "![x](https://evil.example/pixel.png)", "![x](javascript:alert(1))", "![x\"onerror=\"alert(1)](y)",
    "<https://evil.example>", "https://evil.example/auto", "[x]: javascript:alert(1)",
    "&lt;script&gt;alert(1)&lt;/script&gt;", "&#60;img src=x onerror=alert(1)&#62;", "\\x3cscript\\x3ealert(1)",
    "\"><script>alert(1)</script>", "'><img src=x onerror=alert(1)>", "--><script>alert(1)</script>",
    "]]><script>alert(1)</script>", "</p></div><script>alert(1)</script>", "</textarea><script>alert(1)</script>",
    "</style><script>alert(1)</script>", "</title><script>alert(1)</script>",
    "<math><mi xlink:href=javascript:alert(1)>",
    "<details open ontoggle=alert(1)>", "<input autofocus onfocus=alert(1)>", "<video><source onerror=alert(1)>",
    "<object data=javascript:alert(1)>", "<embed src=javascript:alert(1)>", "<form action=//evil.example><button>go",
    "<link rel=stylesheet href=//evil.example/a.css>", "<style>@import '//evil.example/a.css';</style>",
    "<base href=//evil.example/>", "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<template><script>alert(1)</script></template>", "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "`<img src=x onerror=alert(1)>`", "```<img src=x onerror=alert(1)>", "**<b onmouseover=alert(1)>x</b>**",
    "- <img src=x onerror=alert(1)>", "1. <svg/onload=alert(1)>", "{{constructor.constructor('alert(1)')()}}",
    "${alert(1)}", "javascript:alert(1)//", "data:text/html,<script>alert(1)</script>",
    "\u202e<script>alert(1)</script>",
    "<img src='data:image/svg+xml,<svg onload=alert(1)>'>", "<use href='//evil.example/a.svg#x'/>",
)  # fmt: skip
TAGS = {"LI", "DIV", "P", "UL", "OL", "CODE", "PRE", "STRONG", "SPAN", "BUTTON", "IMG", "CANVAS", "svg", "use"}
FOUND = """() => [...document.querySelectorAll("#turns *, #chosen *, #notice *, #status *")].map((node) =>
    [node.tagName, [...node.attributes].map(({ name, value }) => [name, value])])"""
ALL = (
    "() => [document.querySelectorAll('script, iframe, object, embed, base, link, style, meta').length, document.title]"
)


@pytest.fixture
def tab(chromium: Any, served: Running) -> Iterator[Opened]:
    with opened(chromium, served) as made:
        yield made


def check(tab: Opened, before: list[Any]) -> None:
    for tag, attributes in tab.page.evaluate(FOUND):
        assert tag in TAGS
        for name, value in attributes:
            assert not name.startswith("on")
            assert name not in ("srcdoc", "action", "xlink:href", "formaction")
            assert name != "style" or re.fullmatch(r"--shape: [\d.]+;", value)  # of a picture, a number of ours
            if name in ("href", "src"):
                assert value.startswith("#icon-" if name == "href" else "data:image/png;base64,")
    assert tab.page.evaluate(ALL) == before
    assert not tab.elsewhere()
    assert not tab.dialogs


def test_nothing_that_is_said_becomes_more_than_text(tab: Opened) -> None:
    """Each payload as prompt, as file name and as the model's output, streamed, restored and looked at."""
    assert len(PAYLOADS) >= 40
    before = tab.page.evaluate(ALL)
    for number in range(0, len(PAYLOADS), 6):
        some = PAYLOADS[number : number + 6]
        tab.show(*((payload, png()) for payload in some))
        assert [image.get_attribute("title") for image in tab("#chosen img").all()] == list(some)
        with saying(tab.found, "\n\n".join(some)):
            tab.ask("\n".join(some))
            tab.until_answered()
        assert tab(".question .said").text_content() == "\n".join(some)
        shown = tab(".body").text_content() or ""
        for payload in some:
            assert re.sub(r"^(- |1\. )|\*\*", "", payload).strip("`") in shown
        check(tab, before)
        if number == 0:
            tab.page.reload()
            tab(".turn").wait_for()
            check(tab, before)
            tab("#turns .eye").click()
            tab(".words").wait_for()
            assert tab(".words").text_content() == "\n\n".join(some)
            tab(".word").first.hover()
            assert some[0].split()[0] in (tab(".share").text_content() or "")
            check(tab, before)
            tab.shot("markup-stays-text")
        tab("#anew").click()


def test_errors_and_names_of_files_are_text_too(tab: Opened) -> None:
    before = tab.page.evaluate(ALL)
    tab.page.set_input_files(
        "#files", [{"name": "<img src=x onerror=alert(1)>.png", "mimeType": "image/png", "buffer": b"no picture"}]
    )
    tab("#notice").wait_for()
    assert "<img src=x onerror=alert(1)>.png" in tab("#notice").inner_text()
    error = '{"error": {"message": "<img src=x onerror=alert(1)>", "code": "<svg onload=alert(1)>"}}'
    tab.page.route("**/v1/chat/completions", lambda route: route.fulfill(status=400, body=error))
    tab.ask("What is it?")
    tab.until_answered()
    assert "<img src=x onerror=alert(1)>" in tab(".note").inner_text()
    check(tab, before)


def test_the_policy_stops_what_the_page_would_let_through(chromium: Any, served: Running) -> None:
    """Were an element injected after all: no inline script, handler, style, frame or foreign request."""
    with opened(chromium, served) as tab:
        for attempt in (
            "document.body.innerHTML = '<img src=x onerror=alert(1)>'",
            "document.body.insertAdjacentHTML('beforeend', '<iframe srcdoc=x></iframe>')",
            "document.write('<script>alert(1)</script>')",
        ):
            script = f"() => {{ try {{ {attempt}; return 'done' }} catch (error) {{ return error.name }} }}"
            assert tab.page.evaluate(script) == "TypeError", attempt
        tab.page.evaluate("""async () => {
            const image = new Image();
            const ended = new Promise((resolve) => { image.onerror = image.onload = resolve; });
            image.src = "http://evil.example/pixel.png";
            await ended;
            await fetch("http://evil.example/").catch(() => {});
            const frame = document.createElement("iframe");
            frame.src = "http://evil.example/";
            document.body.append(frame);
        }""")
        assert tab.faults, "the browser says what it refused"
        tab.faults.clear()
        assert [url for url in tab.elsewhere() if not url.startswith("http://evil.example")] == []
        tab.requested.clear()  # playwright lists what was asked for, refused or not


def test_files_are_served_with_their_types_and_nothing_inline(served: Running) -> None:
    for path, (kind, data) in static.contents().items():
        response = served.http.get(path)
        assert response.content == data
        assert response.headers["content-type"] == kind
        assert response.headers["x-content-type-options"] == "nosniff"
        policy = response.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert served.http.head(path).headers["content-length"] == str(len(data))
        assert served.http.post(path).status_code == 405
        if kind.partition(";")[0] in ("text/html", "text/css", "text/javascript"):
            text = data.decode()
            assert not re.search(
                r"https?://(?!www\.w3\.org/2000/svg)|url\(|@import|\.innerHTML|eval\(|document\.write", text
            )
    page = static.contents()["/"][1].decode()
    assert not re.search(r"<style|<script(?![^>]*src=\"/page/)|\son\w+=|style=", page)
    assert {"/", "/page/page.css", "/page/page.js", "/page/samples.json"} <= static.PATHS
    assert {path.name for path in static.FOLDER.iterdir()} == set(static.FILES.values()), (
        "a file of a kind that is not served"
    )


def test_both_languages_say_the_same_things() -> None:
    english = read_json(static.FOLDER / "words.en.json")
    korean = json.loads(static.contents()[static.KOREAN][1])
    for one, other in ((english, korean), (english["errors"], korean["errors"]), (english["themes"], korean["themes"])):
        assert list(one) == list(other)
    for name, text in english.items():
        assert sorted(re.findall(r"{\w+}", str(text))) == sorted(re.findall(r"{\w+}", str(korean[name]))), name
    used = {name for path in static.FOLDER.iterdir() if path.suffix in (".js", ".html")
            for name in re.findall(r'say\("(\w+)"[,)]|data-(?:word|label|placeholder)="(\w+)"', path.read_text("utf-8"))
            for name in name if name}  # fmt: skip
    assert used <= set(english)
    unused = set(english) - used - {"looks", "looksHide", "again", "retry"}
    assert not unused, f"said nowhere: {sorted(unused)}"

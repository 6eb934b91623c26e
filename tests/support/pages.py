"""The page in a real browser, as these tests use it: opened, watched, photographed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from running_servers import Running

SHOTS = "VISTUNE_SCREENSHOTS"  # a folder: where it is named, the page is photographed


@dataclass
class Opened:
    """A tab with the page, and what it did that it should not have."""

    page: Any
    found: Running
    requested: list[str] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)  # of chat requests
    dialogs: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)  # errors and refusals of the policy
    address: str = ""

    def __post_init__(self) -> None:
        self.address = self.found.server.address
        self.page.on("request", self._request)
        self.page.on("dialog", self._dialog)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", self._console)
        self.page.on("popup", lambda popup: self.faults.append(f"opened {popup.url}"))
        self.page.set_default_timeout(20_000)

    def _request(self, request: Any) -> None:
        self.requested.append(request.url)
        if request.url.endswith("/chat/completions"):
            self.bodies.append(request.post_data_json)

    def _dialog(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def _console(self, message: Any) -> None:
        # A refused request is logged by the browser itself; the page tells it where the tests look.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.faults.append(message.text)

    def __call__(self, selector: str) -> Any:
        return self.page.locator(selector)

    def goto(self, path: str = "/") -> Opened:
        self.page.goto(f"{self.address}{path}")
        self("body").wait_for()
        return self

    def show(self, *files: tuple[str, bytes], kind: str = "image/png") -> None:
        chosen = self("#chosen li").count()
        self.page.set_input_files("#files", [{"name": n, "mimeType": kind, "buffer": data} for n, data in files])
        self("#chosen li").nth(chosen + len(files) - 1).wait_for()

    def ask(self, text: str, *files: tuple[str, bytes]) -> None:
        """Send a question; its answer may still be written."""
        if files:
            self.show(*files)
        self.page.fill("#question", text)
        self.page.press("#question", "Enter")

    def until_answered(self, count: int = 1) -> None:
        self(".turn").nth(count - 1).wait_for()
        self(".turn.writing").wait_for(state="detached")
        assert self(".turn").count() == count

    @property
    def said(self) -> list[str]:
        return [body.strip() for body in self(".body").all_inner_texts()]

    def shot(self, name: str, *, whole: bool = False) -> None:
        if folder := os.environ.get(SHOTS):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=Path(folder) / f"{name}.png", full_page=whole, animations="disabled")

    def elsewhere(self) -> list[str]:
        """Requests that went to another place than the server."""
        own = urlsplit(self.address)
        return [
            url
            for url in self.requested
            if urlsplit(url).scheme not in ("data", "blob") and urlsplit(url)[:2] != own[:2]
        ]


@contextmanager
def opened(chromium: Any, found: Running, path: str = "/", **settings: Any) -> Iterator[Opened]:
    """A tab of its own; in the end nothing may have been asked of anybody else, and nothing gone wrong."""
    usual = {"viewport": {"width": 1180, "height": 820}, "locale": "en-US", "color_scheme": "light"}
    context = chromium.new_context(**{**usual, **settings})
    try:
        tab = Opened(context.new_page(), found)
        tab.goto(path)
        yield tab
        assert not tab.elsewhere()
        assert not tab.dialogs
        assert not tab.faults
    finally:
        context.close()

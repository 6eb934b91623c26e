"""Show results and progress in notebooks: HTML tables, images, and progress bars."""

from __future__ import annotations

import base64
import io
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING

from vistune.progress import Advance, no_progress

if TYPE_CHECKING:
    from PIL.Image import Image

SHOWN_SIDE = 320  # pixels of the longer side of an image in a notebook


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    return "ipykernel" in sys.modules


@contextmanager
def notebook_progress(label: str, total: int) -> Iterator[Advance]:
    """Show a progress bar in a notebook, and nothing elsewhere."""
    with (show_progress if in_notebook() else no_progress)(label, total) as advance:
        yield advance


@contextmanager
def show_progress(label: str, total: int) -> Iterator[Advance]:
    """Show a progress bar by tqdm: a widget in a notebook that has ipywidgets, else a line of text on stderr."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tqdm warns if ipywidgets is missing, and shows a line of text
        from tqdm.auto import tqdm

    with tqdm(total=total, desc=label) as bar:

        def advance(count: int = 1, note: str = "", total: int | None = None, **event: object) -> None:
            if total is not None:
                bar.total = total
            if note:
                bar.set_postfix_str(note, refresh=False)
            bar.update(count)

        yield advance


def html_table(rows: Sequence[Sequence[object]], headers: Sequence[str] = (), caption: str = "") -> str:
    """Return rows as an HTML table. All text is escaped."""
    head = "".join(f"<th>{escape(header)}</th>" for header in headers)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{title}" + (f"<thead><tr>{head}</tr></thead>" if head else "") + f"<tbody>{body}</tbody></table>"


def html_image(image: Image, caption: str) -> str:
    """Return an image as an HTML figure that contains the pixels, reduced to `SHOWN_SIDE`."""
    small = image.convert("RGB")
    small.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, format="PNG")
    pixels = base64.b64encode(buffer.getvalue()).decode()
    style = "display:inline-block;margin:0 8px 8px 0"
    shown = f'<img alt="{escape(caption)}" src="data:image/png;base64,{pixels}">'
    return f'<figure style="{style}">{shown}<figcaption>{escape(caption)}</figcaption></figure>'

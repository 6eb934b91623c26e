"""Replace the generated part of a documentation page, which is between two comments."""

from __future__ import annotations

from pathlib import Path


def replace_block(page: Path, begin: str, end: str, block: str) -> str:
    """Return the page's text with everything between the comments `begin` and `end` replaced by `block`."""
    before, rest = page.read_text(encoding="utf-8").split(begin, 1)
    return before + begin + block + end + rest.split(end, 1)[1]

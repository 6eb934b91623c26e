"""Replace the generated part of a documentation page, which is between two comments."""

from __future__ import annotations


def replace_block(page: str, begin: str, end: str, block: str) -> str:
    """Return a page's text with everything between the comments `begin` and `end` replaced by `block`."""
    before, rest = page.split(begin, 1)
    return before + begin + block + end + rest.split(end, 1)[1]

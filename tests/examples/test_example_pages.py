"""Each page of docs/how-to/ that explains an extension shows the complete example file."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = {"projector": "projector", "reader": "data-form", "task": "task", "teacher": "teacher"}


@pytest.mark.parametrize("what", PAGES)
def test_a_page_shows_the_file_as_it_is(what: str) -> None:
    code = (ROOT / "examples" / f"add_a_{what}.py").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "how-to" / f"add-a-{PAGES[what]}.md").read_text(encoding="utf-8")
    assert f"```python\n{code}```" in page, f"copy examples/add_a_{what}.py into docs/how-to/add-a-{PAGES[what]}.md"

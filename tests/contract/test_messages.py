"""Every Korean translation belongs to a message of the program, and every page that a message names exists."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from source_messages import PACKAGE, source_messages

ROOT = Path(__file__).parents[2]
FILLED = re.compile(r"\{[^}]*\}|…")
LISTED = re.compile(", | or | nor ")


@cache
def patterns() -> tuple[re.Pattern[str], ...]:
    """Return the texts with parts that are filled in at run time; each has at least five letters of its own."""
    filled = [text for text in source_messages() if "…" in text and len(re.findall("[a-z]", text)) >= 5]
    return tuple(re.compile("(.+)".join(map(re.escape, text.split("…"))), re.DOTALL) for text in filled)


def is_printed(message: str) -> bool:
    """Return whether the program has this message. `{name}` and `…` stand for any text."""
    problem = re.sub(r"^\{\w+\}: ", "", message)  # a RecordError puts the location before its text
    fixed = [re.escape(part) for part in FILLED.split(problem) if part.strip(" :,.'")]
    if not fixed:
        return True
    if any(re.search(".*".join(fixed), text, flags=re.DOTALL) for text in source_messages()):
        return True
    return is_put_together(message) or is_put_together(problem)


def is_put_together(message: str) -> bool:
    """Return whether a text of the program with `…` makes this message of other texts, or of a list of them."""
    for pattern in patterns():
        if (match := pattern.fullmatch(message)) and all(
            is_printed(part) for text in match.groups() for part in LISTED.split(text.replace("`", ""))
        ):
            return True
    return False


@pytest.mark.parametrize("catalogue", ["errors", "messages", "phrases"])
def test_every_korean_text_translates_a_message_of_the_program(catalogue: str) -> None:
    translations = json.loads((PACKAGE / "cli" / f"{catalogue}.ko.json").read_text(encoding="utf-8"))
    assert [message for message in translations if not is_printed(message)] == []


def templates_of_the_command_line() -> Iterator[str]:
    """Yield the templates that `say` and `phrase` are called with, and those of the counts of `count_of`."""
    for file in sorted((PACKAGE / "cli").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Name("say") | ast.Name("phrase") | ast.Attribute(attr="phrase"),
                    args=[ast.Constant(str(template)), *_],
                ):
                    yield template
                case ast.Call(func=ast.Name("count_of"), args=[_, ast.Constant(str(noun))]):
                    yield from (f"{{count}} {noun}", f"{{count}} {noun}s")


def test_every_template_of_the_command_line_has_a_korean_one() -> None:
    translations = json.loads((PACKAGE / "cli" / "phrases.ko.json").read_text(encoding="utf-8"))
    templates = list(templates_of_the_command_line())
    assert len(templates) > 50
    assert sorted({*templates} - translations.keys()) == []
    for english, korean in translations.items():
        assert sorted(re.findall(r"\{[^}]*\}", english)) == sorted(re.findall(r"\{[^}]*\}", korean)), english


def test_every_page_that_a_message_names_exists() -> None:
    pages = {page for text in source_messages() for page in re.findall(r"(?<![/\w])docs/[\w./-]+\.md", text)}
    assert sorted(page for page in pages if not (ROOT / page).is_file()) == []

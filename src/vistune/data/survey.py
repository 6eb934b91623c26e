"""What may be meant and may be a mistake, row by row: ids and rows that come twice, special tokens in what is said.

data files -> notes, each with its place; nothing of this stops a training
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from vistune.data.faults import printable, shown
from vistune.data.written import place_of, written_rows
from vistune.types import Reject

LISTED = 1000  # notes of one kind that are kept; all are counted
# Of the templates here and of common language models; a recipe's tokenizer adds its own.
SPECIAL = (
    "<s>", "</s>", "<unk>", "<pad>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|begin_of_text|>",
    "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "[INST]", "[/INST]",
)  # fmt: skip


class Survey:
    """Reads files one after another; ids and rows are compared over all of them."""

    def __init__(self, special: Collection[str] = ()) -> None:
        names = sorted({*SPECIAL, *special}, key=len, reverse=True)
        self.special = re.compile("|".join(re.escape(name) for name in names if name))
        self.notes: list[Reject] = []
        self.counts: Counter[str] = Counter()
        self.files: list[Path] = []
        self.ids: dict[int, tuple[int, int, int]] = {}  # hash -> file, line, number in the list
        self.rows: dict[int, tuple[int, int, int]] = {}

    def read(self, path: Path) -> None:
        """Note what is in one file. Raises DataError where it cannot be read as a whole."""
        self.files.append(path)
        for written in written_rows(path):
            row = written.value
            if isinstance(row, dict):
                self._note(row, path, (len(self.files) - 1, written.line, written.nth))

    def _note(self, row: dict[str, Any], path: Path, where: tuple[int, int, int]) -> None:
        name, place = row.get("id"), place_of(path, *where[1:])
        if name is not None and (first := self.ids.setdefault(hash(str(name)), where)) != where:
            self._add(row, place, "same_id", "id", f"{shown(name)} is the id of {self._place(first)} too")
        said = [row.get(field) for field in ("image", "images", "conversations", "messages")]
        if (first := self.rows.setdefault(hash(repr(said)), where)) != where:
            self._add(row, place, "same_row", "", f"the same row as {self._place(first)}")
        for field, text in texts_of(row):
            if found := self.special.search(text):
                words = f"{found.group()!r} is in the text: it is learnt as characters, not as the token"
                self._add(row, place, "special_token", field, words)

    def _place(self, where: tuple[int, int, int]) -> str:
        return place_of(self.files[where[0]], *where[1:])

    def _add(self, row: dict[str, Any], place: str, reason: str, field: str, words: str) -> None:
        self.counts[reason] += 1
        if self.counts[reason] <= LISTED:
            at = f"{place}:{field}" if field else place
            self.notes.append(Reject(printable(row.get("id", "")), place, reason, f"{at}: {words}"))


def texts_of(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(field, text) of all that is said in a row, in either form; what has no such form is passed over."""
    for form, key in (("conversations", "value"), ("messages", "content")):
        turns = row.get(form)
        for k, turn in enumerate(turns if isinstance(turns, list) else ()):
            said = turn.get(key) if isinstance(turn, dict) else None
            if isinstance(said, str):
                yield f"{form}[{k}].{key}", said
            for n, part in enumerate(said if isinstance(said, list) else ()):
                if isinstance(part, dict) and isinstance(part.get("text"), str):
                    yield f"{form}[{k}].{key}[{n}].text", part["text"]

"""Note possible mistakes in the text: repeated ids and records, special tokens, image markers of other formats.

data files -> notes, each with its location; none of them stops training
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

from vistune.records import FORMS, MARKER, DataFile, Record, marker_like, printable, shown
from vistune.types import Reject

COMPARED_FIELDS = ("image", "images", "system", *FORMS)  # records are equal if these fields are equal
TEXT_FIELDS = ("value", "content", "user", "assistant")  # fields of a turn that hold text
LISTED_NOTES = 1000  # notes of one kind that are kept; all are counted
# Of the templates here and of common language models; a recipe's tokenizer adds its own.
SPECIAL_TOKENS = (
    "<s>", "</s>", "<unk>", "<pad>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|begin_of_text|>",
    "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "[INST]", "[/INST]",
)  # fmt: skip


class TextNotes:
    """Reads files one after another; ids and records are compared across files."""

    def __init__(self, special_tokens: Collection[str] = ()) -> None:
        names = sorted({*SPECIAL_TOKENS, *special_tokens}, key=len, reverse=True)
        self.special = re.compile("|".join(re.escape(name) for name in names if name))
        self.notes: list[Reject] = []
        self.counts: Counter[str] = Counter()
        self.files: list[DataFile] = []
        self.ids: dict[int, tuple[int, int, int]] = {}  # hash -> file, number, number in the list
        self.records: dict[int, tuple[int, int, int]] = {}

    def read(self, data: DataFile) -> None:
        """Add the notes on one file. Raises DataError if it cannot be read as a whole."""
        self.files.append(data)
        for record in data.records(FORMS):
            if isinstance(record.value, dict):
                self._note(record.value, record, (len(self.files) - 1, record.number, record.nth))

    def _note(self, fields: dict[str, Any], record: Record, key: tuple[int, int, int]) -> None:
        name = fields.get("id")
        if name is not None and (first := self.ids.setdefault(hash(str(name)), key)) != key:
            self._add(record, "same_id", "id", f"{shown(name)} is also the id of {self._location(first)}")
        compared = [fields.get(field) for field in COMPARED_FIELDS]
        if (first := self.records.setdefault(hash(repr(compared)), key)) != key:
            self._add(record, "same_row", "", f"the same record as {self._location(first)}")
        for field, text in texts_of(fields):
            if token := self.special.search(text):
                problem = f"{token.group()!r} is in the text: it is read as characters, not as the token"
                self._add(record, "special_token", field, problem)
            if ("<" in text or "[" in text or "&lt;" in text or "＜" in text) and (marker := marker_like(text)):
                problem = f"{marker!r} looks like an image marker and is read as text; images are marked by {MARKER}"
                self._add(record, "marker_like", field, problem)

    def _location(self, key: tuple[int, int, int]) -> str:
        return self.files[key[0]].location(*key[1:])

    def _add(self, record: Record, reason: str, field: str, problem: str) -> None:
        self.counts[reason] += 1
        if self.counts[reason] <= LISTED_NOTES:
            at = f"{record.location}:{field}" if field else record.location
            name = printable(record.value.get("id", ""))
            self.notes.append(Reject(name, record.location, reason, f"{at}: {problem}"))


def texts_of(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (field, text) for all texts of a record of any form; skip values of other types."""
    for form in FORMS.keys() & record.keys():
        turns = record[form]
        for k, turn in enumerate(turns if isinstance(turns, list) else ()):
            for key, content in turn.items() if isinstance(turn, dict) else ():
                if isinstance(content, str):
                    if key in TEXT_FIELDS:
                        yield f"{form}[{k}].{key}", content
                    continue
                for n, part in enumerate(content if key in TEXT_FIELDS and isinstance(content, list) else ()):
                    if isinstance(part, dict) and isinstance(part.get("text"), str):
                        yield f"{form}[{k}].{key}[{n}].text", part["text"]

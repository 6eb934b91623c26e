"""Note possible mistakes: repeated ids and records, special tokens and image markers in the text.

data files -> notes, each with its location; none of them stops a training
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

from vistune.records import FORMS, MARKER, DataFile, Record, marker_like, printable, shown
from vistune.types import Reject

CONTENT = ("image", "images", "system", *FORMS)  # records are equal if these fields are equal
SAID = ("value", "content", "user", "assistant")  # fields of a turn that hold text
LISTED = 1000  # notes of one kind that are kept; all are counted
# Of the templates here and of common language models; a recipe's tokenizer adds its own.
SPECIAL = (
    "<s>", "</s>", "<unk>", "<pad>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|begin_of_text|>",
    "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "[INST]", "[/INST]",
)  # fmt: skip


class Survey:
    """Reads files one after another; ids and records are compared across files."""

    def __init__(self, special: Collection[str] = ()) -> None:
        names = sorted({*SPECIAL, *special}, key=len, reverse=True)
        self.special = re.compile("|".join(re.escape(name) for name in names if name))
        self.notes: list[Reject] = []
        self.counts: Counter[str] = Counter()
        self.files: list[DataFile] = []
        self.ids: dict[int, tuple[int, int, int]] = {}  # hash -> file, number, number in the list
        self.records: dict[int, tuple[int, int, int]] = {}

    def read(self, data: DataFile) -> None:
        """Note what is in one file. Raises DataError where it cannot be read as a whole."""
        self.files.append(data)
        for record in data.records(FORMS):
            if isinstance(record.value, dict):
                self._note(record.value, record, (len(self.files) - 1, record.number, record.nth))

    def _note(self, fields: dict[str, Any], record: Record, where: tuple[int, int, int]) -> None:
        name = fields.get("id")
        if name is not None and (first := self.ids.setdefault(hash(str(name)), where)) != where:
            self._add(record, "same_id", "id", f"{shown(name)} is the id of {self._location(first)} too")
        said = [fields.get(field) for field in CONTENT]
        if (first := self.records.setdefault(hash(repr(said)), where)) != where:
            self._add(record, "same_row", "", f"the same record as {self._location(first)}")
        for field, text in texts_of(fields):
            if found := self.special.search(text):
                words = f"{found.group()!r} is in the text: it is read as characters, not as the token"
                self._add(record, "special_token", field, words)
            if ("<" in text or "[" in text or "&lt;" in text or "＜" in text) and (marker := marker_like(text)):
                words = f"{marker!r} looks like an image marker and is read as text; images are marked by {MARKER}"
                self._add(record, "marker_like", field, words)

    def _location(self, where: tuple[int, int, int]) -> str:
        return self.files[where[0]].location(*where[1:])

    def _add(self, record: Record, reason: str, field: str, words: str) -> None:
        self.counts[reason] += 1
        if self.counts[reason] <= LISTED:
            at = f"{record.location}:{field}" if field else record.location
            self.notes.append(Reject(printable(record.value.get("id", "")), record.location, reason, f"{at}: {words}"))


def texts_of(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(field, text) of all texts in a record of any form; values of other types are skipped."""
    for form in FORMS.keys() & record.keys():
        turns = record[form]
        for k, turn in enumerate(turns if isinstance(turns, list) else ()):
            for key, said in turn.items() if isinstance(turn, dict) else ():
                if isinstance(said, str):
                    if key in SAID:
                        yield f"{form}[{k}].{key}", said
                    continue
                for n, part in enumerate(said if key in SAID and isinstance(said, list) else ()):
                    if isinstance(part, dict) and isinstance(part.get("text"), str):
                        yield f"{form}[{k}].{key}[{n}].text", part["text"]

"""Add a form of training data: lines of {"picture": "a.jpg", "ask": "What colour?", "say": "red"}.

A form makes turns of a record; in the table FORMS (src/vistune/records/conversations.py) it is entered under the field
that tells its records from others. Without touching the package, write such lines as records that are read:
PYTHONPATH=examples python examples/add_a_reader.py MINE.jsonl DATA.jsonl
"""

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vistune.files import write_jsonl
from vistune.records import read_values, text
from vistune.records.conversations import Form, Slot, Turn, Turns


def read_pair(record: Mapping[str, Any], location: str, unread: Counter[str]) -> Turns:
    """One image, one question, one answer; `location` is file and line, for the error of a bad field."""
    asked, said = (text(record.get(name), location, name) for name in ("ask", "say"))
    turns = (Turn("ask", "user", (Slot(), asked)), Turn("say", "assistant", (said,)))
    return Turns(turns, (text(record.get("picture"), location, "picture"),))


PAIR = Form(read_pair, fields={"ask", "say", "picture"})  # FORMS["ask"] = PAIR


def as_texts(path: Path, out: Path) -> None:
    records = []
    for location, record in read_values(path):
        pair = read_pair(record, location, Counter())
        texts = [{"user": pair.turns[0].parts[-1], "assistant": pair.turns[1].parts[0]}]
        records.append({"id": location, "images": pair.names, "texts": texts})
    write_jsonl(out, records)


if __name__ == "__main__":
    as_texts(*map(Path, sys.argv[1:3]))

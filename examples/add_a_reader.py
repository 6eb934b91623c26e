"""Add a form of training data: lines of {"picture": "a.jpg", "ask": "What colour?", "say": "red"}.

Enter PAIR in the table FORMS (src/vistune/records/conversations.py) under a field that only these records have.
To leave the package unchanged, convert the file to a form that is read:
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
    """Return one question about one image, and its answer. `location` is file and line, for error messages."""
    question, answer = (text(record.get(name), location, name) for name in ("ask", "say"))
    turns = (Turn("ask", "user", (Slot(), question)), Turn("say", "assistant", (answer,)))
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

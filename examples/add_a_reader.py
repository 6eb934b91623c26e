"""Add a form of training data: lines of {"picture": "a.jpg", "ask": "What colour?", "say": "red"}.

Enter PAIR in the table FORMS (src/vistune/records/conversations.py) under a field that only these records have.
Or convert the file to a form that is read: python examples/add_a_reader.py MINE.jsonl DATA.jsonl
"""

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vistune.files import write_jsonl
from vistune.records import read_values, text
from vistune.records.conversations import MARKER, Form, Slot, Turn, Turns


def read_pair(record: Mapping[str, Any], location: str, unread: Counter[str]) -> Turns:
    question, answer = (text(record.get(name), location, name) for name in ("ask", "say"))
    turns = (Turn("ask", "user", (Slot(), question)), Turn("say", "assistant", (answer,)))
    return Turns(turns, (text(record.get("picture"), location, "picture"),))


PAIR = Form(read_pair, fields={"ask", "say", "picture"})  # FORMS["ask"] = PAIR


def convert(path: Path, out: Path) -> None:
    records, unread = [], Counter[str]()
    for location, record in read_values(path):
        read = read_pair(record, location, unread)
        unread.update(record.keys() - PAIR.fields)
        chat = [{"role": t.role, "content": [p if isinstance(p, str) else MARKER for p in t.parts]} for t in read.turns]
        records.append({"id": location, "kind": "conversation", "images": read.names, "messages": chat})
    write_jsonl(out, records)
    print(f"{len(records)} records; fields that are not read: {dict(unread)}")


if __name__ == "__main__":
    convert(*map(Path, sys.argv[1:3]))

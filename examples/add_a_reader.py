"""Data of another form: lines of {"picture": "a.jpg", "ask": "What colour?", "say": "red"}, read as they are.

A reader makes turns of a row. With it in the table READERS (src/vistune/data/rows.py), under the field that tells its
rows from others, `check`, `show` and `train` read such files. Without touching the package, write them as messages:
PYTHONPATH=examples python examples/add_a_reader.py MINE.jsonl DATA.jsonl
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vistune.data.faults import text
from vistune.data.rows import Slot, Turn, Turns
from vistune.files import read_jsonl, write_jsonl


def read_pair(row: Mapping[str, Any], place: str) -> Turns:
    """A picture, a question, an answer; `place` is file and line, for the error of a bad field."""
    asked, said = (text(row.get(name), place, name) for name in ("ask", "say"))
    turns = (Turn("ask", "user", (Slot(), asked)), Turn("say", "assistant", (said,)))
    return Turns(turns, (text(row.get("picture"), place, "picture"),), "images")


def as_messages(path: Path, out: Path) -> None:
    rows = []
    for line, row in read_jsonl(path):
        read = read_pair(row, f"{path}:{line}")
        question, answer = (turn.parts[-1] for turn in read.turns)
        parts = [{"type": "image"}, {"type": "text", "text": question}]
        messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}]
        rows.append({"id": str(line), "images": list(read.names), "messages": messages})
    write_jsonl(out, rows)


if __name__ == "__main__":
    as_messages(*map(Path, sys.argv[1:3]))
    print(json.dumps({"written": sys.argv[2]}))

"""metrics.jsonl: one line a step, each step once, whatever was killed and resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vistune.files import write_atomic


class Metrics:
    """Appends to a file; `cut` removes what a resumed run will write again."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def cut(self, keep: int) -> None:
        """Keep the first `keep` whole lines; a torn last line of a killed run goes."""
        if not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        write_atomic(self.path, "".join(line for line in lines[:keep] if line.endswith("\n")))

    def log(self, **values: Any) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def read(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines() if line.strip()]

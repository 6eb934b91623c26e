"""Write the tables of docs/reference/models.md from tests/support/language_table.py and the models' own traits.

python scripts/write_model_docs.py
"""

from __future__ import annotations

import sys
from pathlib import Path

from marked_block import replace_block

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "models.md"
BEGIN, END = "<!-- language models: begin, written by scripts/write_model_docs.py -->", "<!-- language models: end -->"


def block() -> str:
    """The tables of packed, unpacked and refused language models."""
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from language_table import ACCEPTED, REFUSED
    from tiny_models import small_config

    from vistune.model.trial import language_traits

    packed = ["| models | transformers' type | logits |", "| --- | --- | --- |"]
    unpacked = ["| models | transformers' type | reason |", "| --- | --- | --- |"]
    for kind in sorted(ACCEPTED.values(), key=lambda kind: kind.names.lower()):
        traits = language_traits(small_config(kind.architecture, kind.changes))
        cells = f"| {kind.names} | `{kind.architecture}` |"
        if traits.unpacked:
            unpacked.append(f"{cells} {traits.unpacked} |")
            continue
        rule = [] if traits.rule.scale == 1 else ["scaled"]
        rule += [] if traits.rule.cap is None else ["soft-capped"]
        packed.append(f"{cells} {', '.join(rule) or 'plain, or with a bias'} |")
    refused = ["| models | transformers' type | reason |", "| --- | --- | --- |"]
    for kind, _ in sorted(REFUSED.values(), key=lambda case: case[0].names.lower()):
        reason = language_traits(small_config(kind.architecture, kind.changes)).refused
        refused.append(f"| {kind.names} | `{kind.architecture}` | {reason} |")
    parts = ["### Packed", *packed, "### Unpacked", *unpacked, "### Not supported", *refused]
    text = "\n".join(f"\n{part}\n" if part.startswith("###") else part for part in parts)
    return f"\n{text}\n\n"


def page() -> str:
    """The page with its tables up to date."""
    return replace_block(PAGE, BEGIN, END, block())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

"""The published prompts of judges, from the user's data folder: a text file, or the constant in the official script.

Scripts are parsed, never run.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Sequence
from pathlib import Path

from vistune.errors import DataError
from vistune.evaluation.release import matching, release_text


def read_prompt(folder: Path, texts: Sequence[str], scripts: Sequence[str], constant: str) -> str:
    """The first text file that fits one of `texts`, else the string that a script assigns to `constant`."""
    place = folder if folder.is_dir() else folder.parent
    for pattern in texts:
        for path in matching(place, pattern):
            return release_text(path)
    for pattern in scripts:
        for path in matching(place, pattern):
            return _constant(path, constant)
    raise DataError(
        f"{place / texts[0]}: no such file, nor {' or '.join(scripts)}",
        "the judge's prompt comes with the benchmark: put the official script, or its prompt as text, beside the data",
    )


def _constant(path: Path, name: str) -> str:
    """The string assigned to a name, with `.strip()` behind it or not."""
    try:
        tree = ast.parse(release_text(path))
    except (SyntaxError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: no Python that can be read: {error}", "download it again") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            value, stripped = node.value, False
            if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr == "strip":
                value, stripped = value.func.value, True
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                return value.value.strip() if stripped else value.value
    raise DataError(f"{path}: assigns no text to {name!r}", "download the official script again")


def sha256_of_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

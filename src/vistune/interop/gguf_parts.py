"""Compute checksums of the parts of GGUF files.

A server does not show the results of each stage. By these checksums, `verify` finds the part of the model that changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vistune.errors import CheckpointError, reason_of
from vistune.interop.gguf_file import names

PROJECTOR_FILE = "mmproj-"


def gguf_files(folder: Path) -> tuple[Path, Path]:
    """Return the files with the language model and the projector. Raises CheckpointError if one is missing."""
    files = sorted(folder.glob("*.gguf"))
    language = [path for path in files if not path.name.startswith(PROJECTOR_FILE)]
    projector = [path for path in files if path.name.startswith(PROJECTOR_FILE)]
    if len(language) != 1 or len(projector) != 1:
        raise CheckpointError(
            f"{folder}: has {len(language)} language models and {len(projector)} files {PROJECTOR_FILE}*.gguf, one of "
            "each is expected",
            "export the model again with --layout gguf",
        )
    return language[0], projector[0]


def gguf_parts(folder: Path) -> dict[str, str]:
    """Return checksums of the image settings, the tower, the projector and the language model."""
    language, projector = gguf_files(folder)
    keys = names()["tower"]["keys"]
    first = str(names()["tower"]["tensors"]["projector"]).partition("{")[0]
    return {
        "resize": _checksum(projector, [keys[name] for name in ("side", "mean", "std")], lambda _: False),
        "tower": _checksum(projector, [], lambda name: not name.startswith(first)),
        "projector": _checksum(projector, [], lambda name: name.startswith(first)),
        "language model": _checksum(language, [], lambda _: True),
    }


def _checksum(path: Path, keys: list[str], chosen: Callable[[str], bool]) -> str:
    """Return the SHA-256 of some of a file's keys and tensors."""
    from gguf import GGUFReader

    digest = hashlib.sha256()
    try:
        reader: Any = GGUFReader(path)
        for key in keys:
            digest.update(f"{key} {reader.fields[key].contents()}\n".encode())
        for tensor in reader.tensors:
            if chosen(tensor.name):
                digest.update(tensor.name.encode())
                digest.update(tensor.data.tobytes())
    except (ValueError, KeyError, OSError, IndexError) as error:
        raise CheckpointError(f"{path}: damaged or cut off: {reason_of(error)}", "export the model again") from None
    return digest.hexdigest()

"""Picture names to files, inside the picture folders and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from vistune.errors import DataError
from vistune.registry import guess
from vistune.types import Picture


class PictureFolders:
    """Finds a relative path in the first folder that holds it; each directory is listed once."""

    def __init__(self, folders: Sequence[Path] | None) -> None:
        self.folders = None if folders is None else [folder.resolve() for folder in folders]
        self._names = cache(self._list)

    @staticmethod
    def _list(folder: Path) -> frozenset[str]:
        try:
            return frozenset(entry.name for entry in os.scandir(folder) if entry.is_file())
        except OSError:
            return frozenset()

    def find(self, name: str, place: str) -> Picture:
        """Raises DataError for an absolute path, one that leaves the folders, or one that is not there."""
        relative = Path(name)
        if relative.is_absolute() or ".." in relative.parts or not name:
            raise DataError(f"{place}: {name!r} leaves the picture folder", "give a path relative to it")
        if self.folders is None:  # pictures need not be there
            return Picture(relative)
        for folder in self.folders:
            inside = folder / relative
            if relative.name in self._names(inside.parent):
                if inside.is_symlink() and not inside.resolve().is_relative_to(folder):
                    raise DataError(f"{place}: {name!r} is a link out of the picture folder", "copy the picture there")
                return Picture(inside)
        shown = ", ".join(str(folder) for folder in self.folders)
        known = sorted(self._names(self.folders[0] / relative.parent))[:2000] if self.folders else []
        near = guess(relative.name, known).split("?")[0] + "?" if known else ""
        hint = near if near.startswith("did you mean") else "check the picture folder (data.images, images.json)"
        raise DataError(f"{place}: no picture {name!r} in {shown}", hint)

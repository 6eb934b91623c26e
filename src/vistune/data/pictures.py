"""Picture names to files, inside the picture folders and nowhere else."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from vistune.data.faults import RowError, text
from vistune.types import Picture

_PLAIN = re.compile(r"(?:[^/\\.][^/\\]*/)*[^/\\.][^/\\]*")  # a path that any system reads as it is written
NEAR_MISSES = 20  # names compared with all others; a wrong folder misses every picture, and comparing is slow


class PictureFolders:
    """Finds a relative path in the first folder that holds it; each directory is listed once."""

    def __init__(self, folders: Sequence[Path] | None) -> None:
        self.folders = None if folders is None else [os.path.join(folder.resolve(), "") for folder in folders]
        self.key = None if self.folders is None else tuple(self.folders)  # where the same names are the same pictures
        self._names = cache(self._list)
        self._found: dict[str, Picture] = {}
        self._written: dict[str, str] = {}
        self.missing: Counter[str] = Counter()  # by the folder in which a picture should lie: rows, not pictures
        self._looked = 0

    @staticmethod
    def _list(folder: str) -> Mapping[str, bool]:
        """Files of a directory, and whether each is a link."""
        try:
            with os.scandir(folder) as entries:
                return {entry.name: entry.is_symlink() for entry in entries if _is_file(entry)}
        except OSError:
            return {}

    def find(self, name: str, place: str, field: str) -> Picture:
        """Raises RowError for an absolute path, one that leaves the folders, or one that is not there."""
        if (known := self._found.get(name)) is None:
            known = self._found[name] = self._find(text(name, place, field), place, field)
            self._written.setdefault(str(known.source), name)
        return known

    def find_all(self, names: Iterable[str], place: str, field: str) -> None:
        """As `find` of each, and cheaper: some hundred thousand are looked for when a run resumes."""
        for name in names:
            parent, _, last = name.rpartition("/")
            is_plain = _PLAIN.fullmatch(name) is not None
            if not (is_plain and any(self._names(folder + parent).get(last) is False for folder in self.folders or ())):
                self.find(name, place, field)

    def name_of(self, picture: Picture) -> str:
        """The name under which a picture was found first."""
        return self._written[str(picture.source)]

    def _find(self, name: str, place: str, field: str) -> Picture:
        relative = os.path.normpath(name)  # strings are faster than Path, and there may be some hundred thousand
        parent, last = os.path.split(relative)
        if last in ("", os.curdir):
            raise RowError(place, field, f"{name!r} names no picture", "give its path in the picture folder")
        if os.path.isabs(relative) or os.pardir in name.replace("/", os.sep).split(os.sep):
            raise RowError(place, field, f"{name!r} leaves the picture folder", "give a path relative to it")
        if self.folders is None:  # pictures need not be there
            return Picture(Path(relative))
        for folder in self.folders:
            is_link = self._names(folder + parent).get(last)
            if is_link is None:
                continue
            inside = Path(folder + relative)
            if is_link and not inside.resolve().is_relative_to(folder):
                raise RowError(place, field, f"{name!r} is a link out of the picture folder", "copy the picture there")
            return Picture(inside)
        folders = ", ".join(str(Path(folder)) for folder in self.folders)
        self.missing[parent or os.curdir] += 1
        raise RowError(place, field, f"no picture {name[:200]!r} in {folders}", self._near_miss(parent, last))

    def _near_miss(self, parent: str, last: str) -> str:
        self._looked += 1
        if self._looked <= NEAR_MISSES:
            for folder in self.folders or ():
                names = self._names(folder + parent)
                near = [name for name in names if _bare(name) == _bare(last)]
                if near := near or get_close_matches(last, names, n=1, cutoff=0.5):
                    return f"did you mean {os.path.join(parent, near[0])!r}?"
        return "check the picture folder (--images, data.images, images.json)"


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is one, or a link to one; a link that leads to itself is none."""
    try:
        return entry.is_file()
    except OSError:
        return False


def _bare(name: str) -> str:
    """A name as a file system sees it that tells neither case nor the two ways of writing an accent apart."""
    return unicodedata.normalize("NFC", name).casefold()

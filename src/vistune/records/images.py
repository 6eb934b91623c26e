"""Find the file of an image name, by the same rule for training data, questions, tables and annotated images.

name -> file inside one of the image folders; files elsewhere are refused

A name is a path relative to a folder. Backslashes are read as slashes, and both Unicode forms of a name are equal
(macOS writes NFD). An absolute path is accepted if it leads into one of the folders. URLs are refused.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from vistune.errors import DataError
from vistune.files import read_json
from vistune.records.errors import RecordError, text
from vistune.types import ImageRef

_PLAIN = re.compile(r"(?:[^/\\.][^/\\]*/)*[^/\\.][^/\\]*")  # a path that needs no normalisation on any system
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(?=//|[^\\/])", re.ASCII)
LONGEST_NAME = 1024  # characters of a path
NEAR_MISSES = 20  # names compared with all others; a wrong folder misses every image, and comparing is slow
CHECK_FOLDER = "check the image folder (--images, data.images, images.json)"
ADDRESSES = {
    "data": ("holds the image itself as a data: URL", "write the image to a file and name that"),
    "http": ("is a link; links are not followed", "download the image and name the file"),
    "https": ("is a link; links are not followed", "download the image and name the file"),
    "file": ("is a file:// address", "write the path alone, relative to the image folder"),
    "s3": ("is an address of object storage", "copy the images into a folder and name the file, or use tar shards"),
    "gs": ("is an address of object storage", "copy the images into a folder and name the file, or use tar shards"),
    "hf": ("is an address of a hub", "download the image and name the file"),
}


def folders_next_to(path: Path) -> list[Path]:
    """Return the image folders that images.json next to a data file lists; without one, the file's own folder."""
    listing = path.parent / "images.json"
    if not listing.is_file():
        return [path.parent]
    tree = read_json(listing)
    folders = tree.get("folders") if isinstance(tree, dict) else None
    if not isinstance(folders, list) or not all(isinstance(folder, str) for folder in folders):
        raise DataError(f"{listing}: folders: expected a list of folders", 'write {"folders": ["…"]}')
    return [path.parent / folder for folder in folders]


class ImageFolders:
    """Finds an image in the first folder that contains it; each directory is listed once.

    `folders` None: images need not exist (`--no-images`). `hint`: what to do about a missing image.
    """

    def __init__(self, folders: Sequence[Path] | None, *, hint: str = CHECK_FOLDER) -> None:
        self.folders = None if folders is None else [os.path.join(folder.resolve(), "") for folder in folders]
        self.given = () if folders is None else tuple(os.path.join(folder.absolute(), "") for folder in folders)
        self.key = None if self.folders is None else tuple(self.folders)  # equal keys: equal names are equal images
        self.hint = hint
        self._names = cache(self._list)
        self._composed = cache(self._by_nfc)
        self._found: dict[str, ImageRef] = {}
        self._written: dict[str, str] = {}
        self.missing: Counter[str] = Counter()  # records with a missing image, by the image's expected folder
        self._looked = 0

    @staticmethod
    def _list(folder: str) -> Mapping[str, bool]:
        """Return the files of a directory, each with whether it is a link."""
        try:
            with os.scandir(folder) as entries:
                return {entry.name: entry.is_symlink() for entry in entries if _is_file(entry)}
        except OSError:
            return {}

    def find(self, name: str, location: str, field: str) -> ImageRef:
        """Return the image of that name. Raises RecordError for URLs, paths outside the folders, and missing files."""
        if (known := self._found.get(name)) is None:
            known = self._found[name] = self._find(text(name, location, field), location, field)
            self._written.setdefault(str(known.source), name)
        return known

    def find_all(self, names: Iterable[str], location: str, field: str) -> None:
        """Raise the error of the first name that `find` would not find."""
        for name in names:
            self.path_of(name, location, field)

    def path_of(self, name: str, location: str, field: str) -> str:
        """Return the path of the image that `find` returns, faster: a resumed run may look up 100,000 images."""
        parent, _, last = name.rpartition("/")
        if _PLAIN.fullmatch(name) is not None:
            for folder in self.folders or ():
                is_link = self._names(folder + parent).get(last)
                if is_link is not None:
                    return str(self.find(name, location, field).source) if is_link else folder + name
        return str(self.find(name, location, field).source)

    def name_of(self, image: ImageRef) -> str:
        """Return the name by which an image was first found."""
        return self._written[str(image.source)]

    def _find(self, name: str, location: str, field: str) -> ImageRef:
        if (scheme := _ADDRESS.match(name)) and (scheme[1].lower() in ADDRESSES or "://" in name):
            problem, hint = ADDRESSES.get(scheme[1].lower(), ("is an address", "name a file in the image folder"))
            raise RecordError(location, field, f"{name[:60]!r} {problem}", hint)
        if len(name) > LONGEST_NAME:
            hint = "if this is the image itself as base64, write it to a file and name that"
            raise RecordError(location, field, f"{name[:40]!r}… is too long for the name of a file", hint)
        relative = self._relative(name)
        parent, last = os.path.split(relative)
        if last in ("", os.curdir):
            raise RecordError(location, field, f"{name!r} does not name an image", "give its path in the image folder")
        if os.path.isabs(relative) or re.match(r"[A-Za-z]:/", relative) or os.pardir in relative.split("/"):
            hint = "give a path relative to the image folder, or name that folder with --images or data.images"
            raise RecordError(location, field, f"{name!r} leaves the image folder", hint)
        if self.folders is None:  # images need not exist
            return ImageRef(Path(relative))
        for folder in self.folders:
            inside = self._inside(folder, parent, last)
            if inside is None:
                continue
            if os.path.islink(inside) and not os.path.realpath(inside).startswith(folder):
                raise RecordError(
                    location, field, f"{name!r} is a link out of the image folder", "copy the image there"
                )
            return ImageRef(Path(inside))
        folders = ", ".join(str(Path(folder)) for folder in self.folders)
        self.missing[parent or os.curdir] += 1
        raise RecordError(location, field, f"no image {name[:200]!r} in {folders}", self._near_miss(parent, last))

    def _relative(self, name: str) -> str:
        """Return the name relative to a folder, with `/`; unchanged if that is not possible."""
        if "\\" in name and not self._is_there(name):
            name = name.replace("\\", "/")
        if os.path.isabs(name):
            for folder in (*(self.folders or ()), *self.given):
                if os.path.normpath(name).startswith(folder):
                    return os.path.normpath(name)[len(folder) :]
        return os.path.normpath(name) if os.pardir not in name.split("/") else name

    def _is_there(self, name: str) -> bool:
        parent, last = os.path.split(name)
        return any(last in self._names(folder + parent) for folder in self.folders or ())

    def _inside(self, folder: str, parent: str, last: str) -> str | None:
        """Return the file with this name, or its other Unicode form, in a folder. A link must stay in the folder."""
        if last in self._names(folder + parent):
            return folder + os.path.join(parent, last)
        if last.isascii() and parent.isascii():
            return None
        directory = folder
        for part in parent.split("/") if parent else ():
            if os.path.isdir(os.path.join(directory, part)):
                directory = os.path.join(directory, part, "")
            elif (other := self._directories(directory).get(unicodedata.normalize("NFC", part))) is not None:
                directory = os.path.join(directory, other, "")
            else:
                return None
        composed = self._composed(directory).get(unicodedata.normalize("NFC", last))
        return None if composed is None else directory + composed

    def _by_nfc(self, folder: str) -> Mapping[str, str]:
        return {unicodedata.normalize("NFC", name): name for name in self._names(folder)}

    @staticmethod
    def _directories(folder: str) -> Mapping[str, str]:
        try:
            with os.scandir(folder) as entries:
                return {unicodedata.normalize("NFC", entry.name): entry.name for entry in entries if entry.is_dir()}
        except OSError:
            return {}

    def _near_miss(self, parent: str, last: str) -> str:
        self._looked += 1
        if self._looked <= NEAR_MISSES:
            for folder in self.folders or ():
                names = self._names(folder + parent)
                near = [name for name in names if _bare(name) == _bare(last)]
                if near := near or get_close_matches(last, names, n=1, cutoff=0.5):
                    return f"did you mean {os.path.join(parent, near[0])!r}?"
            for part in (last, os.path.join(os.path.basename(parent), last)):
                if self._is_there(part):
                    return f"did you mean {part!r}?"
        return self.hint


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Return whether a path is a file or a link to a file; a link to itself is neither."""
    try:
        return entry.is_file()
    except OSError:
        return False


def _bare(name: str) -> str:
    """Return a name without case and Unicode form, as case-insensitive file systems compare names."""
    return unicodedata.normalize("NFC", name).casefold()

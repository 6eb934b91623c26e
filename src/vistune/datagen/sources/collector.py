"""Collect the annotations of one source by image file, and report everything that was not used.

A reader calls `find`, `add` and `skip` of a SourceCollector; `source_of` returns the finished AnnotatedSource.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

from vistune.datagen.sources.boxes import is_missing, is_number, sizes_of
from vistune.datagen.sources.tree import (
    ANNOTATION_SUFFIXES,
    BOOKKEEPING,
    CONVERT,
    OTHER_IMAGES,
    READ_SUFFIXES,
    Tree,
    by_split,
    split_in,
    split_of_folder,
    suffix_of,
)
from vistune.errors import DataError
from vistune.records import (
    ImageFolders,
    RecordError,
    UnreadField,
    image_files,
    lines_of,
    text,
    unread_fields,
)
from vistune.types import AnnotatedImage, Box

NO_ANNOTATION = "no caption or box"
OTHER_SPLIT = "in another split"
OUTSIDE = "that are links to files outside the folder (copy the images into it)"
TURNED = "turned by EXIF although the annotations state the size before that (save them upright, or correct the size)"
OTHER_SHAPE = "with other proportions than the annotations state (correct or remove the size)"
NO_SUFFIX = "without an image suffix (rename them to .jpg or .png)"
UNREADABLE = "that cannot be read"
RESIZED = "images whose size differs from the annotations; their boxes are scaled"
WITHOUT_AREA = "boxes without width or height, which still count as objects"
NAMED = 5  # names in a message about many files
_FOREIGN = re.compile(r"[A-Za-z]:[\\/]|/")  # start of an absolute path on any system


@dataclass(frozen=True, slots=True)
class AnnotatedSource:
    """The annotated images of a source, and a report of unused images and fields.

    - skipped: number of skipped image files by reason
    - unread: fields that are not read
    - notes: annotations that were skipped, and other decisions, with their counts
    - kind: the family of the source, such as `COCO`
    """

    images: list[AnnotatedImage]
    skipped: Mapping[str, int]
    unread: list[UnreadField]
    kind: str
    notes: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """Return the report of unused images and fields, as JSON values."""
        return {
            "source": self.kind,
            "skipped_images": dict(self.skipped),
            "unread_fields": [unread.to_dict() for unread in self.unread],
            "notes": dict(self.notes),
        }

    def lines(self) -> list[str]:
        """Return the report of unused images and fields, as lines of text."""
        total = sum(self.skipped.values())
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.skipped.items())
        skipped = [f"{total:,} image{'' if total == 1 else 's'} skipped: {reasons}"] if self.skipped else []
        notes = [note if count == 1 else f"{count:,} × {note}" for note, count in self.notes.items()]
        return [*skipped, *lines_of(self.unread), *notes]


@dataclass(slots=True)
class _Image:
    path: Path
    id: str = ""  # the source's id; default: the file name
    captions: list[str] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    crowds: set[str] = field(default_factory=set)


class SourceCollector:
    """Collects the annotations of a reader by image file, in the order in which the images are first named.

    - tree: the source's files; None if the source is one file, whose folder may contain unrelated files
    - folders: searched for images in this order; if none has the image, the whole tree is searched for the same
      relative path
    """

    def __init__(self, source: Path, tree: Tree | None, folders: Sequence[Path], split: str = "") -> None:
        self.source, self.tree, self.split = source, tree, split
        self.folders = [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
        hint = "check the names and where the images are"
        self._lookup = ImageFolders(self.folders, hint=hint)
        self._real = {os.path.realpath(folder): folder for folder in reversed(self.folders)}
        self._missing: list[tuple[str, RecordError]] = []
        self.skipped: dict[Path, str] = {}  # image -> reason; everything that is added about it is skipped too
        self._size: tuple[Path, tuple[int, int], tuple[int, int]] | None = None  # of the last image
        self._resized: set[Path] = set()
        self.images: dict[Path, _Image] = {}
        self.unpack_to: Path | None = None  # folder for images that are inside a table
        self.prefix = ""  # start of file names that ids omit
        self.notes: Counter[str] = Counter()
        self.other_splits: frozenset[str] = frozenset()
        self._unread: dict[str, Counter[str]] = {}
        self._known: dict[str, set[str]] = {}
        self.files: set[Path] = set()

    def unread(self, file: Path, known: Collection[str] = ()) -> Counter[str]:
        """Return the counter of a file's unread fields; a message may suggest one of `known` instead."""
        self.files.add(file)
        self._known.setdefault(str(file), set()).update(known)
        return self._unread.setdefault(str(file), Counter())

    def find(self, name: object, location: str, field: str, *alternatives: str) -> Path | None:
        """Return the file of an image.

        Return None if it is missing (`source_of` then raises an error) or if its format is not supported (the image is
        then counted as skipped). `alternatives` are other names of the same image. Raises RecordError for a name that
        is not a path.

        """
        if not isinstance(name, str) or not name.strip():
            raise RecordError(location, field, f"expected the name of an image, got {str(name)[:60]!r}", "name a file")
        name = name.strip()
        missing: RecordError | None = None
        for candidate in (name, *alternatives):
            before = self._lookup.missing.total()
            try:
                return self.readable(self._as_named(self._lookup.find(candidate, location, field).source))
            except RecordError as error:
                if self._lookup.missing.total() == before and not self._is_foreign(candidate):
                    raise
                missing = missing or error
        if (path := self._anywhere(name, location, field)) is not None:
            return self.readable(path)
        assert missing is not None
        self._missing.append((name, missing))
        return None

    def _is_foreign(self, name: str) -> bool:
        """Return whether a name is a path on the annotator's machine; its last parts may exist in the tree."""
        return self.tree is not None and (_FOREIGN.match(name) is not None or ".." in re.split(r"[\\/]", name))

    def _as_named(self, image: object) -> Path:
        """Return the path in the folder as the user named it, without resolving links."""
        path = str(image)
        for real, folder in self._real.items():
            if path.startswith(os.path.join(real, "")):
                return folder / path[len(os.path.join(real, "")) :]
        return Path(path)

    def _anywhere(self, name: str, location: str, field: str) -> Path | None:
        """Return the one file of the tree whose path ends like the name.

        For a path from another machine, the longest matching end is used, at least the file name.
        """
        parts = [part for part in re.split(r"[\\/]+", _nfc(name)) if part not in ("", ".", "..")]
        if self.tree is None or not parts:
            return None
        named_alike = self._images_by_name.get(parts[-1], [])
        named_alike = [path for path in named_alike if split_of_folder(path) not in self.other_splits]
        for length in range(len(parts), 0 if self._is_foreign(name) else len(parts) - 1, -1):
            ends = [path for path in named_alike if _nfc(path).split("/")[-length:] == parts[-length:]]
            if len(ends) > 1:
                hint = "name the image with its folder, or give one folder with --images"
                raise RecordError(location, field, f"{name!r} may be {ends[0]} or {ends[1]}", hint)
            if ends:
                if length < len(parts):
                    self.notes["images found by the end of their path, because the path is from another machine"] += 1
                return self.tree.path(ends[0])
        return None

    @cached_property
    def _images_by_name(self) -> Mapping[str, list[str]]:
        images = (*self.tree.images, *self.tree.other_images) if self.tree is not None else ()
        return by_split(images, lambda path: _nfc(os.path.basename(path)))

    def readable(self, path: Path) -> Path | None:
        """Return the path, or None if neither its suffix nor its content is of a supported format."""
        if path.suffix.lower() in READ_SUFFIXES:
            return path
        with path.open("rb") as file:
            start = file.read(image_files.HEAD)
        if image_files.format_of(start) is not None:
            return path
        self.skipped[path] = f"{path.suffix.lower() or 'without suffix'} ({CONVERT})"
        return None

    def size_of(self, path: Path, location: str, stated: tuple[float, float] | None = None) -> tuple[float, float]:
        """Return the (width, height) in pixels to which the boxes refer.

        This is the size in the annotations, or else that of the image file after its EXIF rotation. An image whose
        stated size does not fit the rotated file is skipped, because its boxes may refer to either size.
        Raises RecordError if no size is stated and the file cannot be read.
        """
        if stated is not None and (not all(map(is_number, stated)) or min(stated) <= 0):
            return stated  # which no box accepts
        if self._size is None or self._size[0] != path:
            try:
                self._size = (path, *sizes_of(path, location))
            except RecordError:
                if stated is None:
                    raise
                self.skipped[path] = UNREADABLE
                return stated
        _, upright, stored = self._size
        if stated is None or stated == upright:
            return upright
        fits = _same_shape(stated, upright)
        if stored != upright and (stated == stored or (not fits and _same_shape(stated, stored))):
            self.skipped[path] = TURNED
        elif not fits:
            self.skipped[path] = OTHER_SHAPE
        elif path not in self._resized:
            self._resized.add(path)
            self.notes[RESIZED] += 1
        return stated

    def add(
        self,
        path: Path,
        *,
        captions: Iterable[str] = (),
        boxes: Iterable[Box] = (),
        crowds: Iterable[str] = (),
        id: str = "",
    ) -> None:
        """Add annotations of an image."""
        image = self.images.setdefault(path, _Image(path, id))
        image.captions += captions
        image.crowds.update(crowds)
        for box in boxes:
            image.boxes.append(box)
            self.notes.update([WITHOUT_AREA] * (box.area == 0))  # COCO itself has some

    def caption(self, value: object, location: str, field: str, file: Path, *, even: bool = True) -> str:
        """Return a caption. With `even`, white space is normalised.

        If the cell marks the caption as missing, count this and return "".
        """
        if is_missing(value):
            name = file.relative_to(self.source).as_posix() if self.tree is not None else file
            self.notes[f"{name}: captions that are empty, nan, None or null"] += 1
            return ""
        caption = text(value, location, field)
        return " ".join(caption.split()) if even else caption.strip()

    def source_of(self, kind: str) -> AnnotatedSource:
        """Return the finished source. Raises DataError if images are missing or two share an id."""
        self._refuse_missing()
        skipped = Counter(self.skipped.values())
        if self.tree is not None:
            skipped += self._unused_images(self.tree)
            self._note_files(self.tree)
        unread = [
            field for file, counts in self._unread.items() for field in unread_fields(file, counts, self._known[file])
        ]
        kept = [image for image in self.images.values() if image.path not in self.skipped]
        images = _with_ids(kept, self.source, self.prefix)
        return AnnotatedSource(images, dict(skipped.most_common()), unread, kind, dict(self.notes))

    def _refuse_missing(self) -> None:
        if not self._missing:
            return
        first = self._missing[0][1]
        names = list(dict.fromkeys(name for name, _ in self._missing))
        if len(names) == 1:
            raise first
        listed = ", ".join(repr(name) for name in names[1:NAMED])
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        raise DataError(f"{first.message}; {len(names) - 1} more images are missing: {listed}{more}", first.hint)

    def _unused_images(self, tree: Tree) -> Counter[str]:
        """Count the image files of the tree that nothing was read from, by reason."""
        used = self.images.keys() | self.skipped.keys()
        skipped: Counter[str] = Counter([OUTSIDE] * len(tree.outside))
        for path in tree.other_images:
            if tree.path(path) not in used:
                known = suffix_of(path) in OTHER_IMAGES
                skipped[f"{suffix_of(path)} ({CONVERT})" if known else NO_SUFFIX] += 1
        # A folder may have the name of another split, whatever that is, unless images of this split were read from it.
        own = {folder for path in tree.images if tree.path(path) in used for folder in path.split("/")[:-1]}
        others = self.other_splits - own
        for path in tree.images:
            if tree.path(path) not in used:
                is_other = split_of_folder(path) in self.other_splits or not others.isdisjoint(path.split("/")[:-1])
                skipped[OTHER_SPLIT if is_other else NO_ANNOTATION] += 1
        return skipped

    def _note_files(self, tree: Tree) -> None:
        """Note the annotation files of the tree that were not read."""
        unread = (
            path
            for path in tree.with_suffix(*ANNOTATION_SUFFIXES)
            if tree.path(path) not in self.files
            and not BOOKKEEPING.fullmatch(os.path.basename(path))
            and split_in(path) not in self.other_splits
            and not PurePosixPath(path).stem.endswith(tuple(self.other_splits))
        )
        for suffix, names in by_split(unread, suffix_of).items():
            if len(names) <= NAMED:
                self.notes.update(f"{name} is not read" for name in names)
            else:
                self.notes[f"{suffix} files that are not read, such as {names[0]}"] += len(names)


def _same_shape(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Return whether two sizes have the same proportions, up to one pixel of a side."""
    return abs(one[0] * other[1] - one[1] * other[0]) <= max(*one, *other)


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _with_ids(images: Sequence[_Image], source: Path, prefix: str) -> list[AnnotatedImage]:
    """Give each image its id: the source's id, else the file name, else the path if two images share a file name.

    Raises DataError if the source gives two images the same id.
    """
    unnamed = [image for image in images if not image.id]
    common = Path(os.path.commonpath([image.path.parent for image in unnamed])) if unnamed else Path()
    ids = {image.path: image.id or image.path.stem.removeprefix(prefix) for image in images}
    for with_suffix in (False, True):
        counts = Counter(ids.values())
        for path in (image.path for image in unnamed):
            if counts[ids[path]] > 1:
                ids[path] = (path if with_suffix else path.with_suffix("")).relative_to(common).as_posix()
    seen: dict[str, Path] = {}
    for path, name in ids.items():
        if (other := seen.setdefault(name, path)) is not path:
            raise DataError(f"{source}: {other} and {path} share the id {name!r}", "give each image its own id")
    return [
        AnnotatedImage(ids[i.path], i.path, tuple(i.captions), tuple(i.boxes), tuple(sorted(i.crowds))) for i in images
    ]

"""List the files of a source folder: images, annotations, and the form of each JSON file."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeGuard
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from vistune.errors import DataError
from vistune.files import read_bytes, read_json
from vistune.records import image_files
from vistune.records.tar import natural

if TYPE_CHECKING:
    from vistune.datagen.sources.collector import SourceCollector

READ_SUFFIXES = (*image_files.SUFFIXES, ".jpe", ".jfif")  # JPEG under its rarer suffixes too
CONVERT = "convert to PNG or JPEG"
OTHER_IMAGES = (
    ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".ico", ".psd", ".tga", ".ppm", ".pgm",
    ".exr", ".dng", ".raw", ".cr2", ".nef", ".arw",
)  # fmt: skip
ANNOTATION_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".xml", ".txt", ".caption", ".parquet", ".tar")
# Files that tools put next to images and that do not describe images.
BOOKKEEPING = re.compile(
    r"(?:readme|license|licence|notice|requirements|notes|dataset_infos?|dataset_card)[^/]*|"
    r"(?:classes|predefined_classes|obj)\.(?:txt|names|data)|thumbs\.db|desktop\.ini",
    re.IGNORECASE,
)
SPLIT_NAME = r"(?:train|training|val|valid|validation|test|testing|dev|heldout|trainval|minival)\d{0,4}"
_IN_NAME = re.compile(rf"(?:^|[_.\- ])({SPLIT_NAME})(?=$|[_.\- ])", re.IGNORECASE)
_WHOLE = re.compile(rf"(?:obj_)?({SPLIT_NAME})(?:_data)?", re.IGNORECASE)
PER_IMAGE = 20  # annotation files of one suffix: more than this may be one file per image
SAMPLED = 9  # number of them that are opened first; files of one form are not all opened before they are read
MOST_OPENED = 10_000  # files that are opened to see their form where the sampled ones differ or say nothing


def split_in(path: str) -> str:
    """Return the split named by a folder or the file name of a relative path; "" if there is none."""
    if split := split_of_folder(path):
        return split
    match = _IN_NAME.search(PurePosixPath(path).stem)
    return match[1] if match else ""


def split_of_folder(path: str) -> str:
    """Return the split named by a folder of a relative path."""
    return next((match[1] for part in PurePosixPath(path).parts[:-1] if (match := _WHOLE.fullmatch(part))), "")


def spread(names: Sequence[str]) -> list[str]:
    """Return SAMPLED of many names, from the first to the last at equal distances."""
    return [names[k * (len(names) - 1) // (SAMPLED - 1)] for k in range(SAMPLED)] if len(names) > SAMPLED else [*names]


def suffix_of(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def by_split(paths: Iterable[str], split: Callable[[str], str] = split_in) -> dict[str, list[str]]:
    """Group paths by the split that each names."""
    groups: dict[str, list[str]] = {}
    for path in paths:
        groups.setdefault(split(path), []).append(path)
    return groups


def by_folder(paths: Iterable[str], split: Callable[[str], str] = split_of_folder) -> dict[str, list[str]]:
    """Group paths by the folder of their split; one group for all if some are not in a split's folder."""
    listed = list(paths)
    groups = by_split(listed, split)
    return {"": listed} if "" in groups else groups


class Tree:
    """The relative paths of all files below a folder, with `/`, in natural order (2 before 10).

    Hidden files, `__MACOSX`, `@eaDir` and folders that `vistune generate` wrote are skipped.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.outside: list[str] = []  # links to images outside the folder, which training would refuse
        self.files: list[str] = []
        real = os.path.join(os.path.realpath(root), "")
        self._walk("", {real.rstrip(os.sep)}, real)
        self.images = [path for path in self.files if suffix_of(path) in READ_SUFFIXES]
        self.other_images = [path for path in self.files if self._is_other_image(path)]
        self.broken: dict[str, DataError] = {}
        self._xml_roots: dict[str, str] = {}

    def _walk(self, folder: str, above: set[str], real: str) -> None:
        try:
            with os.scandir(self.root / folder) as entries:
                listed = sorted(entries, key=lambda entry: natural(entry.name))
        except OSError as error:
            problem = f"{self.root / folder}: cannot be read: {error.strerror}"
            raise DataError(problem, "check its permissions") from None
        if folder and any(entry.name == "generate.json" for entry in listed):
            return
        for entry in listed:
            name = f"{folder}{entry.name}"
            if entry.name.startswith(".") or entry.name in ("__MACOSX", "@eaDir"):
                continue
            try:
                if entry.is_dir():
                    target = os.path.realpath(entry.path)
                    if target not in above:
                        self._walk(f"{name}/", above | {target}, real)
                elif entry.is_file():
                    image = suffix_of(name) in (*READ_SUFFIXES, *OTHER_IMAGES)
                    if image and entry.is_symlink() and not os.path.realpath(entry.path).startswith(real):
                        self.outside.append(name)
                    else:
                        self.files.append(name)
            except OSError:  # a link to itself
                continue

    def _is_other_image(self, name: str) -> bool:
        """Return whether a file is an image of another format, or by its content only, such as `a.jpg_large`."""
        suffix = suffix_of(name)
        if suffix in OTHER_IMAGES:
            return True
        if suffix in (*READ_SUFFIXES, *ANNOTATION_SUFFIXES) or BOOKKEEPING.fullmatch(os.path.basename(name)):
            return False
        try:
            with open(self.root / name, "rb") as file:
                return image_files.format_of(file.read(image_files.HEAD)) is not None
        except OSError:
            return False

    def path(self, name: str) -> Path:
        return self.root / name

    def with_suffix(self, *suffixes: str) -> list[str]:
        return [path for path in self.files if suffix_of(path) in suffixes]

    @cached_property
    def json_forms(self) -> Mapping[str, str]:
        """Return the form of each JSON file: one of JSON_FORMS, or ""."""
        forms: dict[str, str] = {}
        for names in by_split(self.with_suffix(".json"), os.path.dirname).values():
            if len(names) <= PER_IMAGE:
                forms.update((name, self._form(name)) for name in names)
                continue
            opened = {name: self._form(name) for name in spread(names)}
            if set(opened.values()) != {"labelme"}:
                opened |= {name: self._form(name) for name in names[:MOST_OPENED] if name not in opened}
            # The reader of labelme checks each file again and reports the broken ones.
            rest = "labelme" if "labelme" in opened.values() else ""
            forms.update({name: rest if name in self.broken else opened.get(name, rest) for name in names})
        return forms

    def xml_root(self, name: str) -> str:
        """Return the root element of an XML file; "" for a broken file, which is kept in `broken`."""
        if name not in self._xml_roots:
            self._xml_roots[name] = self.unless_broken(name, lambda path: read_xml(path).tag)
        return self._xml_roots[name]

    def _form(self, name: str) -> str:
        return self.unless_broken(name, lambda path: form_of_json(read_json(path)))

    def unless_broken(self, name: str, read: Callable[[Path], str]) -> str:
        """Return the result of reading a file; "" if it cannot be read, with the error kept in `broken`."""
        try:
            return read(self.path(name))
        except DataError as error:
            self.broken[name] = error
            return ""

    def of_form(self, form: str) -> list[str]:
        return [name for name, other in self.json_forms.items() if other == form]

    def summary(self) -> str:
        """Summarise the folder for a message: `12 .jpg, 3 .xml in a/, b/`."""
        if not self.files:
            return "no files"
        counts = Counter(suffix_of(path) or "without suffix" for path in self.files).most_common(6)
        folders = list(dict.fromkeys(os.path.dirname(path) for path in self.files))
        named = ", ".join(f"{folder}/" if folder else "the folder itself" for folder in folders[:4])
        more = f" and {len(folders) - 4} more folders" if len(folders) > 4 else ""
        return f"{', '.join(f'{count:,} {suffix}' for suffix, count in counts)} in {named}{more}"


@dataclass(frozen=True, slots=True)
class Family:
    """How sources of one tool are found and read.

    - looks_for: the files that identify the family, for a message
    - find: returns the annotation files (or images) of each split; empty if the source is not of this family
    - read: reads the files of one split into a SourceCollector
    - folders: the folders that may contain the images, the most likely first, relative to the source. `@` stands for
      the folder of each annotation file; patterns in one text are tried together for each file
    """

    looks_for: str
    find: Callable[[Tree], Mapping[str, Sequence[str]]]
    read: Callable[[SourceCollector, list[Path]], None]
    folders: Sequence[str] = ("@", "images", ".")

    def image_folders(self, root: Path, files: Iterable[Path], split: str) -> list[Path]:
        """Return the folders that may contain the images of a split."""
        near = dict.fromkeys(map(os.path.dirname, files))
        return [
            Path(base, pattern.lstrip("@/").format(split=split))
            for patterns in self.folders
            for base in (near if patterns.startswith("@") else (root,))
            for pattern in patterns.split()
        ]


def _has(value: object, **types: type | tuple[type, ...]) -> TypeGuard[dict[str, object]]:
    return isinstance(value, dict) and all(isinstance(value.get(key), kind) for key, kind in types.items())


def _first(value: object) -> object:
    return value[0] if isinstance(value, list) and value else None


def _is_via(value: object) -> bool:
    if _has(value, _via_img_metadata=dict):
        return True
    first = next(iter(value.values()), None) if isinstance(value, dict) else None
    return _has(first, filename=str, regions=(list, dict))


def _is_label_studio(value: object) -> bool:
    task = _first(value)
    if _has(task, data=dict):
        return "annotations" in task or "completions" in task or "predictions" in task
    return isinstance(task, dict) and any(
        _has(_first(item), original_width=(int, float)) for item in task.values() if isinstance(item, list)
    )


# The fields that identify each form of a JSON file.
JSON_FORMS: Mapping[str, Callable[[object], bool]] = {
    "COCO": lambda value: _has(value, images=list, annotations=list),
    "Datumaro": lambda value: _has(value, items=list, categories=dict),
    "labelme": lambda value: _has(value, shapes=list),
    "VIA": _is_via,
    "Label Studio": _is_label_studio,
}


def form_of_json(value: object) -> str:
    return next((name for name, fits in JSON_FORMS.items() if fits(value)), "")


def read_xml(path: Path) -> Element:
    """Return the root element of a file.

    A document type is refused: its entities can read files or expand without limit.

    Raises:
        DataError: The file is not XML or has a document type.
    """
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data

    def refuse(*_: object) -> None:
        hint = "remove it; annotations need none"
        raise DataError(
            f"{path}:{parser.CurrentLineNumber}: contains a document type (<!DOCTYPE …>), which is not supported", hint
        )

    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(read_bytes(path), True)
    except LookupError as error:
        raise DataError(f"{path}: {error}", "save the file as UTF-8") from None
    except expat.ExpatError as error:
        problem = expat.errors.messages.get(error.code, "broken")
        raise DataError(f"{path}:{error.lineno}: not XML: {problem}", "correct the file or export it again") from None
    return builder.close()


def text_of(element: Element, name: str) -> str:
    """Return the text of a child element, or "" without one."""
    return (element.findtext(name) or "").strip()

"""Read annotated images from every source of `generate`, with a report of unused images and fields.

The first family of SOURCES that finds its annotation files in a folder reads the chosen split.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vistune.datagen.sources import coco, labelling_json, tables, text_files, xml_tools
from vistune.datagen.sources.collector import AnnotatedSource, SourceCollector
from vistune.datagen.sources.table_columns import TableForm
from vistune.datagen.sources.tree import (
    CONVERT,
    OTHER_IMAGES,
    READ_SUFFIXES,
    Family,
    Tree,
    form_of_json,
    read_xml,
    split_in,
    suffix_of,
)
from vistune.errors import DataError, RecipeError, some
from vistune.files import read_json
from vistune.records import SUFFIXES
from vistune.records.reading import NOT_READ
from vistune.registry import guess
from vistune.types import AnnotatedImage

# Tried in this order; the first family that finds something reads the folder.
SOURCES: Mapping[str, Family] = {
    "COCO": coco.COCO,
    "Datumaro": coco.DATUMARO,
    "CVAT": xml_tools.CVAT,
    "Pascal VOC": xml_tools.VOC,
    "labelme": labelling_json.LABELME,
    "VIA": labelling_json.VIA,
    "Label Studio": labelling_json.LABEL_STUDIO,
    "image folder": tables.IMAGE_FOLDER,
    "table": tables.TABLE,
    "YOLO": text_files.YOLO,
    "images": text_files.CAPTIONED,
}
BY_XML_ROOT = {"annotations": "CVAT", "annotation": "Pascal VOC"}
SAME_SPLIT = ({"val", "valid", "validation"}, {"train", "training"}, {"test", "testing"})
HINTS = (  # for an unrecognised folder: suffixes in it -> what to do
    ((".zip", ".7z", ".rar", ".gz", ".tar"), "unpack the archive first"),
    ((".arrow",), "save it as parquet: datasets.load_from_disk(…).to_parquet(FILE)"),
    ((".xlsx", ".xls"), "save the sheet as CSV UTF-8"),
    ((".mp4", ".avi", ".mov", ".mkv"), "videos are not read: export their frames as images"),
    ((".parquet", ".csv", ".tsv", ".jsonl", ".json"), "name the table itself, and its columns with --columns"),
)


def read_source(
    path: Path, split: str | None = None, form: TableForm | None = None, *, unpack_to: Path | None = None
) -> AnnotatedSource:
    """Return the annotated images of a folder or file, with a report of unused images and fields.

    Args:
        split: Which split of a folder; optional if there is only one.
        form: How to read a table, and where the images of a file are.
        unpack_to: A folder for images that are inside a table; default: in the user's cache.

    Raises DataError if something is missing or wrong in the source, RecipeError for an unknown split or column.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder", "check the path")
    if path.is_dir():
        if form is not None:
            hint = f"name the table ({', '.join(SUFFIXES)}) or the annotation file itself"
            raise RecipeError(f"{path}: --columns, --images and --boxes-as are for tables", hint)
        return _read_folder(path, split, unpack_to)
    if suffix_of(path.name) in text_files.YAML:  # data.yaml stands for its folder
        return _read_folder(_folder_of(path), split, unpack_to)
    if split is not None:
        raise RecipeError(f"--split {split}: {path} is a single file, which has no splits", "remove --split")
    return _read_file(path, form or TableForm(), unpack_to)


def _folder_of(file: Path) -> Path:
    return file.absolute().parent if file.parent == Path() else file.parent


def _read_folder(root: Path, split: str | None, unpack_to: Path | None) -> AnnotatedSource:
    tree = Tree(root)
    if root.name.lower() == "annotations" and not tree.images and coco.find(Tree(root.parent)):
        return _read_folder(root.parent, split, unpack_to)  # it is next to the folder of images
    for kind, family in SOURCES.items():
        if splits := family.find(tree):
            chosen = choose_split(root, splits, split)
            files = [tree.path(name) for name in splits[chosen]]
            collector = SourceCollector(root, tree, family.image_folders(root, files, chosen), chosen)
            collector.unpack_to = unpack_to
            collector.other_splits = frozenset(splits) - {chosen, ""}
            family.read(collector, files)
            source = collector.source_of(kind)
            if tree.broken and not any(map(is_described, source.images)):
                break  # there are no annotations because their file is broken
            return source
    if tree.broken:
        raise next(iter(tree.broken.values()))
    looked = "; ".join(family.looks_for for family in SOURCES.values())
    present = {suffix_of(name) for name in tree.files}
    if tree.other_images:
        hint = f"the images are {some({suffix_of(name) for name in tree.other_images})}: {CONVERT}"
    else:
        fits = (hint for suffixes, hint in HINTS if present & set(suffixes))
        hint = next(fits, "name the folder that holds the images")
    raise DataError(f"{root}: not recognised. Found {tree.summary()}. Looked for: {looked}", hint)


def choose_split(root: Path, splits: Mapping[str, Sequence[str]], split: str | None) -> str:
    """Return the name of the requested split, or of the only one. Raises DataError that lists the splits."""
    known = sorted(splits)
    named = [name or f"no split ({splits[name][0]})" for name in known]
    if split is None:
        if len(known) > 1:
            example = next(name for name in reversed(known) if name)
            hint = f"choose one, for example --split {example}, or name one file"
            raise DataError(f"{root}: has the splits {', '.join(named)}", hint)
        return known[0]
    if split in splits:
        return split
    same = next((group for group in SAME_SPLIT if split in group), set())
    if len(other := same & set(known)) == 1:
        return other.pop()
    if known == [""]:
        raise DataError(f"{root}: has no splits", "remove --split")
    raise DataError(f"{root}: no split {split!r}", guess(split, [name for name in known if name]))


def _read_file(path: Path, form: TableForm, unpack_to: Path | None) -> AnnotatedSource:
    if form.images is not None and not form.images.is_dir():
        raise DataError(f"{form.images}: no such image folder", "check --images")
    kind = _kind_of(path)
    split = ""
    if kind == "COCO":
        official = coco.OFFICIAL.fullmatch(path.absolute().as_posix())
        split = official[2] if official else split_in(path.name)
    root = _folder_of(path)
    family = SOURCES[kind]
    if form.images is not None:
        folders = [form.images]
    elif kind == "table":
        folders = [root, root / "images", root / "Images"]
    else:
        root = root.parent if root.name.lower() in ("annotations", "labels") else root
        folders = family.image_folders(root, [path], split)
    collector = SourceCollector(path, None, folders, split)
    collector.unpack_to = unpack_to
    if kind == "table":
        tables.read_file(collector, path, form)
    elif form.columns or form.boxes is not None:
        raise RecipeError(f"{path}: --columns and --boxes-as are for tables, this is {kind}", "remove these options")
    else:
        family.read(collector, [path])
    return collector.source_of(kind)


def _kind_of(path: Path) -> str:
    """Return the family of a file, by its contents. Raises DataError if it is of no family."""
    suffix = suffix_of(path.name)
    if suffix == ".json":
        try:
            return form_of_json(read_json(path)) or "table"
        except DataError:  # may be JSON lines with another suffix; if not, the reader of records reports the error
            return "table"
    if suffix == ".xml":
        root = read_xml(path).tag
        if root not in BY_XML_ROOT:
            raise DataError(f"{path}: <{root}> is neither CVAT nor Pascal VOC", "export it as COCO")
        return BY_XML_ROOT[root]
    if suffix in (*READ_SUFFIXES, *OTHER_IMAGES):
        raise DataError(f"{path}: is a single image", "name its folder, or the file that describes it")
    if not tables.is_table(path.name):
        hint = NOT_READ.get(suffix, f"save it as one of {', '.join(SUFFIXES)}")
        raise DataError(f"{path}: cannot be read as a table", hint)
    return "table"


def described_source(
    path: Path,
    split: str | None = None,
    form: TableForm | None = None,
    limit: int | None = None,
    *,
    seen: bool = False,
    unpack_to: Path | None = None,
) -> AnnotatedSource:
    """Like `read_source`, for a teacher. Raises DataError if no image is annotated, unless the teacher sees images."""
    source = read_source(path, split, form, unpack_to=unpack_to)
    if not source.images:
        reasons = ", ".join(f"{count} {reason}" for reason, count in source.skipped.items()) or "it names none"
        raise DataError(f"{path}: has no images that can be used: {reasons}", "check the folder")
    if not seen and not any(is_described(image) for image in source.images):
        raise DataError(*_nothing_known(path, source))
    return replace(source, images=source.images[:limit])


def is_described(image: AnnotatedImage) -> bool:
    return bool(image.captions or image.boxes or image.crowds)


def _nothing_known(path: Path, source: AnnotatedSource) -> tuple[str, str]:
    look = "let a teacher see the images: --teacher openai --see"
    if source.kind in ("table", "image folder"):
        unread = [field.field for field in source.unread]
        columns = f"; columns that are not read: {', '.join(unread)}" if unread else ""
        hint = f"name the columns: --columns captions=… or label=…,xmin=…,ymin=…,xmax=…,ymax=…; or {look}"
        return f"{path}: no image has a caption or a box{columns}", hint
    folders = sorted({os.path.basename(os.path.dirname(image.path)) for image in source.images})
    names = f"; the names of their folders ({some(folders, 4)}) are not read as descriptions" if folders[1:] else ""
    names += "".join(f"; {note}" for note in source.notes if note.endswith(" is not read"))
    hint = (
        "name a folder or table with captions or boxes (docs/reference/file-formats.md lists them), write captions "
        f"into NAME.txt next to NAME.jpg, or {look}"
    )
    return f"{path}: no image has a caption or a box{names}", hint


def splits_of(folder: Path) -> list[str]:
    """Return the splits of a COCO folder, sorted."""
    return sorted(coco.find(Tree(folder)))


def read_coco(folder: Path, split: str | None = None) -> list[AnnotatedImage]:
    """Return the images of one split of a COCO folder, in the order of their ids."""
    return read_source(folder, split).images

"""Read images with text files of the same name: YOLO's boxes or captions.

YOLO writes a line `class x y width height` per object, relative to the image, and the class names in data.yaml,
classes.txt or obj.names. Captions are in a.txt or a.caption for a.jpg. The text files are next to the images, or in a
folder such as `labels/` if the images are in `images/`.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from vistune.datagen.sources.boxes import LARGEST, around, box_of, count_filled, span
from vistune.datagen.sources.collector import SourceCollector
from vistune.datagen.sources.tree import MOST_OPENED, SPLIT_NAME, Family, Tree, by_folder, split_of_folder
from vistune.errors import DataError, RecipeError
from vistune.files import parse_yaml, read_text
from vistune.records import RecordError
from vistune.types import Box

NAMES = ("classes.txt", "obj.names", "predefined_classes.txt", "_darknet.labels", "classes.names")
YAML = (".yaml", ".yml")
YAML_FIELDS = ("path", "train", "val", "test", "nc", "names", "roboflow", "download", "kpt_shape", "flip_idx")
SAMPLED = 50  # label files with content that are compared with the form; those of images without objects are empty
# Each character can be matched in one way only, so that a long line is refused in linear time.
_LINE = re.compile(r"[0-9]+(?:\.0+)?(?:\s+[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?){4,}")


def looks_like_yolo(content: str) -> bool:
    """Return whether every line of a text is a class number and at least four more numbers."""
    lines = [line.strip() for line in content.splitlines() if line.strip()]
    return bool(lines) and all(_LINE.fullmatch(line) for line in lines)


def label_file(image: str, files: Iterable[str]) -> str | None:
    """Return the text file of an image's labels: next to it, or under `labels` if the image is under `images`."""
    return next((f"{stem}.txt" for stem in stems(image, ("labels",)) if f"{stem}.txt" in files), None)


def stems(image: str, folders: Iterable[str]) -> Iterator[str]:
    """Yield paths, without suffix, where a file about an image may be: next to it, or with `images` replaced."""
    stem = os.path.splitext(image)[0]
    yield stem
    parts = stem.split("/")
    positions = [k for k, part in enumerate(parts[:-1]) if part.lower() == "images"]
    for folder in folders if positions else ():
        yield "/".join([*parts[: positions[-1]], folder, *parts[positions[-1] + 1 :]])


def find_yolo(tree: Tree) -> dict[str, list[str]]:
    """Return the images of each split, if their text files contain only numbers."""
    files = set(tree.files)
    labels = {name: image for image in tree.images if (name := label_file(image, files))}
    contents = (tree.unless_broken(name, read_text) for name in islice(labels, MOST_OPENED))
    if not any(map(looks_like_yolo, islice(filter(str.strip, contents), SAMPLED))):
        return {}
    declared = _declared(tree)

    def split_of(image: str) -> str:
        return split_of_folder(image) or next((s for folder, s in declared.items() if image.startswith(folder)), "")

    return by_folder((image for image in tree.images if label_file(image, files)), split_of)


def _data_yaml(tree: Tree) -> Iterator[tuple[Path, Mapping[str, object]]]:
    """Yield each YAML file with class names, and its fields."""
    for path in map(tree.path, tree.with_suffix(*YAML)):
        value = parse_yaml(read_text(path), str(path))
        if isinstance(value, dict) and "names" in value:
            yield path, value


def _declared(tree: Tree) -> dict[str, str]:
    """Return the folders that data.yaml names for its splits: folder -> split."""
    split_of_folder = {}
    for _, fields in _data_yaml(tree):
        for split in ("train", "val", "test"):
            folders = fields.get(split)
            for folder in folders if isinstance(folders, list) else [folders]:
                if isinstance(folder, str):
                    split_of_folder[f"{re.sub(r'^(?:[.]{1,2}/)+', '', folder).rstrip('/')}/"] = split
    return split_of_folder


def read_yolo(collector: SourceCollector, images: list[Path]) -> None:
    """Read the labels of these images. Raises DataError for a label file without its image."""
    tree = collector.tree
    assert tree is not None
    names, poses = _class_names(collector, tree)
    files = set(tree.files)
    unread = collector.unread(collector.source)
    for path in images:
        image = path.relative_to(tree.root).as_posix()
        name = label_file(image, files)
        boxes: list[Box] = []
        if name is not None:
            file = tree.path(name)
            collector.files.add(file)
            for line, content in enumerate(read_text(file).splitlines(), start=1):
                if content.strip():
                    boxes.append(_yolo_box(content, f"{file}:{line}", names, poses, unread))
        collector.add(path, boxes=boxes)
    _refuse_orphans(collector, tree, files)


def _refuse_orphans(collector: SourceCollector, tree: Tree, files: set[str]) -> None:
    """Refuse label files without an image; Label Studio exports such folders if the images are elsewhere."""
    label_files = {label_file(image, files) for image in (*tree.images, *tree.other_images)}
    orphans = [
        name
        for name in tree.with_suffix(".txt")
        if name not in label_files
        and split_of_folder(name) not in collector.other_splits
        and looks_like_yolo(tree.unless_broken(name, read_text))
    ]
    unread_images = {os.path.splitext(os.path.basename(image))[0] for image in tree.other_images}
    collector.files.update(tree.path(name) for name in label_files if name and Path(name).stem in unread_images)
    lists = (name for name in tree.files if re.fullmatch(rf"{SPLIT_NAME}\.txt", os.path.basename(name)))
    collector.files.update(map(tree.path, lists))  # lists of a split's images, not needed: the folders give the splits
    if orphans:
        raise DataError(
            f"{collector.source}: {len(orphans)} label files have no image: {', '.join(orphans[:5])}",
            "put the images next to them, or into images/ if the labels are in labels/",
        )


def _class_names(collector: SourceCollector, tree: Tree) -> tuple[list[str] | Mapping[int, str], bool]:
    """Return class names by number, and whether lines contain key points. Raises RecipeError without class names."""
    for path, fields in _data_yaml(tree):
        count_filled(fields, YAML_FIELDS, collector.unread(path, YAML_FIELDS))
        return _names_of_yaml(fields["names"], path), "kpt_shape" in fields
    for file_name in NAMES:
        for name in tree.files:
            if os.path.basename(name).lower() == file_name:
                collector.files.add(tree.path(name))
                return [line.strip() for line in read_text(tree.path(name)).splitlines() if line.strip()], False
    raise RecipeError(
        f"{tree.root}: the text files hold boxes (YOLO), but no file names the classes",
        f"put data.yaml (names: [dog, cat]) or {NAMES[0]} (a name per line) into the folder, or name the folder above",
    )


def _names_of_yaml(names: object, path: Path) -> list[str] | Mapping[int, str]:
    if isinstance(names, list):
        return [str(name) for name in names]
    if isinstance(names, dict) and all(re.fullmatch("[0-9]{1,9}", str(key)) for key in names):
        by_number = {int(key): str(name) for key, name in names.items()}
        if len(by_number) < len(names):
            raise DataError(f"{path}:names: two classes have the same number", "give each class its own number")
        return by_number
    raise DataError(f"{path}:names: expected a list of names", "write names: [dog, cat] or {0: dog, 1: cat}")


def _yolo_box(
    content: str, location: str, names: list[str] | Mapping[int, str], poses: bool, unread: Counter[str]
) -> Box:
    """Parse a line: class and box; class, box and confidence; class and polygon; or class, box and key points."""
    if not _LINE.fullmatch(content.strip()):
        raise RecordError(location, "", f"not a YOLO line: {content.strip()[:60]!r}", "write class x y width height")
    first, *values = map(float, content.split())
    known = range(len(names)) if isinstance(names, list) else names
    index = int(first) if first < LARGEST else -1  # hundreds of digits are infinity
    if index not in known:
        written = content.split(maxsplit=1)[0]
        written = written if len(written) <= 20 else f"{written[:19]}…"
        raise RecordError(location, "class", f"{written} has no name; there are {len(names)} classes", "name the class")
    if len(values) == 5 or (poses and len(values) > 5):
        unread["confidence" if len(values) == 5 else "key points"] += 1
        values = values[:4]
    if len(values) == 4:
        x, y, width, height = values
        corners = around(x, y, width / 2, height / 2)
    elif len(values) % 2 == 0:
        corners = span(values[::2], values[1::2], location, "polygon")
    else:
        hint = "write x y width height, or a polygon"
        raise RecordError(location, "", f"{len(values)} numbers after the class", hint)
    return box_of(names[index], corners, (1, 1), location, "")


CAPTION_SUFFIXES = (".txt", ".caption")
CAPTION_FOLDERS = ("captions", "texts", "text", "txt", "labels")  # folders of captions next to a folder `images`


def find_captioned(tree: Tree) -> dict[str, list[str]]:
    """Return the images of each split by folder; all images as one split if some are not in a split's folder."""
    return by_folder(tree.images)


def read_captioned(collector: SourceCollector, images: list[Path]) -> None:
    assert collector.tree is not None
    files = set(collector.tree.files)
    for path in images:
        image = path.relative_to(collector.tree.root).as_posix()
        names = [stem + suffix for stem in stems(image, CAPTION_FOLDERS) for suffix in CAPTION_SUFFIXES]
        captions = [caption for name in names if name in files for caption in _captions_in(collector, name)]
        collector.add(path, captions=dict.fromkeys(captions))


def _captions_in(collector: SourceCollector, name: str) -> list[str]:
    assert collector.tree is not None
    file = collector.tree.path(name)
    collector.files.add(file)
    content = read_text(file)
    if looks_like_yolo(content):
        raise DataError(
            f"{file}: holds numbers (YOLO boxes?), while the text files of other images hold captions",
            "keep captions and boxes in different folders",
        )
    lines = ((f"{file}:{number}", line) for number, line in enumerate(content.splitlines(), start=1) if line.strip())
    return [caption for location, line in lines if (caption := collector.caption(line, location, "", file))]


YOLO = Family("text files of numbers next to the images (YOLO)", find_yolo, read_yolo, (".",))
CAPTIONED = Family("images, with captions in text files of their names", find_captioned, read_captioned, (".",))

"""Read YOLO: a text file per image with lines `class x y width height`, relative to the image.

The text files are next to the images, or under `labels/` if the images are under `images/`. The class names are in
data.yaml, classes.txt or obj.names.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from vistune.datagen.sources.boxes import LARGEST, box_of, span
from vistune.datagen.sources.gathering import SourceCollector, count_filled
from vistune.datagen.sources.tree import MOST_OPENED, SPLIT_NAME, Tree, by_folder, split_of_folder
from vistune.errors import DataError, RecipeError
from vistune.files import read_text
from vistune.recipe.strict_yaml import parse_yaml
from vistune.records import RecordError
from vistune.types import Box

NAMES = ("classes.txt", "obj.names", "predefined_classes.txt", "_darknet.labels", "classes.names")
YAML = (".yaml", ".yml")
YAML_FIELDS = ("path", "train", "val", "test", "nc", "names", "roboflow", "download", "kpt_shape", "flip_idx")
SAMPLED = 50  # label files with content that are compared with the form; those of images without objects are empty
# Each character can be matched in one way only, so that a long line is refused in linear time.
_LINE = re.compile(r"[0-9]+(?:\.0+)?(?:\s+[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?){4,}")


def looks_like_yolo(content: str) -> bool:
    """Whether every line of a text is a class number and at least four more numbers."""
    lines = [line.strip() for line in content.splitlines() if line.strip()]
    return bool(lines) and all(_LINE.fullmatch(line) for line in lines)


def label_file(image: str, files: Iterable[str]) -> str | None:
    """The text file of an image's labels: next to it, or under `labels` if the image is under `images`."""
    return next((f"{stem}.txt" for stem in stems(image, ("labels",)) if f"{stem}.txt" in files), None)


def stems(image: str, folders: Iterable[str]) -> Iterator[str]:
    """Possible paths, without suffix, of a file about an image: next to it, or with `images` replaced by `folders`."""
    stem = os.path.splitext(image)[0]
    yield stem
    parts = stem.split("/")
    places = [k for k, part in enumerate(parts[:-1]) if part.lower() == "images"]
    for folder in folders if places else ():
        yield "/".join([*parts[: places[-1]], folder, *parts[places[-1] + 1 :]])


def find(tree: Tree) -> dict[str, list[str]]:
    """The images of each split, if their text files contain only numbers."""
    files = set(tree.files)
    labels = {name: image for image in tree.images if (name := label_file(image, files))}
    contents = (_content(tree, name) for name in islice(labels, MOST_OPENED))
    if not any(map(looks_like_yolo, islice(filter(str.strip, contents), SAMPLED))):
        return {}
    declared = _declared(tree)

    def split_of(image: str) -> str:
        return split_of_folder(image) or next((s for place, s in declared.items() if image.startswith(place)), "")

    return by_folder((image for image in tree.images if label_file(image, files)), split_of)


def _declared(tree: Tree) -> dict[str, str]:
    """The folders that data.yaml names for its splits: folder -> split."""
    found = {}
    for name in tree.with_suffix(*YAML):
        value = parse_yaml(read_text(tree.path(name)), str(tree.path(name)))
        if isinstance(value, dict) and "names" in value:
            for split in ("train", "val", "test"):
                given = value.get(split)
                for place in given if isinstance(given, list) else [given]:
                    if isinstance(place, str):
                        found[f"{re.sub(r'^(?:[.]{1,2}/)+', '', place).rstrip('/')}/"] = split
    return found


def _content(tree: Tree, name: str) -> str:
    try:
        return read_text(tree.path(name))
    except DataError as error:
        tree.broken[name] = error
        return ""


def folders(root: Path, files: list[Path], split: str) -> list[Path]:
    return [root]


def read(gathered: SourceCollector, images: list[Path]) -> None:
    """Read the labels of these images. Raises DataError for a label file without its image."""
    tree = gathered.tree
    assert tree is not None
    names, poses = _class_names(gathered, tree)
    files = set(tree.files)
    unread = gathered.unread(gathered.source)
    for path in images:
        image = path.relative_to(tree.root).as_posix()
        name = label_file(image, files)
        boxes: list[Box] = []
        if name is not None:
            file = tree.path(name)
            gathered.files.add(file)
            for line, content in enumerate(read_text(file).splitlines(), start=1):
                if content.strip():
                    boxes.append(_box(content, f"{file}:{line}", names, poses, unread))
        gathered.add(path, boxes=boxes)
    _refuse_orphans(gathered, tree, files)


def _refuse_orphans(gathered: SourceCollector, tree: Tree, files: set[str]) -> None:
    """Refuse label files without an image; Label Studio exports such folders if the images are elsewhere."""
    own = {label_file(image, files) for image in (*tree.images, *tree.other_images)}
    left = [
        name
        for name in tree.with_suffix(".txt")
        if name not in own
        and split_of_folder(name) not in gathered.other_splits
        and looks_like_yolo(_content(tree, name))
    ]
    gathered.files.update(tree.path(name) for name in own if name and _is_other(tree, name))
    lists = (name for name in tree.files if re.fullmatch(rf"{SPLIT_NAME}\.txt", os.path.basename(name)))
    gathered.files.update(map(tree.path, lists))  # lists of a split's images, not needed: the folders give the splits
    if left:
        raise DataError(
            f"{gathered.source}: {len(left)} label files have no image: {', '.join(left[:5])}",
            "put the images beside them, or into images/ where the labels are in labels/",
        )


def _is_other(tree: Tree, name: str) -> bool:
    """Whether a label file belongs to an image in an unsupported format."""
    stem = os.path.splitext(os.path.basename(name))[0]
    return any(os.path.splitext(os.path.basename(image))[0] == stem for image in tree.other_images)


def _class_names(gathered: SourceCollector, tree: Tree) -> tuple[list[str] | Mapping[int, str], bool]:
    """The class names by number, and whether lines contain key points. Raises RecipeError without class names."""
    for name in tree.with_suffix(*YAML):
        path = tree.path(name)
        value = parse_yaml(read_text(path), str(path))
        if isinstance(value, dict) and "names" in value:
            count_filled(value, YAML_FIELDS, gathered.unread(path, YAML_FIELDS))
            return _names_of_yaml(value["names"], path), "kpt_shape" in value
    for file_name in NAMES:
        for name in tree.files:
            if os.path.basename(name).lower() == file_name:
                gathered.files.add(tree.path(name))
                return [line.strip() for line in read_text(tree.path(name)).splitlines() if line.strip()], False
    raise RecipeError(
        f"{tree.root}: the text files hold boxes (YOLO), but no file names the classes",
        f"put data.yaml (names: [dog, cat]) or {NAMES[0]} (a name per line) into the folder, or name the folder above",
    )


def _names_of_yaml(given: Any, path: Path) -> list[str] | Mapping[int, str]:
    if isinstance(given, list):
        return [str(name) for name in given]
    if isinstance(given, dict) and all(re.fullmatch("[0-9]{1,9}", str(key)) for key in given):
        names = {int(key): str(name) for key, name in given.items()}
        if len(names) < len(given):
            raise DataError(f"{path}:names: two classes have one number", "one name per number")
        return names
    raise DataError(f"{path}:names: expected a list of names", "write names: [dog, cat] or {0: dog, 1: cat}")


def _box(content: str, location: str, names: list[str] | Mapping[int, str], poses: bool, unread: Counter[str]) -> Box:
    """Parse a line: class and box; class, box and confidence; class and polygon; or class, box and key points."""
    if not _LINE.fullmatch(content.strip()):
        raise RecordError(location, "", f"not a YOLO line: {content.strip()[:60]!r}", "write class x y width height")
    first, *numbers = map(float, content.split())
    known = range(len(names)) if isinstance(names, list) else names
    index = int(first) if first < LARGEST else -1  # hundreds of digits are infinity
    if index not in known:
        written = content.split(maxsplit=1)[0]
        written = written if len(written) <= 20 else f"{written[:19]}…"
        raise RecordError(location, "class", f"{written} has no name; there are {len(names)} classes", "name the class")
    if len(numbers) == 5 or (poses and len(numbers) > 5):
        unread["confidence" if len(numbers) == 5 else "key points"] += 1
        numbers = numbers[:4]
    if len(numbers) == 4:
        x, y, width, height = numbers
        corners = x - width / 2, y - height / 2, x + width / 2, y + height / 2
    elif len(numbers) % 2 == 0:
        corners = span(numbers[::2], numbers[1::2], location, "polygon")
    else:
        raise RecordError(
            location, "", f"{len(numbers)} numbers after the class", "write x y width height, or a polygon"
        )
    return box_of(names[index], corners, (1, 1), location, "", {})

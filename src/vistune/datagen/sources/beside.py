"""Images with captions in text files of the same name (a.jpg, a.txt or a.caption), also in nested folders.

Images without such a file have no annotations: only a teacher that sees them can describe them.
"""

from __future__ import annotations

from pathlib import Path

from vistune.datagen.sources.gathering import SourceCollector
from vistune.datagen.sources.tree import Tree, by_folder
from vistune.datagen.sources.yolo import looks_like_yolo, stems
from vistune.errors import DataError
from vistune.files import read_text

SUFFIXES = (".txt", ".caption")
FOLDERS = ("captions", "texts", "text", "txt", "labels")  # folders of captions next to a folder `images`


def find(tree: Tree) -> dict[str, list[str]]:
    """The images of each split by folder; all images as one split if some are in no such folder."""
    return by_folder(tree.images)


def folders(root: Path, files: list[Path], split: str) -> list[Path]:
    return [root]


def read(gathered: SourceCollector, images: list[Path]) -> None:
    assert gathered.tree is not None
    files = set(gathered.tree.files)
    for path in images:
        image = path.relative_to(gathered.tree.root).as_posix()
        names = [stem + suffix for stem in stems(image, FOLDERS) for suffix in SUFFIXES]
        captions = [caption for name in names if name in files for caption in _captions(gathered, name)]
        gathered.add(path, captions=dict.fromkeys(captions))


def _captions(gathered: SourceCollector, name: str) -> list[str]:
    assert gathered.tree is not None
    file = gathered.tree.path(name)
    gathered.files.add(file)
    content = read_text(file)
    if looks_like_yolo(content):
        raise DataError(
            f"{file}: holds numbers (YOLO boxes?), while the text files of other images hold captions",
            "keep captions and boxes in different folders",
        )
    lines = ((f"{file}:{number}", line) for number, line in enumerate(content.splitlines(), start=1) if line.strip())
    return [said for location, line in lines if (said := gathered.caption(line, location, "", file))]

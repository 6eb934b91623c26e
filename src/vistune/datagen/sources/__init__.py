"""Read annotated images from every source of `generate`, with a report of what is not used."""

from pathlib import Path

from vistune.datagen.sources import coco
from vistune.datagen.sources.collector import AnnotatedSource
from vistune.datagen.sources.recognise import SOURCES, described_source, is_described, read_source
from vistune.datagen.sources.tables import TableForm
from vistune.datagen.sources.tree import Tree
from vistune.types import AnnotatedImage

__all__ = [
    "SOURCES",
    "AnnotatedSource",
    "TableForm",
    "described_source",
    "is_described",
    "read_coco",
    "read_source",
    "splits_of",
]


def splits_of(folder: Path) -> list[str]:
    """Return the splits of a COCO folder, sorted."""
    return sorted(coco.find(Tree(folder)))


def read_coco(folder: Path, split: str | None = None) -> list[AnnotatedImage]:
    """Return the images of one split of a COCO folder, in the order of their ids."""
    return read_source(folder, split).images

"""Pictures inside a page: small JPEGs as data URIs, and choices of rows that show every group.

picture file -> at most 192 pixels -> data:image/jpeg;base64,…
"""

from __future__ import annotations

import base64
import io
import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from PIL import Image, ImageOps

SIDE = 192  # pixels of the longer side
Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A picture's name, and its data URI, or None where the file is missing or no picture."""

    name: str
    uri: str | None


def thumbnail(name: str, paths: Iterable[Path]) -> Thumbnail:
    """The first of the paths where a file is; what cannot be opened keeps its name, for a grey box."""
    for path in paths:
        if path.is_file():
            try:
                return Thumbnail(Path(name).name, _data_uri(path))
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # all that PIL raises on bad files
                break
    return Thumbnail(Path(name).name, None)


def _data_uri(path: Path) -> str:
    with Image.open(path) as opened:
        picture = ImageOps.exif_transpose(opened)
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        picture = picture.convert("RGB")
    picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def spread(rows: Sequence[Row], count: int, *, group: Callable[[Row], Hashable], seed: int) -> list[Row]:
    """A seeded choice of `count` rows that takes from every group in turn."""
    shuffled = random.Random(seed).sample(rows, len(rows))
    groups: dict[Hashable, list[Row]] = defaultdict(list)
    for row in shuffled:
        groups[group(row)].append(row)
    queues = [groups[key] for key in sorted(groups, key=str)]
    chosen: list[Row] = []
    depth = 0
    while len(chosen) < min(count, len(rows)):
        chosen += [queue[depth] for queue in queues if depth < len(queue)]
        depth += 1
    return chosen[:count]

"""Shards of a few samples, and a stage over them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

from PIL import Image

COLORS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220), "yellow": (240, 220, 40)}


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def image(color: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 32), COLORS[color]).save(file, "PNG")
    return file.getvalue()


def write_shard(path: Path, number: int, samples: int) -> None:
    """Samples as webdataset keeps them: every third with a row of its own, the others a caption in a text file."""
    with tarfile.open(path, "w") as tar:
        for k in range(samples):
            key, color = f"{number:03}{k:03}", list(COLORS)[(number + k) % 4]
            add(tar, f"{key}.png", image(color))
            if k % 3 == 0:
                turns = [{"from": "human", "value": "<image>\n무슨 색?"}, {"from": "gpt", "value": f"{color} 색"}]
                add(tar, f"{key}.json", json.dumps({"conversations": turns}, ensure_ascii=False).encode())
            else:
                add(tar, f"{key}.txt", f"all of it is {color}\n".encode())


STREAM: dict[str, Any] = {
    "name": "align",
    "learn": {"projector": 3e-3, "language": 1e-3},
    "steps": 9,
    "tokens_per_row": 96,
    "tokens_per_step": 3 * 96,
    "save_every": 2,
}

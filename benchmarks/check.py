"""How fast `vistune check` proves rows and pictures: python benchmarks/check.py [--rows 20000] [--pictures 400]

Rows are made up: a picture, one to four turns, answers of 5 to 120 words, as in LLaVA's mixture. They are read and
proved without a model, and encoded with the quickstart's. Pictures are JPEGs of 640 x 480 with the detail of a
photograph, decoded whole, compared with each other and hashed. What is kept between runs is thrown away first.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from vistune.data import CheckReport, check
from vistune.interop.load import recipe_processor
from vistune.recipe import DataSource, load_recipe

WORDS = """a the red blue circle square dog cat left right above below of in on small large there is are two
it""".split()  # noqa: SIM905


def write_rows(path: Path, count: int, images: int) -> None:
    chance = random.Random(0)
    rows = []
    for k in range(count):
        turns = []
        for number in range(chance.randint(1, 4)):
            asked = " ".join(chance.choices(WORDS, k=chance.randint(4, 15))) + "?"
            turns += [
                {"from": "human", "value": f"<image>\n{asked}" if number == 0 else asked},
                {"from": "gpt", "value": " ".join(chance.choices(WORDS, k=chance.randint(5, 120)))},
            ]
        rows.append({"id": str(k), "image": f"{k % images}.jpg", "kind": "detail", "conversations": turns})
    path.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


def write_images(folder: Path, count: int) -> None:
    chance = np.random.default_rng(0)
    for k in range(count):
        coarse = Image.fromarray(chance.integers(0, 256, (15, 20, 3), dtype=np.uint8)).resize((640, 480))
        fine = Image.fromarray(chance.integers(0, 256, (480, 640, 3), dtype=np.uint8)).filter(ImageFilter.BoxBlur(1))
        Image.blend(coarse, fine, 0.3).save(folder / f"{k}.jpg", quality=90)


def timed(what: str, unit: str, count: int, *arguments: object, **settings: object) -> CheckReport:
    began, busy = time.perf_counter(), cpu_seconds()
    report = check(*arguments, **settings)  # type: ignore[arg-type]
    seconds, busy = time.perf_counter() - began, cpu_seconds() - busy
    print(f"{what}: {count:,} {unit} in {seconds:.1f} s, {count / seconds:,.0f} a second; "
          f"{count / max(busy, 0.01):,.0f} a second of one core's time")  # fmt: skip
    return report


def cpu_seconds() -> float:
    """Of this process and of those that it has waited for: what other work takes is not in it."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--pictures", type=int, default=400)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["VISTUNE_CACHE"] = str(folder / "cache")
        write_images(folder, given.pictures)
        write_rows(folder / "rows.json", given.rows, given.pictures)
        write_rows(folder / "few.json", given.pictures, given.pictures)
        size = sum(path.stat().st_size for path in folder.glob("*.jpg")) / given.pictures / 1e3
        processor = recipe_processor(load_recipe("quickstart"))
        source = [DataSource(file=folder / "rows.json")]
        timed("read and proved", "rows", given.rows, source, None, images=False)
        timed("read, proved and encoded", "rows", given.rows, source, processor, images=False)
        timed("the same again, out of the cache", "rows", given.rows, source, processor, images=False)
        cores = len(os.sched_getaffinity(0))
        few = [DataSource(file=folder / "few.json")]
        timed(f"decoded, {size:.0f} kB each, {cores} cores", "pictures", given.pictures, few, None)


if __name__ == "__main__":
    main()

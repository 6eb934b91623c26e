"""How long the concept-balanced choice takes over millions of captions, and how much memory.

python benchmarks/filter.py [--captions 3000000] [--seed 0]

Made-up captions, as a TSV like CC3M's: an opening, then two to four nouns from a vocabulary whose frequencies fall as
Zipf's law says, some with an adjective, so that a few phrases are in very many captions and most are in a few. The
choice runs in a process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import resident

from vistune.datagen import filter_captions

NOUNS = 50_000
STEEPNESS = 1.5  # of Zipf's law: so that about as large a share is chosen as of CC3M, a fifth
OPENINGS = ("a", "the", "view of", "young", "actor attends", "portrait of", "this is", "close up of")
JOINTS = ("with a", "on the", "in front of", "and", "during", "standing next to the", "at")
ADJECTIVES = ("old", "red", "happy", "wooden", "beautiful", "small", "traditional", "dark", "modern", "white")
SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprtvz" for vowel in "aeiou"]
PIECE = 100_000  # captions made at once


def noun(number: int) -> str:
    """A word of its own for each number; none has an ending that says what it is."""
    word = "k"
    for _ in range(3):
        number, rest = divmod(number, len(SYLLABLES))
        word += SYLLABLES[rest]
    return word + "n"


def write_captions(path: Path, captions: int, seed: int) -> None:
    chance = np.random.default_rng(seed)
    nouns = [noun(number) for number in range(NOUNS)]
    shares = np.arange(1.0, NOUNS + 1) ** -STEEPNESS
    edges = np.cumsum(shares / shares.sum())
    with open(path, "w", encoding="utf-8") as file:
        for begin in range(0, captions, PIECE):
            size = min(PIECE, captions - begin)
            drawn = np.searchsorted(edges[:-1], chance.random((size, 4))).tolist()
            signs = chance.integers(0, 1 << 30, (size, 6)).tolist()
            counts = chance.integers(2, 5, size).tolist()
            for k in range(size):
                words = [OPENINGS[signs[k][5] % len(OPENINGS)]]
                for place in range(counts[k]):
                    sign = signs[k][place]
                    words += [JOINTS[sign % len(JOINTS)]] if place else []
                    words += [ADJECTIVES[sign // 7 % len(ADJECTIVES)]] if sign % 3 == 0 else []
                    words.append(nouns[drawn[k][place]])
                file.write(f"{' '.join(words)}\thttps://example.org/{begin + k}.jpg\n")


def choose(source: Path, out: Path, result: Any) -> None:
    before = resident() / 2**20
    began = time.monotonic()
    chosen = filter_captions(source, out)
    took = time.monotonic() - began
    result.put((chosen, took, before, resident() / 2**20))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=3_000_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder, "captions.tsv"), context.Queue()
        write_captions(source, given.captions, given.seed)
        print(f"{given.captions:,} captions, {source.stat().st_size / 1e6:.0f} MB", flush=True)
        child = context.Process(target=choose, args=(source, Path(folder, "chosen.tsv"), result))
        child.start()
        chosen, took, before, peak = result.get()
        child.join()
    print(f"{took:.1f} s  {given.captions / took:,.0f} captions/s  peak {peak:.0f} MB ({before:.0f} MB before)")
    print(
        f"{chosen.chosen:,} chosen ({chosen.chosen / chosen.captions:.0%}); {chosen.phrases:,} phrases, "
        f"{chosen.frequent_enough:,} of them frequent enough; {chosen.without_phrase:,} captions without one"
    )


if __name__ == "__main__":
    main()

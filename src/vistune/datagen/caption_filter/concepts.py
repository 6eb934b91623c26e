"""The concept-balanced choice of stage-1 captions (arXiv 2304.08485, section 4 and appendix; 595K of CC3M).

captions -> noun phrases of each -> how many captions name a phrase -> rare concepts whole, frequent ones sampled
A phrase in fewer than 3 captions chooses none, one in at most 100 all of them, a more frequent one 100 by chance.

The paper adds the captions of one phrase after another to a pool, the rarest phrase first, and a frequent phrase draws
its 100 from all of its captions. What rarer phrases chose before therefore does not count against the 100, the pool is
what any phrase chooses, and the order has no effect on it. Another reading, which only fills each phrase up to 100,
would choose fewer; the paper does not say so.

Two passes over the file: the first keeps eight bytes a phrase and four a caption, the second copies the chosen rows.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from vistune.datagen.caption_filter.captions import SUFFIXES, Advance, copy_rows, read_rows
from vistune.datagen.caption_filter.noun_phrases import FINDERS, Finder
from vistune.errors import DataError, RecipeError
from vistune.records import kind_of_file
from vistune.registry import lookup

LEAST = 3  # captions that a phrase must be in
MOST = 100  # captions that one phrase may choose


@dataclass(frozen=True, slots=True)
class FilteredCaptions:
    """What a choice came to.

    captions: rows that have one · phrases: different ones · frequent_enough: those in `least` captions or more ·
    without_phrase: captions that name nothing · chosen: captions written · rejects: rows set aside, by reason.
    """

    captions: int
    phrases: int
    frequent_enough: int
    without_phrase: int
    chosen: int
    rejects: Mapping[str, int]


def filter_captions(
    source: Path,
    out: Path,
    *,
    column: str | None = None,
    least: int = LEAST,
    most: int = MOST,
    seed: int = 0,
    finder: str = "rules",
    advance: Advance = lambda megabytes: None,
) -> FilteredCaptions:
    """Write the chosen rows of `source` to `out`, unchanged and in order; rows without a caption to OUT.rejects.jsonl.

    source: .jsonl, .json (LLaVA form or objects with a caption), .tsv (CC3M's caption and URL, or with a header)
    or .csv, each also gzipped; `out` has the same form with line ends \\n.
    finder: one of FINDERS, or `package.module:attribute`.
    advance is told megabytes read, both passes together. Raises DataError, RecipeError.
    """
    _check_request(source, out, least, most, seed)
    hashes, counts, rejects = _read_phrases(source, column, lookup(finder, FINDERS, "--finder"), advance)
    if not counts:
        found = ", ".join(f"{count} rows {reason}" for reason, count in rejects.items()) or "it is empty"
        raise DataError(f"{source}: has no captions: {found}", "give a file with captions, or name their --column")
    phrases_of = np.frombuffer(counts, np.uint32)
    keep, captions_of = choose(np.frombuffer(hashes, np.uint64), phrases_of, least=least, most=most, seed=seed)
    copy_rows(source, column, out, keep, advance)
    return FilteredCaptions(
        captions=len(counts),
        phrases=len(captions_of),
        frequent_enough=int((captions_of >= least).sum()),
        without_phrase=int((phrases_of == 0).sum()),
        chosen=int(keep.sum()),
        rejects=dict(rejects),
    )


def choose(
    phrases: np.ndarray[Any, Any], counts: np.ndarray[Any, Any], *, least: int, most: int, seed: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(captions,) bool: which are chosen; (phrases,) int: in how many captions each phrase is.

    phrases (occurrences,) uint64, those of each caption one after another, without repeats · counts (captions,): how
    many each caption has. What a phrase chooses depends on the seed, the phrase and its captions alone.
    """
    captions = np.repeat(np.arange(len(counts), dtype=np.uint32), counts)
    order = np.argsort(phrases, kind="stable")
    captions, ordered = captions[order], phrases[order]
    del order
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.zeros(0, np.int64)
    sizes = np.diff(np.r_[starts, len(ordered)])
    keep = np.zeros(len(counts), bool)
    keep[captions[np.repeat((sizes >= least) & (sizes <= most), sizes)]] = True
    for at in np.flatnonzero((sizes >= least) & (sizes > most)):
        begin, size = int(starts[at]), int(sizes[at])
        chance = np.random.default_rng([seed, int(ordered[begin])])
        keep[captions[begin + chance.choice(size, most, replace=False)]] = True
    return keep, sizes


def _check_request(source: Path, out: Path, least: int, most: int, seed: int) -> None:
    """Raise RecipeError before anything is read for what would fail or overwrite after minutes."""
    form = kind_of_file(source.name)
    if form not in SUFFIXES:
        hint = "rows are copied as they are, so convert the file to one of these"
        raise RecipeError(f"{source}: captions are read from {', '.join(SUFFIXES)}, also gzipped", hint)
    if source.exists() and not source.is_file():
        raise RecipeError(f"{source}: no file", "name a file: it is read twice")
    if out.suffix.lower() != form:
        raise RecipeError(f"{out}: the choice has the form of its source, unpacked", f"name it {out.stem}{form}")
    if out.exists():
        raise RecipeError(f"{out}: is already there", "remove it, or give another --out")
    if least < 1 or most < 1 or seed < 0:
        raise RecipeError(f"least {least}, most {most}, seed {seed}", "least and most from 1, seed from 0")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecipeError(f"{out.parent}: cannot be made: {error.strerror}", "give another --out") from None
    if not os.access(out.parent, os.W_OK):
        raise RecipeError(f"{out.parent}: cannot be written to", "give another --out")


def _read_phrases(
    source: Path, column: str | None, find: Finder, advance: Advance
) -> tuple[array[int], array[int], Counter[str]]:
    """The hash of each caption's phrases one after another, how many each caption has, and the faults of other rows."""
    hashes, counts, rejects = array("Q"), array("I"), Counter[str]()
    given = 0

    def captions() -> Iterator[str]:
        nonlocal given
        for row in read_rows(source, column, advance):
            if row.fault:
                rejects[row.fault] += 1
            else:
                given += 1
                yield row.caption

    for phrases in find(captions()):
        distinct = dict.fromkeys(phrases)
        hashes.extend(map(_hash, distinct))
        counts.append(len(distinct))
    if len(counts) != given:
        raise RecipeError(f"--finder: gave {len(counts)} lists for {given} captions", "one list of phrases a caption")
    return hashes, counts, rejects


@lru_cache(1 << 16)
def _hash(phrase: str) -> int:
    """64 bits, the same in every process."""
    return int.from_bytes(hashlib.blake2b(phrase.encode(), digest_size=8).digest(), "little")

"""Select stage-1 captions balanced by concept (arXiv 2304.08485, section 4 and appendix: 595K of CC3M).

A noun phrase in fewer than 3 captions selects none, a phrase in at most 100 captions selects all of them, and a more
frequent phrase selects 100 at random. A caption is kept if any of its phrases selects it.

The paper adds the captions of one phrase after another to a pool, the rarest phrase first, and a frequent phrase draws
its 100 from all of its captions. A caption may already be in the pool because of a rarer phrase. Such a caption does
not reduce the 100 of a later phrase, so the order has no effect. In another reading of the paper, it does reduce them,
so fewer captions are selected. The paper does not say which is meant.

The file is read twice: the first pass keeps eight bytes per phrase and four per caption, the second copies the selected
records byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from vistune.datagen.noun_phrases import FINDERS, Finder
from vistune.datagen.sources.boxes import NULLS
from vistune.errors import DataError, RecipeError
from vistune.files import replacing
from vistune.records import Record, RecordError, TableFormat, kind_of_file, read_records
from vistune.records.reading import open_text
from vistune.registry import lookup

NAMES = ("caption", "blip_caption", "text", "captions")  # fields of the caption, unless `column` names one
CC3M = ("caption", "url")  # the columns of a TSV without a header
SUFFIXES = (".jsonl", ".ndjson", ".json", ".tsv", ".csv")
TABLES = (".tsv", ".csv")
BOM = b"\xef\xbb\xbf"
RECORDS_PER_REPORT = 1000  # updating a progress bar takes longer than reading a record

AdvanceMegabytes = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class FilterOptions:
    """How captions are selected.

    - column: the field of the caption; by default the first of NAMES, or LLaVA's first answer
    - least: number of captions that a phrase must be in to select any
    - most: number of captions that one phrase may select
    - finder: how noun phrases are found: one of FINDERS, or `package.module:attribute`
    """

    column: str | None = None
    least: int = 3
    most: int = 100
    seed: int = 0
    finder: str = "rules"

    def __post_init__(self) -> None:
        if self.least < 1 or self.most < 1 or self.seed < 0:
            raise RecipeError(
                f"least {self.least}, most {self.most}, seed {self.seed}: a value is too small",
                "give --least and --most of at least 1 and a seed of at least 0",
            )


@dataclass(frozen=True, slots=True)
class FilteredCaptions:
    """The result of a selection.

    - captions: records with a caption
    - phrases: distinct phrases; frequent_enough: those in `least` captions or more
    - without_phrase: captions without a noun phrase
    - chosen: captions written
    - rejects: records without a usable caption, by reason
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
    options: FilterOptions | None = None,
    *,
    advance: AdvanceMegabytes = lambda megabytes: None,
) -> FilteredCaptions:
    """Write the selected records of `source` to `out`, unchanged and in order.

    Records without a usable caption go to OUT.rejects.jsonl.

    Args:
        source: A .jsonl, .json (LLaVA form, or objects with a caption), .tsv (CC3M's caption and URL, or with a header)
            or .csv file, each also gzipped.
        out: A file of the same form, with line ends `\\n`.
        advance: Called with megabytes read, for both passes together.

    Raises:
        DataError: The source has no captions, or changes while it is read.
        RecipeError: The request cannot work; nothing has been read.
    """
    options = options or FilterOptions()
    _check_paths(source, out)
    finder = lookup(options.finder, FINDERS, "--finder")
    hashes, counts, rejects = _read_phrases(source, options.column, finder, advance)
    if not counts:
        reasons = ", ".join(f"{count} rows {reason}" for reason, count in rejects.items()) or "it is empty"
        raise DataError(f"{source}: has no captions: {reasons}", "give a file with captions, or name their --column")
    phrases_of = np.frombuffer(counts, np.uint32)
    keep, captions_of = select(
        np.frombuffer(hashes, np.uint64), phrases_of, least=options.least, most=options.most, seed=options.seed
    )
    copy_records(source, options.column, out, keep, advance)
    return FilteredCaptions(
        captions=len(counts),
        phrases=len(captions_of),
        frequent_enough=int((captions_of >= options.least).sum()),
        without_phrase=int((phrases_of == 0).sum()),
        chosen=int(keep.sum()),
        rejects=dict(rejects),
    )


def select(
    phrases: NDArray[np.uint64], counts: NDArray[np.uint32], *, least: int, most: int, seed: int
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return (captions,) bool: which are selected; and (phrases,) int: how many captions each phrase is in.

    The selection of a phrase depends only on the seed, the phrase and its captions.

    Args:
        phrases: (occurrences,) hashes of the phrases of one caption after another, without repeats in a caption.
        counts: (captions,) number of phrases of each caption.
    """
    captions = np.repeat(np.arange(len(counts), dtype=np.uint32), counts)
    order = np.argsort(phrases, kind="stable")
    captions, ordered = captions[order], phrases[order]
    del order
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.zeros(0, np.int64)
    sizes = np.diff(np.r_[starts, len(ordered)])
    keep = np.zeros(len(counts), bool)
    keep[captions[np.repeat((sizes >= least) & (sizes <= most), sizes)]] = True
    for index in np.flatnonzero((sizes >= least) & (sizes > most)):
        begin, size = int(starts[index]), int(sizes[index])
        rng = np.random.default_rng([seed, int(ordered[begin])])
        keep[captions[begin + rng.choice(size, most, replace=False)]] = True
    return keep, sizes


def _check_paths(source: Path, out: Path) -> None:
    """Raise RecipeError for a request that would fail or overwrite a file after minutes of reading."""
    form = kind_of_file(source.name)
    if form not in SUFFIXES:
        hint = "records are copied unchanged, so convert the file to one of these"
        raise RecipeError(f"{source}: captions are read from {', '.join(SUFFIXES)}, also gzipped", hint)
    if source.exists() and not source.is_file():
        raise RecipeError(f"{source}: is not a regular file", "name a file, because it is read twice")
    if out.suffix.lower() != form:
        raise RecipeError(
            f"{out}: the output has the same format as the source and is not compressed", f"name it {out.stem}{form}"
        )
    if out.exists():
        raise RecipeError(f"{out}: already exists", "remove it, or give another --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecipeError(f"{out.parent}: cannot be made: {error.strerror}", "give another --out") from None
    if not os.access(out.parent, os.W_OK):
        raise RecipeError(f"{out.parent}: cannot be written to", "give another --out")


def _read_phrases(
    source: Path, column: str | None, find: Finder, advance: AdvanceMegabytes
) -> tuple[array[int], array[int], Counter[str]]:
    """Return the hashes of all phrases, the number of phrases of each caption, and the rejects by reason."""
    hashes, counts, rejects = array("Q"), array("I"), Counter[str]()
    total = 0

    def captions() -> Iterator[str]:
        nonlocal total
        for item in read_captions(source, column, advance):
            if item.reject_reason:
                rejects[item.reject_reason] += 1
            else:
                total += 1
                yield item.caption

    for phrases in find(captions()):
        distinct = dict.fromkeys(phrases)
        hashes.extend(map(_hash, distinct))
        counts.append(len(distinct))
    if len(counts) != total:
        raise RecipeError(f"--finder: gave {len(counts)} lists for {total} captions", "return one list per caption")
    return hashes, counts, rejects


@lru_cache(1 << 16)
def _hash(phrase: str) -> int:
    """Return 64 bits that are the same in every process."""
    return int.from_bytes(hashlib.blake2b(phrase.encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True, slots=True)
class CaptionRecord:
    """A record of a file with its caption, or with the reason why it has none."""

    record: Record
    caption: str = ""
    reject_reason: str = ""


def read_captions(path: Path, column: str | None, advance: AdvanceMegabytes) -> Iterator[CaptionRecord]:
    """Yield every record of a file with its caption. A list of captions is joined into one text.

    Raises:
        DataError: The rest of the file cannot be read.
    """
    kind = kind_of_file(path.name)
    header = _header_of_tsv(path) if kind == ".tsv" and column is None else ()
    caption_of = _table_caption if kind in TABLES else _json_caption
    done = 0
    fields = (column,) if column else (*NAMES, "conversations")
    records = read_records(path, own_fields=fields, table=TableFormat(quotes=kind != ".tsv", header=header))
    for number, record in enumerate(records, start=1):
        if number % RECORDS_PER_REPORT == 0:
            advance((record.begin - done) / 1e6)  # unpacked bytes exceed a gzipped file's size; the bar stops at 100 %
            done = record.begin
        value = record.value
        if isinstance(value, RecordError):
            yield CaptionRecord(record, reject_reason=_reason_of(value, kind))
        elif not isinstance(value, Mapping):
            yield CaptionRecord(record, reject_reason="not_an_object")
        else:
            yield _checked(record, caption_of(value, column, path))
    advance(max(path.stat().st_size - done, 0) / 1e6)


def copy_records(
    source: Path, column: str | None, out: Path, keep: NDArray[np.bool_], advance: AdvanceMegabytes
) -> None:
    """Write the header and the kept records of `source` to `out`, and the rejected ones to OUT.rejects.jsonl.

    Args:
        keep: (captions,) bool, one for every record with a caption.

    Raises:
        DataError: The file is no longer the same.
    """
    kind = kind_of_file(source.name)
    is_list = kind == ".json" or (kind not in TABLES and _begins_with_list(source))
    rejects_path = out.with_name(f"{out.name}.rejects.jsonl")
    changed = DataError(f"{source}: was changed while it was read", "run again when nothing writes to it")
    number = written = rejected = 0
    with open_text(source) as original, replacing(out) as file, replacing(rejects_path) as rejects:
        file.write(b"[" if is_list else b"")
        for item in read_captions(source, column, advance):
            if not number and not rejected and kind in TABLES:
                file.write(_header(original, item.record.begin))
            if item.reject_reason:
                raw = _bytes_of(item.record, original, changed)[:500].decode("utf-8", "backslashreplace")
                reject = {"line": item.record.number, "reason": item.reject_reason, "raw": raw}
                rejects.write((json.dumps(reject, ensure_ascii=False) + "\n").encode())
                rejected += 1
                continue
            number += 1
            if number > len(keep):
                raise changed
            if keep[number - 1]:
                content = _bytes_of(item.record, original, changed)
                if is_list:
                    file.write((b",\n" if written else b"\n") + content)
                else:  # an indented JSON record is joined into one line
                    file.write((content if kind in TABLES else b" ".join(content.splitlines())) + b"\n")
                written += 1
        file.write(b"\n]\n" if is_list else b"")
        if number != len(keep):
            raise changed
    if not rejected:
        rejects_path.unlink()


def _bytes_of(record: Record, file: IO[bytes], changed: DataError) -> bytes:
    """Return the bytes of a record without its line end. Raises `changed` if they differ from the first reading."""
    file.seek(record.begin)
    content = file.read(record.size)
    if record.crc and zlib.crc32(content) != record.crc:
        raise changed
    return content.removeprefix(BOM).strip(b"\r\n")


def _header(file: IO[bytes], begin: int) -> bytes:
    """Return the line before the first record; empty if the file begins with a record."""
    file.seek(0)
    content = file.read(begin).removeprefix(BOM).strip(b"\r\n")
    return content + b"\n" if content else b""


def _begins_with_list(path: Path) -> bool:
    with open_text(path) as file:
        return file.read(1 << 16).removeprefix(BOM).lstrip()[:1] == b"["


def _header_of_tsv(path: Path) -> tuple[str, ...]:
    """Return names for the columns if the first line has none of NAMES."""
    with open_text(path) as file:
        cells = file.readline().removeprefix(BOM).decode("utf-8", "replace").rstrip("\r\n").split("\t")
    return () if set(cells) & set(NAMES) else CC3M[: len(cells)]


def _reason_of(error: RecordError, kind: str) -> str:
    if ": not UTF-8" in error.message:
        return "not_utf8"
    return "other_cells" if kind in TABLES else "not_json"


def _checked(record: Record, caption: object) -> CaptionRecord:
    if isinstance(caption, list) and all(isinstance(text, str) for text in caption):
        caption = " . ".join(caption)
    if not isinstance(caption, str) or caption.strip().lower() in NULLS:
        return CaptionRecord(record, reject_reason="no_caption")
    try:
        caption.encode()  # a JSON escape may contain a lone surrogate
    except UnicodeEncodeError:
        return CaptionRecord(record, reject_reason="not_utf8")
    return CaptionRecord(record, caption)


def _json_caption(record: Mapping[str, object], column: str | None, path: Path) -> object:
    turns = record.get("conversations")
    if column is None and isinstance(turns, list):
        return next((turn.get("value") for turn in turns if isinstance(turn, dict) and turn.get("from") == "gpt"), None)
    return next((record[name] for name in _names(column) if name in record), None)


def _table_caption(row: Mapping[str, object], column: str | None, path: Path) -> object:
    """Return the caption of a row. Raises DataError at the first row of a table without a caption column."""
    for name in _names(column):
        if name in row:
            return row[name]
    problem = f"no column {column!r}" if column else "no column of captions"
    raise DataError(f"{path}:1: {problem}", f"name one of {', '.join(row)[:200]} with --column")


def _names(column: str | None) -> tuple[str, ...]:
    return NAMES if column is None else (column,)

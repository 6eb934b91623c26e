"""The concept-balanced choice of stage-1 captions (arXiv 2304.08485, section 4 and appendix; 595K of CC3M).

captions -> noun phrases of each -> how many captions name a phrase -> rare concepts whole, frequent ones sampled
A phrase in fewer than 3 captions chooses none; one in at most 100 chooses all of them; a more frequent one chooses 100
of them by chance. The choice is what any phrase chooses. Two passes over the file: the first keeps eight bytes a
phrase and one a caption, the second copies the chosen rows as they stand.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import IO, Any

import numpy as np

from vistune.datagen.grounding import KO_PARTICLES
from vistune.errors import DataError, RecipeError
from vistune.files import sync_folder
from vistune.registry import lookup

LEAST = 3  # captions that a phrase must be in
MOST = 100  # captions that one phrase may choose
SUFFIXES = (".jsonl", ".json", ".tsv", ".csv")
CAPTIONS = ("caption", "blip_caption", "text", "captions")  # where a caption stands without being told
CHUNK = 1 << 20  # characters read at once of a JSON list
Finder = Callable[[Iterable[str]], Iterator[list[str]]]


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a choice came to: captions read and chosen, phrases in all and in enough captions, rows set aside."""

    captions: int
    phrases: int
    frequent_enough: int
    without_phrase: int
    chosen: int
    rejects: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Row:
    """A row as it stands in the file; `caption` is None where it has none, with the reason in `fault`."""

    line: int
    raw: str
    caption: str | None
    fault: str = ""


def filter_captions(
    source: Path,
    out: Path,
    *,
    column: str | None = None,
    least: int = LEAST,
    most: int = MOST,
    seed: int = 0,
    finder: str = "rules",
    advance: Callable[..., None] = lambda count: None,
) -> Chosen:
    """Write the chosen rows of `source` to `out`, unchanged and in order; rows without a caption to OUT.rejects.jsonl.

    source: .jsonl, .json (LLaVA form or objects with a caption), .tsv (CC3M's caption and address, or with a header)
    or .csv; `out` has the same form. Raises DataError, RecipeError; the same call writes the same bytes.
    """
    form = source.suffix.lower()
    if form not in SUFFIXES:
        raise RecipeError(f"{source}: captions are read from {', '.join(SUFFIXES)}", "convert the file to one of these")
    if out.suffix.lower() != form:
        raise RecipeError(f"{out}: the choice has the form of its source", f"name it {out.with_suffix(form).name}")
    if out.exists() and out.samefile(source):
        raise RecipeError(f"{out}: is the source itself", "give another --out")
    find = lookup(finder, FINDERS, "--finder")
    rejects: Counter[str] = Counter()
    hashes, counts = array("Q"), array("B")

    def captions() -> Iterator[str]:
        for row in _rows(source, column):
            if row.caption is None:
                rejects[row.fault] += 1
            else:
                yield row.caption
            advance(1)

    for phrases in find(captions()):
        distinct = list(dict.fromkeys(phrases))[:255]
        hashes.extend(map(_hash, distinct))
        counts.append(len(distinct))
    if not counts:
        raise DataError(f"{source}: has no captions", "give a file with captions, or name their --column")
    keep, phrase_counts = choose(np.frombuffer(hashes, np.uint64), np.frombuffer(counts, np.uint8), least, most, seed)
    _copy(source, column, out, keep, rejects)
    return Chosen(
        captions=len(counts),
        phrases=len(phrase_counts),
        frequent_enough=int((phrase_counts >= least).sum()),
        without_phrase=int((np.frombuffer(counts, np.uint8) == 0).sum()),
        chosen=int(keep.sum()),
        rejects=dict(rejects),
    )


def choose(
    phrases: np.ndarray[Any, Any], counts: np.ndarray[Any, Any], least: int, most: int, seed: int
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


def _hash(phrase: str) -> int:
    return int.from_bytes(hashlib.blake2b(phrase.encode(), digest_size=8).digest(), "little")


# --- noun phrases ---

_EN_TOKEN = re.compile(r"[a-z]+(?:['’][a-z]+)?|[^\sa-z가-힣]+|[가-힣]+")
_HANGUL = re.compile("[가-힣]")
_PARTICLE = re.compile(rf"(?<=[가-힣])(?:{KO_PARTICLES})$")
_IRREGULAR = {
    "men": "man", "women": "woman", "children": "child", "feet": "foot", "teeth": "tooth", "geese": "goose",
    "mice": "mouse", "knives": "knife", "wolves": "wolf", "shelves": "shelf", "loaves": "loaf", "wives": "wife",
    "scarves": "scarf", "buses": "bus", "gases": "gas", "lenses": "lens", "people": "person",
}  # fmt: skip


@cache
def _words() -> Mapping[str, frozenset[str]]:
    text = (resources.files("vistune.datagen") / "concepts.json").read_text(encoding="utf-8")
    return {
        f"{language}/{name}": frozenset(words.split())
        for language, lists in json.loads(text).items()
        for name, words in lists.items()
    }


def noun_phrases(caption: str) -> list[str]:
    """Runs of words that are no function words, verbs or participles, by lists and endings: fast, and right enough.

    English in lower case with its last word in the singular; Korean nouns without their particles.
    """
    return _korean_phrases(caption) if _HANGUL.search(caption) else _english_phrases(caption)


def _english_phrases(caption: str) -> list[str]:
    words = _words()
    closed, in_ing, in_ed = words["en/closed"], words["en/nouns_in_ing"], words["en/words_in_ed"]
    found: list[str] = []
    run: list[str] = []
    for token in _EN_TOKEN.findall(caption.lower()):
        splits = (
            not token[0].isalpha()
            or token in closed
            or (token.endswith("ing") and token not in in_ing)
            or (token.endswith("ed") and token not in in_ed)
            or token.endswith("ly")
        )
        if not splits:
            run.append(token)
        if run and (splits or token.endswith(("'s", "’s"))):
            found.append(_phrase(run))
            run = []
    return [*found, _phrase(run)] if run else found


def _phrase(run: list[str]) -> str:
    return " ".join([*run[:-1], singular(run[-1])])


def singular(noun: str) -> str:
    """An English noun in the singular, by its ending."""
    noun = re.sub(r"['’]s?$", "", noun)
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if len(noun) < 4 or not noun.endswith("s") or noun.endswith(("ss", "us", "is")):
        return noun
    if noun.endswith("ies"):
        return noun[:-3] + "y" if len(noun) > 4 else noun[:-1]
    return noun[:-2] if noun.endswith(("sses", "xes", "zzes", "ches", "shes", "oes")) else noun[:-1]


def _korean_phrases(caption: str) -> list[str]:
    words = _words()
    found: list[str] = []
    run: list[str] = []
    for token in re.findall(r"[가-힣A-Za-z0-9]+|[^\s가-힣A-Za-z0-9]+", caption):
        stem = _PARTICLE.sub("", token)
        breaks = not _HANGUL.search(token) or token in words["ko/adnominal"] or stem in words["ko/adnominal"]
        if stem == token and len(token) > 1:
            breaks = breaks or token.endswith(tuple(words["ko/predicate"]))
        if not breaks:
            run.append(stem)
        if run and (breaks or stem != token):
            found.append(" ".join(run))
            run = []
    return [*found, " ".join(run)] if run else found


def _by_rules(captions: Iterable[str]) -> Iterator[list[str]]:
    return map(noun_phrases, captions)


def _by_spacy(captions: Iterable[str]) -> Iterator[list[str]]:
    """spaCy's noun chunks without their determiners, as the paper's (it names spaCy, not the model)."""
    try:
        import spacy

        model = spacy.load("en_core_web_sm", disable=["ner", "lemmatizer"])
    except (ImportError, OSError):
        raise RecipeError(
            "--finder spacy: spaCy or its model is not installed",
            "pip install 'vistune[spacy]' && python -m spacy download en_core_web_sm, or leave --finder out",
        ) from None
    for document in model.pipe(captions, batch_size=512):
        chunks = ([token.lower_ for token in chunk if token.pos_ != "DET"] for chunk in document.noun_chunks)
        yield [" ".join(words) for words in chunks if words]


FINDERS: Mapping[str, Finder] = {"rules": _by_rules, "spacy": _by_spacy}


# --- files ---


def _rows(path: Path, column: str | None) -> Iterator[_Row]:
    """Every row of a file, with its caption or what is wrong with it."""
    try:
        file = open(path, encoding="utf-8-sig", errors="surrogateescape", newline="")  # noqa: SIM115 - closed below
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}", "check the path") from None
    with file:
        if path.suffix.lower() == ".jsonl":
            yield from (_json_row(number, line, column) for number, line in enumerate(file, start=1) if line.strip())
        elif path.suffix.lower() == ".json":
            yield from (_json_row(line, raw, column) for line, raw in json_list(file, path))
        else:
            yield from _separated_rows(file, path, column)


def _json_row(line: int, raw: str, column: str | None) -> _Row:
    raw = raw.strip()
    try:
        row = json.loads(raw)
    except (ValueError, RecursionError):
        return _Row(line, raw, None, "not_json")
    if not isinstance(row, dict):
        return _Row(line, raw, None, "not_an_object")
    return _checked(line, raw, _caption_of(row, column))


def _caption_of(row: Mapping[str, Any], column: str | None) -> Any:
    if column is not None:
        return row.get(column)
    turns = row.get("conversations")
    if isinstance(turns, list):
        return next((turn.get("value") for turn in turns if isinstance(turn, dict) and turn.get("from") == "gpt"), None)
    return next((row[name] for name in CAPTIONS if name in row), None)


def _checked(line: int, raw: str, caption: Any) -> _Row:
    caption = caption[0] if isinstance(caption, list) and caption else caption
    if not isinstance(caption, str) or not caption.strip():
        return _Row(line, raw, None, "no_caption")
    try:
        raw.encode()
    except UnicodeEncodeError:
        return _Row(line, raw, None, "not_utf8")
    return _Row(line, raw, caption)


def json_list(file: IO[str], path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of each value of a JSON list, read piece by piece. Raises DataError where it breaks off."""
    decoder = json.JSONDecoder()
    buffer, line, ended = "", 1, False
    opened = False
    while True:
        at = len(buffer) - len(buffer.lstrip(" \t\r\n,"))
        line += buffer.count("\n", 0, at)
        buffer = buffer[at:]
        if not opened and buffer:
            if buffer[0] != "[":
                raise DataError(f"{path}:{line}: a JSON list is wanted", "or name the file .jsonl if it is JSON lines")
            buffer, opened = buffer[1:], True
            continue
        if buffer[:1] == "]":
            return
        try:
            _, end = decoder.raw_decode(buffer)
            whole = end < len(buffer) or ended  # a number may go on in the next piece
        except (ValueError, RecursionError) as error:
            if ended:
                raise DataError(f"{path}:{line}: not JSON, or the list breaks off: {error}", "mend the file") from None
            whole, end = False, 0
        if whole:
            yield line, buffer[:end]
            line += buffer.count("\n", 0, end)
            buffer = buffer[end:]
        else:
            piece = file.read(CHUNK)
            ended = not piece
            buffer += piece


def _separated_rows(file: IO[str], path: Path, column: str | None) -> Iterator[_Row]:
    """CSV with a header; TSV with one, or as CC3M's: a caption and an address, no header. The header is no row."""
    reader = csv.reader(file, delimiter="," if path.suffix.lower() == ".csv" else "\t", quoting=_quoting(path))
    place = None
    for number, cells in enumerate(reader, start=1):
        if place is None:
            names = [column] if column else [name for name in CAPTIONS if name in cells]
            if names and names[0] in cells:
                place = cells.index(names[0])
                continue
            if column or path.suffix.lower() == ".csv":
                raise DataError(f"{path}:1: no column of captions", f"name one of {', '.join(cells)} with --column")
            place = 0
        if cells:
            yield _checked(number, _written(cells, path), cells[place] if place < len(cells) else None)


def _quoting(path: Path) -> Any:
    """CC3M's TSV holds bare quotation marks."""
    return csv.QUOTE_MINIMAL if path.suffix.lower() == ".csv" else csv.QUOTE_NONE


def _written(cells: list[str], path: Path) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t".join(cells)
    return ",".join(
        f'"{cell.replace(chr(34), chr(34) * 2)}"' if re.search(r'[",\r\n]', cell) else cell for cell in cells
    )


def _copy(source: Path, column: str | None, out: Path, keep: np.ndarray[Any, Any], rejects: Counter[str]) -> None:
    """The second pass: chosen rows to `out`, rows without a caption to OUT.rejects.jsonl if there are any."""
    listed = source.suffix.lower() == ".json"
    aside = out.with_name(f"{out.name}.rejects.jsonl")
    number, written = 0, 0
    with _replacing(out) as file, _replacing(aside) as set_aside:
        if listed:
            file.write("[")
        elif (header := _header(source, column)) is not None:
            file.write(header + "\n")
        for row in _rows(source, column):
            if row.caption is None:
                shown = row.raw[:500].encode("utf-8", "backslashreplace").decode()
                reject = {"line": row.line, "reason": row.fault, "raw": shown}
                set_aside.write(json.dumps(reject, ensure_ascii=False) + "\n")
                continue
            if keep[number]:
                file.write(("," if written else "") + "\n" + row.raw if listed else row.raw + "\n")
                written += 1
            number += 1
        if listed:
            file.write("\n]\n")
    if not rejects:
        aside.unlink()


def _header(source: Path, column: str | None) -> str | None:
    """The first line of a table that names its columns."""
    if source.suffix.lower() not in (".csv", ".tsv"):
        return None
    with open(source, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, delimiter="," if source.suffix.lower() == ".csv" else "\t", quoting=_quoting(source))
        cells = next(reader, [])
    return _written(cells, source) if set(cells) & set([column] if column else CAPTIONS) else None


@contextmanager
def _replacing(path: Path) -> Iterator[IO[str]]:
    """A file that takes its name when all is written: too large to be held in memory as `write_atomic` does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.tmp-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)

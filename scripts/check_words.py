"""Check that the words to avoid become fewer.

`scripts/words.toml` lists the words. `scripts/words_allowed.json` records how often each of them is still used.

python scripts/check_words.py                  exit 1 if a word became more frequent, or if a count can be lowered
python scripts/check_words.py --record         write lower counts; a word that has no count yet gets one
python scripts/check_words.py --list picture   print every use of one word
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORDS = ROOT / "scripts" / "words.toml"
ALLOWED = ROOT / "scripts" / "words_allowed.json"
CHECKED = ("src", "docs", "README.md")
SUFFIXES = {".py", ".md", ".js", ".j2", ".html", ".yaml"}
SHOWN = 20


@dataclass(frozen=True)
class Word:
    """A word or phrase to avoid."""

    name: str
    pattern: re.Pattern[str]
    instead: str


@dataclass(frozen=True)
class Hit:
    """One use of a word, and the line that it is on."""

    word: Word
    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: '{self.word.name}', write: {self.word.instead}\n    {self.text.strip()[:110]}"


def read_words(path: Path = WORDS) -> list[Word]:
    """Read the words to avoid from a TOML file."""
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    return [Word(name, re.compile(row["pattern"], re.MULTILINE), row["instead"]) for name, row in tables.items()]


def checked_files(root: Path = ROOT) -> list[Path]:
    """List the files whose words are counted."""
    folders = [root / name for name in CHECKED]
    files = [file for folder in folders for file in ([folder] if folder.is_file() else sorted(folder.rglob("*")))]
    return [file for file in files if file.suffix in SUFFIXES and file.is_file()]


def find_hits(words: Iterable[Word], files: Iterable[Path], root: Path = ROOT) -> list[Hit]:
    """Find every use of every word."""
    hits = []
    words = list(words)
    for file in files:
        name = file.relative_to(root).as_posix()
        text = file.read_text(encoding="utf-8")
        lines, spaced = text.split("\n"), text.lower().replace("_", " ")
        for word in words:
            for match in word.pattern.finditer(spaced):
                number = spaced.count("\n", 0, match.end()) + 1
                hits.append(Hit(word, name, number, lines[number - 1]))
    return hits


def count_hits(words: Iterable[Word], hits: Iterable[Hit]) -> dict[str, int]:
    """Count the uses of each word, by its name."""
    counts = {word.name: 0 for word in words}
    for hit in hits:
        counts[hit.word.name] += 1
    return counts


def changed_lines() -> set[tuple[str, int]]:
    """The lines that differ from the last commit, or that the last commit changed if nothing differs."""

    def added(*revision: str) -> set[tuple[str, int]]:
        command = ["git", "diff", "--unified=0", *revision]
        diff = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
        lines, name = set(), ""
        for line in diff.splitlines():
            if line.startswith("+++ "):
                name = line.removeprefix("+++ b/")
            elif block := re.match(r"@@ \S+ \+(\d+)(?:,(\d+))?", line):
                first, size = int(block[1]), int(block[2] or 1)
                lines |= {(name, number) for number in range(first, first + size)}
        return lines

    return added("HEAD") or added("HEAD~1")


def faults(words: list[Word], hits: list[Hit], allowed: Mapping[str, int]) -> list[str]:
    """Describe each word whose count is not the recorded one."""
    counts = count_hits(words, hits)
    new = changed_lines() if any(counts[word.name] > allowed.get(word.name, 0) for word in words) else set()
    texts = []
    for word in words:
        count, limit = counts[word.name], allowed.get(word.name, 0)
        if count > limit:
            uses = [hit for hit in hits if hit.word is word]
            shown = [hit for hit in uses if (hit.file, hit.line) in new] or uses
            texts += [f"'{word.name}' is used {count} times, {limit} are allowed:", *map(str, shown[:SHOWN])]
            if len(shown) > SHOWN:
                texts.append(f"    … and {len(shown) - SHOWN} more: python scripts/check_words.py --list {word.name}")
        elif count < limit:
            texts.append(
                f"'{word.name}' is used {count} times, {limit} are allowed: run `make words` to lower the count"
            )
    texts += [
        f"'{name}' has a count but is not in words.toml: run `make words`" for name in allowed.keys() - counts.keys()
    ]
    return texts


def lowered(counts: Mapping[str, int], allowed: Mapping[str, int]) -> dict[str, int]:
    """The counts to record: never higher than before; words that were removed from the list are dropped."""
    return {name: min(count, allowed.get(name, count)) for name, count in sorted(counts.items())}


def main() -> int:
    parser = argparse.ArgumentParser(description="Check that the words to avoid become fewer.")
    parser.add_argument("--record", action="store_true", help="write lower counts to scripts/words_allowed.json")
    parser.add_argument("--list", metavar="WORD", help="print every use of one word")
    options = parser.parse_args()
    words = read_words()
    if options.list and options.list not in {word.name for word in words}:
        parser.error(f"--list {options.list}: {WORDS.name} has no such word")
    allowed = json.loads(ALLOWED.read_text(encoding="utf-8")) if ALLOWED.exists() else {}
    hits = find_hits(words, checked_files())
    if options.list:
        print("\n".join(str(hit) for hit in hits if hit.word.name == options.list))
        return 0
    if options.record:
        allowed = lowered(count_hits(words, hits), allowed)
        ALLOWED.write_text(json.dumps(allowed, indent=2) + "\n", encoding="utf-8")
    texts = faults(words, hits, allowed)
    print("\n".join(texts) or f"{len(hits)} uses of {len(words)} words to avoid, as recorded")
    return 1 if texts else 0


if __name__ == "__main__":
    sys.exit(main())

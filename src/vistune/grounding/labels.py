"""Read the words for a user's own labels, which the lexicon does not have, and use them for one run.

The file is YAML or JSON: a label, then its words. `write_template` writes one for labels whose words are missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import yaml

from vistune.errors import DataError
from vistune.files import parse_yaml, read_text, write_atomic
from vistune.grounding import claims, lexicon
from vistune.grounding.lexicon import Entry, Words
from vistune.registry import guess
from vistune.types import AnnotatedImage

FIELDS = ("english", "plural", "article", "korean", "counter", "group", "synonyms")
GROUPS = ("person", "animal", "vehicle", "furniture", "fruit")
TEMPLATE = """\
# Words for labels that are not in vistune's lexicon. Fill in the words, then pass this file with --labels.
#   english, plural, article: singular, plural and article (a, an) in English
#   korean, counter: Korean noun, and its counting word: 마리, 명, 대, 개, ...
#   group: person, animal, vehicle, furniture or fruit; empty if none fits
#   synonyms: other names of the same object, English or Korean
"""


def read_labels(path: Path) -> dict[str, Entry]:
    """Read a file of labels.

    Raises:
        DataError: A label or a field is wrong; the message names both.
        RecipeError: The file is not YAML.
    """
    tree = parse_yaml(read_text(path), str(path))
    if not isinstance(tree, dict) or not tree:
        raise DataError(f"{path}: has no labels", "write for example deer: {plural: deer, korean: 사슴, counter: 마리}")
    return {_label(path, label): _entry(f"{path}: {label}", str(label), value) for label, value in tree.items()}


def _label(path: Path, label: object) -> str:
    if not isinstance(label, str):
        raise DataError(f"{path}: label {label!r}: expected a text", f'put it in quotes: "{label}"')
    return label


def _entry(location: str, label: str, value: object) -> Entry:
    if not isinstance(value, dict):
        raise DataError(f"{location}: expected the fields of a label", f"choose from {', '.join(FIELDS)}")
    for name, content in value.items():
        if name not in FIELDS:
            raise DataError(f"{location}.{name}: unknown field", guess(str(name), FIELDS))
        if name != "synonyms" and not isinstance(content, str):
            raise DataError(f"{location}.{name}: expected a text, got {content!r}", "put the word in quotes")
    words: dict[str, Any] = {name: content.strip() for name, content in value.items() if isinstance(content, str)}
    synonyms = value.get("synonyms") or []
    if not isinstance(synonyms, list) or not all(isinstance(name, str) and name.strip() for name in synonyms):
        raise DataError(f"{location}.synonyms: expected a list of words", "write for example [stag, 수사슴]")
    for name, allowed in (("article", ("", "a", "an")), ("group", ("", *GROUPS))):
        if words.get(name, "") not in allowed:
            raise DataError(
                f"{location}.{name}: {words[name]!r} is not allowed", f"choose from {', '.join(allowed[1:])}"
            )
    is_korean = [bool(lexicon.HANGUL.search(name)) for name in synonyms]
    names = {
        language: tuple(name for name, korean in zip(synonyms, is_korean, strict=True) if korean == (language == "ko"))
        for language in lexicon.LANGUAGES
    }
    english, korean = words.get("english") or label, words.get("korean", "")
    plural = words.get("plural", "")
    return Entry(
        {
            "en": Words(
                name=english,
                plural=plural,
                article=words.get("article", ""),
                synonyms=names["en"],
                in_text=tuple(name.lower() for name in (english, plural, *names["en"]) if name),
            ),
            "ko": Words(
                name=korean,
                counter=words.get("counter", ""),
                synonyms=names["ko"],
                in_text=tuple(name for name in (korean, *names["ko"]) if name),
            ),
        },
        group=words.get("group", ""),
    )


@contextmanager
def using_labels(labels: Mapping[str, Entry]) -> Iterator[None]:
    """Add labels to the lexicon during a block. A known label keeps the words that the file does not name."""
    merged = {label: _merged(lexicon.objects().get(label), entry) for label, entry in labels.items()}
    token = lexicon.OBJECTS.set({**lexicon.objects(), **merged})
    _forget()
    try:
        yield
    finally:
        lexicon.OBJECTS.reset(token)
        _forget()


def _forget() -> None:
    lexicon.forget()
    claims.forget()


def _merged(known: Entry | None, entry: Entry) -> Entry:
    if known is None:
        return entry
    words = {}
    for language, new_words in entry.words.items():
        before = known.words[language]
        changes: dict[str, Any] = {}
        for each in fields(Words):
            old, new = getattr(before, each.name), getattr(new_words, each.name)
            if new:
                changes[each.name] = tuple(dict.fromkeys((*old, *new))) if isinstance(new, tuple) else new
        words[language] = replace(before, **changes)
    return replace(known, words=words, group=entry.group or known.group)


def unknown_labels(images: list[AnnotatedImage]) -> dict[str, int]:
    """Return the labels without words in the lexicon, with their number of boxes, the most frequent first."""
    counts = Counter(box.label for image in images for box in image.boxes)
    counts.update(label for image in images for label in image.crowds)
    known = lexicon.objects()
    return {label: count for label, count in counts.most_common() if lexicon.head_of(label) not in known}


def write_template(path: Path, labels: Mapping[str, int]) -> None:
    """Write a file of labels to fill in. An existing file is kept: it may be filled in already."""
    if path.exists():
        return
    empty = {
        label: {
            "english": label,
            "plural": lexicon.plural(label, "en"),
            "article": lexicon.one(label, label).split()[0],
            "korean": "",
            "counter": "개",
            "group": "",
            "synonyms": [],
        }
        for label in labels
    }
    write_atomic(path, TEMPLATE + yaml.safe_dump(empty, allow_unicode=True, sort_keys=False))

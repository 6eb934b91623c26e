"""Instruction data from described pictures: who says what about which picture, in which language.

AnnotatedImages -> orders (picture, kind, language) -> teacher -> rows -> samples.json, messages.jsonl, rejects.jsonl
The seed decides everything: the same call writes the same bytes.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vistune.datagen import rule
from vistune.errors import RecipeError
from vistune.files import write_atomic, write_json, write_jsonl
from vistune.registry import lookup
from vistune.types import KINDS, AnnotatedImage, Reject

Teacher = Callable[[AnnotatedImage, str, str, random.Random, int], rule.Turns | None]
TEACHERS: Mapping[str, Teacher] = {"rule": rule.write}
RULE_LANGUAGES = ("en", "ko")


@dataclass(frozen=True, slots=True)
class Order:
    """One sample to write."""

    image: AnnotatedImage
    kind: str
    language: str
    number: int


@dataclass(frozen=True, slots=True)
class Wishes:
    """What to write: kinds, languages, and how many instructions a picture and language gets.

    Without `mix` every picture gets each kind in each language. With it (conversation : detail : reasoning, as in
    58:23:77) instruction kinds are dealt over the pictures in that proportion, `per_image` for each language;
    captions are written for each picture either way.
    """

    kinds: tuple[str, ...] = KINDS
    languages: tuple[str, ...] = ("en",)
    mix: tuple[int, int, int] | None = None
    per_image: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Generated:
    """Rows in LLaVA form, in the order of the pictures, and what could not be written."""

    rows: list[dict[str, Any]]
    rejects: list[Reject]


def orders(images: Sequence[AnnotatedImage], wishes: Wishes) -> list[Order]:
    """What to write about which picture, decided by the seed alone."""
    for kind in wishes.kinds:
        lookup(kind, dict.fromkeys(KINDS), "kind")
    if wishes.mix is None:
        return [
            order
            for image in images
            for language in wishes.languages
            for kind in wishes.kinds
            for order in (_captions(image, language) if kind == "caption" else [Order(image, kind, language, 0)])
        ]
    places = [(image, language) for image in images for language in wishes.languages]
    dealt = _deal(wishes.mix, len(places) * wishes.per_image)
    random.Random(f"{wishes.seed}/mix").shuffle(dealt)
    result = []
    for k, (image, language) in enumerate(places):
        if "caption" in wishes.kinds:
            result += _captions(image, language)
        mine = dealt[k * wishes.per_image : (k + 1) * wishes.per_image]
        seen: Counter[str] = Counter()
        for kind in mine:
            result.append(Order(image, kind, language, seen[kind]))
            seen[kind] += 1
    return result


def _captions(image: AnnotatedImage, language: str) -> list[Order]:
    """One order for each caption that the picture has in the language; one to be written where it has none."""
    own = [text for text in image.captions if rule.is_korean(text) == (language == "ko")]
    each = [replace(image, captions=(text,)) for text in own] or [image]
    return [Order(alone, "caption", language, number) for number, alone in enumerate(each)]


def _deal(mix: tuple[int, int, int], total: int) -> list[str]:
    """`total` kinds in the proportion `mix`, by largest remainder."""
    names = ("conversation", "detail", "reasoning")
    if min(mix) < 0 or sum(mix) == 0:
        raise RecipeError(f"mix {mix}: shares must be 0 or more, one of them above 0", "write for example 58:23:77")
    exact = [total * share / sum(mix) for share in mix]
    counts = [int(share) for share in exact]
    for k in sorted(range(3), key=lambda k: counts[k] - exact[k])[: total - sum(counts)]:
        counts[k] += 1
    return [name for name, count in zip(names, counts, strict=True) for _ in range(count)]


def generate(
    images: Sequence[AnnotatedImage],
    wishes: Wishes,
    *,
    teacher: str = "rule",
    advance: Callable[[int], None] = lambda n: None,
) -> Generated:
    """Have the teacher write every order; what it cannot write is set aside with its reason."""
    write = lookup(teacher, TEACHERS, "teacher")
    for language in wishes.languages:
        if teacher == "rule" and language not in RULE_LANGUAGES:
            raise RecipeError(
                f"the rule teacher writes no {language!r}", f"choose of {', '.join(RULE_LANGUAGES)}, or another teacher"
            )
    rows: list[dict[str, Any]] = []
    rejects: list[Reject] = []
    for order in orders(images, wishes):
        name = f"{order.image.id}-{order.kind}-{order.language}" + (f"-{order.number}" if order.number else "")
        chance = random.Random(f"{wishes.seed}/{name}")
        turns = write(order.image, order.kind, order.language, chance, order.number)
        if turns is None:
            rejects.append(
                Reject(
                    name, str(order.image.path), "too_little_known", "captions and boxes settle nothing of this kind"
                )
            )
        elif any("<image>" in text for turn in turns for text in turn):
            rejects.append(Reject(name, str(order.image.path), "image_marker", "the text holds the marker <image>"))
        else:
            rows.append(_row(name, order, turns, chance))
        advance(1)
    return Generated(rows, rejects)


def _row(name: str, order: Order, turns: rule.Turns, chance: random.Random) -> dict[str, Any]:
    """LLaVA form; the marker stands before or after the first question by chance, as in the original's data."""
    conversations = []
    for number, (question, answer) in enumerate(turns):
        if number == 0:
            question = f"<image>\n{question}" if chance.random() < 0.5 else f"{question}\n<image>"
        conversations += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {
        "id": name,
        "image": order.image.path.name,
        "kind": order.kind,
        "language": order.language,
        "conversations": conversations,
    }


def write_generated(out: Path, made: Generated, images: Sequence[AnnotatedImage]) -> None:
    """The files that `train` and `check` read, each whole or absent; samples.json comes last and means all is there."""
    folders = sorted({os.path.relpath(image.path.parent, out) for image in images})
    write_json(out / "images.json", {"folders": folders})
    write_jsonl(
        out / "rejects.jsonl",
        ({"id": r.id, "origin": Path(r.origin).name, "reason": r.reason, "detail": r.detail} for r in made.rejects),
    )
    write_jsonl(out / "messages.jsonl", (_messages(row) for row in made.rows))
    counts = Counter(f"{row['kind']}/{row['language']}" for row in made.rows)
    reasons = Counter(reject.reason for reject in made.rejects)
    write_json(
        out / "generate.json",
        {
            "rows": len(made.rows),
            "images": len(images),
            "counts": dict(sorted(counts.items())),
            "rejects": dict(reasons),
        },
    )
    write_atomic(out / "samples.json", _json_list(made.rows))


def _json_list(rows: Sequence[Mapping[str, Any]]) -> str:
    """A JSON list with one row a line: still one document, and a reader's error can name the line."""
    return "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n"


def _messages(row: Mapping[str, Any]) -> dict[str, Any]:
    roles = {"human": "user", "gpt": "assistant"}
    messages = []
    for turn in row["conversations"]:
        text = turn["value"].replace("<image>", "").strip()
        content: Any = text
        if "<image>" in turn["value"]:
            content = [{"type": "image"}, {"type": "text", "text": text}]
        messages.append({"role": roles[turn["from"]], "content": content})
    return {
        "id": row["id"],
        "kind": row["kind"],
        "language": row["language"],
        "messages": messages,
        "images": [row["image"]],
    }

"""Instruction data from described pictures: who says what about which picture, in which language.

AnnotatedImages -> orders -> teacher -> rows -> samples.json, messages.jsonl, rejects.jsonl
The seed decides everything that is ours: the same call, over the same replies, writes the same bytes.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vistune.datagen.sources import Source
from vistune.datagen.teachers import rule
from vistune.datagen.teachers.prompts import OWN_LANGUAGES
from vistune.datagen.teachers.replies import Turns
from vistune.datagen.teachers.requests import Order, Wishes, make_orders, own_captions
from vistune.datagen.teachers.service import Service
from vistune.datagen.teachers.teacher import Settled, Tally, ask_all, ask_in_batches, turns_of
from vistune.errors import RecipeError, TooManyRejects
from vistune.files import write_atomic, write_json, write_jsonl
from vistune.llm_client import RequestRunner
from vistune.llm_client.runner import log
from vistune.types import AnnotatedImage, Reject

TEACHERS = ("rule", "openai")


@dataclass(frozen=True, slots=True)
class Generated:
    """The generated rows in LLaVA form, in the order of the images, with the rejects and the cost.

    `source`: report of what the source has and is not used; None if the images did not come from a source.
    """

    rows: list[dict[str, Any]]
    rejects: list[Reject]
    spent: Mapping[str, Any] = field(default_factory=dict)
    source: Source | None = None


class NothingWritten(TooManyRejects):
    """Every sample was rejected. The run's files are written nevertheless, including `rejects.jsonl`."""

    def __init__(self, made: Generated, out: Path) -> None:
        reasons = Counter(reject.reason for reject in made.rejects).most_common(5)
        listed = ", ".join(f"{count} {reason}" for reason, count in reasons)
        super().__init__(
            f"{out}: no sample was written, {len(made.rejects)} rejected ({listed}); {most_frequent(made.rejects)}",
            f"see {out / 'rejects.jsonl'} for every reason and reply",
        )
        self.made = made


def most_frequent(rejects: Sequence[Reject]) -> str:
    """The most frequent reason with an example; if it is not a refusal, also the most frequent refusal."""
    counts = Counter(reject.reason for reject in rejects)
    reason = counts.most_common(1)[0][0]
    refused = [name for name in ("refused_by_service", "no_answer") if name in counts and name != reason]
    return "; ".join(_example(rejects, name) for name in (reason, *refused[:1]))


def _example(rejects: Sequence[Reject], reason: str) -> str:
    """The most frequent message of one reason, and the start of a reply if there is one."""
    same = [reject for reject in rejects if reject.reason == reason]
    detail = Counter(reject.detail for reject in same).most_common(1)[0][0]
    raw = next((reject.raw for reject in same if reject.detail == detail and reject.raw), "")
    reply = f" in the reply {' '.join(raw.split())[:160]!r}" if raw else ""
    return f"{reason}: {' '.join(detail.split())[:400]}{reply}"


def by_rule(
    images: Sequence[AnnotatedImage], wishes: Wishes, advance: Callable[..., None] = lambda count: None
) -> Generated:
    """The offline teacher writes every order; what it cannot write is set aside with its reason."""
    for language in wishes.languages:
        if language not in OWN_LANGUAGES:
            raise RecipeError(
                f"the rule teacher writes no {language!r}", f"choose of {', '.join(OWN_LANGUAGES)}, or another teacher"
            )
    made: list[dict[str, Any] | Reject] = []
    _, names = image_names(images)
    for order in make_orders(images, wishes):
        made.append(_written_by_rule(order, names, wishes.seed))
        advance(1)
    return _told_apart(made)


def _told_apart(made: Sequence[dict[str, Any] | Reject]) -> Generated:
    """Rows and rejects, each in their order."""
    return Generated(
        [row for row in made if not isinstance(row, Reject)], [row for row in made if isinstance(row, Reject)]
    )


def image_names(images: Sequence[AnnotatedImage]) -> tuple[list[Path], dict[Path, str]]:
    """(folders, each image's name relative to one): the file name only, unless another folder has the same file name.

    Readers search the folders in order, so an unused file in an earlier folder would be taken for the image.
    """
    paths = [image.path for image in images]
    folders = sorted({path.parent for path in paths})
    earlier: dict[Path, set[str]] = {}  # file names in all earlier folders
    seen: set[str] = set()
    for folder in folders if len(folders) > 1 else ():
        earlier[folder] = set(seen)
        seen.update(os.listdir(folder) if folder.is_dir() else ())
    if len({path.name for path in paths}) == len(paths) and not any(
        path.name in earlier.get(path.parent, ()) for path in paths
    ):
        return folders, {path: path.name for path in paths}
    common = Path(os.path.commonpath([path.parent.absolute() for path in paths]))
    return [common], {path: path.absolute().relative_to(common).as_posix() for path in paths}


def _written_by_rule(order: Order, names: Mapping[Path, str], seed: int) -> dict[str, Any] | Reject:
    chance = random.Random(f"{seed}/{order.name}")
    turns = rule.write(order.image, order.kind, order.language, chance, order.number)
    origin = str(order.image.path)
    if turns is None:
        reason = "captions and boxes settle nothing of this kind"
        if order.image.captions and not own_captions(order.image, order.language):
            reason += f"; its captions are not in {order.language!r}, and the rule teacher does not translate"
        return Reject(order.name, origin, "too_little_known", reason)
    if any("<image>" in text for turn in turns for text in turn):
        return Reject(order.name, origin, "special_tokens", "the text holds the marker <image>")
    return _row(order, names[order.image.path], turns, chance)


def by_service(
    images: Sequence[AnnotatedImage],
    wishes: Wishes,
    service: Service,
    folder: Path,
    advance: Callable[..., None],
    report: Callable[[str], None] = log.warning,
) -> Generated:
    """Have a remote teacher write every order except captions that the image already has; its journal is in `folder`.

    `report`: called with each message, such as a parameter that the service refuses.
    """
    orders = make_orders(images, wishes)
    asked = [order for order in orders if is_asked(order)]
    asker = service.open(folder, service.header(wishes.kinds, wishes.languages), seed=wishes.seed, report=report)
    try:
        before, began = asker.ledger.outcomes["reply"], time.monotonic()
        settled = asyncio.run(_ask(asked, service, asker, advance))
        seconds, replies = time.monotonic() - began, asker.ledger.outcomes["reply"] - before
        by_name = dict(zip((order.name for order in asked), settled, strict=True))
        made = _collect(orders, image_names(images)[1], by_name, asker, wishes.seed)
        return replace(made, spent={**made.spent, "replies": replies, "seconds": round(seconds, 3)})
    finally:
        asker.journal.close()


def is_asked(order: Order) -> bool:
    """Whether an order costs a request."""
    return order.kind != "caption" or not own_captions(order.image, order.language)


async def _ask(
    orders: Sequence[Order], service: Service, asker: RequestRunner, advance: Callable[..., None]
) -> list[Settled]:
    def report(tally: Tally) -> None:
        worst = ", ".join(f"{code} {count}" for code, count in tally.rejected.most_common(3))
        money = f"${asker.budget.spent:.2f}" if asker.price else "no price known"
        advance(1, money + (f" · rejected: {worst}" if worst else ""))

    try:
        if service.batch:
            return await ask_in_batches(orders, service, asker, report, lambda note: advance(0, note))
        return await ask_all(orders, service, asker, report)
    finally:
        await asker.client.close()


def _collect(
    orders: Sequence[Order], names: Mapping[Path, str], settled: Mapping[str, Settled], asker: RequestRunner, seed: int
) -> Generated:
    """Rows from the journal, in the orders' own order."""
    made: list[dict[str, Any] | Reject] = []
    for order in orders:
        if order.name not in settled:
            made.append(_written_by_rule(order, names, seed))
            continue
        turns, raw = turns_of(order, settled[order.name], asker)
        if turns:
            chance = random.Random(f"{seed}/{order.name}")
            made.append(_row(order, names[order.image.path], _with_question(order, turns), chance))
        else:
            fault = settled[order.name].faults[0]
            made.append(Reject(order.name, str(order.image.path), fault.code, fault.detail, raw))
    ledger = asker.ledger
    spent = {
        "model": ledger.model,
        "dollars": round(ledger.dollars, 6),
        "maybe_dollars": round(ledger.maybe_dollars, 6),
        "maybe_billed": ledger.maybe_billed,
        "priced": asker.price is not None,
        "prompt_tokens": ledger.prompt_tokens,
        "completion_tokens": ledger.completion_tokens,
        "outcomes": dict(sorted(ledger.outcomes.items())),
    }
    return replace(_told_apart(made), spent=spent)


def _with_question(order: Order, turns: Turns) -> Turns:
    """A description's own question, where it is ours to ask."""
    if turns[0][0]:
        return turns
    return ((rule.instruction(order.image.id, order.kind, order.language, order.number), turns[0][1]),)


def _row(order: Order, image: str, turns: Turns, chance: random.Random) -> dict[str, Any]:
    """LLaVA form; the marker stands before or after the first question by chance, as in the original's data."""
    conversations = []
    for number, (question, answer) in enumerate(turns):
        if number == 0:
            question = f"<image>\n{question}" if chance.random() < 0.5 else f"{question}\n<image>"
        conversations += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {
        "id": order.name,
        "image": image,
        "kind": order.kind,
        "language": order.language,
        "conversations": conversations,
    }


def write_generated(
    out: Path, made: Generated, images: Sequence[AnnotatedImage], origin: Mapping[str, Any] | None = None
) -> None:
    """The files that `train` and `check` read, each whole or absent; samples.json comes last and means all is there.

    `origin`: who wrote it and how it was asked for, which a model trained on it tells of (`vistune why`).
    """
    folders, names = image_names(images)
    write_json(out / "images.json", {"folders": [os.path.relpath(folder, out) for folder in folders]})
    write_jsonl(
        out / "rejects.jsonl",
        (
            {"id": r.id, "origin": Path(r.origin).name, "reason": r.reason, "detail": r.detail, "raw": r.raw}
            for r in made.rejects
        ),
    )
    write_jsonl(out / "pictures.jsonl", (_shown(image, names[image.path]) for image in images))
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
            "spent": dict(made.spent),
            "origin": dict(origin or {}),
            **(made.source.as_json() if made.source else {}),
        },
    )
    write_atomic(out / "samples.json", _json_list(made.rows))


def _shown(image: AnnotatedImage, name: str) -> dict[str, Any]:
    """What a teacher knows of a picture, for readers of the report."""
    boxes = [
        {
            "label": box.label,
            "x0": round(box.x0, 4),
            "y0": round(box.y0, 4),
            "x1": round(box.x1, 4),
            "y1": round(box.y1, 4),
        }
        for box in image.boxes
    ]
    return {"image": name, "captions": image.captions, "boxes": boxes}


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


def teacher_record(service: Service | None, wishes: Wishes) -> dict[str, Any]:
    """Return who wrote the data: of a remote teacher its model, endpoint, parameters and a checksum of its prompts."""
    if service is None:
        return {"name": "rule"}
    header = service.header(wishes.kinds, wishes.languages)
    prompts = json.dumps(header.pop("prompts"), ensure_ascii=False, sort_keys=True)
    return {"name": "openai", **header, "prompts_sha256": hashlib.sha256(prompts.encode()).hexdigest()}

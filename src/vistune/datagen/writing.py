"""Write generated samples and everything about them into a folder that `train` and `check` read."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vistune.datagen.generate import GeneratedData, LlavaRecord, image_names
from vistune.files import write_atomic, write_json, write_jsonl
from vistune.grounding.annotated import BOX_DIGITS, BOXES_FILE
from vistune.types import AnnotatedImage


def write_generated(
    out: Path, generated: GeneratedData, images: Sequence[AnnotatedImage], origin: Mapping[str, Any] | None = None
) -> None:
    """Write the files that `train` and `check` read. samples.json is written last: if it exists, all files do.

    `origin`: the teacher and the settings of the run, which `vistune why` shows for a model trained on the data.
    """
    folders, names = image_names(images)
    write_json(out / "images.json", {"folders": [os.path.relpath(folder, out) for folder in folders]})
    rejects = ({**asdict(reject), "origin": Path(reject.origin).name} for reject in generated.rejects)
    write_jsonl(out / "rejects.jsonl", rejects)
    write_jsonl(out / BOXES_FILE, (_image_facts(image, names[image.path]) for image in images))
    write_jsonl(out / "messages.jsonl", (_messages(record) for record in generated.rows))
    counts = Counter(f"{record['kind']}/{record['language']}" for record in generated.rows)
    report = {
        "rows": len(generated.rows),
        "images": len(images),
        "counts": dict(sorted(counts.items())),
        "held_out": {"rows": len(generated.held_out), "questions": len(generated.questions)},
        "rejects": dict(Counter(reject.reason for reject in generated.rejects)),
        "guessing": [result.to_dict() for result in generated.guessing],
        "unknown_labels": dict(generated.unknown_labels),
        "spent": generated.spent_dict,
        "origin": dict(origin or {}),
        **(generated.source.to_dict() if generated.source else {}),
    }
    write_json(out / "generate.json", report)
    if generated.held_out:
        write_atomic(out / "held_out.json", _json_list(generated.held_out))
        write_jsonl(out / "questions.jsonl", generated.questions)
    write_atomic(out / "samples.json", _json_list(generated.rows))


def _image_facts(image: AnnotatedImage, name: str) -> dict[str, object]:
    """Return the captions and boxes of an image, for readers of the report and for the check of pairs."""
    boxes = [
        {
            "label": box.label,
            **{side: round(getattr(box, side), BOX_DIGITS) for side in ("x0", "y0", "x1", "y1")},
            **({"attributes": dict(box.attributes)} if box.attributes else {}),
        }
        for box in image.boxes
    ]
    crowds = {"crowds": image.crowds} if image.crowds else {}
    return {"image": name, "captions": image.captions, "boxes": boxes, **crowds}


def _json_list(records: Sequence[LlavaRecord]) -> str:
    """Return a JSON list with one record per line, so that error messages can name the line."""
    return "[\n" + ",\n".join(json.dumps(record, ensure_ascii=False) for record in records) + "\n]\n"


def _messages(record: LlavaRecord) -> dict[str, object]:
    """Return a sample in the `messages` form."""
    roles = {"human": "user", "gpt": "assistant"}
    messages = []
    for turn in record["conversations"]:
        text = turn["value"].replace("<image>", "").strip()
        content: object = text
        if "<image>" in turn["value"]:
            content = [{"type": "image"}, {"type": "text", "text": text}]
        messages.append({"role": roles[turn["from"]], "content": content})
    labels = {name: record[name] for name in ("id", "kind", "language")}
    sides: dict[str, Any] = {
        side: {"role": "assistant", "content": record[side]} for side in ("chosen", "rejected") if side in record
    }
    sides |= {"claim": record["claim"]} if "claim" in record else {}
    return {**labels, "messages": messages, **sides, "images": [record["image"]]}

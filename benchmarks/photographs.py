"""Measure what a model trained on photographs sees: on photographs that it was not trained on, and blind.

python benchmarks/photographs.py RUN DATA... [--captions 2] [--json FILE]

RUN: a run folder. DATA: folders that `vistune generate --held-out` wrote; captions are measured where they are the
user's own, so put the photographs with captions first. Prints, for the captions of held-out photographs, the loss per
token with the right image, a wrong one and none, and in how many images the right one has the lower loss; the share of
objects in free captions that the own captions name, with and without the image; and the accuracy of the test questions.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import vistune
from vistune import api
from vistune.datagen.noun_phrases import noun_phrases
from vistune.evaluation.results import EvaluationResult
from vistune.generation import Assistant, generate
from vistune.types import IGNORE, ImageRef, Message

REQUEST = "Describe the picture briefly."
FORMS = ("right image", "wrong image", "no image")


def captions_of(data: Path) -> dict[Path, list[str]]:
    """Return the captions of each held-out image."""
    held = json.loads((data / "held_out.json").read_text(encoding="utf-8"))
    folders = json.loads((data / "images.json").read_text(encoding="utf-8"))["folders"]
    captions = defaultdict(list)
    for row in held:
        if (row["kind"], row["language"]) == ("caption", "en"):
            path = next(path for folder in folders if (path := (data / folder / row["image"]).resolve()).is_file())
            captions[path].append(row["conversations"][1]["value"])
    return dict(captions)


def turn(image: Path | None) -> Message:
    return Message("user", (REQUEST,) if image is None else (ImageRef(image), f"\n{REQUEST}"))


def loss(assistant: Assistant, image: Path | None, caption: str) -> tuple[float, int]:
    """Return the summed loss of a caption's tokens and their number."""
    messages = [turn(image), Message("assistant", (caption,))]
    labels = torch.as_tensor(assistant.encode(messages).labels)
    logits = assistant.logits(messages).float()
    padded = torch.full((len(logits),), IGNORE)
    padded[len(logits) - len(labels) :] = labels
    supervised = padded != IGNORE
    total = torch.nn.functional.cross_entropy(logits[:-1][supervised[1:]], padded[1:][supervised[1:]], reduction="sum")
    return float(total), int(supervised[1:].sum())


def measure_losses(assistant: Assistant, captions: Mapping[Path, Sequence[str]], most: int) -> dict[str, Any]:
    images = list(captions)
    wrong = dict(zip(images, images[len(images) // 2 :] + images[: len(images) // 2], strict=True))
    sums = dict.fromkeys(FORMS, 0.0)
    tokens = better_than_wrong = better_than_none = 0
    for image in images:
        own = [0.0] * len(FORMS)
        for caption in captions[image][:most]:
            results = [loss(assistant, shown, caption) for shown in (image, wrong[image], None)]
            count = min(number for _, number in results)
            assert all(number == count for _, number in results)
            own = [old + new for old, (new, _) in zip(own, results, strict=True)]
            tokens += count
        sums = {form: sums[form] + value for form, value in zip(FORMS, own, strict=True)}
        better_than_wrong += own[0] < own[1]
        better_than_none += own[0] < own[2]
    return {
        "loss": {form: value / tokens for form, value in sums.items()},
        "images": len(images),
        "right below wrong": better_than_wrong / len(images),
        "right below none": better_than_none / len(images),
    }


def nouns(text: str) -> set[str]:
    return {phrase.split()[-1] for phrase in noun_phrases(text)}


def measure_objects(assistant: Assistant, captions: Mapping[Path, Sequence[str]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for form in ("with image", "without image"):
        prompts = [
            assistant.processor.encode_prompt([turn(image if form == "with image" else None)]) for image in captions
        ]
        texts = [each.text for each in generate(assistant.model, assistant.processor, prompts, max_tokens=40)]
        named = hits = 0
        for text, own in zip(texts, captions.values(), strict=True):
            known = set().union(*map(nouns, own))
            named += len(nouns(text))
            hits += len(nouns(text) & known)
        result[form] = {"precision": hits / max(1, named), "named": named, "different captions": len(set(texts))}
        result[f"captions {form}"] = {image.name: text for image, text in zip(captions, texts, strict=True)}
    return result


def print_accuracies(scored: EvaluationResult) -> None:
    """Print the accuracy in per cent with the image, without it and with a wrong one, of all questions and by group."""
    groups = {**{f"type {name}": each for name, each in scored.by_type.items()}, **scored.by_language}
    for name, group in groups.items():
        shown = "  ".join(f"{condition} {100 * each.value:5.1f}" for condition, each in group.accuracy.items())
        count = group.accuracy["with_image"].count
        print(f"{name:<20} {count:>5}  {shown}  majority {100 * group.majority:5.1f}", flush=True)
    for condition, each in scored.intervals.items():
        print(f"all, {condition}: {100 * each.value:.1f} ({100 * each.low:.1f} to {100 * each.high:.1f})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--captions", type=int, default=2, help="captions per image whose loss is measured")
    parser.add_argument("--limit", type=int, help="images of each folder")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    assistant = vistune.load(asked.run, dtype="bf16")
    results: dict[str, Any] = {}
    for number, data in enumerate(asked.data):
        result: dict[str, Any] = {}
        captions = dict(list(captions_of(data).items())[: asked.limit])
        if number == 0:
            result |= measure_losses(assistant, captions, asked.captions)
            result |= measure_objects(assistant, captions)
        scored = api.evaluate(asked.run, task="file", data=data / "questions.jsonl", dtype="bf16", limit=asked.limit)
        result["questions"] = scored.to_dict()
        results[data.name] = result
        shown = {key: value for key, value in result.items() if not key.startswith(("captions", "questions"))}
        print(data.name, json.dumps(shown, ensure_ascii=False, indent=1), flush=True)
        print_accuracies(scored)
    if asked.json:
        asked.json.write_text(json.dumps(results, ensure_ascii=False, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

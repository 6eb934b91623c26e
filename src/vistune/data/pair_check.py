"""Compare the claims of preference pairs with the boxes that `generate` wrote next to them.

A pair is right if the boxes support the claim of the chosen answer and contradict the claim of the rejected answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from vistune.errors import DataError
from vistune.files import read_jsonl
from vistune.grounding.annotated import BOXES_FILE, scene_of
from vistune.grounding.claims import ungrounded, wrong_count, wrong_position
from vistune.grounding.guessing import language_of
from vistune.grounding.lexicon import LANGUAGES
from vistune.grounding.pairs import Claim, contradiction, true_answers
from vistune.records import RECORD_FIELDS, DataFile, ImageFolders, Record, RecordError, is_pair, printable, read_sample
from vistune.types import AnnotatedImage, Box, Reject, Sample

CLAIM_FIELDS = tuple(field.name for field in fields(Claim))


def check_claims(data: DataFile) -> tuple[list[Reject], list[Reject]]:
    """Return (faults, notes) on the pairs of a file: claims that the boxes contradict, claims that were not checked."""
    path = data.path.parent / BOXES_FILE
    annotated: dict[str, AnnotatedImage] | None = None
    faults: list[Reject] = []
    notes: list[Reject] = []
    for record in data.records(RECORD_FIELDS):
        value = record.value
        if not isinstance(value, Mapping) or not is_pair(value):
            continue
        if annotated is None:
            annotated = _annotated_images(path) if path.is_file() else {}
        images = value.get("images")
        name = value.get("image") or (images[0] if isinstance(images, list) and images else None)
        image = annotated.get(name) if isinstance(name, str) else None
        try:
            if image is not None:
                _check_pair(value, record, image)
            elif value.get("claim") is not None and not notes:
                problem = f"claims are not checked: {path} has no boxes of {name!r}"
                notes.append(_reject(value, record, "claim_unchecked", f"{record.location}:claim: {problem}"))
        except RecordError as error:
            faults.append(_reject(value, record, error.reason, str(error)))
    return faults, notes


def _reject(value: Mapping[str, Any], record: Record, reason: str, detail: str) -> Reject:
    return Reject(printable(value.get("id", "")), record.location, reason, detail)


def _annotated_images(path: Path) -> dict[str, AnnotatedImage]:
    """Return the images of a file of captions and boxes by name. Raises DataError."""
    images = {}
    for number, value in read_jsonl(path):
        try:
            image = _annotated_image(value)
        except (KeyError, TypeError) as error:
            raise DataError(f"{path}:{number}: no boxes of an image ({error})", "generate the data again") from None
        images[image.id] = image
    return images


def _annotated_image(line: Any) -> AnnotatedImage:
    """Return the image of a line. Raises KeyError or TypeError if a value is missing or has another type."""
    boxes = tuple(Box(**box) for box in line["boxes"])
    name, captions, crowds = line["image"], tuple(line["captions"]), tuple(line.get("crowds", ()))
    attributes = [box.attributes for box in boxes]
    numbers = [corner for box in boxes for corner in (box.x0, box.y0, box.x1, box.y1)]
    for values, kind in ((attributes, Mapping), (numbers, int | float)):
        if wrong := [value for value in values if not isinstance(value, kind)]:
            raise TypeError(f"unexpected value {wrong[0]!r}")
    texts = (name, *captions, *crowds, *(text for box in boxes for text in (box.label, *box.attributes.values())))
    if wrong := [text for text in texts if not isinstance(text, str)]:
        raise TypeError(f"unexpected value {wrong[0]!r}")
    return AnnotatedImage(name, Path(name), captions, boxes, crowds)


def _check_pair(value: Mapping[str, Any], record: Record, image: AnnotatedImage) -> None:
    """Raise RecordError if the boxes contradict a pair. A bad form is reported when the record is indexed."""
    try:
        sample = read_sample(value, record.location, ImageFolders(None), Counter())
    except RecordError:
        return
    assert sample.rejected is not None
    chosen, question = sample.messages[-1].text, sample.messages[-2].text
    named = value.get("language")
    language = named if named in LANGUAGES else language_of([(question, chosen)])
    if value.get("claim") is not None:
        claim, scene = _claim(value["claim"], record.location), scene_of(image, language)
        hint = "correct the pair or remove it"
        if problem := contradiction(scene, claim):
            raise RecordError(record.location, "claim", problem, hint)
        true = true_answers(scene, claim, language)
        if sample.rejected.text in true and chosen not in true:
            problem = f"swapped: {sample.rejected.text!r} is what the boxes say ({claim.form})"
            raise RecordError(record.location, "rejected", problem, hint)
    _check_text(sample, image, record.location, language)


def _check_text(sample: Sample, image: AnnotatedImage, location: str, language: str) -> None:
    """Raise RecordError if the chosen answer names an object, a number or a side that the boxes contradict."""
    turns = ((sample.messages[-2].text.split("\n")[0], sample.messages[-1].text),)
    for check in (ungrounded, wrong_count, wrong_position):
        if problem := check(image, turns, language):
            detail = f"the boxes contradict the chosen answer ({problem})"
            raise RecordError(location, "chosen", detail, "correct the pair or remove it")


def _claim(value: object, location: str) -> Claim:
    problem = f"expected an object with {', '.join(CLAIM_FIELDS)}"
    error = RecordError(location, "claim", problem, "write it as `generate` does, or remove the field")
    if not isinstance(value, Mapping) or {*value} != {*CLAIM_FIELDS} or not isinstance(value["about"], list):
        raise error
    claim = Claim(**{**value, "about": tuple(value["about"])})
    if not all(
        isinstance(text, str) for text in (claim.aspect, claim.form, *claim.about, claim.chosen, claim.rejected)
    ):
        raise error
    return claim

"""Compare a program that shows every stage with a certificate, in the order of the stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from vistune.interop.agreement import common_length, compare_position
from vistune.interop.certificate import STAGES, Certificate, ConversationRecord, collapse
from vistune.interop.parity import ProbeResult
from vistune.interop.sketches import Sketch, hash_pixels, sketch, standardised

EQUAL, DIFFERS, KNOWN, UNSEEN, NOT_JUDGED = "equal", "differs", "known difference", "not seen", "not judged"


@dataclass(frozen=True, slots=True)
class StageResult:
    """A stage with its status, one of the constants above, and the measurement."""

    stage: str
    status: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Largest differences by rounding: relative for features, in nats for a log-probability."""

    features: float
    logprobs: float


TOLERANCES = {  # by the precision in which the certificate was computed
    "float32": Tolerance(2e-3, 2e-3),
    "float16": Tolerance(3e-2, 0.1),
    "bfloat16": Tolerance(0.1, 1.0),
}
PIXELS = 2e-3  # relative difference of pixels that are not equal bit by bit


@dataclass(frozen=True)
class ProgramResults:
    """A program's results for the probes.

    Attributes:
        results: Every stage by conversation.
        batch: Greedy tokens of the conversations in one batch.
        batch_fault: Why the conversations cannot be put into a batch; "" if they can.
        sampler_fault: How the program's own settings select other tokens; "" if they do not.
    """

    results: Mapping[str, ProbeResult]
    batch: Mapping[str, Sequence[int]]
    batch_fault: str = ""
    sampler_fault: str = ""


def compare_stages(certificate: Certificate, program: ProgramResults) -> tuple[StageResult, ...]:
    """Return the result of every stage. Stages after the first that differs are not judged."""
    checks: Mapping[str, Callable[[Certificate, ProgramResults], str]] = {
        "template": _template,
        "tokenizer": _tokenizer,
        "resize": _resize,
        "tower": lambda certificate, program: _features(certificate, program, "tower"),
        "projector": lambda certificate, program: _features(certificate, program, "projected"),
        "language model": _language,
        "sampler": lambda _, program: program.sampler_fault,
    }
    stages: list[StageResult] = []
    for stage in STAGES:
        fault = checks[stage](certificate, program)
        stages.append(StageResult(stage, DIFFERS if fault else EQUAL, fault))
        if fault:
            break
    return tuple(stages) + not_judged(stages)


def not_judged(stages: Sequence[StageResult]) -> tuple[StageResult, ...]:
    """Return results for the stages after the last of these."""
    return tuple(StageResult(stage, NOT_JUDGED) for stage in STAGES[len(stages) :])


def text_difference(expected: str, actual: str) -> str:
    """Describe where two texts part; "" if they are equal."""
    if expected == actual:
        return ""
    at = common_length(expected, actual)
    shown = [repr(text[max(at - 10, 0) : at + 20]) for text in (actual, expected)]
    return f"at character {at} the prompt reads {shown[0]}, expected {shown[1]}"


def _template(certificate: Certificate, program: ProgramResults) -> str:
    for name, result in program.results.items():
        if fault := text_difference(certificate.conversations[name].prompt, result.prompt):
            return f"{name}: {fault}"
    return ""


def _tokenizer(certificate: Certificate, program: ProgramResults) -> str:
    for name, result in program.results.items():
        record = certificate.conversations[name]
        ids, slots = collapse(result.ids)
        if fault := ids_difference(record.ids, ids):
            return f"{name}: {fault}"
        if tuple(slots) != record.slots and not _has_other_size(record, result):
            return f"{name}: the image has {slots} slots, expected {list(record.slots)}"
    return program.batch_fault


def _has_other_size(record: ConversationRecord, result: ProbeResult) -> bool:
    """Return whether the image has another size, so that other numbers of slots are a fault of the stage `resize`."""
    if record.image is None or result.pixels is None:
        return False
    return bool(_shape_fault("pixels", result.pixels, record.image.pixels))


def ids_difference(expected: Sequence[int], actual: Sequence[int]) -> str:
    """Describe where two lists of ids part; "" if they are equal."""
    if list(expected) == list(actual):
        return ""
    at = common_length(expected, actual)
    if at == min(len(expected), len(actual)):
        return f"the prompt has {len(actual)} tokens, expected {len(expected)} (an image counts as one)"
    return f"token {at} of the prompt is {actual[at]}, expected {expected[at]}"


def _resize(certificate: Certificate, program: ProgramResults) -> str:
    for name, result in program.results.items():
        record = certificate.conversations[name].image
        if record is None or result.pixels is None:
            if (record is None) != (result.pixels is None):
                return f"{name}: the program gives {'no' if result.pixels is None else 'an'} image to the tower"
            continue
        if fault := _shape_fault("pixels", result.pixels, record.pixels):
            return f"{name}: {fault}"
        if hash_pixels(result.pixels, certificate.image_mean, certificate.image_std) == record.pixel_hash:
            continue
        if (distance := record.pixels.distance(sketch(result.pixels))) <= PIXELS:
            continue
        cause = "they are resized, cropped or padded otherwise"
        if record.standardised.distance(sketch(standardised(result.pixels))) <= PIXELS:
            cause = "only their mean or deviation is wrong"
        return f"{name}: pixels differ by {100 * distance:.2g} % of their deviation: {cause}"
    return ""


def _shape_fault(values: str, actual: torch.Tensor, expected: Sketch) -> str:
    if tuple(actual.shape) == expected.shape:
        return ""
    return f"{values} of shape {list(actual.shape)}, expected {list(expected.shape)}"


def _features(certificate: Certificate, program: ProgramResults, part: str) -> str:
    tolerance = TOLERANCES[certificate.computed].features
    for name, result in program.results.items():
        image = certificate.conversations[name].image
        if image is None:
            continue
        expected: Sketch = getattr(image, part)
        actual: torch.Tensor | None = getattr(result, part)
        if actual is None:
            return f"{name}: the program fails: {result.failure}"
        if fault := _shape_fault("features", actual, expected):
            return f"{name}: {fault}"
        distance = expected.distance(sketch(actual))
        if not distance <= tolerance:  # nan counts as a difference
            return f"{name}: features differ by {100 * distance:.2g} %, at most {100 * tolerance:g} % is rounding"
    return ""


def _language(certificate: Certificate, program: ProgramResults) -> str:
    for name, result in program.results.items():
        if fault := _logits(certificate, certificate.conversations[name], result):
            return f"{name}: {fault}"
    for name, tokens in program.batch.items():
        if tuple(tokens) != certificate.batch[name] and certificate.computed == "float32":
            return f"{name}: in a batch the answer is {list(tokens)}, expected {list(certificate.batch[name])}"
    return ""


def _logits(certificate: Certificate, record: ConversationRecord, result: ProbeResult) -> str:
    if result.steps is None:
        return f"the program fails: {result.failure}"
    if result.steps.shape[-1] < certificate.vocabulary:
        return f"the vocabulary has {result.steps.shape[-1]} rows, expected {certificate.vocabulary} or more"
    if len(result.steps) + result.omitted != len(record.positions):
        return (
            f"the program gives logits at {len(result.steps)} positions of the answer, expected {len(record.positions)}"
        )
    tolerance = TOLERANCES[certificate.computed].logprobs
    logprobs = torch.log_softmax(result.steps[:, : certificate.vocabulary].double(), dim=-1)
    for index, (position, row) in enumerate(zip(record.positions[: len(logprobs)], logprobs, strict=True)):
        theirs = {token: float(row[token]) for token in position.ids}
        difference = compare_position(position.by_id, theirs).difference
        if not difference <= tolerance:
            return (
                f"at token {index} of the answer log-probabilities differ by {difference:.2g} nats, at most "
                f"{tolerance:g} is rounding"
            )
    if tuple(result.tokens) != record.tokens and certificate.computed == "float32":
        return f"the greedy answer is {result.tokens}, expected {list(record.tokens)}"
    return ""

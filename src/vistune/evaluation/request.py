"""Describe an evaluation: the task, its data, how many questions are asked, and how a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """How a model is loaded: device, dtype, and 4 or 8 bits for quantized weights."""

    device: str = "auto"
    dtype: str = "auto"
    quantize: int | None = None


class EvaluationOptions(TypedDict, total=False):
    """Keyword arguments of `vistune.evaluate`: the fields of `EvaluationRequest` and `ModelOptions`."""

    out: str | PathLike[str] | None
    name: str | None
    limit: int | None
    blind_limit: int | None
    blind: bool
    seed: int
    letters: bool
    again: bool
    match: str | None
    device: str
    dtype: str
    quantize: int | None


class AnswerOptions(TypedDict, total=False):
    """Keyword arguments of `vistune.answer`: the optional fields of `AnswerRequest`, and those of `ModelOptions`."""

    images: str | PathLike[str] | None
    max_tokens: int
    again: bool
    device: str
    dtype: str
    quantize: int | None


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """A task to evaluate.

    Attributes:
        out: Folder for the answers (NAME.predictions.jsonl) and the result (NAME.json).
        name: NAME, by default the task's.
        limit: Approximate number of questions to ask; None asks all.
        blind: Whether to ask the blind conditions too, for about `blind_limit` questions (None: all).
        letters: Whether multiple-choice questions are answered by the likeliest letter, from one forward pass.
        again: Whether to replace the answers that are in `out`.
        match: The match of the user's own questions, or KIND=MATCH for each kind, separated by commas.
    """

    task: str
    data: Path
    out: Path | None = None
    name: str | None = None
    limit: int | None = None
    blind_limit: int | None = None
    blind: bool = True
    seed: int = 0
    letters: bool = False
    again: bool = False
    match: str | None = None


def split_options(options: EvaluationOptions | AnswerOptions) -> tuple[ModelOptions, dict[str, Any]]:
    """Split keyword arguments into the model's options and the fields of a request."""
    request: dict[str, Any] = dict(options)
    model: dict[str, Any] = {name: request.pop(name) for name in ("device", "dtype", "quantize") if name in request}
    return ModelOptions(**model), request

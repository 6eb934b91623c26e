"""Compare an OpenAI-compatible server with a certificate, as far as its API shows the stages.

A server shows no image features. Questions without an image test the language model. Questions with a square image of
the tower's size also test the tower and the projector. Conversations with a wide image also test the resizing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vistune.interop.agreement import LEAST_AGREEMENT, MOST_DIVERGENCE, Agreement, judge
from vistune.interop.certificate import SQUARE, STAGES, WIDE, Certificate
from vistune.interop.gguf_parts import gguf_parts
from vistune.interop.replies import ReplyComparison, compare_reply
from vistune.interop.server_client import OpenAIServer, Reply
from vistune.interop.verify_stages import (
    DIFFERS,
    EQUAL,
    KNOWN,
    UNSEEN,
    StageResult,
    ids_difference,
    not_judged,
    text_difference,
)
from vistune.types import IMAGE_ID

EXACT = ("f32", "float32")  # types of weights whose answers must be equal
IMAGE_STAGES = ("resize", "tower", "projector")
HIDDEN = "the server does not show it"


@dataclass(frozen=True)
class Group:
    """The conversations that show one more part of the model than the group before."""

    stage: str
    comparisons: Mapping[str, ReplyComparison]

    def exact_fault(self) -> str:
        """Return the first difference that is not rounding; "" if there is none."""
        return next((f"{name}: {entry.fault}" for name, entry in self.comparisons.items() if entry.fault), "")

    def statistic_fault(self) -> str:
        """Return how far the group's means are behind the thresholds; "" if they are not."""
        share = float(np.mean([entry.share for entry in self.comparisons.values()] or [1.0]))
        known = [entry.divergence for entry in self.comparisons.values() if entry.divergence is not None]
        divergence = float(np.mean(known or [0.0]))
        if share >= LEAST_AGREEMENT and divergence <= MOST_DIVERGENCE:
            return ""
        return f"{100 * share:.0f} % of the tokens agree, KL divergence {divergence:.2g} nats"


def compare_server(
    certificate: Certificate, server: OpenAIServer, changed: Sequence[str] = ()
) -> tuple[tuple[StageResult, ...], Agreement | None]:
    """Return the result of every stage, and for quantized weights the agreement.

    Args:
        changed: Stages whose part of the exported files has changed since the export.
    """
    prompts = _prompts(certificate, server)
    stages = [_or_known(_template(certificate, prompts), certificate)]
    if stages[-1].status == DIFFERS:
        return (*stages, *not_judged(stages)), None
    messages = certificate.messages()
    records = certificate.conversations
    replies = {name: server.ask(messages[name], len(records[name].tokens)) for name in records}
    tokenizer, excluded = _tokenizer(certificate, server, prompts, replies)
    stages.append(_or_known(tokenizer, certificate))
    if stages[-1].status == DIFFERS:
        return (*stages, *not_judged(stages)), None
    compared = {
        name: compare_reply(certificate, records[name], reply)
        for name, reply in replies.items()
        if name not in excluded
    }
    rest, agreement = _model_stages(certificate, compared, changed)
    stages += rest
    if not any(stage.status == DIFFERS for stage in stages) and certificate.kind in EXACT:
        stages[-2] = _together(certificate, server, replies) or stages[-2]
    return tuple(stages), agreement


def gguf_changes(folder: Path, certificate: Certificate) -> tuple[str, ...]:
    """Return the stages whose part of the GGUF files is not the exported one."""
    now = gguf_parts(folder)
    return tuple(stage for stage, checksum in (certificate.parts or now).items() if now[stage] != checksum)


def _or_known(result: StageResult, certificate: Certificate) -> StageResult:
    """Return a stage as a known difference if it differs and the export has reported it."""
    known = "; ".join(entry.what for entry in certificate.known if entry.stage == result.stage)
    return StageResult(result.stage, KNOWN, known) if known and result.status == DIFFERS else result


def _prompts(certificate: Certificate, server: OpenAIServer) -> dict[str, list[str]]:
    """Return the texts between the images of each prompt as the server renders it; {} if it does not show prompts."""
    prompts = {}
    for name, messages in certificate.messages().items():
        rendered = server.render(messages)
        if rendered is None:
            return {}
        prompt, mark = rendered
        prompts[name] = prompt.split(mark)
    return prompts


def _template(certificate: Certificate, prompts: Mapping[str, Sequence[str]]) -> StageResult:
    if not prompts:
        return StageResult("template", UNSEEN, HIDDEN)
    for name, record in certificate.conversations.items():
        prompt = certificate.image_token.join(prompts[name])
        if fault := text_difference(_without_begin(record.prompt, certificate), _without_begin(prompt, certificate)):
            return StageResult("template", DIFFERS, f"{name}: {fault}")
    return StageResult("template", EQUAL)


def _without_begin(prompt: str, certificate: Certificate) -> str:
    """Return a prompt without the token that begins it, which servers add to ids."""
    return prompt.removeprefix(certificate.begin)


def _tokenizer(
    certificate: Certificate, server: OpenAIServer, prompts: Mapping[str, Sequence[str]], replies: Mapping[str, Reply]
) -> tuple[StageResult, set[str]]:
    """Return the stage, and the conversations whose ids differ, by their ids or by their number only."""
    faults: dict[str, str] = {}
    seen = UNSEEN
    for name, record in certificate.conversations.items():
        ids = _ids(server, prompts[name]) if prompts else None
        if ids is not None:
            seen = EQUAL
            begin = [] if record.ids[:1] == tuple(ids[:1]) or record.ids[0] == IMAGE_ID else [record.ids[0]]
            expected = [token for token in record.ids[len(begin) :] if token != IMAGE_ID]
            if fault := ids_difference(expected, ids):
                faults[name] = fault
                continue
        if (count := replies[name].prompt_tokens) is not None:
            seen = EQUAL
            if count != record.prompt_tokens:
                faults[name] = f"the prompt has {count} tokens, expected {record.prompt_tokens}"
    if faults:
        name, fault = next(iter(faults.items()))
        return StageResult("tokenizer", DIFFERS, f"{name}: {fault}"), set(faults)
    return StageResult("tokenizer", seen, HIDDEN if seen == UNSEEN else ""), set()


def _ids(server: OpenAIServer, pieces: Sequence[str]) -> list[int] | None:
    """Return the ids of a prompt's texts between images; None if the server does not show them."""
    written: list[int] = []
    for piece in pieces:
        ids = server.tokenize(piece)
        if ids is None:
            return None
        written += ids
    return written


def _model_stages(
    certificate: Certificate, compared: Mapping[str, ReplyComparison], changed: Sequence[str]
) -> tuple[list[StageResult], Agreement | None]:
    """Return the stages from `resize` on, and the agreement if it decides."""
    known = {entry.stage for entry in certificate.known}
    chosen: Mapping[str, tuple[str, ...]] = {"language model": ("",), "tower": (SQUARE,), "resize": (WIDE,)}
    groups = [
        Group(stage, {name: entry for name, entry in compared.items()
                      if certificate.conversations[name].image_name in images})
        for stage, images in chosen.items() if not (stage == "resize" and "resize" in known)
    ]  # fmt: skip
    has_logprobs = any(entry.divergence is not None for entry in compared.values())
    is_exact = certificate.kind in EXACT and has_logprobs
    exact = [group for group in groups if is_exact and not (group.stage != "language model" and "tower" in known)]
    statistic = [group for group in groups if group not in exact]
    fault = next(((group.stage, text) for group in exact if (text := group.exact_fault())), None)
    agreement = _agreement(statistic)
    if fault is None and agreement is not None and not agreement.holds:
        fault = _blamed(statistic, agreement)
    detail = agreement.describe() if agreement is not None else ""
    return _results(certificate, compared, fault, changed, detail), agreement


def _agreement(groups: Sequence[Group]) -> Agreement | None:
    entries = [entry for group in groups for entry in group.comparisons.values()]
    if not entries:
        return None
    return judge(
        [entry.share for entry in entries],
        [entry.divergence for entry in entries if entry.divergence is not None],
    )


def _blamed(groups: Sequence[Group], agreement: Agreement) -> tuple[str, str]:
    """Return the first group's stage whose means miss the thresholds, or that with the fewest equal tokens."""
    for group in groups:
        if fault := group.statistic_fault():
            return group.stage, fault
    filled = [group for group in groups if group.comparisons]
    worst = min(filled, key=lambda group: float(np.mean([entry.share for entry in group.comparisons.values()])))
    return worst.stage, agreement.describe()


def _results(
    certificate: Certificate,
    compared: Mapping[str, ReplyComparison],
    fault: tuple[str, str] | None,
    changed: Sequence[str],
    measured: str,
) -> list[StageResult]:
    """Return the stages from `resize` on for the first fault that was found."""
    results = {stage: StageResult(stage, EQUAL) for stage in STAGES[2:]}
    known = {stage: "; ".join(entry.what for entry in certificate.known if entry.stage == stage) for stage in results}
    results |= {stage: StageResult(stage, KNOWN, what) for stage, what in known.items() if what}
    if fault is None:
        sampler = next(
            (f"{name}: {entry.sampler_fault}" for name, entry in compared.items() if entry.sampler_fault), ""
        )
        results["language model"] = StageResult("language model", results["language model"].status, measured)
        if sampler:
            results["sampler"] = StageResult("sampler", DIFFERS, sampler)
        return list(results.values())
    stage, text = fault
    results["sampler"] = not_judged([StageResult(name, "") for name in STAGES[:-1]])[0]
    if stage == "language model":
        results |= {name: StageResult(name, UNSEEN, "answers without an image differ too") for name in IMAGE_STAGES}
    elif stage == "tower":
        results |= {name: StageResult(name, UNSEEN, HIDDEN) for name in IMAGE_STAGES}
        guilty = [name for name in IMAGE_STAGES if name in changed]
        if len(guilty) == 1:
            stage = guilty[0]
            text += "; its part of the files has changed since the export"
        else:
            text += "; tower or projector: the server does not show image features"
    results[stage] = StageResult(stage, DIFFERS, text + (f"; known: {known[stage]}" if known[stage] else ""))
    return list(results.values())


def _together(certificate: Certificate, server: OpenAIServer, replies: Mapping[str, Reply]) -> StageResult | None:
    """Return the language model's stage as different if answers change when they are asked at once."""
    messages = certificate.messages()

    def ask(name: str) -> Reply:
        return server.ask(messages[name], len(certificate.conversations[name].tokens))

    names = list(certificate.batch)
    with ThreadPoolExecutor(len(names)) as pool:
        for name, reply in zip(names, pool.map(ask, names), strict=True):
            comparison = compare_reply(certificate, certificate.conversations[name], reply)
            single = compare_reply(certificate, certificate.conversations[name], replies[name])
            if comparison.fault and not single.fault:
                detail = f"{name}: asked together with others: {comparison.fault}"
                return StageResult("language model", DIFFERS, detail)
    return None

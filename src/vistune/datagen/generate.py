"""Generate samples for annotated images with a teacher, and write them as training data.

The seed decides every choice of vistune: the same call with the same replies writes the same bytes.
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
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from vistune.datagen.sources.collector import AnnotatedSource
from vistune.datagen.teachers import GenerationConfig, Request, make_requests, needs_request, own_captions, rule
from vistune.datagen.teachers.options import TeacherOptions
from vistune.datagen.teachers.preference import WrittenPair, pairs_of
from vistune.datagen.teachers.prompts import OWN_LANGUAGES
from vistune.datagen.teachers.remote import RequestOutcome, ask_all, ask_in_batches, turns_of
from vistune.datagen.teachers.replies import Turns
from vistune.errors import RecipeError, TooManyRejects
from vistune.grounding.annotated import scene_of
from vistune.grounding.balance import AnswerBalance, fit_balance
from vistune.grounding.guessing import GuessedAnswers
from vistune.llm_client import RequestRunner
from vistune.llm_client.runner import log
from vistune.notebook import html_table
from vistune.progress import Advance, OnMessage
from vistune.types import PREFERENCE, AnnotatedImage, Reject

TEACHERS = ("rule", "openai")
LlavaRecord = dict[str, Any]  # id, image, kind, language, conversations; a pair also chosen, rejected, claim


@dataclass(frozen=True, slots=True)
class Spending:
    """The cost of a run so far, over all its starts.

    - maybe_dollars, maybe_billed: cost and number of requests without an answer, which the service may have billed
    - priced: whether the price of the model is known
    - outcomes: number of requests by how they ended
    - replies, seconds: replies in this start, and how long it took
    """

    model: str
    dollars: float
    maybe_dollars: float
    maybe_billed: int
    priced: bool
    prompt_tokens: int
    completion_tokens: int
    outcomes: Mapping[str, int]
    replies: int
    seconds: float


@dataclass(frozen=True, slots=True, repr=False)
class GeneratedData:
    """The generated samples in LLaVA form, in the order of the images, and the rejected ones.

    - spent: the cost of a remote teacher; None for the rule teacher
    - source: the report of unused images and fields; None if the images did not come from a source
    - guessing: how many answers can be guessed without the image, by type of question and language
    - unknown_labels: labels without words in the lexicon, with their number of boxes
    - held_out, questions: samples and test questions about the images that are held out
    - path: the folder with the files; it can be given to `train` and `check` as data
    """

    rows: list[LlavaRecord]
    rejects: list[Reject]
    spent: Spending | None = None
    source: AnnotatedSource | None = None
    guessing: list[GuessedAnswers] = field(default_factory=list)
    unknown_labels: Mapping[str, int] = field(default_factory=dict)
    held_out: list[LlavaRecord] = field(default_factory=list)
    questions: list[dict[str, str]] = field(default_factory=list)
    path: Path | None = None

    def __repr__(self) -> str:
        return f"GeneratedData({str(self.path)!r}, samples={len(self.rows)}, rejected={len(self.rejects)})"

    def to_dict(self) -> dict[str, object]:
        """Return the counts and the cost as JSON values, as `generate --json` prints them."""
        return {
            "samples": len(self.rows),
            "held_out": len(self.held_out),
            "questions": len(self.questions),
            "rejected": len(self.rejects),
            "reasons": dict(Counter(reject.reason for reject in self.rejects).most_common()),
            "guessing": [result.to_dict() for result in self.guessing],
            "unknown_labels": dict(self.unknown_labels),
            "spent": self.spent_dict,
            **(self.source.to_dict() if self.source else {}),
        }

    def _repr_html_(self) -> str:
        kinds = Counter(str(row.get("kind")) for row in self.rows)
        reasons = Counter(reject.reason for reject in self.rejects).most_common()
        rows = [*kinds.items(), *((f"rejected: {reason}", count) for reason, count in reasons)]
        return html_table(rows, ("samples", "count"), str(self.path or "generated data"))

    @property
    def spent_dict(self) -> dict[str, Any]:
        """The cost as JSON values; empty for the rule teacher."""
        return asdict(self.spent) if self.spent else {}


class NothingWritten(TooManyRejects):
    """Every sample was rejected. The run's files are written nevertheless, including `rejects.jsonl`."""

    def __init__(self, generated: GeneratedData, out: Path) -> None:
        rejects = generated.rejects
        reasons = Counter(reject.reason for reject in rejects).most_common(5)
        listed = ", ".join(f"{count} {reason}" for reason, count in reasons)
        super().__init__(
            f"{out}: no sample was written, {len(rejects)} rejected ({listed}); {describe_top_reject(rejects)}",
            f"see {out / 'rejects.jsonl'} for every reason and reply",
        )
        self.generated = generated


def describe_top_reject(rejects: Sequence[Reject]) -> str:
    """Describe the most frequent reason with an example; if it is not a refusal, also the most frequent refusal."""
    counts = Counter(reject.reason for reject in rejects)
    reason = counts.most_common(1)[0][0]
    refusals = [name for name in ("refused_by_service", "no_answer") if name in counts and name != reason]
    return "; ".join(_example(rejects, name) for name in (reason, *refusals[:1]))


def _example(rejects: Sequence[Reject], reason: str) -> str:
    """Return the most frequent message of one reason, and the start of a reply if there is one."""
    same = [reject for reject in rejects if reject.reason == reason]
    detail = Counter(reject.detail for reject in same).most_common(1)[0][0]
    raw = next((reject.raw for reject in same if reject.detail == detail and reject.raw), "")
    reply = f" in the reply {' '.join(raw.split())[:160]!r}" if raw else ""
    return f"{reason}: {' '.join(detail.split())[:400]}{reply}"


def generate_by_rule(
    images: Sequence[AnnotatedImage], config: GenerationConfig, advance: Callable[[int], None] = lambda count: None
) -> GeneratedData:
    """Write every request with the offline teacher; a sample that it cannot write becomes a reject."""
    for language in config.languages:
        if language not in OWN_LANGUAGES:
            raise RecipeError(
                f"the rule teacher does not write {language!r}",
                f"choose from {', '.join(OWN_LANGUAGES)}, or use another teacher",
            )
    results: list[LlavaRecord | Reject] = []
    _, names = image_names(images)
    requests = make_requests(images, config)
    balances = {language: _balance(requests, language, config.seed) for language in config.languages}
    pairs = pairs_of([request for request in requests if request.kind == PREFERENCE], config.seed)
    for request in requests:
        if request.kind == PREFERENCE:
            results += _pair_records(request, names[request.image.path], pairs[request.name], config.seed)
        else:
            results.append(_write_by_rule(request, names, config.seed, balances[request.language]))
        advance(1)
    return _separate(results)


def _balance(requests: Sequence[Request], language: str, seed: int) -> AnswerBalance:
    """Balance the answers of all conversations in a language, so that they cannot be guessed without the image."""
    conversations = (request for request in requests if (request.kind, request.language) == ("conversation", language))
    scenes = ((_seed(request, seed), scene_of(request.image, language)) for request in conversations)
    return fit_balance([(name, scene) for name, scene in scenes if not scene.drawn], rule.LONGEST_CONVERSATION)


def _seed(request: Request, seed: int) -> str:
    return f"{seed}/{request.name}"


def _separate(results: Sequence[LlavaRecord | Reject]) -> GeneratedData:
    return GeneratedData(
        [result for result in results if not isinstance(result, Reject)],
        [result for result in results if isinstance(result, Reject)],
    )


def image_names(images: Sequence[AnnotatedImage]) -> tuple[list[Path], dict[Path, str]]:
    """Return the image folders, and each image's name relative to one of them.

    A name is the file name only, unless another folder has the same file name: readers search the folders in order, so
    an unused file in an earlier folder would be taken for the image.
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


def _write_by_rule(
    request: Request, names: Mapping[Path, str], seed: int, balance: AnswerBalance = rule.UNBALANCED
) -> LlavaRecord | Reject:
    rng = random.Random(_seed(request, seed))
    turns = rule.write(request.image, request.kind, request.language, rng, request.number, balance)
    if turns is None:
        detail = "captions and boxes do not say enough for this kind of text"
        if request.image.captions and not own_captions(request.image, request.language):
            detail += f"; its captions are not in {request.language!r}, and the rule teacher does not translate"
        return Reject(request.name, str(request.image.path), "too_little_known", detail)
    if any("<image>" in text for turn in turns for text in turn):
        return Reject(request.name, str(request.image.path), "special_tokens", "the text has the marker <image>")
    return _record(request, names[request.image.path], turns, rng)


def _pair_records(request: Request, image: str, pairs: Sequence[WrittenPair], seed: int) -> list[LlavaRecord | Reject]:
    """Return a sample for each pair of an image: a prompt in LLaVA's form, both answers, and their claim."""
    if not pairs:
        detail = "no question about its boxes has another answer for a similar image"
        return [Reject(request.name, str(request.image.path), "too_little_known", detail)]
    records: list[LlavaRecord | Reject] = []
    for number, pair in enumerate(pairs):
        numbered = replace(request, number=number)
        record = _record(numbered, image, ((pair.prompt, ""),), random.Random(_seed(numbered, seed)))
        record["conversations"].pop()
        records.append({**record, "chosen": pair.chosen, "rejected": pair.rejected, "claim": pair.claim.to_dict()})
    return records


def generate_by_model(
    images: Sequence[AnnotatedImage],
    config: GenerationConfig,
    options: TeacherOptions,
    folder: Path,
    advance: Advance,
    report: OnMessage = log.warning,
) -> GeneratedData:
    """Have a remote teacher write every request; captions that an image already has are copied.

    Args:
        folder: Where the journal is.
        report: Called with each message, such as a parameter that the service refuses.
    """
    if PREFERENCE in config.kinds:
        raise RecipeError("preference pairs are written from boxes by rules", "use --teacher rule for this kind")
    requests = make_requests(images, config)
    sent = [request for request in requests if needs_request(request)]
    asker = options.open(folder, options.header(config.kinds, config.languages), seed=config.seed, report=report)
    try:
        before, began = asker.ledger.outcomes["reply"], time.monotonic()
        outcomes = asyncio.run(_ask(sent, options, asker, advance))
        seconds, replies = time.monotonic() - began, asker.ledger.outcomes["reply"] - before
        by_name = dict(zip((request.name for request in sent), outcomes, strict=True))
        names = image_names(images)[1]
        results = [_result(request, by_name.get(request.name), names, asker, config.seed) for request in requests]
        return replace(_separate(results), spent=_spending(asker, replies, seconds))
    finally:
        asker.journal.close()


async def _ask(
    requests: Sequence[Request], options: TeacherOptions, asker: RequestRunner, advance: Advance
) -> list[RequestOutcome]:
    def report(rejected: Counter[str]) -> None:
        top = ", ".join(f"{code} {count}" for code, count in rejected.most_common(3))
        money = f"${asker.budget.spent:.2f}" if asker.price else "no price known"
        advance(1, money + (f" · rejected: {top}" if top else ""))

    try:
        if options.batch:
            return await ask_in_batches(requests, options, asker, report, lambda note: advance(0, note))
        return await ask_all(requests, options, asker, report)
    finally:
        await asker.client.close()


def _result(
    request: Request, outcome: RequestOutcome | None, names: Mapping[Path, str], asker: RequestRunner, seed: int
) -> LlavaRecord | Reject:
    """Return the sample or the reject of a request. It is in the journal, or it is a caption that the image has."""
    if outcome is None:
        return _write_by_rule(request, names, seed)
    turns, raw = turns_of(request, outcome, asker)
    if not turns:
        failure = outcome.failures[0]
        return Reject(request.name, str(request.image.path), failure.code, failure.detail, raw)
    if not turns[0][0]:  # a description or caption, whose question vistune asks
        question = rule.instruction(request.image.id, request.kind, request.language, request.number)
        turns = ((question, turns[0][1]),)
    return _record(request, names[request.image.path], turns, random.Random(_seed(request, seed)))


def _spending(asker: RequestRunner, replies: int, seconds: float) -> Spending:
    ledger = asker.ledger
    return Spending(
        model=ledger.model,
        dollars=round(ledger.dollars, 6),
        maybe_dollars=round(ledger.maybe_dollars, 6),
        maybe_billed=ledger.maybe_billed,
        priced=asker.price is not None,
        prompt_tokens=ledger.prompt_tokens,
        completion_tokens=ledger.completion_tokens,
        outcomes=dict(sorted(ledger.outcomes.items())),
        replies=replies,
        seconds=round(seconds, 3),
    )


def _record(request: Request, image: str, turns: Turns, rng: random.Random) -> LlavaRecord:
    """Return a sample in LLaVA form; the image is before or after the first question at random, as in LLaVA's data."""
    conversations = []
    for number, (question, answer) in enumerate(turns):
        if number == 0:
            question = f"<image>\n{question}" if rng.random() < 0.5 else f"{question}\n<image>"
        conversations += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {
        "id": request.name,
        "image": image,
        "kind": request.kind,
        "language": request.language,
        "conversations": conversations,
    }


def teacher_record(options: TeacherOptions | None, config: GenerationConfig) -> dict[str, Any]:
    """Return who wrote the data: for a remote teacher its model, endpoint, parameters and a checksum of its prompts."""
    if options is None:
        return {"name": "rule"}
    header = options.header(config.kinds, config.languages)
    prompts = json.dumps(header.pop("prompts"), ensure_ascii=False, sort_keys=True)
    return {"name": "openai", **header, "prompts_sha256": hashlib.sha256(prompts.encode()).hexdigest()}

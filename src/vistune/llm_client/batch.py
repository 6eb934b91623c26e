"""The Batch API: many questions in a file, answered within a day at half the price.

questions -> chunks -> upload, create, poll, fetch -> replies in the journal
Every step is journaled before it is taken and a batch is found again at the service by its metadata, so that a run
killed anywhere goes on with its own batch and never makes a second one. A file without a batch costs nothing: it stays.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vistune.errors import BudgetError, RecipeError, TeacherError
from vistune.llm_client.asker import Asker
from vistune.llm_client.client import LARGEST_BODY, Outcome, read_completion
from vistune.llm_client.dialect import Dialect, read_dialect
from vistune.llm_client.ledger import dollars_of, reply_record

MOST_LINES = 50_000  # of one batch, by OpenAI's documentation
MOST_BYTES = 190 << 20
ENDED = ("completed", "failed", "expired", "cancelled")
DOWNLOADS = 6  # tries of one file
CHUNK = "vistune_chunk"  # the metadata's name


@dataclass(frozen=True, slots=True)
class Question:
    """A key, a chat completion's body, and the dollars that it may cost at most."""

    key: str
    body: bytes
    worst: float


async def ask_batch(
    asker: Asker, questions: Sequence[Question], *, poll_seconds: float, report: Callable[[str], None]
) -> None:
    """Answers to all questions that have none, in the journal; what a batch leaves unanswered goes into another one.

    Raises TeacherError when a batch answers nothing at all, BudgetError when not one more question fits.
    """
    bodies = {question.key: question.body for question in questions}
    for chunk in [entry for entry in asker.ledger.chunks.values() if entry["step"] != "finished"]:
        await _go_on(asker, chunk, poll_seconds, report, bodies)
    while pending := [q for q in questions if q.key not in asker.ledger.replies and q.key not in asker.ledger.refused]:
        answered = 0
        for part in _parts(pending):
            fitting = _fitting(asker, part)
            chunk = await _begin(asker, fitting)
            answered += await _go_on(asker, chunk, poll_seconds, report, bodies, fitting)
        if not answered:
            raise TeacherError("the service ended its batches and answered nothing", "run the same command again later")


def _parts(questions: Sequence[Question]) -> Iterator[list[Question]]:
    part: list[Question] = []
    size = 0
    for question in questions:
        if part and (len(part) == MOST_LINES or size + len(question.body) + 200 > MOST_BYTES):
            yield part
            part, size = [], 0
        part.append(question)
        size += len(question.body) + 200
    yield part


def _fitting(asker: Asker, questions: Sequence[Question]) -> list[Question]:
    """As many as the budget bears at worst."""
    if asker.budget.limit is None:
        return list(questions)
    left, taken = asker.budget.limit - asker.budget.spent, []
    for question in questions:
        left -= question.worst
        if left < 0:
            break
        taken.append(question)
    if not taken:
        raise BudgetError(
            f"the budget of ${asker.budget.limit:g} is spent: ${asker.budget.spent:.4f} so far",
            "every answer is kept; run the same command with a larger --budget",
        )
    return taken


async def _begin(asker: Asker, questions: Sequence[Question]) -> dict[str, Any]:
    """The chunk's name follows from the journal's, from its questions, and from how many chunks came before it."""
    keys = [question.key for question in questions]
    asker.tell_form()
    number = str(len(asker.ledger.chunks))
    name = hashlib.sha256("\n".join([asker.ledger.run, number, *keys]).encode()).hexdigest()[:24]
    worst = sum(question.worst for question in questions)
    record = {"t": "chunk", "chunk": name, "step": "intent", "keys": keys, "worst": worst, "at": time.time()}
    await asker.keep({**record, "form": asker.dialect.to_dict()})
    return asker.ledger.chunks[name]


async def _go_on(
    asker: Asker,
    chunk: Mapping[str, Any],
    poll_seconds: float,
    report: Callable[[str], None],
    bodies: Mapping[str, bytes],
    questions: Sequence[Question] | None = None,
) -> int:
    """A chunk from whichever step it was at to its end; returns how many of its questions were answered."""
    name = chunk["chunk"]
    batch = await _find_batch(asker, name)
    if batch is None:
        if questions is None:  # killed before the service had it: the questions are asked in another chunk
            await asker.keep({"t": "chunk", "chunk": name, "step": "finished"})
            return 0
        file_id = await _upload(asker, name, questions)
        wanted = {
            "input_file_id": file_id,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "metadata": {CHUNK: name},
        }
        batch = await _call(asker, "POST", "batches", json=wanted)
    await asker.keep({"t": "chunk", "chunk": name, "step": "created", "batch": batch["id"]})
    while batch.get("status") not in ENDED:
        counts = batch.get("request_counts") or {}
        report(
            f"batch {batch.get('status')}: {counts.get('completed', 0)} of {counts.get('total', len(chunk['keys']))}"
        )
        await asker.wait(poll_seconds)
        batch = await _call(asker, "GET", f"batches/{batch['id']}")
    answered = 0
    form = read_dialect(chunk.get("form")) if chunk.get("form") else asker.dialect
    for field in ("output_file_id", "error_file_id"):
        if batch.get(field):
            asked = _Asked(set(chunk["keys"]), bodies, form)
            answered += await _fetch(asker, str(batch[field]), asked, chunk["worst"] / len(chunk["keys"]))
    await asker.keep({"t": "chunk", "chunk": name, "step": "finished"})
    asker.check_stopped()
    if not answered and batch.get("status") == "failed":
        raise RecipeError(f"batch {batch['id']} failed: {json.dumps(batch.get('errors'))[:300]}", "mend what it names")
    return answered


async def _call(asker: Asker, method: str, path: str, **given: Any) -> dict[str, Any]:
    """A call that costs nothing, tried again where the service or the network fails."""
    outcome = Outcome("failed", 0, "")
    for attempt in range(8):
        outcome = await asker.client.request(method, path, **given)
        asker.note_reach(outcome)
        if outcome.kind == "reply":
            try:
                tree = json.loads(outcome.body)
            except ValueError:
                tree = None
            if isinstance(tree, dict):
                return tree
        elif (why := asker.why_to_stop(outcome)) and outcome.status not in (404, 405):
            raise why
        elif outcome.kind in ("refused", "stop_recipe"):
            raise RecipeError(f"{path}: {outcome.reason}", "does this endpoint have the Batch API? leave --batch out")
        if method == "POST":
            break  # it may have been taken: look for it before anything is made a second time
        await asker.wait(max(outcome.retry_after or 0.0, min(30.0, 0.5 * 2**attempt)))
    raise TeacherError(f"{path}: {outcome.reason or 'no JSON came back'}", "run the same command again; it goes on")


async def _listed(asker: Asker, path: str) -> list[dict[str, Any]]:
    """Every entry of a paged list."""
    entries: list[dict[str, Any]] = []
    after = ""
    while True:
        page = await _call(asker, "GET", f"{path}?limit=100{after}")
        data = [entry for entry in page.get("data", []) if isinstance(entry, dict) and entry.get("id")]
        entries += data
        if not page.get("has_more") or not data:
            return entries
        after = f"&after={data[-1]['id']}"


async def _find_batch(asker: Asker, name: str) -> dict[str, Any] | None:
    for batch in await _listed(asker, "batches"):
        if (batch.get("metadata") or {}).get(CHUNK) == name:
            return batch
    return None


async def _upload(asker: Asker, name: str, questions: Sequence[Question]) -> str:
    lines = (
        b'{"custom_id":%s,"method":"POST","url":"/v1/chat/completions","body":%s}\n'
        % (json.dumps(question.key).encode(), asker.dialect.apply(question.body, batch=True))
        for question in questions
    )
    content = b"".join(lines)
    file = await _call(
        asker,
        "POST",
        "files",
        data={"purpose": "batch"},
        files={"file": (f"vistune-{name}.jsonl", content, "application/jsonl")},
    )
    return str(file["id"])


async def _fetch(asker: Asker, file_id: str, asked: _Asked, worst: float) -> int:
    """Journal every answer of an output or error file; keys that are unknown or already answered are passed over."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "output.jsonl"
        for attempt in range(DOWNLOADS):
            outcome = await asker.client.download(f"files/{file_id}/content", path)
            if outcome.kind == "reply":
                break
            await asker.wait(min(30.0, 0.5 * 2**attempt))
        else:
            raise TeacherError(f"files/{file_id}: {outcome.reason}", "run the same command again; it goes on")
        answered = 0
        with open(path, "rb") as file:
            group = []
            for line in file:
                group.append(_journal(asker, line, asked, worst))
                if len(group) == 256:  # as many share an fsync
                    answered += sum(await asyncio.gather(*group))
                    group = []
            answered += sum(await asyncio.gather(*group))
    return answered


@dataclass
class _Asked:
    """The requests of a chunk: keys without an output line yet, known bodies, and the form in which they were sent."""

    keys: set[str]
    bodies: Mapping[str, bytes]
    form: Dialect


async def _journal(asker: Asker, line: bytes, asked: _Asked, worst: float) -> int:
    """Journal one line of an output file. Return 1 if it answers a question or reveals a form to ask it in, else 0."""
    try:
        tree = json.loads(asker.client.without_key(line.decode("utf-8", "backslashreplace")))
        key, response = str(tree["custom_id"]), tree.get("response") or {}
        status = int(response.get("status_code") or 0)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return 0
    if key not in asked.keys or key in asker.ledger.replies:
        return 0
    asked.keys.discard(key)
    send = asker.ledger.sends[key] + 1
    content = response.get("body") if status == 200 else response.get("body") or tree.get("error") or ""
    outcome = asker.client.classified(status or 500, {}, json.dumps(content, ensure_ascii=False))
    if outcome.kind != "reply":
        outcome = asker.adapt(outcome, asked.form, asked.bodies.get(key, b"{}"), batch=True)
        asker.note_refusal(outcome)
        kind = outcome.kind if outcome.kind in ("refused", "adapted") else "failed"
        record = {"t": "failure", "key": key, "send": send, "kind": kind, "status": outcome.status}
        await asker.keep({**record, "reason": outcome.reason})
        if outcome.kind in ("refused", "stop_quota", "stop_recipe") and (why := asker.why_to_stop(outcome)):
            asker.stop(why)
        return int(kind != "failed")
    body = outcome.body
    reason = "body_too_large" if len(body) > LARGEST_BODY else ""
    completion = read_completion(body, reason)
    dollars = dollars_of(completion, asker.price, worst, batch=True)
    await asker.keep(reply_record(key, send, Outcome("reply", status, body, reason), completion, dollars))
    asker.budget.spent += dollars
    await asker.remember(asked.form)
    return 1

"""Send requests through the Batch API: many in one file, answered within a day at half the price.

requests -> chunks -> upload, create, poll, download -> replies in the journal

Every step is written to the journal before it is taken, and a batch is found again at the service by its metadata. So
a run that is killed at any point continues with its own batch and never creates a second one.
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
from typing import Any, Unpack

from vistune.errors import BudgetError, RecipeError, TeacherError
from vistune.llm_client.client import LARGEST_BODY, Outcome, RequestOptions
from vistune.llm_client.dialect import Dialect, read_dialect
from vistune.llm_client.journal import dollars_of, reply_record
from vistune.llm_client.replies import read_completion
from vistune.llm_client.runner import RequestRunner

MOST_LINES = 50_000  # per batch, by OpenAI's documentation
MOST_BYTES = 190 << 20
ENDED = ("completed", "failed", "expired", "cancelled")
DOWNLOADS = 6  # tries per file
CHUNK = "vistune_chunk"  # key of the batch's metadata
Chunk = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """A key, the body of a chat completion, and the dollars that it may cost at most."""

    key: str
    body: bytes
    worst: float


async def ask_batch(
    runner: RequestRunner, requests: Sequence[BatchRequest], *, poll_seconds: float, report: Callable[[str], None]
) -> None:
    """Send all requests that have no reply; a request that a batch leaves unanswered is sent in another one.

    Raises:
        TeacherError: A round of batches answered nothing.
        BudgetError: Not one more request fits the budget.
    """
    run = _BatchRun(runner, {request.key: request.body for request in requests}, poll_seconds, report)
    ledger = runner.ledger
    for chunk in [entry for entry in ledger.chunks.values() if entry["step"] != "finished"]:
        await run.finish(chunk)
    while pending := [each for each in requests if each.key not in ledger.replies and each.key not in ledger.refused]:
        answered = 0
        for part in _parts(pending):
            fitting = _fitting(runner, part)
            answered += await run.finish(await run.begin(fitting), fitting)
        if not answered:
            raise TeacherError("the service ended its batches and answered nothing", "run the same command again later")


def _parts(requests: Sequence[BatchRequest]) -> Iterator[list[BatchRequest]]:
    part: list[BatchRequest] = []
    size = 0
    for request in requests:
        if part and (len(part) == MOST_LINES or size + len(request.body) + 200 > MOST_BYTES):
            yield part
            part, size = [], 0
        part.append(request)
        size += len(request.body) + 200
    yield part


def _fitting(runner: RequestRunner, requests: Sequence[BatchRequest]) -> list[BatchRequest]:
    """Return the first requests whose worst case fits the budget."""
    budget = runner.budget
    if budget.limit is None:
        return list(requests)
    left = budget.limit - budget.spent
    fitting: list[BatchRequest] = []
    for request in requests:
        left -= request.worst
        if left < 0:
            break
        fitting.append(request)
    if not fitting:
        raise BudgetError(
            f"the budget of ${budget.limit:g} is spent: ${budget.spent:.4f} so far",
            "all answers are saved; run the same command with a larger --budget",
        )
    return fitting


@dataclass
class _Sent:
    """The requests of a chunk: keys without an output line yet, known bodies, and the form in which they were sent."""

    keys: set[str]
    bodies: Mapping[str, bytes]
    dialect: Dialect
    worst: float  # dollars per request


@dataclass
class _BatchRun:
    """Runs batches of one call of `ask_batch`, from any step to their end."""

    runner: RequestRunner
    bodies: Mapping[str, bytes]
    poll_seconds: float
    report: Callable[[str], None]

    async def begin(self, requests: Sequence[BatchRequest]) -> Chunk:
        """Write a new chunk to the journal; its name follows from the journal, its keys and its number."""
        keys = [request.key for request in requests]
        runner = self.runner
        runner.report_dialect()
        number = str(len(runner.ledger.chunks))
        name = hashlib.sha256("\n".join([runner.ledger.run, number, *keys]).encode()).hexdigest()[:24]
        worst = sum(request.worst for request in requests)
        record = {"t": "chunk", "chunk": name, "step": "intent", "keys": keys, "worst": worst, "at": time.time()}
        await runner.write({**record, "form": runner.dialect.to_dict()})
        return runner.ledger.chunks[name]

    async def finish(self, chunk: Chunk, requests: Sequence[BatchRequest] | None = None) -> int:
        """Take a chunk from its current step to its end; return how many of its requests were answered."""
        name, runner = chunk["chunk"], self.runner
        batch = await self._find_batch(name)
        if batch is None:
            if requests is None:  # killed before the batch was created: the requests go into another chunk
                await runner.write({"t": "chunk", "chunk": name, "step": "finished"})
                return 0
            parameters = {
                "input_file_id": await self._upload(name, requests),
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
                "metadata": {CHUNK: name},
            }
            batch = await self._call("POST", "batches", json=parameters)
        await runner.write({"t": "chunk", "chunk": name, "step": "created", "batch": batch["id"]})
        while batch.get("status") not in ENDED:
            counts = batch.get("request_counts") or {}
            total = counts.get("total", len(chunk["keys"]))
            self.report(f"batch {batch.get('status')}: {counts.get('completed', 0)} of {total}")
            await runner.wait(self.poll_seconds)
            batch = await self._call("GET", f"batches/{batch['id']}")
        dialect = read_dialect(chunk.get("form")) if chunk.get("form") else runner.dialect
        answered = 0
        for field in ("output_file_id", "error_file_id"):
            if batch.get(field):
                sent = _Sent(set(chunk["keys"]), self.bodies, dialect, chunk["worst"] / len(chunk["keys"]))
                answered += await self._download(str(batch[field]), sent)
        await runner.write({"t": "chunk", "chunk": name, "step": "finished"})
        runner.check_stopped()
        if not answered and batch.get("status") == "failed":
            errors = json.dumps(batch.get("errors"))[:300]
            raise RecipeError(f"batch {batch['id']} failed: {errors}", "fix what the message names")
        return answered

    async def _call(self, method: str, path: str, **options: Unpack[RequestOptions]) -> dict[str, Any]:
        """Make a call that costs nothing; a GET is repeated if the service or the network fails."""
        runner = self.runner
        outcome = Outcome("failed", 0, "")
        for attempt in range(8):
            outcome = await runner.client.request(method, path, **options)
            runner.note_reach(outcome)
            if outcome.kind == "reply":
                try:
                    tree = json.loads(outcome.body)
                except ValueError:
                    tree = None
                if isinstance(tree, dict):
                    return tree
            elif (error := runner.error_of(outcome)) and outcome.status not in (404, 405):
                raise error
            elif outcome.kind in ("refused", "stop_recipe"):
                hint = "if this endpoint does not have the Batch API, leave --batch out"
                raise RecipeError(f"{path}: {outcome.reason}", hint)
            if method == "POST":
                break  # the service may have accepted it: the next run looks for it before creating another one
            await runner.wait(max(outcome.retry_after or 0.0, min(30.0, 0.5 * 2**attempt)))
        reason = outcome.reason or "the answer is not JSON"
        raise TeacherError(f"{path}: {reason}", "run the same command again to continue")

    async def _find_batch(self, name: str) -> dict[str, Any] | None:
        """Look for a chunk's batch in the service's paged list, by its metadata."""
        after = ""
        while True:
            page = await self._call("GET", f"batches?limit=100{after}")
            batches = [entry for entry in page.get("data", []) if isinstance(entry, dict) and entry.get("id")]
            for batch in batches:
                if (batch.get("metadata") or {}).get(CHUNK) == name:
                    return batch
            if not page.get("has_more") or not batches:
                return None
            after = f"&after={batches[-1]['id']}"

    async def _upload(self, name: str, requests: Sequence[BatchRequest]) -> str:
        lines = (
            b'{"custom_id":%s,"method":"POST","url":"/v1/chat/completions","body":%s}\n'
            % (json.dumps(request.key).encode(), self.runner.dialect.apply(request.body, batch=True))
            for request in requests
        )
        upload = (f"vistune-{name}.jsonl", b"".join(lines), "application/jsonl")
        file = await self._call("POST", "files", data={"purpose": "batch"}, files={"file": upload})
        return str(file["id"])

    async def _download(self, file_id: str, sent: _Sent) -> int:
        """Write every reply of an output or error file to the journal; return how many requests were answered."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "output.jsonl"
            for attempt in range(DOWNLOADS):
                outcome = await self.runner.client.download(f"files/{file_id}/content", path)
                if outcome.kind == "reply":
                    break
                await self.runner.wait(min(30.0, 0.5 * 2**attempt))
            else:
                raise TeacherError(f"files/{file_id}: {outcome.reason}", "run the same command again to continue")
            answered = 0
            with open(path, "rb") as file:
                group = []
                for line in file:
                    group.append(_write_line(self.runner, line, sent))
                    if len(group) == 256:  # their records share an fsync
                        answered += sum(await asyncio.gather(*group))
                        group = []
                answered += sum(await asyncio.gather(*group))
        return answered


async def _write_line(runner: RequestRunner, line: bytes, sent: _Sent) -> int:
    """Write one line of an output file to the journal; keys that are unknown or already answered are skipped.

    Returns:
        1 if the line answers a request or shows in which form to send it, else 0.
    """
    try:
        tree = json.loads(runner.client.without_key(line.decode("utf-8", "backslashreplace")))
        key, response = str(tree["custom_id"]), tree.get("response") or {}
        status = int(response.get("status_code") or 0)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return 0
    if key not in sent.keys or key in runner.ledger.replies:
        return 0
    sent.keys.discard(key)
    send = runner.ledger.sends[key] + 1
    content = response.get("body") if status == 200 else response.get("body") or tree.get("error") or ""
    outcome = runner.client.classified(status or 500, {}, json.dumps(content, ensure_ascii=False))
    if outcome.kind != "reply":
        outcome = runner.adapt(outcome, sent.dialect, sent.bodies.get(key, b"{}"), batch=True)
        runner.note_refusal(outcome)
        kind = outcome.kind if outcome.kind in ("refused", "adapted") else "failed"
        record = {"t": "failure", "key": key, "send": send, "kind": kind, "status": outcome.status}
        await runner.write({**record, "reason": outcome.reason})
        if outcome.kind in ("refused", "stop_quota", "stop_recipe") and (error := runner.error_of(outcome)):
            runner.stop(error)
        return int(kind != "failed")
    reason = "body_too_large" if len(outcome.body) > LARGEST_BODY else ""
    completion = read_completion(outcome.body, reason)
    dollars = dollars_of(completion, runner.price, sent.worst, batch=True)
    reply = Outcome("reply", status, outcome.body, reason)
    await runner.write(reply_record(key, send, reply, completion, dollars))
    runner.budget.spent += dollars
    await runner.store_dialect(sent.dialect)
    return 1

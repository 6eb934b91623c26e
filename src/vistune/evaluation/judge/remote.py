"""A remote model as the judge of answers: its requests sent once, journaled, within a budget; never a silent failure.

bodies -> key = hash of the body and how often it came before -> Asker -> texts, in the bodies' order
The same body twice in one call asks for two opinions; the same call again is answered from the journal.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from vistune.errors import TeacherError
from vistune.llm_client import Endpoint, RequestResult, RequestRunner, content_of, run_workers, unwrap_reply

Body = Mapping[str, Any]  # a chat request without its `model`
T = TypeVar("T")
UNENDED = "the reply has a thought but no answer"
TRIES = 5  # of one judgement that cannot be read, as MM-Vet's own scorer


class RemoteJudge:
    """Calls with request bodies give their texts; what was asked before is read from the journal in `folder`."""

    def __init__(self, endpoint: Endpoint, folder: Path, advance: Callable[[int], None] = lambda count: None) -> None:
        self.endpoint, self.folder, self.advance = endpoint, folder, advance
        self.spent: dict[str, Any] = {}

    def __call__(self, bodies: Sequence[Body]) -> list[str]:
        """Raises what stops the run (BudgetError, RecipeError, Stopped), and TeacherError where an answer is missing.

        Whatever was answered until then is in the journal.
        """
        header = {**place_of(self.endpoint), **self.endpoint.asked_with(), "use": "judge"}
        asker = self.endpoint.open(self.folder, header)
        try:
            answers = asyncio.run(self._ask(asker, keyed(self.endpoint, bodies)))
            texts = [_text_of(answer, asker) for answer in answers]
        finally:
            self.spent = _spent(asker)
            asker.journal.close()
        failed = [answer.completion for answer, text in zip(answers, texts, strict=True) if text is None]
        if failed:
            faults = sorted({completion.fault or "thinking" for completion in failed})
            words = Counter(completion.detail or UNENDED for completion in failed).most_common(1)[0][0]
            raise TeacherError(
                f"the judge {self.endpoint.model!r} gave no text for {len(failed)} of {len(bodies)} requests: "
                f"{', '.join(faults)} ({words})",
                f"nothing is averaged; the answers are kept in {self.folder}: run it again, or name another --judge",
            )
        return [text for text in texts if text is not None]

    def describe(self) -> dict[str, Any]:
        """What a result must say about its judge: model as asked and as it names itself, place, day, money."""
        return {
            **place_of(self.endpoint),
            **self.endpoint.asked_with(),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            **self.spent,
        }

    async def _ask(self, asker: RequestRunner, requests: Sequence[tuple[str, bytes, int]]) -> list[RequestResult]:
        answers: list[RequestResult | None] = [None] * len(requests)
        waiting = iter(range(len(requests)))

        async def work() -> None:
            for number in waiting:
                answers[number] = await _answer(asker, *requests[number])
                self.advance(1)

        try:
            await asker.begin()
            await run_workers(asker, [work() for _ in range(min(len(requests), self.endpoint.concurrency))])
        finally:
            await asker.client.close()
        return [answer for answer in answers if answer is not None]


def place_of(endpoint: Endpoint) -> dict[str, str]:
    return {"model": endpoint.model, "base_url": endpoint.base_url}


def keyed(endpoint: Endpoint, bodies: Sequence[Body]) -> list[tuple[str, bytes, int]]:
    """(key, bytes of the request, most tokens of its reply): equal bodies differ by how often they came before."""
    seen: Counter[str] = Counter()
    found = []
    for body in bodies:
        tree = {**endpoint.extra_body, "model": endpoint.model, **body}
        if endpoint.max_tokens is not None:
            tree["max_tokens"] = endpoint.max_tokens
        raw = json.dumps(tree, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
        key = hashlib.sha256(raw).hexdigest()[:32]
        found.append((f"{key}-{seen[key]}", raw, int(tree.get("max_tokens", 4096))))
        seen[key] += 1
    return found


async def _answer(asker: RequestRunner, key: str, body: bytes, most: int) -> RequestResult:
    """The first answer with a text; a faulty one that the journal holds already is no try of this run."""
    asked = attempt = 0
    while True:
        name = f"{key}.{attempt}"
        asked += name not in asker.ledger.replies
        # No vocabulary makes more tokens than there are bytes.
        answer = await asker.ask(name, body, prompt_bound=len(body) + 16, completion_bound=most)
        if answer.offset is None or _text_of(answer, asker) is not None or asked >= TRIES:
            return answer
        attempt += 1


def _text_of(answer: RequestResult, asker: RequestRunner) -> str | None:
    """The reply's text without thoughts. It may be cut off: a judge's score is in its first three tokens.

    None if the thought does not end or no text follows it.
    """
    text = answer.completion.text
    if answer.completion.fault == "cut_off" and answer.offset is not None:
        text = content_of(json.loads(asker.journal.read(answer.offset)["body"])["choices"][0]["message"])
    if text is None:
        return None
    spoken = unwrap_reply(text, single=False)
    if spoken == text.strip():
        return text
    return spoken or None


def _spent(asker: RequestRunner) -> dict[str, Any]:
    ledger = asker.ledger
    return {
        "answered_as": ledger.model,
        "dollars": round(ledger.dollars, 6),
        "maybe_dollars": round(ledger.maybe_dollars, 6),
        "priced": asker.price is not None,
        "replies": ledger.outcomes["reply"],
    }


def judgements(
    judge: Callable[[Sequence[Body]], Sequence[str]],
    bodies: Mapping[str, Body],
    read: Callable[[str], T | None],
    again: Callable[[Body, int], Body] | None = None,
) -> dict[str, T]:
    """What the judge finds, by the bodies' names; one that cannot be read is asked for again, TRIES times in all.

    `again(body, attempt)` gives the body to ask with then, the same one if None. Raises TeacherError where one stays
    unreadable: a failed judgement is no score.
    """
    found: dict[str, T] = {}
    last: dict[str, str] = {}
    for attempt in range(TRIES):
        open_ = [name for name in bodies if name not in found]
        if again is None:  # the journal answers all askings but the last
            replies = judge([bodies[name] for name in open_ for _ in range(attempt + 1)])[attempt :: attempt + 1]
        else:
            replies = judge([again(bodies[name], attempt) if attempt else bodies[name] for name in open_])
        for name, reply in zip(open_, replies, strict=True):
            value = read(reply)
            last[name] = reply
            if value is not None:
                found[name] = value
        if len(found) == len(bodies):
            return found
    name = next(name for name in bodies if name not in found)
    raise TeacherError(
        f"{len(bodies) - len(found)} of {len(bodies)} judgements cannot be read, such as that of {name}: "
        f"{last[name]!r:.300}",
        "nothing is averaged; name another --judge",
    )

"""Have a remote model judge answers: each request is sent once, journaled, and within a budget.

bodies -> key = hash of the body and its repetition -> RequestRunner -> texts, in the bodies' order

If one call contains the same body twice, the judge gives two opinions. If the same call is repeated, the journal
answers it. A missing or unreadable judgement is an error, never a score.
"""

from __future__ import annotations

import ast
import asyncio
import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from vistune.errors import DataError, TeacherError
from vistune.evaluation.release import matching, release_text
from vistune.evaluation.task import Benchmark, Judge, Marked, Reply
from vistune.llm_client import Endpoint, RequestResult, RequestRunner, content_of, run_workers, unwrap_reply

Body = Mapping[str, Any]  # a chat request without its `model`
T = TypeVar("T")
UNENDED = "the reply has a thought but no answer"
SAME_MEANING_PROMPT = "judge_prompt.txt"  # whether a reply means the same as the right answer
SAME_MEANING_PARAMETERS = {"temperature": 0.0, "max_tokens": 8}
PLACEHOLDER = re.compile(r"\{(question|answer|reply)\}")
TRIES = 5  # for one unreadable judgement, as in MM-Vet's own scorer


class JudgedBenchmark(Benchmark):
    """A task of free answers whose figures come from a judge only."""

    max_tokens = 1024
    judged = True

    def metrics(self, rows: Sequence[Marked]) -> dict[str, float]:
        return {}


class RemoteJudge:
    """Returns the texts for request bodies; earlier requests are answered from the journal in `folder`."""

    def __init__(self, endpoint: Endpoint, folder: Path, advance: Callable[[int], None] = lambda count: None) -> None:
        self.endpoint, self.folder, self.advance = endpoint, folder, advance
        self.spent: dict[str, object] = {}

    def __call__(self, bodies: Sequence[Body]) -> list[str]:
        """Return the text for each body.

        Raises:
            TeacherError: A text is missing. The journal keeps the replies that arrived.
        BudgetError, RecipeError, Stopped: The run was stopped by this error.
        """
        header = {**_model_and_url(self.endpoint), **self.endpoint.asked_with(), "use": "judge"}
        runner = self.endpoint.open(self.folder, header)
        try:
            results = asyncio.run(self._ask(runner, keyed_requests(self.endpoint, bodies)))
            texts = [_text_of(result, runner) for result in results]
        finally:
            self.spent = _spent(runner)
            runner.journal.close()
        failed = [result.completion for result, text in zip(results, texts, strict=True) if text is None]
        if failed:
            faults = sorted({completion.fault or "thinking" for completion in failed})
            detail = Counter(completion.detail or UNENDED for completion in failed).most_common(1)[0][0]
            raise TeacherError(
                f"the judge {self.endpoint.model!r} gave no text for {len(failed)} of {len(bodies)} requests: "
                f"{', '.join(faults)} ({detail})",
                f"no score was computed; the answers are saved in {self.folder}: run it again, or name another --judge",
            )
        return [text for text in texts if text is not None]

    def describe(self) -> dict[str, object]:
        """Return what a result records about its judge: model, the name that it answers as, URL, day and cost."""
        return {
            **_model_and_url(self.endpoint),
            **self.endpoint.asked_with(),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            **self.spent,
        }

    async def _ask(self, runner: RequestRunner, requests: Sequence[tuple[str, bytes, int]]) -> list[RequestResult]:
        results: list[RequestResult | None] = [None] * len(requests)
        waiting = iter(range(len(requests)))

        async def work() -> None:
            for number in waiting:
                results[number] = await _answer(runner, *requests[number])
                self.advance(1)

        try:
            await runner.begin()
            await run_workers(runner, [work() for _ in range(min(len(requests), self.endpoint.concurrency))])
        finally:
            await runner.client.close()
        return [result for result in results if result is not None]


def _model_and_url(endpoint: Endpoint) -> dict[str, str]:
    return {"model": endpoint.model, "base_url": endpoint.base_url}


def keyed_requests(endpoint: Endpoint, bodies: Sequence[Body]) -> list[tuple[str, bytes, int]]:
    """Return (key, body, most tokens of the reply) of each request; the key counts repetitions of equal bodies."""
    seen: Counter[str] = Counter()
    requests = []
    for body in bodies:
        tree = {**endpoint.extra_body, "model": endpoint.model, **body}
        if endpoint.max_tokens is not None:
            tree["max_tokens"] = endpoint.max_tokens
        raw = json.dumps(tree, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
        key = hashlib.sha256(raw).hexdigest()[:32]
        requests.append((f"{key}-{seen[key]}", raw, int(tree.get("max_tokens", 4096))))
        seen[key] += 1
    return requests


async def _answer(runner: RequestRunner, key: str, body: bytes, most: int) -> RequestResult:
    """Return the first result with a text; faulty ones that the journal already holds do not count as tries."""
    asked = attempt = 0
    while True:
        name = f"{key}.{attempt}"
        asked += name not in runner.ledger.replies
        # No vocabulary makes more tokens than there are bytes.
        result = await runner.ask(name, body, prompt_bound=len(body) + 16, completion_bound=most)
        if result.offset is None or _text_of(result, runner) is not None or asked >= TRIES:
            return result
        attempt += 1


def _text_of(result: RequestResult, runner: RequestRunner) -> str | None:
    """Return the reply's text without thoughts; None if the thought does not end or no text follows it.

    The text may be cut off, because a judge's score is in its first three tokens.
    """
    text = result.completion.text
    if result.completion.fault == "cut_off" and result.offset is not None:
        text = content_of(json.loads(runner.journal.read(result.offset)["body"])["choices"][0]["message"])
    if text is None:
        return None
    spoken = unwrap_reply(text, single=False)
    if spoken == text.strip():
        return text
    return spoken or None


def _spent(runner: RequestRunner) -> dict[str, object]:
    ledger = runner.ledger
    return {
        "answered_as": ledger.model,
        "dollars": round(ledger.dollars, 6),
        "maybe_dollars": round(ledger.maybe_dollars, 6),
        "priced": runner.price is not None,
        "replies": ledger.outcomes["reply"],
    }


def judgements(
    judge: Judge,
    bodies: Mapping[str, Body],
    read: Callable[[str], T | None],
    again: Callable[[Body, int], Body] | None = None,
) -> dict[str, T]:
    """Return the judge's judgements by the bodies' names. Unreadable ones are requested again, up to TRIES times.

    Args:
        again: Returns the body for another attempt (1, 2, …); without it the same body is sent.

    Raises:
        TeacherError: A judgement stays unreadable.
    """
    judged: dict[str, T] = {}
    if not bodies:
        return judged
    last: dict[str, str] = {}
    for attempt in range(TRIES):
        unread = [name for name in bodies if name not in judged]
        if again is None:  # the journal answers all requests except the last
            replies = judge([bodies[name] for name in unread for _ in range(attempt + 1)])[attempt :: attempt + 1]
        else:
            replies = judge([again(bodies[name], attempt) if attempt else bodies[name] for name in unread])
        for name, reply in zip(unread, replies, strict=True):
            value = read(reply)
            last[name] = reply
            if value is not None:
                judged[name] = value
        if len(judged) == len(bodies):
            return judged
    name = next(name for name in bodies if name not in judged)
    raise TeacherError(
        f"{len(bodies) - len(judged)} of {len(bodies)} judgements are unreadable, such as that of {name}: "
        f"{last[name]!r:.300}",
        "no score was computed; name another --judge",
    )


def read_prompt(folder: Path, texts: Sequence[str], scripts: Sequence[str], constant: str) -> str:
    """Read a judge's published prompt: the first text file that matches, else a constant of the official script.

    Scripts are parsed, never run.
    """
    location = folder if folder.is_dir() else folder.parent
    for pattern in texts:
        for path in matching(location, pattern):
            return release_text(path)
    for pattern in scripts:
        for path in matching(location, pattern):
            return _constant(path, constant)
    raise DataError(
        f"{location / texts[0]}: no such file, nor {' or '.join(scripts)}",
        "the judge's prompt comes with the benchmark: put the official script, or its prompt as text, next to the data",
    )


def _constant(path: Path, name: str) -> str:
    """Return the string that a script assigns to a name, with or without `.strip()`."""
    try:
        tree = ast.parse(release_text(path))
    except (SyntaxError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not readable Python: {error}", "download it again") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            value, stripped = node.value, False
            if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr == "strip":
                value, stripped = value.func.value, True
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                return value.value.strip() if stripped else value.value
    raise DataError(f"{path}: does not assign a text to {name!r}", "download the official script again")


def same_meaning_prompt(own: Path) -> tuple[str, str]:
    """Return the prompt for the user's own questions, and its source: the file `own`, else vistune's."""
    if not own.is_file():
        return (files("vistune.evaluation") / SAME_MEANING_PROMPT).read_text(encoding="utf-8"), "vistune"
    prompt = release_text(own)
    if missing := {"question", "answer", "reply"} - set(PLACEHOLDER.findall(prompt)):
        raise DataError(f"{own}: has no {{{'}, {'.join(sorted(missing))}}}", "add the missing placeholders")
    return prompt, own.name


def same_meaning_request(prompt: str, row: Reply) -> Body:
    """Fill question, right answer and reply into the prompt. Placeholders in them are not filled."""
    fills = {"question": row.question.sample.messages[-1].text, "answer": row.question.answer, "reply": row.text or ""}
    text = PLACEHOLDER.sub(lambda match: fills[match[1]], prompt)
    return {"messages": [{"role": "user", "content": text}], **SAME_MEANING_PARAMETERS}


def read_verdict(reply: str) -> float | None:
    """Return 1 for "correct" and 0 for "wrong" as the reply's first word; None for anything else."""
    word = re.match(r"\W*(\w*)", reply)
    return {"correct": 1.0, "wrong": 0.0}.get(word[1].lower()) if word else None


def sha256_of_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

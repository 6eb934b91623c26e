"""The engine: requests come while others run, join and leave the batch between steps, and stream their text.

Example -> submit -> Answer · step: cancelled ones leave, waiting ones join, everyone says a token, ended ones leave
`generate`, the assistant, the chat and the server all go through here.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from vistune.errors import DataError
from vistune.generation.answer import Answer, Listener
from vistune.generation.prefix import Prompt, prompt_of
from vistune.generation.running import RunningBatch, Speaker
from vistune.generation.sampling import GREEDY, Sampling
from vistune.model import VisionLanguageModel
from vistune.model.language import base_of
from vistune.processor import Processor
from vistune.types import Completion, Example

CACHE_BYTES = 2 * 2**30
LOOKAHEAD = 64  # waiting prompts among which a common beginning is looked for


class Engine:
    """At most `batch_size` answers at once, others wait in order.

    Without `start`, whoever waits for an answer steps the engine, and the others' answers with it; after it a thread
    does. `cache_bytes`: what is kept of earlier prompts, beside what the running ones need; those used longest ago go
    first. `stems_at_once`: prompts with a beginning of their own that join in one step; more is faster for a batch and
    makes streams stall. The model's weights must stay as they are while an engine lives.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        processor: Processor,
        *,
        batch_size: int = 32,
        cache_bytes: int = CACHE_BYTES,
        stems_at_once: int = 1,
    ) -> None:
        self.processor = processor
        self.batch_size = batch_size
        self.context = _context(model)
        self.batch = RunningBatch(model, cache_bytes, stems_at_once=stems_at_once)
        self._waiting: deque[Answer] = deque()
        self._running: dict[Speaker, Answer] = {}
        self._stepping = threading.RLock()
        self._work = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def is_stepping(self) -> bool:
        """Whether its thread is at work, or waits for some."""
        return self._thread is not None and self._thread.is_alive()

    def submit(
        self,
        prompt: Example | Prompt,
        *,
        max_tokens: int = 256,
        sampling: Sampling = GREEDY,
        stop: Sequence[str] = (),
        listen: Listener | None = None,
    ) -> Answer:
        """Ask; from any thread. An answer that fills the model's context ends with reason `length`.

        Raises DataError where the prompt alone fills it, or where nothing is asked for.
        """
        if max_tokens < 1 or not len(prompt) or not all(stop):
            raise DataError(
                f"prompt of {len(prompt)} tokens, max_tokens {max_tokens}, stop {list(stop)}: nothing can be answered",
                "give a prompt, one token or more, and stop strings that are not empty",
            )
        if len(prompt) >= self.context:
            raise DataError(
                f"the prompt takes {len(prompt)} tokens, the model reads {self.context:.0f}", "shorten the conversation"
            )
        answer = Answer(
            self,
            self.processor,
            Speaker(prompt if isinstance(prompt, Prompt) else prompt_of(prompt), sampling),
            max_tokens=int(min(max_tokens, self.context - len(prompt))),
            stop=stop,
            listen=listen,
        )
        with self._work:
            if self._closing:
                raise RuntimeError("the engine is closed")
            self._waiting.append(answer)
            self._work.notify()
        return answer

    def step(self) -> bool:
        """Go on by a token of each; whether anything was left to do.

        An error of one prompt ends its answer alone, one of the whole batch all that run; the engine goes on.
        """
        with self._stepping:
            self._let_cancelled_leave()
            self._let_join()
            if not self._running:
                return bool(self._waiting)
            try:
                self.batch.step()
            except BaseException as error:
                self._abandon(error)
                if not isinstance(error, Exception):  # Ctrl-C
                    raise
            self._hear(list(self._running.values()))
            return True

    def drive(self, done: Callable[[], bool]) -> None:
        """Step until `done`, unless the engine's thread does."""
        while self._thread is None and not done():
            self.step()

    def start(self) -> Engine:
        """Step in a thread whenever there is something to do, until `close`."""
        assert self._thread is None, "started twice"
        self._thread = threading.Thread(target=self._run, name="vistune engine", daemon=True)
        self._thread.start()
        return self

    def close(self) -> None:
        """Take no more requests; those under way end as cancelled."""
        with self._work:
            self._closing = True
            self._work.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        with self._stepping:
            for answer in (*self._waiting, *self._running.values()):
                answer.cancel()
            self._let_cancelled_leave()

    def __enter__(self) -> Engine:
        return self.start()

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def _run(self) -> None:
        while True:
            with self._work:
                self._work.wait_for(lambda: self._closing or self._waiting or self._running)
                if self._closing:
                    return
            self.step()

    def _let_cancelled_leave(self) -> None:
        gone = [answer for answer in self._running.values() if answer.is_cancelled]
        for answer in gone:
            self._leave(answer)
        with self._work:
            waited = [answer for answer in self._waiting if answer.is_cancelled]
            for answer in waited:
                self._waiting.remove(answer)
        for answer in (*gone, *waited):
            _safely(answer, partial(answer.end, "cancelled"))

    def _let_join(self) -> None:
        """Those who wait join as there is room; a prompt that cannot be read ends its own answer."""
        free = self.batch_size - len(self._running)
        with self._work:
            ahead = [self._waiting[k] for k in range(min(len(self._waiting), max(LOOKAHEAD, free)))]
        if not ahead or not free:
            return
        speakers = [answer.speaker for answer in ahead]
        try:
            joined = ahead[: len(self.batch.admit(speakers, free))]
        except Exception:  # one prompt of several is bad: each is tried alone, and its error goes to its own request
            joined = self._let_one_join(ahead[0])
        except BaseException as error:  # Ctrl-C, which may come between any two lines of it
            self._abandon(error)
            raise
        with self._work:
            for _ in joined:
                self._waiting.popleft()
        joined = [answer for answer in joined if not answer.ended]
        self._running |= {answer.speaker: answer for answer in joined}
        self._hear(joined)

    def _let_one_join(self, answer: Answer) -> list[Answer]:
        """After an error among several: the first alone, so that the error is seen to be its own."""
        try:
            self.batch.admit([answer.speaker], 1)
        except Exception as error:
            answer.fail(error)
        return [answer]

    def _hear(self, answers: Sequence[Answer]) -> None:
        for answer in answers:
            _safely(answer, answer.hear)
            if answer.ended:
                self._leave(answer)

    def _leave(self, answer: Answer) -> None:
        del self._running[answer.speaker]
        self.batch.leave(answer.speaker)

    def _abandon(self, error: BaseException) -> None:
        answers = list(self._running.values())
        self._running.clear()
        self.batch.clear()
        for answer in answers:
            answer.fail(error)


def _safely(answer: Answer, do: Callable[[], None]) -> None:
    """An error of a listener or a tokenizer ends its own answer and is not the others' concern."""
    try:
        do()
    except Exception as error:
        answer.fail(error)


def _context(model: VisionLanguageModel) -> float:
    """How many tokens the language model was made for; infinite where its config does not say."""
    return float(getattr(base_of(model.language).config, "max_position_embeddings", None) or "inf")


def generate(
    model: VisionLanguageModel,
    processor: Processor,
    prompts: Sequence[Example],
    *,
    max_tokens: int = 256,
    sampling: Sampling = GREEDY,
    batch_size: int = 32,
    advance: Callable[[int], None] = lambda count: None,
) -> list[Completion]:
    """Answers to prompts, in their order; those that begin alike run together, so that it is read once.

    Prompt k is sampled with seed `sampling.seed + k`.
    """
    engine = Engine(model, processor, batch_size=batch_size, stems_at_once=batch_size)  # nobody watches a stream
    known = [prompt_of(prompt) for prompt in prompts]
    asked = {
        k: engine.submit(known[k], max_tokens=max_tokens, sampling=replace(sampling, seed=sampling.seed + k))
        for k in sorted(range(len(known)), key=lambda k: known[k].codes.tobytes())
    }
    left = len(prompts)
    while engine.step():
        advance(left - (left := engine.waiting + engine.running))
    return [asked[k].result() for k in range(len(prompts))]

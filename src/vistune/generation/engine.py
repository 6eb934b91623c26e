"""The inference engine: requests arrive at any time, join and leave the batch between steps, and stream their text.

In each step cancelled answers leave, waiting ones join, every sequence gets a token, and finished answers leave.
`generate`, the assistant, the chat and the server all use it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from vistune.errors import DataError
from vistune.generation.answer import PLAIN, Listener, Output, PendingAnswer
from vistune.generation.batch import RunningBatch
from vistune.generation.grammar import GrammarCompiler
from vistune.generation.sampling import GREEDY, Sampling
from vistune.generation.sequence import Prompt, RunningSequence, hash_prompt
from vistune.model import VisionLanguageModel
from vistune.model.language import unwrap
from vistune.processor import Processor
from vistune.types import Completion, Example

CACHE_BYTES = 2 * 2**30
LOOKAHEAD = 64  # waiting prompts that are compared to find common prefixes


class Engine:
    """Generate at most `batch_size` answers at once; other requests wait in order.

    Without `start`, the caller that waits for an answer steps the engine, which advances all answers. After `start` a
    thread does so. The model's weights must not change while an engine exists.

    Args:
        cache_bytes: Size of the cache of prompt prefixes, in addition to what running sequences need.
        prefixes_at_once: How many new prefixes may be read in one step. More is faster for a batch, but makes the text
            of running answers pause.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        processor: Processor,
        *,
        batch_size: int = 32,
        cache_bytes: int = CACHE_BYTES,
        prefixes_at_once: int = 1,
    ) -> None:
        self.processor = processor
        self.batch_size = batch_size
        config = unwrap(model.language).config
        self.context = float(getattr(config, "max_position_embeddings", None) or "inf")  # in tokens
        self.grammars = GrammarCompiler(processor, len(model.head.weight))
        self.batch = RunningBatch(
            model, cache_bytes, prefixes_at_once=prefixes_at_once, vocabulary=len(processor.tokenizer)
        )
        self._waiting: deque[PendingAnswer] = deque()
        self._running: dict[RunningSequence, PendingAnswer] = {}
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
        """Whether the engine's thread is alive."""
        return self._thread is not None and self._thread.is_alive()

    def submit(
        self,
        prompt: Example | Prompt,
        *,
        max_tokens: int = 256,
        sampling: Sampling = GREEDY,
        stop: Sequence[str] = (),
        listen: Listener | None = None,
        output: Output = PLAIN,
    ) -> PendingAnswer:
        """Submit a request, from any thread. An answer that fills the model's context ends with reason `length`.

        `stop`: strings that end the answer, also if they begin it. `listen`: see `PendingAnswer`. Raises DataError if
        the prompt is empty or fills the context, or if max_tokens or a stop string is invalid.
        """
        if max_tokens < 1 or not len(prompt) or not all(stop):
            raise DataError(
                f"prompt of {len(prompt)} tokens, max_tokens {max_tokens}, stop {list(stop)}: nothing can be generated",
                "give a prompt, max_tokens of 1 or more, and stop strings that are not empty",
            )
        if len(prompt) >= self.context:
            raise DataError(
                f"the prompt has {len(prompt)} tokens, the model's context is {self.context:.0f}",
                "shorten the conversation",
            )
        answer = PendingAnswer(
            self,
            self.processor,
            RunningSequence(
                prompt if isinstance(prompt, Prompt) else hash_prompt(prompt),
                sampling,
                output.grammar,
                output.top_logprobs,
            ),
            max_tokens=int(min(max_tokens, self.context - len(prompt))),
            stop=stop,
            listen=listen,
            style=output.style,
        )
        with self._work:
            if self._closing:
                raise RuntimeError("the engine is closed")
            self._waiting.append(answer)
            self._work.notify()
        return answer

    def step(self) -> bool:
        """Generate one token for every sequence; return whether there was anything to do.

        An error of one prompt ends only its own answer. An error of the whole batch ends all running answers. The
        engine continues after both.
        """
        with self._stepping:
            self._remove_cancelled()
            self._admit_waiting()
            if not self._running:
                return bool(self._waiting)
            try:
                self.batch.step()
            except BaseException as error:
                self._abandon(error)
                if not isinstance(error, Exception):  # Ctrl-C
                    raise
            self._update(list(self._running.values()))
            return True

    def drive(self, done: Callable[[], bool]) -> None:
        """Step until `done`, unless the engine's thread does so."""
        while self._thread is None and not done():
            self.step()

    def start(self) -> Engine:
        """Start a thread that steps whenever there is something to do, until `close`."""
        assert self._thread is None, "started twice"
        self._thread = threading.Thread(target=self._run, name="vistune engine", daemon=True)
        self._thread.start()
        return self

    def close(self) -> None:
        """Refuse new requests, and cancel the others."""
        with self._work:
            self._closing = True
            self._work.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        with self._stepping:
            for answer in (*self._waiting, *self._running.values()):
                answer.cancel()
            self._remove_cancelled()

    def __enter__(self) -> Engine:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(self) -> None:
        while True:
            with self._work:
                self._work.wait_for(lambda: self._closing or self._waiting or self._running)
                if self._closing:
                    return
            try:
                self.step()
            except Exception as error:  # outside the model: without this, the thread ends and requests wait for ever
                self._abandon(error)

    def _remove_cancelled(self) -> None:
        running = [answer for answer in self._running.values() if answer.is_cancelled]
        for answer in running:
            self._leave(answer)
        with self._work:
            waiting = [answer for answer in self._waiting if answer.is_cancelled]
            for answer in waiting:
                self._waiting.remove(answer)
        for answer in (*running, *waiting):
            _safely(answer, partial(answer.end, "cancelled"))

    def _admit_waiting(self) -> None:
        """Let waiting requests join while there is room; a prompt that cannot be read ends its own answer."""
        free = self.batch_size - len(self._running)
        with self._work:
            ahead = [self._waiting[k] for k in range(min(len(self._waiting), max(LOOKAHEAD, free)))]
        if not ahead or not free:
            return
        sequences = [answer.sequence for answer in ahead]
        try:
            joined = ahead[: len(self.batch.admit(sequences, free))]
        except Exception:  # one of the prompts is bad: try the first alone, so that the error ends the right answer
            joined = ahead[:1]
            try:
                self.batch.admit(sequences[:1], 1)
            except Exception as error:
                ahead[0].fail(error)
        except BaseException as error:  # Ctrl-C, which may interrupt `admit` anywhere
            self._abandon(error)
            raise
        with self._work:
            for _ in joined:
                self._waiting.popleft()
        joined = [answer for answer in joined if not answer.ended]
        self._running |= {answer.sequence: answer for answer in joined}
        self._update(joined)

    def _update(self, answers: Sequence[PendingAnswer]) -> None:
        for answer in answers:
            _safely(answer, answer.update)
            if answer.ended:
                self._leave(answer)

    def _leave(self, answer: PendingAnswer) -> None:
        del self._running[answer.sequence]
        self.batch.leave(answer.sequence)

    def _abandon(self, error: BaseException) -> None:
        answers = list(self._running.values())
        self._running.clear()
        self.batch.clear()
        for answer in answers:
            answer.fail(error)


def _safely(answer: PendingAnswer, action: Callable[[], None]) -> None:
    """Run `action`; an error of a listener or a tokenizer ends this answer only."""
    try:
        action()
    except Exception as error:
        answer.fail(error)


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
    """Answer prompts, and return the completions in their order. Prompts that begin alike are read together.

    Prompt k is sampled with seed `sampling.seed + k`. `advance` is called with the number of newly finished answers.
    """
    engine = Engine(model, processor, batch_size=batch_size, prefixes_at_once=batch_size)  # nothing is streamed
    hashed = [hash_prompt(prompt) for prompt in prompts]
    answers = {
        k: engine.submit(hashed[k], max_tokens=max_tokens, sampling=replace(sampling, seed=sampling.seed + k))
        for k in sorted(range(len(hashed)), key=lambda k: hashed[k].codes.tobytes())
    }
    left = len(prompts)
    while engine.step():
        advance(left - (left := engine.waiting + engine.running))
    return [answers[k].result() for k in range(len(prompts))]

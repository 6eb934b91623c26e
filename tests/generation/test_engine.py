"""Whoever comes, stays or leaves: an answer is what transformers says to its prompt alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import KINDS, Bench, image

from vistune.errors import DataError
from vistune.generation import Engine, Sampling, generate, greedy_tokens
from vistune.types import IMAGE_ID, Example

Make = Callable[[str], Bench]


def prompts_of(bench: Bench) -> list[Example]:
    """Questions on one picture, on another, on two, rotations of one text, text alone, and one prompt twice."""
    first, second = image(1), image(2, (64, 40))
    long = "Where is the blue square? It is at the top left of the picture, above a small green star. " * 2
    texts = ["What colour is it?", "What colour is the star?", "Where?", "무슨 색인가요?", long + "A. red B. green",
             long + "B. green A. red"]  # fmt: skip
    made = [bench.prompt(shown, text) for shown in (first, second) for text in texts]
    made += [bench.prompt(first, second, texts[0]), bench.prompt(first, image(3), texts[0])]
    return [*made, bench.prompt(texts[0]), bench.prompt(long * 4), bench.prompt(first, texts[0])]


@pytest.mark.parametrize("batch_size", [1, 4, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_answers_on_shared_prefixes_are_those_of_prompts_alone(kind: str, batch_size: int, make_bench: Make) -> None:
    bench = make_bench(kind)
    prompts = prompts_of(bench)
    said = generate(bench.model, bench.processor, prompts, max_tokens=16, batch_size=batch_size)
    assert [completion.text for completion in said] == [bench.answer(prompt, 16) for prompt in prompts]
    assert len({completion.text for completion in said}) > 10, "the answers are too dull to prove anything"


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_go_on_behind_a_prompt_as_in_transformers(kind: str, make_bench: Make) -> None:
    bench = make_bench(kind)
    for prompt in prompts_of(bench)[::4]:
        assert greedy_tokens(bench.model, prompt, 24) == bench.alone(prompt)


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_may_end_with_its_picture(kind: str, make_bench: Make) -> None:
    """As the template `plain` writes it: the last slot's hidden state says the answer's first token."""
    bench = make_bench(kind)
    plain = replace(bench, processor=bench.processor.with_template("plain"))
    prompts = [plain.prompt(image(seed, (64, 64)), "not shown") for seed in (1, 2, 1)]
    assert all(prompt.input_ids[-1] == IMAGE_ID for prompt in prompts)
    said = generate(plain.model, plain.processor, prompts, max_tokens=16)
    assert [completion.text for completion in said] == [plain.answer(prompt, 16) for prompt in prompts]
    for prompt in prompts[:2]:
        assert greedy_tokens(plain.model, prompt, 24) == plain.alone(prompt)


class Counted:
    """Counts the tiles a tower is given and the tokens a language model is."""

    def __init__(self, bench: Bench) -> None:
        self.tiles = self.tokens = 0
        self.hooks = [
            bench.model.vision.register_forward_pre_hook(self._see),
            bench.model.language.get_decoder().register_forward_pre_hook(self._read, with_kwargs=True),
        ]

    def _see(self, module: Any, given: Any) -> None:
        self.tiles += len(given[0])

    def _read(self, module: Any, given: Any, named: Any) -> None:
        self.tokens += named["inputs_embeds"].shape[1]

    def __enter__(self) -> Counted:
        return self

    def __exit__(self, *exception: Any) -> None:
        for hook in self.hooks:
            hook.remove()


def test_a_picture_is_encoded_once_and_what_prompts_share_is_read_once(make_bench: Make) -> None:
    bench = make_bench("grouped heads")
    shared = "Where is the blue square? It is at the top left of the picture, above a small green star. "
    prompts = [bench.prompt(image(k), shared + text) for text in ("A", "B", "C", "D") for k in (1, 2)]
    with Counted(bench) as counted:
        generate(bench.model, bench.processor, prompts, max_tokens=1)
    assert counted.tiles == 2
    own = 12  # tokens behind the shared text, at most
    assert counted.tokens <= 2 * len(prompts[0]) + len(prompts) * own < sum(map(len, prompts)) / 2


def test_the_next_turn_reads_only_what_is_new_even_of_pictures_from_other_bytes(make_bench: Make) -> None:
    bench = make_bench("grouped heads")
    engine = Engine(bench.model, bench.processor)
    engine.submit(bench.prompt(image(1), "What colour is it?"), max_tokens=4).result()
    with Counted(bench) as counted:
        answer = engine.submit(bench.prompt(image(1), "Where is it?"), max_tokens=1)
        answer.result()
    assert counted.tiles == 0
    assert answer.reused_tokens >= answer.prompt_tokens - 20
    assert counted.tokens == answer.prompt_tokens - answer.reused_tokens


def test_what_is_kept_stays_within_its_bytes(make_bench: Make) -> None:
    bench = make_bench("anyres")
    engine = Engine(bench.model, bench.processor, cache_bytes=1_000_000)
    sizes = set()
    for seed in range(30):
        engine.submit(bench.prompt(image(seed, (64, 64)), "Where?"), max_tokens=2).result()
        sizes.add(len(engine.batch.prefixes))
        assert engine.batch.prefixes.bytes <= 1_000_000
        assert engine.batch.images.bytes <= 125_000
    assert 1 < max(sizes) < 30
    long = "Where is the blue square? It is at the top left of the picture."
    for end in range(20, 60):  # each begins as the first does, for a while: of that no view is kept once it has ended
        engine.submit(bench.prompt(long[:end] + "?"), max_tokens=1).result()
    held = engine.batch.prefixes._entries._entries.values()
    assert sum(len(stem._shorter) for stem, _ in held) == 0
    nothing = Engine(bench.model, bench.processor, cache_bytes=0)
    prompt = bench.prompt(image(1), "Where?")
    assert nothing.submit(prompt, max_tokens=8).result().text == bench.answer(prompt, 8)
    assert not len(nothing.batch.prefixes)


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(0, 16), st.integers(1, 12)),
        st.tuples(st.just("step"), st.integers(1, 4), st.just(0)),
        st.tuples(st.just("cancel"), st.integers(0, 20), st.just(0)),
    ),
    max_size=40,
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=EVENTS, batch_size=st.integers(1, 6), cache_bytes=st.sampled_from([0, 50_000, 2**30]))
def test_arrivals_and_cancellations_change_no_answer(
    make_bench: Make, kind: str, events: list[tuple[str, int, int]], batch_size: int, cache_bytes: int
) -> None:
    bench = make_bench(kind)
    prompts = prompts_of(bench)
    engine = Engine(bench.model, bench.processor, batch_size=batch_size, cache_bytes=cache_bytes)
    answers = []
    for event, number, limit in events:
        if event == "submit":
            answers.append((prompts[number], limit, engine.submit(prompts[number], max_tokens=limit)))
        elif event == "cancel" and answers:
            _, _, answer = answers[number % len(answers)]
            answer.cancel()
            said = answer.completion_tokens
            engine.step()
            assert answer.ended
            assert answer.completion_tokens == said
        else:
            for _ in range(number):
                engine.step()
        assert engine.running <= batch_size
    while engine.step():
        pass
    for prompt, limit, answer in answers:
        wanted = reference(bench, prompt)[:limit]
        assert answer.sequence.tokens == wanted[: len(answer.sequence.tokens)]
        if not answer.is_cancelled:
            ends = [k + 1 for k in range(limit) if bench.processor.ended(wanted[: k + 1])]
            assert answer.completion_tokens == (ends[0] if ends else limit)
            assert answer.finish_reason == ("stop" if ends else "length")
        assert "".join(answer) == answer.result().text == bench.processor.answer(answer.sequence.tokens)
    assert engine.running == engine.waiting == len(engine.batch.sequences) == 0


def reference(bench: Bench, prompt: Example) -> list[int]:
    key = (*prompt.input_ids.tolist(), int(prompt.images.long().sum()))
    if key not in bench.known:
        bench.known[key] = bench.alone(prompt)
    return bench.known[key]


def test_answers_come_in_order_of_asking_where_all_are_alike(make_bench: Make) -> None:
    bench = make_bench("grouped heads")
    engine = Engine(bench.model, bench.processor, batch_size=2)
    order: list[int] = []
    for k in range(6):
        engine.submit(
            bench.prompt(image(k), "Where?"), max_tokens=1,
            listen=lambda piece, k=k: order.append(k) if piece is None else None,  # type: ignore[misc]
        )  # fmt: skip
    while engine.step():
        pass
    assert order == list(range(6))


def test_samplings_of_company_do_not_mix_and_seeds_repeat(make_bench: Make) -> None:
    bench = make_bench("grouped heads")
    prompt = bench.prompt(image(1), "What colour is it?")
    samplings = [Sampling(), Sampling(temperature=0.9, seed=1), Sampling(temperature=0.9, seed=2),
                 Sampling(temperature=1.2, top_k=5, seed=3), Sampling(temperature=1.2, top_p=0.5, seed=3),
                 Sampling(repetition_penalty=1.7)]  # fmt: skip
    together = Engine(bench.model, bench.processor)
    answers = [together.submit(prompt, max_tokens=12, sampling=sampling) for sampling in samplings]
    texts = [answer.result().text for answer in answers]
    assert len(set(texts)) == len(texts)
    for sampling, text in zip(samplings, texts, strict=True):
        alone = Engine(bench.model, bench.processor).submit(prompt, max_tokens=12, sampling=sampling)
        assert alone.result().text == text


def test_a_repetition_penalty_is_that_of_transformers(make_bench: Make) -> None:
    bench = make_bench("grouped heads")
    prompt = bench.prompt("Where is the blue square?")
    wanted = bench.stock.generate(
        prompt.input_ids[None], do_sample=False, max_new_tokens=16, repetition_penalty=1.5, eos_token_id=None
    )[0, len(prompt) :].tolist()
    engine = Engine(bench.model, bench.processor)
    answer = engine.submit(prompt, max_tokens=16, sampling=Sampling(repetition_penalty=1.5))
    answer.result()
    assert answer.sequence.tokens == wanted[: answer.completion_tokens]
    assert answer.completion_tokens > 4
    assert wanted != bench.alone(prompt, 16)


def test_a_stop_string_ends_an_answer_before_it(make_bench: Make) -> None:
    bench = make_bench("grouped heads")
    prompt = bench.prompt(image(1), "What colour is it?")
    whole = bench.answer(prompt, 20)
    stop = whole[len(whole) // 2 :][:3]
    engine = Engine(bench.model, bench.processor)
    answer = engine.submit(prompt, max_tokens=20, stop=["never said", stop])
    assert "".join(answer) == answer.result().text == whole[: whole.find(stop)].rstrip()
    assert answer.finish_reason == "stop"
    assert 0 < answer.completion_tokens < 20


@pytest.mark.parametrize("given", [{"max_tokens": 0}, {"stop": [""]}])
def test_what_cannot_be_answered_is_refused(make_bench: Make, given: dict[str, Any]) -> None:
    bench = make_bench("grouped heads")
    with pytest.raises(DataError, match="nothing can be generated"):
        Engine(bench.model, bench.processor).submit(bench.prompt("?"), **given)


def test_the_models_context_bounds_prompt_and_answer(make_bench: Make) -> None:
    bench = make_bench("grouped heads")
    engine = Engine(bench.model, bench.processor)
    ids = torch.randint(10, 400, (1024,), generator=torch.Generator().manual_seed(0))
    whole = bench.prompt("?")
    long = Example(ids, ids, whole.images)
    with pytest.raises(DataError, match="1024 tokens, the model's context is 1024"):
        engine.submit(long, max_tokens=1)
    nearly = Example(ids[:1020], ids[:1020], whole.images)
    assert engine.submit(nearly, max_tokens=50).result().completion_tokens <= 4


def test_a_broken_prompt_fails_alone_and_no_slot_leaks(make_bench: Make) -> None:
    """Its pixels are of a side that the tower cannot take: the model itself raises."""
    bench = make_bench("grouped heads")
    good = bench.prompt(image(1), "Where?")
    broken = Example(good.input_ids, good.labels, torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    engine = Engine(bench.model, bench.processor, batch_size=4)
    for _ in range(5):
        answers = [engine.submit(prompt, max_tokens=6) for prompt in (good, broken, good, broken)]
        for answer in answers[1::2]:
            with pytest.raises(ValueError, match="size"):
                answer.result()
        assert [answer.result().text for answer in answers[::2]] == 2 * [bench.answer(good, 6)]
    assert engine.running == engine.waiting == len(engine.batch.sequences) == 0


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0)])
def test_an_answer_whose_logits_are_nan_fails_alone(sampling: Sampling, make_bench: Make) -> None:
    """One token's embedding is NaN, so all hidden states that can attend to it are."""
    bench = make_bench("grouped heads")
    good, other = bench.prompt("Where?"), bench.prompt("What colour is the star?")
    token = next(int(each) for each in other.input_ids if each not in good.input_ids)
    rows = bench.model.language.get_input_embeddings().weight
    wanted = Engine(bench.model, bench.processor).submit(good, max_tokens=8, sampling=sampling).result().text
    kept = rows.data[token].clone()
    try:
        rows.data[token] = torch.nan
        engine = Engine(bench.model, bench.processor)
        broken, answer = (engine.submit(prompt, max_tokens=8, sampling=sampling) for prompt in (other, good))
        with pytest.raises(DataError, match="not numbers"):
            broken.result()
        assert answer.result().text == wanted
        assert engine.running == len(engine.batch.sequences) == 0
    finally:
        rows.data[token] = kept


def test_an_error_outside_the_model_ends_what_runs_and_the_thread_goes_on(
    make_bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench("grouped heads")
    prompt = bench.prompt(image(1), "Where?")
    with Engine(bench.model, bench.processor) as engine:
        with monkeypatch.context() as patched:
            patched.setattr(engine.batch, "leave", lambda sequence: engine.batch.sequences[99])
            other = engine.submit(prompt, max_tokens=500)
            next(iter(other))  # it runs
            engine.submit(prompt, max_tokens=2).result()
            with pytest.raises(IndexError):
                other.result()
        assert engine.submit(prompt, max_tokens=6).result().text == bench.answer(prompt, 6)


@pytest.mark.parametrize("leave", ["at once", "when it runs", "never"])
def test_a_listener_that_raises_ends_its_own_answer(leave: str, make_bench: Make) -> None:
    """Also where the engine, not the listener's answer, is what goes on: when it is told of a cancellation."""
    bench = make_bench("grouped heads")
    prompt = bench.prompt(image(1), "What colour is it?")

    def hang_up(piece: str | None) -> None:
        if piece is None or leave == "never":
            raise ConnectionError("gone")

    engine = Engine(bench.model, bench.processor)
    gone, other = engine.submit(prompt, max_tokens=8, listen=hang_up), engine.submit(prompt, max_tokens=8)
    if leave == "when it runs":
        engine.step()
    if leave != "never":
        gone.cancel()
    assert other.result().text == bench.answer(prompt, 8)
    if leave == "never":
        with pytest.raises(ConnectionError, match="gone"):
            gone.result()
    assert gone.ended
    assert engine.running == engine.waiting == len(engine.batch.sequences) == 0


def test_ctrl_c_in_a_step_ends_what_runs_and_the_engine_goes_on(make_bench: Make) -> None:
    bench = make_bench("grouped heads")
    prompt = bench.prompt(image(1), "What colour is it?")
    engine = Engine(bench.model, bench.processor)
    answer = engine.submit(prompt, max_tokens=8)
    engine.step()

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    hook = bench.model.language.get_decoder().layers[1].register_forward_pre_hook(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            engine.step()
    finally:
        hook.remove()
    with pytest.raises(KeyboardInterrupt):
        answer.result()
    assert engine.submit(prompt, max_tokens=8).result().text == bench.answer(prompt, 8)


def test_threads_ask_while_the_engine_runs_in_its_own(make_bench: Make) -> None:
    bench = make_bench("grouped heads")
    prompts = prompts_of(bench)
    wanted = [bench.answer(prompt, 10) for prompt in prompts]
    said: dict[int, str] = {}
    with Engine(bench.model, bench.processor, batch_size=5) as engine:

        def ask(k: int) -> None:
            said[k] = "".join(engine.submit(prompts[k], max_tokens=10))

        threads = [threading.Thread(target=ask, args=(k,)) for k in range(len(prompts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert [said[k] for k in range(len(prompts))] == wanted
        endless = engine.submit(prompts[0], max_tokens=500)
        next(iter(endless), None)
    assert endless.ended
    with pytest.raises(RuntimeError, match="closed"):
        engine.submit(prompts[0])

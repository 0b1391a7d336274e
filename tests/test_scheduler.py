"""The scheduler: every answer comes, as it would alone, whatever else there is and however little memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gguf_runtime import LLM
from gguf_runtime.engine import Chunk, NoPages, Scheduler
from gguf_runtime.engine.cache import PageAllocator, PrefixCache
from gguf_runtime.generation import Generation
from gguf_runtime.kernels.layout import PAGE
from gguf_runtime.sampling import Sampler, SamplingParams
from tests import kit
from tests.make_model import write_model
from tests.paths import needs

N_CTX = 512
SHAPE = {"n_layer": 1, "n_embd": 64, "n_head": 2, "n_head_kv": 1, "n_ff": 64, "n_ctx": N_CTX, "types": "F32"}


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    path: Path = tmp_path_factory.mktemp("scheduler") / "model.gguf"
    write_model(path, **SHAPE)
    with LLM(path, n_ubatch=128) as llm:
        yield llm


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    """A model with attention, recurrences and convolutions."""
    with LLM(kit.file("qwen35", tmp_path_factory.mktemp("scheduler")), n_ctx=N_CTX, n_ubatch=128) as llm:
        yield llm


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    """A model most of whose layers see 16 tokens."""
    with LLM(kit.file("gemma3", tmp_path_factory.mktemp("scheduler")), n_ctx=N_CTX, n_ubatch=128) as llm:
        yield llm


@pytest.fixture(params=["llm", *(pytest.param(name, marks=needs(kit.KIT)) for name in ("hybrid", "windowed"))])
def any_llm(request: pytest.FixtureRequest) -> LLM:
    model: LLM = request.getfixturevalue(request.param)
    return model


def scheduler(llm: LLM, n_pages: int = 1 << 20, **options: Any) -> Scheduler:
    """One with so many pages of each kind, none used, for which each look at the clock is a second later."""
    engine = llm.engine
    engine.pages = PageAllocator(engine.pages.memories, n_pages)
    engine.states = PageAllocator(engine.states.memories, n_pages) if engine.states else None
    engine.windows = PageAllocator(engine.windows.memories, n_pages) if engine.windows else None
    engine._cache = PrefixCache(engine.pages, engine.states, engine.windows)
    ticks = count()
    return Scheduler(llm.engine, clock=lambda: float(next(ticks)), **options)


def ask(llm: LLM, scheduler: Scheduler, prompt: list[int], n: int, **options: Any) -> Generation:
    bias = dict.fromkeys(llm.tokenizer.eog_ids, float("-inf"))
    sampler = Sampler(SamplingParams(temperature=0, logit_bias=bias))
    answer = Generation(scheduler, llm.tokenizer, prompt, sampler, n, **options)
    answer.begin()
    return answer


def run(scheduler: Scheduler, answers: list[Generation]) -> int:
    """Step until nothing is left to do; gives the number of steps."""
    for n in count():
        if not scheduler.step():
            return n
        for answer in answers:
            answer.read()
        assert n < 5000
    return 0


def agrees(llm: LLM, answer: Generation) -> bool:
    """Whether each token was the likeliest one, or nearly."""
    ids = [*answer.prompt, *answer.tokens]
    logits = llm.logits(ids)[answer.n_prompt - 1 : -1]
    nearly = 1e-3 * logits.std(axis=1)
    logits[:, list(llm.tokenizer.eog_ids)] = -np.inf
    chosen = logits[np.arange(len(logits)), answer.tokens]
    return bool((chosen >= logits.max(axis=1) - nearly).all())


REQUESTS = st.lists(
    st.tuples(
        st.integers(0, 12),  # the step before which it comes
        st.integers(0, 3),  # with which beginning
        st.integers(1, 180),  # tokens of the prompt
        st.integers(0, 30),  # of the answer
        st.one_of(st.none(), st.integers(0, 20)),  # steps after which it is given up
    ),
    min_size=1,
    max_size=10,
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    requests=REQUESTS,
    n_pages=st.integers(4, 40),
    n_parallel=st.integers(1, 6),
    step_seconds=st.sampled_from([0.0, 1.0, 1e9]),
)
def test_every_answer_comes_as_it_would_alone(
    any_llm: LLM, requests: list[Any], n_pages: int, n_parallel: int, step_seconds: float
) -> None:
    llm, n_vocab = any_llm, min(300, any_llm.engine.n_vocab)
    some = scheduler(llm, n_pages, n_parallel=n_parallel, step_seconds=step_seconds)
    todo = sorted(enumerate(requests), key=lambda item: item[1][0])
    answers: list[Generation] = []
    ends: dict[int, Generation] = {}
    for step in range(5000):
        while todo and todo[0][1][0] <= step:
            i, (_, beginning, n_prompt, n_answer, patience) = todo.pop(0)
            prompt = [(7 * beginning + k // 50) % n_vocab for k in range(n_prompt - 1)] + [i]
            answers.append(ask(llm, some, prompt, n_answer))
            if patience is not None:
                ends[step + patience] = answers[-1]
        if step in ends:
            ends.pop(step).close()
        if not some.step() and not todo and not ends:
            break
        for answer in answers:
            answer.read()
    else:
        raise AssertionError("an answer never came")
    engine = llm.engine
    assert all(records.n_held == 0 for records in (engine.pages, engine.states, engine.windows) if records)
    for answer in answers:
        assert answer.done
        if answer.error:
            assert isinstance(answer.error, NoPages) and answer.sequence.n_context > (n_pages - 1) * PAGE
        elif answer.stop_reason:
            decoder = llm.tokenizer.decoder(special=False)
            whole = "".join(map(decoder.push, answer.tokens))  # without a character that is cut off
            assert answer.stop_reason == "length" and answer.text == whole
        assert not answer.tokens or agrees(llm, answer)


def test_a_common_beginning_is_computed_once(any_llm: LLM) -> None:
    some = scheduler(any_llm)
    rng = np.random.default_rng(0)
    start = rng.integers(0, 100, 300).tolist()
    prompts = [[*start, i, *rng.integers(0, 100, 19).tolist()] for i in range(32)]
    answers = [ask(any_llm, some, prompt, 3) for prompt in prompts]
    run(some, answers)
    assert all(answer.n_tokens == 3 for answer in answers)
    n_of_prompts = some.n_computed - 32 * 2  # the last token of an answer is not computed
    assert 300 + 32 * 20 <= n_of_prompts <= 1.1 * (300 + 32 * 20)
    # with states, the second tells where texts depart from each other, and the last page before that is there
    assert answers[1].n_reused == (300 // PAGE * PAGE if any_llm.engine.states else 300)
    assert all(answer.n_reused == 300 for answer in answers[2:])


def test_a_text_that_goes_on_computes_only_what_is_new(any_llm: LLM) -> None:
    some = scheduler(any_llm)
    rng = np.random.default_rng(1)
    first = ask(any_llm, some, rng.integers(0, 100, 400).tolist(), 10)
    run(some, [first])
    others = [ask(any_llm, some, rng.integers(0, 100, 90).tolist(), 10) for _ in range(9)]
    run(some, others)
    before = some.n_computed
    second = ask(any_llm, some, [*first.prompt, *first.tokens, 1, 2, 3], 1)
    run(some, [second])
    # the answer's last token was drawn and not computed
    assert second.n_reused == 400 + 9 and some.n_computed - before == 4
    changed = ask(any_llm, some, [*first.prompt, 1, 2, 3], 1)  # such as an answer without its thoughts
    run(some, [changed])
    assert changed.n_reused == 400 + (0 if any_llm.engine.states else first.tokens[0] == 1)


def test_an_answer_that_was_set_back_goes_on_with_what_is_still_there(any_llm: LLM) -> None:
    llm = any_llm
    some = scheduler(llm, 6)
    rng = np.random.default_rng(2)
    answers = [ask(llm, some, rng.integers(0, 100, 120).tolist(), 100) for _ in range(3)]
    run(some, answers)
    assert some.n_preempted and llm.engine.pages.n_held == 0
    assert all(answer.n_tokens == 100 and agrees(llm, answer) for answer in answers)
    assert answers[0].n_reused == 0
    assert some.n_computed < 2 * sum(len(answer.sequence.text) for answer in answers)


@needs(kit.KIT)
def test_a_long_text_keeps_only_what_windows_see(windowed: LLM) -> None:
    some = scheduler(windowed)
    answer = ask(windowed, some, [i % 90 for i in range(450)], 20)
    some.step()
    some.step()
    assert windowed.engine.windows and windowed.engine.pages.n_held == 8 and windowed.engine.windows.n_held == 2
    run(some, [answer])
    assert agrees(windowed, answer)


@needs(kit.KIT)
def test_an_interrupted_step_leaves_states_as_they_were(hybrid: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, tokens = hybrid.engine, list(range(90)) * 3
    truth = hybrid.logits(tokens)[-1]
    some = engine.new_sequence(tree=None)
    engine.step([Chunk(some, tokens[:70])])
    stage, n_runs = engine._pipeline.stages[0], 0
    start = stage.start

    def interrupted(*arguments: Any) -> Any:
        nonlocal n_runs
        n_runs += 1
        if n_runs == 2:  # the second pass, after the first has gone on with the state
            raise KeyboardInterrupt
        return start(*arguments)

    monkeypatch.setattr(stage, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.step([Chunk(some, tokens[70:])])
    assert some.n_computed == 70
    found = engine.step([Chunk(some, tokens[70:])])[0]
    assert np.abs(found - truth).max() < 1e-3 * np.abs(truth).max()
    some.release()


def test_what_goes_wrong_in_an_answer_ends_only_this_one(llm: LLM) -> None:
    some = scheduler(llm)
    good, bad = (ask(llm, some, [i, 5, 6], 20) for i in range(2))

    def fail(logits: np.ndarray, best: np.ndarray | None) -> int:
        raise ValueError("a grammar that does not work")

    some.step()
    bad.sampler.sample = fail  # type: ignore[method-assign]
    run(some, [good, bad])
    assert good.n_tokens == 20 and good.stop_reason == "length"
    assert bad.done and bad.text
    with pytest.raises(ValueError, match="grammar"):
        "".join(bad)
    assert llm.engine.pages.n_held == 0


def test_a_token_that_there_is_not_is_told_before_others_meet_it(llm: LLM) -> None:
    for token in (-1, llm.engine.n_vocab, 1 << 40):
        with pytest.raises(ValueError, match=str(token)):
            llm.stream([1, token])


def test_abort_frees_pages_at_once(llm: LLM) -> None:
    some = scheduler(llm)
    answers = [ask(llm, some, [i, 5, 6], 20) for i in range(2)]
    some.step()
    assert llm.engine.pages.n_held == 2
    some.abort(answers[0])
    assert llm.engine.pages.n_held == 1
    run(some, answers)
    assert answers[1].n_tokens == 20 and answers[0].n_tokens == 1


def test_clients_take_turns_and_the_urgent_go_first(llm: LLM) -> None:
    """Whoever comes while the queue is long: the next step has it, and the last of those before it waits."""
    some = scheduler(llm, n_parallel=2)
    many = [ask(llm, some, [i, 5, 6], 6, client="many") for i in range(5)]

    def grown() -> list[int]:
        """Which answers a step takes forward, the urgent one and the one of another client last."""
        everybody = [*many, *others]
        before = [answer.n_tokens for answer in everybody]
        some.step()
        return [i for i, answer in enumerate(everybody) if answer.n_tokens > before[i]]

    others: list[Generation] = []
    assert grown() == [0, 1]
    others.append(ask(llm, some, [7, 5, 6], 2, client="one"))
    assert [grown(), grown()] == [[0, 5], [0, 5]]
    assert others[0].done
    assert grown() == [0, 1]
    others += [ask(llm, some, [8 + i, 5, 6], 1, client="many", priority=i - 1) for i in range(2)]
    assert grown() == [0, 6]  # that of priority -1; that of 0 comes after all that came before
    some.abort(many[0])
    assert grown() == [1, 2]
    run(some, [*many, *others])
    assert [answer.n_tokens for answer in many[1:]] == [6] * 4 and others[2].n_tokens == 1
    assert llm.engine.pages.n_held == 0


def test_a_short_prompt_does_not_wait_for_long_ones_of_another_client(llm: LLM) -> None:
    def n_steps(client: str) -> int:
        """Until the short one has its first token."""
        some = scheduler(llm, step_seconds=0.0)  # 32 tokens of prompts in a step
        writing = ask(llm, some, [1, 2, 3], 100, client="long")
        some.step()
        long = [ask(llm, some, [4 + i] * 300, 2, client="long") for i in range(3)]
        short = ask(llm, some, [9] * 20, 2, client=client)
        n = 0
        while not short.n_tokens:
            some.step()
            n += 1
        run(some, [writing, *long, short])
        return n

    assert n_steps("short") == 2  # half of a step's prompts is its own
    assert n_steps("long") >= 3 * 300 // 32


def test_what_does_not_fit_at_all_is_told(llm: LLM) -> None:
    some = scheduler(llm, 2)
    long, short = ask(llm, some, [1] * (3 * PAGE), 5), ask(llm, some, [2] * PAGE, 5)
    run(some, [long, short])
    assert isinstance(long.error, NoPages) and short.stop_reason == "length"


def test_prompts_leave_time_to_answers(llm: LLM) -> None:
    """While an answer is written, a step has no more tokens of prompts than fit the bound, and it gets a token each."""
    now = [0.0]
    scheduler(llm)
    some = Scheduler(llm.engine, step_seconds=5.0, clock=lambda: now[0])
    step, sizes = llm.engine.step, list[int]()

    def timed(chunks: Any) -> np.ndarray:
        chunks = list(chunks)
        sizes.append(sum(len(chunk.tokens) for chunk in chunks))
        now[0] += 0.1 * llm.engine.step_cost(sizes[-1])
        return step(chunks)

    llm.engine.step = timed  # type: ignore[method-assign]
    try:
        writing = ask(llm, some, [1, 2, 3], 60)
        some.step()
        some.step()
        long = ask(llm, some, [4] * 450, 5)
        while not long.n_tokens:
            n = writing.n_tokens
            some.step()
            assert writing.n_tokens == n + 1
    finally:
        del llm.engine.step  # type: ignore[misc]
    assert math.isclose(max(sizes), 1 + 6 * 48, abs_tol=16) and len(sizes) == 4
    writing.close()
    long.close()
    assert llm.engine.pages.n_held == 0

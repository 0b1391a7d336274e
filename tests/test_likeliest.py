"""The likeliest tokens of rows of logits: found as NumPy finds them, and samplers draw from them as from all."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gguf_runtime import LLM
from gguf_runtime.backends.cpu import Cpu
from gguf_runtime.backends.host import HostDevice
from gguf_runtime.generation import log_probabilities
from gguf_runtime.kernels.layout import MOST_BEST
from gguf_runtime.sampling import Sampler, SamplingParams

TRUTH = HostDevice("NumPy", "")
# few values, so that ties are common; zeros of both signs, and what only a broken model gives
QUARTERS = st.sampled_from([*np.arange(-12, 13, dtype=np.float32) / 4, np.float32(-0.0), np.float32("-inf")])
BROKEN = QUARTERS | st.sampled_from([np.float32("nan"), -np.float32("nan"), np.float32("inf")])


@pytest.fixture(scope="module", params=[1, 3])
def cpu(request: pytest.FixtureRequest) -> Any:
    cpu = Cpu(request.param)
    yield cpu
    cpu.close()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_largest_columns_of_rows(cpu: Cpu, data: st.DataObject) -> None:
    n_columns = data.draw(st.integers(1, 200))
    rows = data.draw(arrays(np.float32, (data.draw(st.integers(1, 5)), n_columns), elements=BROKEN))
    k = data.draw(st.integers(1, n_columns))
    assert np.array_equal(cpu.best(rows, k), TRUTH.best(rows, k))


@pytest.mark.parametrize("n_rows", [1, 2, 7])
def test_the_largest_columns_of_long_rows(cpu: Cpu, n_rows: int) -> None:
    random = np.random.default_rng(n_rows).standard_normal((n_rows, 20_011)).astype(np.float32)
    for rows in random, np.round(random), np.sort(random), np.sort(random)[:, ::-1].copy(), np.zeros_like(random):
        for k in 1, 41, MOST_BEST:
            assert np.array_equal(cpu.best(rows, k), TRUTH.best(rows, k))
        assert np.allclose(cpu.normalizers(rows), TRUTH.normalizers(rows), rtol=0, atol=1e-6)


def test_normalizers_of_a_few_numbers(cpu: Cpu) -> None:
    for n in 1, 15, 16, 17, 1025:
        rows = np.linspace(-300, 40, n, dtype=np.float32)[None].repeat(2, axis=0)
        rows[1, 1:] = -math.inf
        assert np.allclose(cpu.normalizers(rows), TRUTH.normalizers(rows), rtol=0, atol=1e-5)


PROBABILITIES = st.sampled_from([0.0, 0.05, 0.5, 0.9, 1.0])
OPTIONS = {
    "temperature": st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    "dynatemp_range": st.sampled_from([0.0, 0.5]),
    "top_k": st.sampled_from([0, 1, 2, 5, 40]),
    "top_p": PROBABILITIES,
    "min_p": PROBABILITIES,
    "typical_p": PROBABILITIES,
    "top_n_sigma": st.sampled_from([-1.0, 1.0]),
    "xtc_probability": st.sampled_from([0.0, 0.5, 1.0]),
    "repeat_penalty": st.sampled_from([0.5, 1.3]),
    "repeat_last_n": st.sampled_from([-1, 0, 3]),
    "presence_penalty": st.sampled_from([-1.0, 0.5]),
    "frequency_penalty": st.sampled_from([0.0, 0.25]),
    "dry_multiplier": st.sampled_from([0.0, 0.8]),
    "dry_allowed_length": st.just(1),
    "mirostat": st.sampled_from([0, 0, 0, 1, 2]),
    "logit_bias": st.dictionaries(st.integers(0, 60), st.sampled_from([-3.0, 0.25, 3.0, -math.inf]), max_size=5),
    "samplers": st.permutations(
        ["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"]
    ).flatmap(lambda names: st.integers(1, 9).map(lambda n: tuple(names[:n]))),
}


def outcome(sampler: Sampler, *given: Any) -> Any:
    """The token, or why there is none; and the state of all that is random after it."""
    try:
        with np.errstate(all="ignore"):
            found: Any = sampler.sample(*given)
    except (ValueError, IndexError) as error:
        found = str(error)
    return found, sampler._random()


def samplers(options: dict[str, Any], data: st.DataObject, n_vocab: int) -> list[Sampler]:
    """Two that are alike."""
    params = SamplingParams(seed=data.draw(st.integers(0, 9)), **options)
    both = [Sampler(params) for _ in range(2)]
    for token in data.draw(st.lists(st.integers(0, n_vocab - 1), max_size=12)):
        for sampler in both:
            sampler.text.append(token)
    return both


@settings(max_examples=150, deadline=None)
@given(st.fixed_dictionaries({}, optional=OPTIONS), st.data())
def test_a_draw_from_the_likeliest_is_one_from_all(options: dict[str, Any], data: st.DataObject) -> None:
    n_vocab = data.draw(st.sampled_from([1, 7, 300, 5000]))
    both = samplers(options, data, min(n_vocab, 60))
    if data.draw(st.booleans()):  # all different, as in life
        logits = 3 * np.random.default_rng(data.draw(st.integers(0, 99))).standard_normal(n_vocab, np.float32)
    else:
        elements = data.draw(st.sampled_from([QUARTERS, BROKEN]))
        logits = np.resize(data.draw(arrays(np.float32, min(n_vocab, 300), elements=elements)), n_vocab)
    for k in data.draw(st.lists(st.integers(1, 150), min_size=1, max_size=3)):
        best = TRUTH.best(logits[None], min(k, n_vocab))[0]
        assert outcome(both[0], logits, best) == outcome(both[1], logits)


DECIDED = {
    "top_k": st.integers(1, 5),
    "temperature": st.sampled_from([0.0, 1.0]),
    "min_p": st.sampled_from([0.1, 0.5, 1.0]),
    **{name: OPTIONS[name] for name in OPTIONS if name.startswith(("repeat", "presence", "frequency", "dry"))},
    "logit_bias": st.dictionaries(st.integers(0, 11), st.sampled_from([-3.0, 0.25, 0.5, 3.0, -math.inf]), max_size=5),
}
ORDERS = {"samplers": st.sampled_from([("penalties", "dry", name, "temperature") for name in ("top_k", "min_p")])}


@settings(max_examples=150, deadline=None)
@given(st.fixed_dictionaries(ORDERS, optional=DECIDED), st.data())
def test_what_the_likeliest_decide_is_what_all_do(options: dict[str, Any], data: st.DataObject) -> None:
    n_vocab = data.draw(st.sampled_from([12, 30, 4096]))
    sampler, _ = samplers(options, data, 12)
    logits = np.full(n_vocab, -9, np.float32)
    logits[:30] = data.draw(arrays(np.float32, min(n_vocab, 30), elements=QUARTERS))
    if not logits.max() > -math.inf:
        return
    logits *= np.float32(data.draw(st.sampled_from([1.0, 0.3])))  # to be rounded when it is changed
    for k in 1, 2, 3, 6, 12:
        found = [start(sampler, logits, best) for best in (TRUTH.best(logits[None], k)[0], None)]
        assert found[0] == found[1]


def test_of_equals_the_lowest_wins_though_it_is_not_among_the_likeliest() -> None:
    logits = np.array([0, 0, 0, 1, 0, 1, 0, 0, 0, 0], np.float32)
    sampler = Sampler(SamplingParams(temperature=0, logit_bias={3: -5.0, 9: 1.0}))
    assert sampler.sample(logits, np.array([3], np.int32)) == sampler.sample(logits) == 5


def start(sampler: Sampler, logits: np.ndarray, best: np.ndarray | None) -> Any:
    """What is left once few are, with its very numbers; or why nothing is."""
    try:
        left = sampler._begin(logits, best)
    except ValueError as error:
        return str(error)
    return left.ids.tolist(), left.logits.dtype, left.logits.tolist()


@pytest.mark.parametrize("form", [{"regex": "[a-z ]{1,20}!"}, {"regex": "(ab|cd|é)+"}, {"regex": "[^x]{5}"}])
def test_a_draw_from_the_likeliest_within_a_grammar(model: Any, form: dict[str, str]) -> None:
    with LLM(model) as llm:
        tokenizer = llm.tokenizer
    biases = {token: -math.inf for token in range(0, tokenizer.n_vocab, 7)}
    for options in {}, {"temperature": 0.0, "logit_bias": biases}, {"top_k": 3, "repeat_penalty": 2.0}:
        params = SamplingParams(seed=1, **form, **options)
        both = [Sampler(params, tokenizer) for _ in range(2)]
        random = np.random.default_rng(0)
        for _ in range(12):
            logits = 3 * random.standard_normal(tokenizer.n_vocab, np.float32)
            best = TRUTH.best(logits[None], min(both[0].n_best, len(logits)))[0]
            found = outcome(both[0], logits, best)
            assert found == outcome(both[1], logits)
            if isinstance(found[0], str) or found[0] in tokenizer.eog_ids:
                break
            for sampler in both:
                sampler.text.append(found[0])


def test_log_probabilities() -> None:
    logits = np.round(4 * np.random.default_rng(0).standard_normal(300, np.float32)) / 4
    probabilities = np.log(np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum())
    normalizer = float(TRUTH.normalizers(logits[None])[0])
    for n in 0, 3, 20:
        for best in None, TRUTH.best(logits[None], 20)[0]:
            own, top = log_probabilities(logits, 7, n, best, normalizer)
            assert own == pytest.approx(probabilities[7])
            assert [p for _, p in top] == pytest.approx(sorted(probabilities, reverse=True)[:n])
            assert [p for _, p in top] == pytest.approx([probabilities[token] for token, _ in top])
            if best is not None:
                assert [token for token, _ in top] == sorted(range(300), key=lambda i: (-logits[i], i))[:n]


def test_answers_are_the_same_where_threads_find_the_likeliest(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    options = [{"temperature": 0.0}, {}, {"repeat_penalty": 1.3, "logprobs": 3}, {"regex": "[a-z ]{9}"}, {"top_k": 0}]
    found = []
    with LLM(model) as llm:
        for least in 1 << 60, 1:
            monkeypatch.setattr("gguf_runtime.engine.engine._MANY_LOGITS", least)
            answers = [llm.stream([5, 6, 7], max_tokens=12, seed=1, cache_prompt=False, **each) for each in options]
            for answer in answers:
                answer.begin()
            pieces = [[*answer.advance()] for answer in answers]
            while not all(answer.done for answer in answers):
                for answer, read in zip(answers, pieces, strict=True):
                    read += answer.advance()
            found.append([(answer.tokens, read) for answer, read in zip(answers, pieces, strict=True)])
        assert found[0] == found[1]
        for answer, (tokens, read) in zip(answers, found[0], strict=True):
            told = [piece for piece in read if piece.logprob is not None]
            assert len(told) == (len(tokens) if answer.normalizes else 0)
            assert all(top[0][1] >= logprob and len(top) == 3 for _, _, logprob, top in told)

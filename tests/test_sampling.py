"""Samplers against their published definitions, written out in float64."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gguf_runtime import LLM
from gguf_runtime.sampling import Sampler, SamplingParams, dry, filters, reweigh
from gguf_runtime.sampling.candidates import Candidates
from gguf_runtime.sampling.draw import draw
from gguf_runtime.sampling.mirostat import Mirostat

# few distinct values, so that ties are common
QUARTERS = st.sampled_from(np.arange(-40, 41, dtype=np.float32) / 4)
LOGITS = arrays(np.float32, st.integers(1, 300), elements=QUARTERS)


def everything(logits):
    return Candidates(np.arange(len(logits)), logits)


def softmax(logits):
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()


def likeliest_first(logits):
    return sorted(range(len(logits)), key=lambda i: (-logits[i], i))


@given(LOGITS, st.integers(1, 320))
def test_top_k_keeps_the_k_largest_and_of_equals_the_lowest_ids(logits, k):
    kept = filters.top_k(everything(logits), k)
    assert kept.ids.tolist() == sorted(likeliest_first(logits)[:k])
    assert np.array_equal(kept.logits, logits[kept.ids])


def test_top_k_on_a_large_vocabulary():
    for seed in range(5):
        logits = np.random.default_rng(seed).standard_normal(128_256).astype(np.float32)
        logits[[5, 70_000, 128_255]] = 9  # ties at the top, one past the last whole group
        for k in (1, 2, 40, 3000, 60_000, 100_000):
            ids = filters.top_k(everything(logits), k).ids
            assert ids.tolist() == sorted(likeliest_first(logits.tolist())[:k])


@given(LOGITS, st.floats(0, 0.999))
def test_top_p_keeps_the_smallest_set_that_reaches_p(logits, p):
    ids = filters.top_p(everything(logits), p).ids
    order, probabilities = likeliest_first(logits), softmax(logits)
    assert ids.tolist() == sorted(order[: len(ids)])
    assert probabilities[ids].sum() >= p - 1e-9
    assert len(ids) == 1 or probabilities[order[: len(ids) - 1]].sum() < p + 1e-9


@given(LOGITS, st.floats(0.001, 1))
def test_min_p_keeps_what_is_at_least_p_times_the_best(logits, p):
    ids = set(filters.min_p(everything(logits), p).ids.tolist())
    ratio = softmax(logits) / softmax(logits).max()
    assert ids >= set(np.flatnonzero(ratio >= p * (1 + 1e-5)))
    assert ids <= set(np.flatnonzero(ratio >= p * (1 - 1e-5)))


@given(LOGITS, st.floats(1e-30, 5))
def test_temperature_divides_the_logits(logits, t):
    scaled = reweigh.temperature(everything(logits), t).logits
    assert np.allclose(softmax(scaled), softmax(logits.astype(np.float64) / t), rtol=1e-5, atol=1e-12)


def test_penalties():
    logits = np.array([2, -2, 0, 1, 5], np.float32)
    penalized = reweigh.penalties(everything(logits), np.array([1, 0, 1, 99, 2, 1]), 2.0, 0.5, 0.25).logits
    assert penalized.tolist() == [2 / 2 - 0.5 - 0.25, -2 * 2 - 0.5 - 3 * 0.25, -0.75, 1, 5]
    assert logits.tolist() == [2, -2, 0, 1, 5]  # the engine's buffer is left alone


def test_penalties_look_back_on_the_last_n_tokens():
    logits = np.array([3, 2, 1], np.float32)
    for last_n, expected in {0: 0, 1: 0, 2: 1, -1: 1}.items():
        sampler = Sampler(SamplingParams(temperature=0, presence_penalty=2.0, repeat_last_n=last_n))
        for token in (0, 2):
            sampler.text.append(token)
        assert sampler.sample(logits) == expected, last_n


def test_logit_bias_forbids_and_prefers():
    logits = np.array([3, 2, 1], np.float32)
    assert Sampler(SamplingParams(temperature=0, logit_bias={0: -math.inf})).sample(logits) == 1
    assert Sampler(SamplingParams(temperature=0, logit_bias={2: 9.0, 77: 100.0})).sample(logits) == 2


def test_greedy_takes_the_lowest_id_of_equals():
    assert Sampler(SamplingParams(temperature=0)).sample(np.array([1, 7, 7, 0], np.float32)) == 1


@given(LOGITS, st.floats(0, 1, exclude_max=True))
def test_draw_inverts_the_cumulative_distribution(logits, chance):
    index = draw(everything(logits), chance)
    reach = np.cumsum(softmax(logits))
    assert reach[index] >= chance - 1e-9
    assert index == 0 or reach[index - 1] <= chance + 1e-9


def test_draws_follow_the_distribution():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    sampler = Sampler(SamplingParams(temperature=1, top_k=0, top_p=1, min_p=0, seed=7))
    counts = np.bincount([sampler.sample(logits) for _ in range(20_000)], minlength=4)
    assert np.allclose(counts / 20_000, [0.5, 0.3, 0.15, 0.05], atol=0.015)


def test_filters_come_before_temperature_as_in_llama_cpp():
    # at temperature 1 the first token alone reaches top_p, however hot the draw
    logits = np.log(np.array([0.96, 0.02, 0.02], np.float32))
    sampler = Sampler(SamplingParams(temperature=100, seed=1))
    assert {sampler.sample(logits) for _ in range(50)} == {0}


def test_a_seed_gives_the_same_tokens_everywhere():
    logits = (np.arange(1000) % 37 / 10).astype(np.float32)

    def tokens(seed):
        sampler = Sampler(SamplingParams(seed=seed))
        return [sampler.sample(logits) for _ in range(8)]

    assert tokens(42) == [517, 36, 220, 183, 665, 591, 887, 73]  # recorded: a change breaks people's seeds
    assert tokens(42) != tokens(43)
    assert Sampler(SamplingParams()).seed != Sampler(SamplingParams()).seed


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_refused(bad):
    with pytest.raises(ValueError, match="not finite"):
        Sampler(SamplingParams()).sample(np.array([1, bad, 2], np.float32))


@pytest.mark.parametrize(
    "wrong", [{"temperature": math.nan}, {"repeat_penalty": 0.0}, {"repeat_last_n": -2}, {"top_p": math.inf}]
)
def test_meaningless_parameters_are_refused(wrong):
    with pytest.raises(ValueError):
        SamplingParams(**wrong)


def entropy(probabilities):
    return -sum(p * math.log(p) for p in probabilities if p > 0)


def many(seed, n=60_000):
    """Logits of a large vocabulary, of which the samplers take shorter ways."""
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal(n) * 2).astype(np.float32)
    logits[rng.integers(0, n, 30)] += 12
    return logits


def test_of_many_candidates_top_p_and_typical_keep_the_same():
    for seed, p in ((0, 0.5), (1, 0.95), (2, 0.9999)):
        logits = many(seed)
        probabilities = softmax(logits)
        for kept, order in (
            (filters.top_p(everything(logits), p).ids, np.argsort(-probabilities, kind="stable")),
            (
                filters.typical(everything(logits), p).ids,
                np.argsort(np.abs(-np.log(probabilities) - entropy(probabilities)), kind="stable"),
            ),
        ):
            n = int(np.searchsorted(np.cumsum(probabilities[order]), p)) + 1
            assert abs(len(kept) - n) <= 1 + n // 1000
            assert (
                len(np.setdiff1d(kept, order[: len(kept)])) <= 1 + n // 1000
            )  # float32 may order neighbours otherwise


@given(LOGITS, st.floats(0.01, 0.999))
def test_typical_keeps_the_least_surprising_surprises(logits, p):
    ids = filters.typical(everything(logits), p).ids
    probabilities = softmax(logits)
    distance = np.abs(-np.log(probabilities) - entropy(probabilities))
    kept, left = probabilities[ids].sum(), np.setdiff1d(np.arange(len(logits)), ids)
    assert kept >= p - 1e-9
    assert not len(left) or distance[ids].max() <= distance[left].min() + 1e-6
    assert len(ids) == 1 or kept - probabilities[ids][np.argmax(distance[ids])] < p + 1e-9


@given(LOGITS, st.floats(0.1, 3))
def test_top_n_sigma_keeps_what_is_within_n_deviations(logits, n):
    ids = set(filters.top_n_sigma(everything(logits), n).ids.tolist())
    logits = logits.astype(np.float64)
    deviations = (logits.max() - logits) / max(logits.std(), 1e-12)
    assert ids >= set(np.flatnonzero(deviations <= n * (1 - 1e-5)))
    assert ids <= set(np.flatnonzero(deviations <= n * (1 + 1e-5)))


def test_top_n_sigma_minds_no_impossible_tokens():
    logits = np.array([1, 2, 3, -math.inf], np.float32)
    assert filters.top_n_sigma(everything(logits), 1.0).ids.tolist() == [2]  # deviation of 1, 2, 3: 0.82


@given(LOGITS, st.floats(0.01, 0.5))
def test_xtc_leaves_out_all_top_choices_but_the_last(logits, threshold):
    ids = filters.xtc(everything(logits), threshold).ids.tolist()
    order, probabilities = likeliest_first(logits), softmax(logits)
    if np.abs(probabilities - threshold).min() > 1e-6:
        n = int((probabilities >= threshold).sum())
        assert ids == sorted(order[max(n - 1, 0) :])


def test_xtc_on_a_large_vocabulary():
    logits = many(3)
    logits[[7, 30_000, 59_999]] = logits.max() + np.array([1, 3, 2], np.float32)
    left = filters.xtc(everything(logits), 0.05)
    weights = np.exp(logits.astype(np.float64))
    weights[[30_000, 59_999]] = 0
    assert (softmax(logits)[[7, 30_000, 59_999]] > 0.05).all()
    assert left.weights / left.total == pytest.approx(weights / weights.sum(), abs=1e-5)
    assert reweigh.temperature(left, 1e-9).logits[7] == 0 and draw(reweigh.temperature(left, 1e-9), 0.5) == 7


def test_xtc_happens_with_its_probability():
    logits = np.log(np.array([0.6, 0.4], np.float32))
    plain = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temperature": 1.0, "seed": 5}
    sampler = Sampler(SamplingParams(xtc_probability=0.5, **plain))
    counts = np.bincount([sampler.sample(logits) for _ in range(20_000)], minlength=2)
    assert counts[0] / 20_000 == pytest.approx(0.6 * 0.5, abs=0.015)


@given(LOGITS.filter(lambda logits: len(logits) > 1), st.floats(0.1, 2), st.floats(0.1, 3), st.floats(0.3, 3))
def test_dynamic_temperature_follows_the_entropy(logits, t, range, exponent):
    scaled = reweigh.dynamic_temperature(everything(logits), t, range, exponent).logits
    evenness = entropy(softmax(logits)) / math.log(len(logits))
    low, high = max(0.0, t - range), t + range
    expected = low + (high - low) * max(evenness, 0) ** exponent
    if expected > 1e-3:
        assert np.allclose(softmax(scaled), softmax(logits.astype(np.float64) / expected), rtol=1e-4, atol=1e-9)


BREAKER = (3,)  # a token that is one; 1 and 2 in a row are another


def penalized(history, breaker_at, logits, multiplier, base, allowed):
    """DRY by its definition: for each token, the longest end of the text that it followed before."""
    unbroken = history[breaker_at + 1 :] if breaker_at is not None else history
    logits = list(map(float, logits))
    for token in set(history):
        longest = 0
        for at in range(1, len(history)):
            if history[at] == token:
                n = 0
                while n < min(at, len(unbroken)) and history[at - 1 - n] == history[-1 - n]:
                    n += 1
                longest = max(longest, n)
        if longest >= allowed and token not in BREAKER:
            logits[token] -= multiplier * base ** (longest - allowed)
    return logits


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 4), st.floats(1, 2))
def test_dry_penalizes_what_would_repeat(history, allowed, base):
    params = SamplingParams(dry_multiplier=0.8, dry_base=base, dry_allowed_length=allowed, samplers=("dry",))
    sampler = Sampler(params)
    sampler._breakers = dry.Breakers([BREAKER, (1, 2)])
    for token in history:
        sampler.text.append(token)
    ends = [i for i, token in enumerate(history) if token == 3 or history[max(0, i - 1) : i + 1] == [1, 2]]
    (step,) = sampler._steps
    logits = np.zeros(5, np.float32)
    expected = penalized(history, ends[-1] if ends else None, logits, 0.8, base, allowed)
    assert step(everything(logits)).logits.tolist() == pytest.approx(expected, rel=1e-5)


def test_dry_as_in_llama_cpp(smollm2):
    with LLM(smollm2) as llm:
        tokenizer = llm.tokenizer
    cases = json.loads(Path(__file__).with_name("recorded").joinpath("dry.json").read_text("utf-8"))["cases"]
    for case in cases:
        names = ("dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n")
        params = dict(zip(names, case["args"], strict=True))
        breakers = tuple(case["breakers"])
        sampler = Sampler(SamplingParams(samplers=("dry",), dry_sequence_breakers=breakers, **params), tokenizer)
        for token in case["ids"]:
            sampler.text.append(token)
        (step,) = sampler._steps
        logits = step(everything(np.zeros(tokenizer.n_vocab, np.float32))).logits
        changed = [[int(i), float(logits[i])] for i in np.flatnonzero(logits)]
        assert [i for i, _ in changed] == [i for i, _ in case["changed"]]
        assert np.allclose([x for _, x in changed], [x for _, x in case["changed"]], rtol=1e-4)


def test_dry_of_a_long_repetition_is_finite():
    history = np.ones(3000, np.int64)
    logits = dry.dry(everything(np.zeros(3, np.float32)), history, 3000, 1.0, 1.75, 2).logits
    assert logits[1] < -1e30 and np.isfinite(logits).all()


def test_the_spellings_of_sequence_breakers(model):
    with LLM(model) as llm:
        tokenizer = llm.tokenizer
    pieces = [tokenizer.token_bytes(i) for i in range(tokenizer.n_vocab)]
    text = next(piece.decode() for piece in pieces if len(piece) == 2 and piece.isalpha() and piece.isascii())
    found = dry.breakers(tokenizer, (text,))
    first, second = ([pieces.index(letter.encode())] for letter in text)
    assert found.end(np.array(first + second)) and not found.end(np.array(second))
    for i, piece in enumerate(pieces):
        assert found.end(np.array([i])) == (text.encode() in piece)
        starts = piece.endswith(text[0].encode()) and text.encode() not in piece
        assert not starts or found.end(np.array([i, *second]))


def test_mirostat_2_keeps_what_is_no_more_surprising_than_mu():
    logits = np.log(np.array([0.5, 0.25, 0.125, 0.0625, 0.0625], np.float32))
    mirostat = Mirostat(2, tau=1.2, eta=0.5, random=lambda: 0.99)
    assert mirostat(everything(logits)).ids.tolist() == [1]  # mu = 2.4: surprises of 1 and 2 bits
    # of 0.5 and 0.25, the second has log2(3) bits; mu = 2.4 - 0.5 (1.585 - 1.2) = 2.2
    assert mirostat._mu == pytest.approx(2.4 - 0.5 * (math.log2(3) - 1.2), abs=1e-6)
    mirostat._mu = -5.0
    assert mirostat(everything(logits)).ids.tolist() == [0]  # one always stays


def test_mirostat_1_estimates_how_many_to_keep():
    ranks = np.arange(1, 2001)
    for s, tau in ((1.2, 3.0), (1.5, 2.0), (0.8, 4.0)):  # probabilities that follow Zipf's law exactly
        logits = (-s * np.log(ranks)).astype(np.float32)
        epsilon, mu = s - 1, 2 * tau
        k = int(((epsilon * 2**mu) / (1 - 2000**-epsilon)) ** (1 / s))
        probabilities = softmax(logits)[:k] / softmax(logits)[:k].sum()
        mirostat = Mirostat(1, tau, 0.1, random=lambda: 1 - 1e-9)
        chosen = mirostat(everything(logits)).ids[0]
        assert abs(chosen - (k - 1)) <= 1 + k // 500
        surprise = -math.log2(probabilities[min(chosen, k - 1)])
        assert mirostat._mu == pytest.approx(mu - 0.1 * (surprise - tau), abs=2e-3)


def test_a_prompt_is_as_its_tokens_one_by_one(model):
    with LLM(model) as llm:
        params = SamplingParams(dry_multiplier=1.0, dry_sequence_breakers=("a", "\n"))
        for text in ("", "bcd", "a", "xyabc", "abca\n", "bcdbcd bcd"):
            together, one_by_one = (Sampler(params, llm.tokenizer) for _ in range(2))
            tokens = llm.tokenize(text, add_special=False)
            together.text.extend(tokens)
            for token in tokens:
                one_by_one.text.append(token)
                assert one_by_one._unbroken <= len(one_by_one.text)
            for sampler in (together, one_by_one):
                sampler.text.append(tokens[0] if tokens else 5)
            assert together._unbroken == one_by_one._unbroken
            assert together._last(-1).tolist() == one_by_one._last(-1).tolist()


@pytest.mark.parametrize("version", [1, 2])
def test_mirostat_reaches_its_surprise(version):
    logits = (np.random.default_rng(3).standard_normal(5000) * 3).astype(np.float32)
    surprises = -np.log2(softmax(logits))
    sampler = Sampler(SamplingParams(temperature=1.0, mirostat=version, mirostat_tau=4.0, seed=1))
    chosen = [sampler.sample(logits) for _ in range(3000)]
    assert surprises[chosen[500:]].mean() == pytest.approx(4.0, abs=0.5)


def test_the_order_of_samplers():
    logits = np.log(np.array([0.5, 0.3, 0.2], np.float32))
    hot = {"temperature": 100.0, "top_k": 0, "top_p": 0.6, "min_p": 0.0, "seed": 1}
    first = Sampler(SamplingParams(samplers=("top_p", "temperature"), **hot))
    last = Sampler(SamplingParams(samplers=("temperature", "top_p"), **hot))
    without = Sampler(SamplingParams(samplers=("temperature",), **hot))
    assert {first.sample(logits) for _ in range(100)} == {0, 1}
    assert {last.sample(logits) for _ in range(100)} == {0, 1}
    assert {without.sample(logits) for _ in range(100)} == {0, 1, 2}
    cold = Sampler(SamplingParams(samplers=("temperature", "top_p"), **{**hot, "temperature": 0.2}))
    assert {cold.sample(logits) for _ in range(100)} == {0}


def test_penalties_after_a_filter():
    logits = np.array([5, 4, 3, 2], np.float32)
    params = {"top_k": 2, "presence_penalty": 9.0, "temperature": 0.01}
    for order, expected in ((("penalties", "top_k"), 1), (("top_k", "penalties"), 1)):
        sampler = Sampler(SamplingParams(samplers=(*order, "temperature"), **params))
        for token in (0, 3):
            sampler.text.append(token)
        assert sampler.sample(logits) == expected


def test_one_draw_leaves_nothing_for_the_next():
    params = SamplingParams(
        seed=3, top_k=0, top_p=1.0, min_p=0.0, temperature=0.7, typical_p=0.99, xtc_probability=0.5, xtc_threshold=0.01,
        repeat_penalty=1.3, frequency_penalty=0.1, logit_bias={5: 1.0, 6: float("-inf")},
    )  # fmt: skip
    sampler, texts = Sampler(params), [many(seed) for seed in range(3)]
    before = [text.copy() for text in texts]
    for i in range(30):
        fresh = Sampler(params)  # as this one is now, but with no memory used before
        for token in sampler._last(-1):
            fresh.text.append(int(token))
        fresh._random.__self__.setstate(sampler._random.__self__.getstate())
        token = sampler.sample(texts[i % 3])
        assert token == fresh.sample(texts[i % 3])
        sampler.text.append(token)
    assert all(np.array_equal(a, b) for a, b in zip(texts, before, strict=True))


@given(st.lists(st.sampled_from([0.0, 1e-9, 1.0, 3.0]), min_size=1, max_size=20).filter(any), st.data())
def test_what_weighs_nothing_is_never_drawn(weights, data):
    n = data.draw(st.sampled_from([1, 300]))
    with np.errstate(divide="ignore"):
        logits = np.log(np.repeat(np.array(weights, np.float32), n))
    for chance in (0.0, data.draw(st.floats(0, 1, exclude_max=True)), math.nextafter(1, 0)):
        assert logits[draw(everything(logits), chance)] > -math.inf


def test_a_draw_from_many():
    logits = many(4)
    reach = np.cumsum(softmax(logits))
    for chance in np.linspace(0, 0.999999, 200):
        index = draw(everything(logits), chance)
        assert reach[index] >= chance - 1e-5 and (index == 0 or reach[index - 1] <= chance + 1e-5)

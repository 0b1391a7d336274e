"""Speculation: it makes the same text, in the same distribution, in fewer steps, and loses little where it fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_runtime import LLM
from gguf_runtime.draft import DraftModel
from gguf_runtime.generation import Generation
from gguf_runtime.sampling import Sampler, SamplingParams
from gguf_runtime.speculation import PromptLookup, Speculation
from gguf_runtime.text import Text
from tests import kit
from tests.make_model import write_model
from tests.paths import needs


class Fixed:
    """Always guesses the same tokens, right or wrong."""

    budget, advantage, prior_weight, reach, support = 1.5, 1.3, 2.0, 31, 50
    expected: int | None

    def __init__(self, *tokens: int) -> None:
        self.tokens, self.expected = tokens, tokens[0]

    def cost(self, n_tokens: int) -> float:
        return 0

    def update(self) -> None:
        pass

    def guess(self, n_tokens: int) -> list[int]:
        return [self.tokens[i % len(self.tokens)] for i in range(n_tokens)]


class Always(Speculation):
    """Guesses at every step, four tokens."""

    def guess(self, most: int) -> list[int]:
        return self._guesser.guess(min(4, most)) if self._guesser.support else []


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    """A model whose next token is uncertain."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    write_model(path, n_layer=1, n_embd=64, n_head=2, n_head_kv=1, n_ff=64, n_ctx=512, types="F32")
    return LLM(path)


def generate(llm: LLM, speculate: Callable[[Text], Speculation] | None, n: int, **sampling) -> Generation:
    prompt = llm.tokenize("the rain in the train in the rain")
    bias = {token: float("-inf") for token in llm.tokenizer.eog_ids} | sampling.pop("logit_bias", {})
    sampler = Sampler(SamplingParams(logit_bias=bias, **sampling))
    answer = Generation(llm.scheduler, llm.tokenizer, prompt, sampler, n, speculation=speculate)
    "".join(answer)
    return answer


def flat(n_tokens: int) -> float:
    """Costs of a machine on which guessing is free."""
    return 1.0


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"seed": 1}, {"seed": 2, "repeat_penalty": 1.3}])
@pytest.mark.parametrize("guesser", [PromptLookup, lambda text: Fixed(7, 8)])
def test_the_same_text_with_and_without(tiny, sampling, guesser):
    plain = generate(tiny, None, 150, **sampling)
    guessed = generate(tiny, lambda text: Always(guesser(text), flat), 150, **sampling)
    assert guessed.tokens == plain.tokens and guessed.stop_reason == "length"
    assert guessed.n_guessed > 0 and guessed.n_decoded == 149 and plain.n_steps == 149
    assert guessed.n_steps == guessed.n_decoded - guessed.n_accepted


@needs(kit.KIT)
def test_guesses_of_a_model_with_a_state_are_taken_back(tmp_path):
    """What was right of a guess is computed again with the next token, unless all of it was."""
    with LLM(kit.file("mamba2", tmp_path)) as llm:
        plain = generate(llm, None, 60, temperature=0)
        for guesser in PromptLookup, lambda text: Fixed(7, 8):
            guessed = generate(llm, lambda text, guesser=guesser: Always(guesser(text), flat), 60, temperature=0)
            assert guessed.tokens == plain.tokens and guessed.n_guessed > 0


def test_the_distribution_is_the_models(tiny):
    # among 4 tokens, with a guess that is often right: pairs of tokens as often as the model's probabilities say
    allowed = list(range(60, 64))
    bias = dict.fromkeys(set(range(tiny.engine.n_vocab)) - set(allowed), float("-inf"))
    sampling = {"logit_bias": bias, "temperature": 1.5, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    prompt = tiny.tokenize("the rain in the train in the rain")

    def shares(text):
        logits = tiny.logits(text)[-1][allowed] / 1.5
        weights = np.exp(logits - logits.max())
        return weights / weights.sum()

    expected = np.zeros((4, 4))
    for first in range(4):
        for second, third in enumerate(shares([*prompt, 61, allowed[first]])):
            expected[first, second] = shares([*prompt, 61])[first] * third
    n = 3000
    counts = np.zeros((4, 4))
    for seed in range(n):
        sampler = Sampler(SamplingParams(seed=seed, **sampling))
        answer = Generation(
            tiny.scheduler, tiny.tokenizer, [*prompt, 61], sampler, 4,
            speculation=lambda text: Always(Fixed(61, 62), flat),
        )  # fmt: skip
        "".join(answer)
        counts[allowed.index(answer.tokens[0]), allowed.index(answer.tokens[1])] += 1
        # where the guess of the second token was tried, it was drawn in the same step as the third
        assert answer.n_steps == 3 - answer.n_accepted
    chi_square = ((counts - n * expected) ** 2 / (n * expected)).sum()
    assert chi_square < 37.7  # 15 degrees of freedom: exceeded by chance once in 1000


def test_guesses_leave_nothing_behind(tiny):
    answer = generate(tiny, lambda text: Always(Fixed(5), flat), 20, temperature=0)
    assert answer.n_guessed > answer.n_accepted
    again = tiny.stream([*answer.prompt, *answer.tokens[:-1], 9], max_tokens=9, temperature=0, lookup=False)
    fresh = tiny.stream([*answer.prompt, *answer.tokens[:-1], 9], max_tokens=9, temperature=0, cache_prompt=False)
    assert "".join(again) == "".join(fresh) and again.n_reused == answer.n_prompt + 19


def test_a_stop_within_a_guess(tiny):
    plain = generate(tiny, None, 100, temperature=0)
    end = plain.tokens[30]
    stop_at = plain.tokens.index(end)
    prompt = plain.prompt
    text = tiny.tokenizer.decode(plain.tokens)
    answer = tiny.stream(prompt, temperature=0, stop=text[12:15], max_tokens=100, ignore_eos=True)
    assert "".join(answer) == text[: text.index(text[12:15])]
    tiny.tokenizer.eog_ids, kept = frozenset([end]), tiny.tokenizer.eog_ids
    try:
        answer = Generation(
            tiny.scheduler, tiny.tokenizer, prompt, Sampler(SamplingParams(temperature=0)), 100,
            speculation=lambda text: Always(PromptLookup(text), flat),
        )  # fmt: skip
        "".join(answer)
    finally:
        tiny.tokenizer.eog_ids = kept
    assert answer.tokens == plain.tokens[:stop_at] and answer.stop_reason == "end"


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(0, 60))
def test_lookup_finds_what_stood_there_before(text, n_prompt):
    known = Text(text[:n_prompt])
    lookup = PromptLookup(known)
    lookup.update()
    for token in text[n_prompt:]:
        known.append(token)
        lookup.update()
    if lookup.support:
        n, guess = lookup.support, lookup.guess(len(text) + 3)
        assert len(guess) == len(text) + 3
        places = [i for i in range(n, len(text)) if text[i - n : i] == text[len(text) - n :]]
        assert any(text[i : i + len(guess)] == guess[: len(text) - i] for i in places)
    elif len(text) > 2:
        pairs = list(zip(text, text[1:], strict=False))
        assert pairs[-1] not in pairs[:-1]


@pytest.mark.parametrize("period", [1, 3])
def test_lookup_goes_on_with_what_repeats(period):
    lookup = PromptLookup(Text(list(range(period)) * 5))
    lookup.update()
    assert lookup.guess(20) == (list(range(period)) * 30)[:20]


@pytest.mark.parametrize("right", [0, 0.1, 0.3])
def test_losses_are_bounded(right):
    """A guesser that seems sure and is wrong: what it costs stays small, in the units in which steps are paid."""
    rng = np.random.default_rng(0)
    speculation = Speculation(Fixed(1), lambda n: 1 if n == 1 else 2 + n / 6)
    speculation.begin(100)
    n_drawn = cost = 0
    while n_drawn < 500:
        guess = speculation.guess(1000)
        n = 0
        while n <= len(guess):
            token = 1 if rng.random() < right else 2
            speculation.drawn(token)
            n += 1
            if token == 2:
                break
        step = 2 + (1 + len(guess)) / 6 if guess else 1
        speculation.spent(1 + len(guess), n, step)
        n_drawn, cost = n_drawn + n, cost + step
    assert cost < 1.03 * n_drawn + 5


def test_it_pays_where_guesses_are_right():
    speculation = Speculation(Fixed(1), lambda n: 1 if n == 1 else 2 + n / 6)
    speculation.begin(100)
    n_drawn, cost = 0, 0.0
    while n_drawn < 300:
        n = 1 + len(speculation.guess(1000))
        for _ in range(n):
            speculation.drawn(1)
        step = 1 if n == 1 else 2 + n / 6
        speculation.spent(n, n, step)
        n_drawn, cost = n_drawn + n, cost + step
    assert cost < n_drawn / 2.5


def test_the_clock_ends_guessing_that_costs_time():
    speculation = Speculation(Fixed(1), lambda n: 1 if n == 1 else 2 + n / 6)
    speculation.begin(1000)
    speculation.spent(1, 1, 0.01)
    assert speculation.guess(100)
    speculation.spent(16, 16, 1.0)  # all right, and yet it took as long as a hundred steps
    assert speculation.guess(100)  # as may happen once
    speculation.spent(16, 16, 1.0)
    assert not speculation.guess(100)


def test_speculation_is_on_by_default(smollm2: Path):
    with LLM(smollm2, n_ctx=2048) as llm:
        text = "The quick brown fox jumps over the lazy dog. " * 12
        answer = llm.stream(text, temperature=0, max_tokens=60)
        plain = llm.stream(text, temperature=0, max_tokens=60, lookup=False)
        assert "".join(answer) == "".join(plain)
        assert answer.n_accepted > 30 and plain.n_guessed == 0


def test_a_draft_model_makes_the_same_text(tmp_path: Path) -> None:
    # a model and a worse copy of it
    large, small = tmp_path / "large.gguf", tmp_path / "small.gguf"
    shape = {"n_layer": 1, "n_embd": 256, "n_head": 4, "n_head_kv": 2, "n_ff": 256, "seed": 3}
    write_model(large, types="F32", **shape)
    write_model(small, types="Q8_0", **shape)
    with LLM(large) as plain, LLM(large, draft=small) as helped:
        for prompt in ("the rain in spain", "the rain in the end", "another"):
            for sampling in ({"temperature": 0}, {"seed": 3}):
                options = {"max_tokens": 60, "ignore_eos": True, **sampling}
                expected = plain.stream(prompt, lookup=False, **options)
                bias = dict.fromkeys(plain.tokenizer.eog_ids, float("-inf"))
                answer = Generation(
                    helped.scheduler, helped.tokenizer, helped.prompt_tokens(prompt),
                    Sampler(SamplingParams(logit_bias=bias, **sampling)), 60,
                    speculation=lambda text: Always(DraftModel(helped._draft.engine, 0.5, text), flat),
                )  # fmt: skip
                assert "".join(answer) == "".join(expected) == helped.generate(prompt, **options)
                if sampling == {"temperature": 0}:
                    assert answer.n_accepted > answer.n_guessed / 2
    write_model(small, n_layer=1, n_embd=64, n_head=2, n_head_kv=1, n_ff=64, n_vocab=300)
    with pytest.raises(ValueError, match="vocabulary"):
        LLM(large, draft=small)


@pytest.mark.parametrize("types", ["Q4_K", "Q8_0", "F16"])
def test_exact_answers_are_the_same_text(tmp_path: Path, types: str) -> None:
    # texts of a random model soon repeat themselves, and their tokens are about as likely: any rounding would show
    write_model(tmp_path / "model.gguf", types=types, n_ctx=2048, seed=1)
    with LLM(tmp_path / "model.gguf", n_gpu_layers=0) as llm:
        for n in (4, 40, 70):
            prompt = llm.tokenize("the rain in the train in the rain and the end of it all again " * 20)[:n]
            for sampling in ({"temperature": 0}, {"seed": n}):
                options = {"max_tokens": 300, "ignore_eos": True, **sampling}
                plain = llm.stream(prompt, lookup=False, cache_prompt=False, **options)
                exact = llm.stream(prompt, exact=True, **options)
                assert "".join(exact) == "".join(plain)
                assert exact.n_reused == 0 and exact.tokens == plain.tokens
        guesses = Speculation(Fixed(1), flat, most=llm.engine.n_alike - 1).guess(100)
        assert len(guesses) == llm.engine.n_alike - 1


def test_exact_answers_of_smollm2(smollm2: Path) -> None:
    with LLM(smollm2, n_ctx=2048, n_gpu_layers=0) as llm:
        n_accepted = 0
        for end in ("", "The lazy dog", "So the quick", "Once more, and slowly: the"):
            prompt = "The quick brown fox jumps over the lazy dog. " * 12 + end
            options = {"temperature": 0, "max_tokens": 100}
            plain = llm.stream(prompt, lookup=False, cache_prompt=False, **options)
            exact = llm.stream(prompt, exact=True, **options)
            assert "".join(exact) == "".join(plain)
            n_accepted += exact.n_accepted
        assert n_accepted > 30

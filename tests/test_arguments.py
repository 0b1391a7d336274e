"""What callers pass: numbers of NumPy's as of Python's; and what has no meaning is refused by its name."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_runtime import LLM
from gguf_runtime.sampling import Sampler, SamplingParams

SHORT = {"max_tokens": 8, "ignore_eos": True}


@pytest.fixture(scope="module")
def llm(model: Path) -> Iterator[LLM]:
    with LLM(model) as llm:
        yield llm


def test_numbers_of_numpy(llm: LLM, model: Path) -> None:
    ids = llm.tokenize("the rain in spain")
    text = llm.generate(ids, seed=3, top_k=20, **SHORT)
    numpy = {"seed": np.int64(3), "top_k": np.int32(20), "temperature": np.float32(0.8), "max_tokens": np.int16(8)}
    for prompt in (np.array(ids), [np.int32(token) for token in ids], tuple(ids)):
        answer = llm.stream(prompt, **SHORT | numpy)
        assert "".join(answer) == text
        assert all(type(token) is int for token in answer.prompt)
        assert np.array_equal(llm.logits(prompt), llm.logits(ids))
    with LLM(model, n_ctx=np.int64(64), n_threads=np.int8(1), n_ubatch=np.int32(16), n_gpu_layers=np.int8(0)) as other:
        assert other.engine.n_ctx == 64 and other.engine.n_threads == 1 and other.engine.n_ubatch == 16


def test_a_bias_by_text_or_by_number(llm: LLM) -> None:
    for bias in ({"65": 1e6}, {65: 1e6}, {np.int64(65): np.float32(1e6)}):
        answer = llm.stream("Once", logit_bias=bias, temperature=0, **SHORT)
        list(answer)
        assert answer.tokens == [65] * 8
    assert SamplingParams(logit_bias={"5": -math.inf}).logit_bias == {5: -math.inf}


def test_nothing_to_stop_at(llm: LLM) -> None:
    text = llm.generate("Once", seed=1, **SHORT)
    assert text == llm.generate("Once", seed=1, stop=None, **SHORT) == llm.generate("Once", seed=1, stop=[], **SHORT)


def test_a_negative_seed_is_another_one_each_time() -> None:
    assert SamplingParams(seed=-1).seed is None
    assert Sampler(SamplingParams(seed=-1)).seed != Sampler(SamplingParams(seed=-1)).seed
    assert Sampler(SamplingParams(seed=0)).seed == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": -1}, {"max_tokens": 2.5}, {"max_tokens": "8"}, {"stop": 5}, {"stop": b"x"}, {"stop": ["a", 5]},
        {"seed": "x"}, {"seed": 1.5}, {"temperature": "hot"}, {"temperature": math.nan},
        {"temperature": None}, {"top_k": 2.5}, {"top_p": math.inf}, {"top_p": 2},
        {"top_p": -1}, {"min_p": 7}, {"typical_p": -0.5}, {"xtc_probability": 1.5},
        {"repeat_penalty": 0}, {"repeat_last_n": -2},
        {"logit_bias": [5]}, {"logit_bias": {"x": 1}}, {"logit_bias": {5: "y"}}, {"logit_bias": {5: math.inf}},
        {"logit_bias": {5: math.nan}}, {"logit_bias": {-1: 1}}, {"logit_bias": {10**6: 1}}, {"logit_bias": {1.5: 1}},
        {"samplers": "top_k"}, {"samplers": 5}, {"samplers": ["top_x"]}, {"dry_sequence_breakers": "abc"},
        {"dry_sequence_breakers": [5]}, {"mirostat": 3}, {"grammar": 5}, {"regex": b"x"},
    ],
)  # fmt: skip
def test_options_without_a_meaning_are_named(llm: LLM, wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match="sampler" if name == "samplers" else name):
        llm.stream("Once", **wrong)


@pytest.mark.parametrize(
    "prompt", [5, None, b"Once", [1.5], ["a", "b"], [10**6], [-1], np.array([1.5]), np.zeros((2, 2), int), {"a": 1}]
)
def test_prompts_without_a_meaning_are_named(llm: LLM, prompt: Any) -> None:
    with pytest.raises(ValueError, match="prompt"):
        llm.stream(prompt)


def test_texts_without_a_meaning_are_named(llm: LLM) -> None:
    for wrong in ([1.5], [10**6], [], ""):
        with pytest.raises(ValueError, match="text"):
            llm.logits(wrong)
    with pytest.raises(ValueError, match="text"):
        llm.tokenize(5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="text"):
        llm.logits(None)  # type: ignore[arg-type]
    for messages in ("Hi", [1], ["Hi"], None, {"role": "user"}):
        with pytest.raises(ValueError, match="messages"):
            llm.chat(messages)  # type: ignore[arg-type]
    for tools in ("get_time", [1], {"get_time": {}}):
        with pytest.raises(ValueError, match="tools"):
            llm.chat([], tools=tools)  # type: ignore[arg-type]


def test_messages_that_come_one_by_one(chat_model: Path) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    with LLM(chat_model) as llm:
        assert llm.render(iter(messages)) == llm.render(messages)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_ctx": -1}, {"n_ctx": 0.5}, {"n_ctx": "many"}, {"n_threads": -1}, {"n_threads": 1.5}, {"n_ubatch": -5},
        {"n_ubatch": None}, {"n_gpu_layers": "some"}, {"n_gpu_layers": 1.5}, {"n_gpu_layers": None}, {"main_gpu": -1},
        {"tensor_split": [-1, 2]}, {"tensor_split": [0, 0]}, {"tensor_split": ["a"]}, {"tensor_split": 5},
        {"override_tensors": ["ffn=CPU"]}, {"override_tensors": [("a", 5)]}, {"override_tensors": 5},
        {"type_k": "f12"}, {"type_v": None}, {"chat_template": 5}, {"draft": 5},
    ],
)  # fmt: skip
def test_settings_without_a_meaning_are_named(model: Path, wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        LLM(model, **wrong)


def test_a_path_that_is_none() -> None:
    with pytest.raises(ValueError, match="path"):
        LLM(None)  # type: ignore[arg-type]


def test_beyond_the_context_is_told_as_callers_of_both_kinds_ask_for_more(model: Path) -> None:
    with LLM(model, n_ctx=16) as small:
        for wrong in (small.logits, small.generate):
            with pytest.raises(Exception, match="-c, or n_ctx"):
                wrong([5] * 17)

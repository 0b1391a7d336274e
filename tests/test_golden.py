"""SmolLM2 against llama.cpp's recorded outputs (../shared/golden) and against exact arithmetic.

Both runtimes round activations to 8 bits, so their logits differ from exact ones, and from each other, by noise:
llama.cpp's own, for the same prompts, change by as much when it takes the tokens one by one. What can be asked is
that ids agree, and that ours are no further from the truth than its.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize

from gguf_runtime import LLM
from gguf_runtime.engine import Chunk
from tests.paths import SHARED, needs
from tests.reference import llama_logits

GOLDEN = SHARED / "golden" / "smollm2.json"
TEXT = SHARED / "golden" / "perplexity.txt"
Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return json.loads(GOLDEN.read_text())["smollm2-135m-q4_1"]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64) - logits.max()
    return logits - np.log(np.exp(logits).sum())


@needs(GOLDEN)
def test_prompt_ids(smollm2: Path, golden: dict[str, Any]) -> None:
    with LLM(smollm2, n_ctx=512) as llm:
        for case in golden["completions"]:
            assert llm.tokenizer.encode(case["prompt"]) == case["prompt_tokens"]
        for case in golden["chats"]:
            assert llm.render(case["messages"]) == case["rendered"]
            assert llm.tokenizer.encode(case["rendered"], parse_special=True) == case["prompt_tokens"]


@needs(GOLDEN)
def test_first_step_is_as_near_to_the_truth_as_llama_cpp(smollm2: Path, golden: dict[str, Any]) -> None:
    tensors = gguf.GGUFReader(smollm2).tensors
    weights = {t.name: dequantize(t.data, t.tensor_type).astype(np.float64) for t in tensors}
    ours, theirs = [], []
    with LLM(smollm2, n_ctx=512) as llm:
        for case in golden["completions"]:
            tokens = case["prompt_tokens"]
            ids = [token for token, _ in case["top"][0]]
            exact = log_softmax(llama_logits(weights, tokens, n_head=9, n_head_kv=3, base=100000.0)[-1])[ids]
            logits = llm.engine.step([Chunk(llm.engine.new_sequence(), tokens)])[0]
            ours.append(np.abs(log_softmax(logits)[ids] - exact).mean())
            theirs.append(np.abs(np.array([p for _, p in case["top"][0]]) - exact).mean())
    assert np.mean(ours) < 1.25 * np.mean(theirs)


@needs(GOLDEN)
def test_greedy_ids_until_llama_cpp_itself_hesitates(smollm2: Path, golden: dict[str, Any]) -> None:
    with LLM(smollm2, n_ctx=512) as llm:
        for case in golden["completions"] + golden["chats"]:
            sequence = llm.engine.new_sequence()
            tokens = case["prompt_tokens"]
            for theirs, top in zip(case["tokens"], case["top"], strict=True):
                logits = llm.engine.step([Chunk(sequence, tokens)])[0]
                if top[0][1] - top[1][1] < 0.5:  # about three times the noise of a difference
                    break
                assert int(logits.argmax()) == theirs
                tokens = [theirs]


@needs(TEXT)
def test_perplexity(smollm2: Path, ggrun: Run) -> None:
    result = ggrun("perplexity", "-m", smollm2, "-f", TEXT, "-c", 512)
    found = re.search(rb"PPL = ([\d.]+)", result.stdout)
    assert found, result.stderr
    assert float(found[1]) == pytest.approx(16.400, rel=0.01)  # llama.cpp's; the noise alone moves it by 0.5 %

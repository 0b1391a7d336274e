"""T5 through the engine: a source text that an encoder reads once, and a decoder that generates; diffusion models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gguf_runtime import LLM
from gguf_runtime.architectures import ModelError
from gguf_runtime.engine import Chunk, ContextFull, EngineError
from tests import kit
from tests.paths import needs

pytestmark = needs(kit.KIT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kit")


@pytest.mark.parametrize("name", ["t5", "flan-t5"])
def test_logits_as_in_llama_cpp_whole_and_beside_another(name: str, folder: Path) -> None:
    kit.load(name, folder)
    record = kit.record(name)
    source, tokens, rows = record["tokens"], record["decoder_tokens"], record["positions"]
    with LLM(folder / f"{name}-F32.gguf", n_threads=2) as llm:
        whole, single, other = (llm.engine.new_sequence(source=text) for text in (source, source, source[:70]))
        logits = llm.engine.step([Chunk(whole, tokens, len(tokens))])
        assert kit.nmse(record["logits"], logits[rows]) < 5e-5
        found = [llm.engine.step([Chunk(other, [token], 1), Chunk(single, [token], 1)])[1] for token in tokens]
        assert kit.nmse(record["logits"], np.stack(found)[rows]) < 5e-5
        assert single.n_pages == 2 and single.rewind(10) == 10 and single.n_pages == 2  # the source needs them
        again = llm.engine.step([Chunk(single, tokens[10:], len(tokens) - 10)])
        assert np.allclose(again[-1], found[-1], atol=1e-2)
        single.release()
        assert single.n_pages == 0
        assert np.allclose(llm.engine.step([Chunk(single, tokens, 1)])[0], found[-1], atol=1e-2)  # and reads it again


def test_an_answer_is_the_likeliest_by_the_reference(folder: Path) -> None:
    model = kit.load("t5", folder)
    with LLM(folder / "t5-F32.gguf", n_threads=2) as llm:
        source = llm.prompt_tokens("hello")
        answer = llm.stream("hello", max_tokens=4, ignore_eos=True, temperature=0)
        tokens, never = [model.decoder_start], list(llm.tokenizer.eog_ids)
        for _ in range(4):
            logits = kit.run(model.graph, np.array(tokens), len(tokens), np.array(source, np.int32))[-1]
            logits[never] = -np.inf
            tokens.append(int(logits.argmax()))
        assert "".join(answer) == answer.text and answer.tokens == tokens[1:]
        assert llm.engine.pages.n_held == 0


def test_what_cannot_be_is_said(folder: Path) -> None:
    kit.load("t5", folder)
    kit.load("dream", folder)
    with LLM(folder / "t5-F32.gguf", n_threads=2) as llm:
        with pytest.raises(ContextFull, match="encoder takes 256"):
            llm.engine.new_sequence([0], source=[5] * 300)
        with pytest.raises(EngineError, match="no text to read"):
            llm.logits([0, 1])
        with pytest.raises(ModelError, match="t5encoder"):
            llm.embed(["a"])
    with pytest.raises(ModelError, match="diffusion model"):
        LLM(folder / "dream-F32.gguf")

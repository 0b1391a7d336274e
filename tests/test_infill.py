"""Prompts to fill in: llama.cpp's order of tokens, and what there is no room for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gguf_runtime import LLM
from gguf_runtime.tokenizer import TokenizerError, infill_prompt
from tests.make_model import BOS, EOS, make_vocabulary, write_model

PRE, SUF, MID, REPO, FILE = "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>", "<|file_sep|>"


def write(path: Path, marks: list[str], **keys: Any) -> LLM:
    """A model whose vocabulary has these tokens too."""
    tokens, types, merges = make_vocabulary(320 - len(marks))
    keys |= {"tokenizer.ggml.tokens": [*tokens, *marks], "tokenizer.ggml.token_type": [*types, *([3] * len(marks))]}
    size = {"n_layer": 1, "n_embd": 64, "n_head": 2, "n_head_kv": 1, "n_ff": 64, "n_ctx": 200}
    ends = {f"tokenizer.ggml.{name}_token_id": tokens.index(text) for name, text in (("bos", BOS), ("eos", EOS))}
    write_model(path, **size, **ends, **keys, **{"tokenizer.ggml.merges": merges})
    return LLM(path)


def test_the_order_is_that_of_llama_cpp(tmp_path: Path) -> None:
    with write(tmp_path / "code.gguf", [PRE, SUF, MID]) as llm:
        tokenizer = llm.tokenizer

        def read(**options: Any) -> str:
            return tokenizer.decode(infill_prompt(tokenizer, "a = ", "\nprint(a)", n_most=150, **options))

        assert read() == f"{PRE}a = {SUF}\nprint(a){MID}"
        assert read(begun="1 +", suffix_first=True) == f"{SUF}\nprint(a){PRE}a = 1 +{MID}"
        assert read(files=[("b", "x")]) == f"\n\n--- snippet ---\n\nx{PRE}a = {SUF}\nprint(a){MID}"
        # neither part can spell the tokens
        assert llm.infill_tokens(MID, PRE).count(tokenizer.fim_ids["fim_mid"]) == 1


def test_models_with_tokens_for_files_get_them(tmp_path: Path) -> None:
    with write(tmp_path / "code.gguf", [PRE, SUF, MID, REPO, FILE], **{"tokenizer.ggml.add_bos_token": True}) as llm:
        prompt = llm.infill_tokens("a", "b", files=[("x.py", "c")], max_tokens=10)
        before = f"{REPO}myproject\n{FILE}x.py\nc{FILE}filename\n"
        assert llm.tokenizer.decode(prompt) == f"{before}{BOS}{PRE}a{SUF}b{MID}"


def test_what_is_nearest_to_the_gap_stays(tmp_path: Path) -> None:
    with write(tmp_path / "code.gguf", [PRE, SUF, MID]) as llm:
        tokenizer = llm.tokenizer
        before, after = tokenizer.encode("xy" * 300), tokenizer.encode("zw" * 300)
        prompt = infill_prompt(tokenizer, "xy" * 300, "zw" * 300, n_most=103)
        assert prompt[1:76] == before[-75:] and prompt[77:102] == after[:25] and len(prompt) == 103
        prompt = infill_prompt(tokenizer, "xy", "zw" * 300, n_most=103)
        n = len(tokenizer.encode("xy"))
        assert prompt[n + 2 : -1] == after[: 100 - n]
        assert len(llm.infill_tokens("xy" * 300, "zw" * 300, files=[("a", "b")])) == 150


def test_keys_name_the_tokens_too_by_new_and_old_names(tmp_path: Path) -> None:
    keys = {
        "tokenizer.ggml.fim_pre_token_id": 1,
        "tokenizer.ggml.suffix_token_id": 2,
        "tokenizer.ggml.middle_token_id": 3,
    }
    with write(tmp_path / "code.gguf", [], **keys) as llm:
        assert llm.tokenizer.fim_ids == {"fim_pre": 1, "fim_suf": 2, "fim_mid": 3}


def test_the_command(ggrun, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "code.gguf"
    with write(path, [PRE, SUF, MID]) as llm:
        prompt = llm.infill_tokens("a = ", "-1\n", max_tokens=4)
        wanted = llm.generate(prompt, max_tokens=4, temperature=0, ignore_eos=True)
        with pytest.raises(ValueError, match="prefix must be text"):
            llm.infill_tokens(1, "a")  # type: ignore[arg-type]
    line = "-m", path, "-n", 4, "--temp", 0, "--ignore-eos"
    done = ggrun(*line, "--fim", "a = ", "-1\\n", "--display-prompt")
    assert done.stdout.decode() == f"{PRE}a = {SUF}-1\n{MID}{wanted}" and done.stderr == b""
    assert ggrun(*line, "--fim", "a", "b", "-p", "c").returncode == 2
    done = ggrun("-m", model, "--fim", "a", "b")
    said = done.stderr.decode()
    assert done.returncode == 1 and "no token for what comes before and after and between (FIM)" in said


def test_a_model_without_the_tokens_says_so(model: Path) -> None:
    with LLM(model) as llm, pytest.raises(TokenizerError, match="cannot fill in"):
        llm.infill_tokens("a", "b")

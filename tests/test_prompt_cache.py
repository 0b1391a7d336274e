"""What a prompt cache belongs to: exactly the bytes of a model, told at once where they were seen before."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from gguf_runtime import LLM, digest
from gguf_runtime.digest import content_digest
from gguf_runtime.loader import open_gguf
from gguf_runtime.prompt_cache import PromptCache, fingerprint
from tests import kit
from tests.make_model import write_model
from tests.paths import needs
from tests.test_loader import split_model

SMALL = {"n_layer": 1, "n_embd": 64, "n_head": 2, "n_head_kv": 1, "n_ff": 128}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests of this test only; kernels stay where they are."""
    monkeypatch.setattr(digest, "cache_root", lambda: tmp_path / "cache")


def digest_of(path: Path) -> str:
    with open_gguf(path) as file:
        return content_digest(file)


def test_every_byte_counts(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_model(path, **SMALL)
    content = path.read_bytes()
    seen = {digest_of(path)}
    rng = np.random.default_rng(0)
    for place in [*rng.integers(len(content) // 2, len(content), 20), len(content) - 1]:
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        seen.add(digest_of(path))
    assert len(seen) == 22
    path.write_bytes(content)
    assert digest_of(path) in seen


def test_parts_count_in_their_order(tmp_path: Path) -> None:
    first, second, _third = split_model(tmp_path)
    whole = digest_of(first)
    assert digest_of(second) == whole
    content = bytearray(second.read_bytes())
    content[-40] ^= 1
    second.write_bytes(content)
    assert digest_of(first) != whole


def test_what_was_seen_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.gguf"
    write_model(path, **SMALL)
    monkeypatch.setattr(digest, "_UNSETTLED", -1e9)  # a file's status can only be changed now
    before = digest_of(path)
    (note,) = (tmp_path / "cache" / "digests").iterdir()
    written = note.stat().st_mtime_ns
    assert digest_of(path) == before and note.stat().st_mtime_ns == written
    note.write_text(note.read_text().replace('"digest": "', '"digest": "x'))
    assert digest_of(path) != before  # so it is the note that is believed
    note.write_text("damaged")
    assert digest_of(path) == before
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    status = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # another content of the same size and time
    if os.name == "posix":
        assert digest_of(path) != before


def test_what_has_just_changed_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_model(path, **SMALL)
    digest_of(path)
    assert not (tmp_path / "cache").exists()


def test_a_cache_is_of_one_model_to_the_last_weight(tmp_path: Path) -> None:
    path, cache = tmp_path / "m.gguf", tmp_path / "prompt"
    write_model(path, **SMALL)

    def ask() -> int:
        with LLM(path, n_ctx=256, n_threads=2) as llm, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            kept = PromptCache(cache, llm)
            answer = llm.stream([5] * 40, max_tokens=2)
            list(answer)
            kept.keep(answer)
            told = [str(warning.message) for warning in caught]
            assert all("another model" in text for text in told)
            return -len(told) or answer.n_reused

    assert [ask(), ask()] == [0, 39]
    content = bytearray(path.read_bytes())
    content[-200] ^= 0x40  # in the middle of a tensor
    path.write_bytes(content)
    assert [ask(), ask()] == [-1, 39]


def test_angles_count_that_depend_on_the_context(tmp_path: Path) -> None:
    factors = {f"rope_factors_{name}.weight": np.linspace(1, end, 16) for name, end in (("short", 2), ("long", 8))}
    path = tmp_path / "m.gguf"
    write_model(path, extra=factors, **{"llama.rope.scaling.original_context_length": 512}, **SMALL)
    found = []
    for n_ctx in (256, 512, 600):
        with LLM(path, n_ctx=n_ctx, n_threads=2) as llm:
            found.append(fingerprint(llm))
    assert found[0] == found[1] != found[2]


@needs(kit.KIT)
@pytest.mark.parametrize("name", ["gemma3", "mamba2"])
def test_windows_and_states_are_kept_in_a_file(name: str, tmp_path: Path) -> None:
    path, prompt = kit.file(name, tmp_path), [i % 90 for i in range(150)]
    texts, reused = [], []
    for _ in range(2):
        with LLM(path) as llm:
            cache = PromptCache(tmp_path / "saved", llm)
            answer = llm.stream(prompt, max_tokens=9, temperature=0)
            texts.append("".join(answer))
            reused.append(answer.n_reused)
            cache.keep(answer)
    # of a state, what is kept is at the last page before the prompt's end
    assert texts[0] == texts[1] and reused == [0, 149 if name == "gemma3" else 128]

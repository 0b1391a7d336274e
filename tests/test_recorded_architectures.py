"""Architectures that the conformance kit lacks, against llama.cpp's logits: models made here, from a seed.

recorded_architectures.json: of each, its keys and tensors, and every fourth logit after three of 60 tokens, as
llama.cpp (October 2026; F32 weights and cache) gave them for the model that `write` writes.
"""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from gguf_runtime.architectures import FAMILIES
from gguf_runtime.engine import Chunk, Engine
from gguf_runtime.loader import open_gguf
from tests import kit
from tests.make_model import finish

RECORDS: dict[str, Any] = json.loads(Path(__file__).with_name("recorded_architectures.json").read_text())
TOKENS = np.random.default_rng(3).integers(0, 128, 60)
POSITIONS = 0, 20, 59
_FIRST = {"chameleon": 8196}  # after tokens of pictures, which it does not say


def values(name: str, shape: list[int]) -> np.ndarray:
    z = np.random.default_rng([7, zlib.crc32(name.encode())]).standard_normal(shape).astype(np.float32)
    if len(shape) == 1 or "norm" in name:
        return 1 + z / 4 if re.search(r"norm\.weight|layer_output_scale|ssm_d", name) else 0.3 * z
    if name == "token_embd.weight":
        return z / 2
    if "ssm_a" in name:
        return -np.exp(z / 2)
    if re.search("ssm_conv1d|ssm_d", name):
        return 0.5 * z + 0.1
    return z * (2 if re.search("gate_inp|^output|attn_(q|k|qkv)", name) else 1) / np.float32(shape[-1] ** 0.5)


def write(architecture: str, path: Path) -> Path:
    record = RECORDS[architecture]
    writer = gguf.GGUFWriter(path, architecture)
    add = {bool: writer.add_bool, float: writer.add_float32, int: writer.add_uint32, list: writer.add_array}
    for key, value in record["keys"].items():
        add[type(value)](f"{architecture}.{key}", value)
    writer.add_string("tokenizer.ggml.model", "test")
    writer.add_array("tokenizer.ggml.tokens", [f"t{i}" for i in range(record["tensors"]["token_embd.weight"][0])])
    for name, shape in record["tensors"].items():
        writer.add_tensor(name, values(name, shape).astype(np.float32))
    finish(writer)
    return path


@pytest.mark.parametrize("architecture", RECORDS)
def test_logits_as_in_llama_cpp(architecture: str, tmp_path: Path) -> None:
    with open_gguf(write(architecture, tmp_path / "model.gguf")) as file:
        engine = Engine(file, n_threads=2)
        logits = engine.step([Chunk(engine.new_sequence(), TOKENS, len(TOKENS))])
        engine.close()
    found = logits[list(POSITIONS), _FIRST.get(architecture, 0) :: 4]
    assert kit.nmse(np.array(RECORDS[architecture]["logits"]), found) < 1e-5  # the cache is of halves


@pytest.mark.skipif(not kit.KIT.exists(), reason=f"{kit.KIT} is not here")
def test_every_architecture_has_a_record() -> None:
    assert {kit.architecture(name) for name in kit.names()} | set(RECORDS) >= set(FAMILIES)

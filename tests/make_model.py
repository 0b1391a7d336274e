"""Writes small models with random weights, and a vocabulary made here, for tests."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType

from gguf_runtime.backends.floats import DTYPES
from gguf_runtime.backends.reference.weights import to_float64
from gguf_runtime.kernels.tensor_types import BY_NAME
from gguf_runtime.loader import Tensor

BOS, EOS = "<|bos|>", "<|eos|>"

#: Types that gguf.quants cannot quantise to: where a block has its f16 scale d and (if any) dmin, and the
#: dmin / d that puts the mean of random blocks at zero.
_RANDOM_BLOCKS: dict[str, tuple[int, int | None, float]] = {
    "Q2_K": (80, 82, 1.5),
    "Q3_K": (108, None, 0),
    "Q4_K": (0, 2, 7.5),
    "Q5_K": (0, 2, 15.5),
    "Q6_K": (208, None, 0),
    **dict.fromkeys(
        ("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS", "Q1_0", "Q2_0", "Q8_1"),
        (0, None, 0),
    ),
    "IQ1_M": (48, None, 0),  # 4 bits of it in each of four places
    "Q8_K": (0, None, 0),  # f32
    "NVFP4": (0, None, 0),  # four of 8 bits
}


def _teach_gguf() -> None:
    """Have gguf-py write Q2_0, which it does not know yet, and Q8_1, which it has in an older layout."""
    if 42 not in GGMLQuantizationType._value2member_map_:
        kind = int.__new__(GGMLQuantizationType, 42)
        kind._name_, kind._value_ = "Q2_0", 42
        GGMLQuantizationType._member_map_["Q2_0"] = GGMLQuantizationType._value2member_map_[42] = kind
        gguf.GGML_QUANT_SIZES[kind] = 64, 18
    gguf.GGML_QUANT_SIZES[GGMLQuantizationType.Q8_1] = 32, 36


_teach_gguf()


def finish(writer: gguf.GGUFWriter) -> None:
    """Write all that was added, and close the file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_model(
    path: str | Path,
    *,
    types: dict[str, str] | str = "F32",
    arch: str = "llama",
    n_layer: int = 2,
    n_embd: int = 256,
    n_head: int = 4,
    n_head_kv: int | list[int] = 2,
    n_ff: int | list[int] = 512,
    n_vocab: int = 320,
    n_rows: int = 0,
    n_ctx: int = 1024,
    seed: int = 0,
    tied: bool = False,
    extra: dict[str, np.ndarray] | None = None,
    **metadata: Any,
) -> dict[str, np.ndarray]:
    """Write a model of the llama architecture; gives each tensor's float32 values as the file has them.

    types: the type of every matrix, or pattern of a tensor's name → type (the first that fits, else F32).
    n_head_kv, n_ff: for all layers, or a list of them. n_rows: of embedding and output, where these are not n_vocab.
    extra: further tensors, as F32. metadata: keys to add or replace, as in **{"llama.rope.freq_base": 5e5}.
    """
    rng = np.random.default_rng(seed)
    head_dim = n_embd // n_head
    tokens, token_types, merges = make_vocabulary(n_vocab, seed)
    keys = {
        f"{arch}.block_count": n_layer,
        f"{arch}.context_length": n_ctx,
        f"{arch}.embedding_length": n_embd,
        f"{arch}.feed_forward_length": n_ff,
        f"{arch}.attention.head_count": n_head,
        f"{arch}.attention.head_count_kv": n_head_kv,
        f"{arch}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{arch}.rope.dimension_count": head_dim,
        f"{arch}.rope.freq_base": 10000.0,
        f"{arch}.vocab_size": n_vocab,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": token_types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": tokens.index(BOS),
        "tokenizer.ggml.eos_token_id": tokens.index(EOS),
        **metadata,
    }
    n_rows = n_rows or n_vocab
    kv_heads = n_head_kv if isinstance(n_head_kv, list) else [n_head_kv] * n_layer
    widths = n_ff if isinstance(n_ff, list) else [n_ff] * n_layer
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (n_rows, n_embd)}
    for i, (n_kv, n_wide) in enumerate(zip(kv_heads, widths, strict=True)):
        shapes |= {
            f"blk.{i}.attn_norm.weight": (n_embd,),
            f"blk.{i}.attn_q.weight": (n_head * head_dim, n_embd),
            f"blk.{i}.attn_k.weight": (n_kv * head_dim, n_embd),
            f"blk.{i}.attn_v.weight": (n_kv * head_dim, n_embd),
            f"blk.{i}.attn_output.weight": (n_embd, n_head * head_dim),
            f"blk.{i}.ffn_norm.weight": (n_embd,),
            f"blk.{i}.ffn_gate.weight": (n_wide, n_embd),
            f"blk.{i}.ffn_up.weight": (n_wide, n_embd),
            f"blk.{i}.ffn_down.weight": (n_embd, n_wide),
        }
    shapes["output_norm.weight"] = (n_embd,)
    if not tied:
        shapes["output.weight"] = (n_rows, n_embd)

    weights = {}
    writer = gguf.GGUFWriter(path, arch)
    for key, value in keys.items():
        add_key(writer, key, value)
    for name, shape in shapes.items():
        if len(shape) == 1:
            data, type_name = _bytes(1 + 0.1 * rng.standard_normal(shape, np.float32)), "F32"
        else:
            type_name = types if isinstance(types, str) else _first_match(types, name)
            data = random_tensor(rng, type_name, *shape)
        weights[name] = _add_tensor(writer, name, data, type_name)
    for name, values in (extra or {}).items():
        weights[name] = _add_tensor(writer, name, _bytes(values.astype(np.float32)), "F32")
    finish(writer)
    return weights


def random_tensor(rng: np.random.Generator, type_name: str, rows: int, columns: int) -> np.ndarray:
    """u8[rows, bytes of a row] of a type, whose values have mean 0 and deviation about 1 / √columns."""
    deviation, kind = columns**-0.5, BY_NAME[type_name]
    if type_name in DTYPES and type_name[0] == "I":
        there = rng.random((rows, columns)) < 1 / columns
        return _bytes((there * rng.choice([-1, 1], there.shape)).astype(DTYPES[type_name]))
    if type_name not in _RANDOM_BLOCKS:
        values = rng.standard_normal((rows, columns), np.float32) * np.float32(deviation)
        if type_name in DTYPES:
            return _bytes(values.astype(DTYPES[type_name]))
        return _bytes(gguf.quants.quantize(values, GGMLQuantizationType[type_name])).reshape(rows, -1)
    blocks = rng.integers(0, 256, (rows * columns // kind.columns, kind.bytes), np.uint8)
    if type_name == "NVFP4":
        blocks[:, :4] = rng.integers(8, 20, (len(blocks), 4))
        return blocks.reshape(rows, -1)
    _set_scales(type_name, blocks, np.ones((len(blocks), 1)))
    natural = values_of(blocks, type_name).std()
    _set_scales(type_name, blocks, deviation / natural * rng.uniform(0.5, 1.5, (len(blocks), 1)))
    return blocks.reshape(rows, -1)


def _set_scales(type_name: str, blocks: np.ndarray, d: np.ndarray) -> None:
    d_at, dmin_at, ratio = _RANDOM_BLOCKS[type_name]
    if type_name == "IQ1_M":
        words = blocks[:, d_at:].view(np.uint16)
        words &= 0x0FFF
        words |= (d.astype(np.float16).view(np.uint16) >> np.array([0, 4, 8, 12], np.uint16) & 15) << 12
        return
    number = np.dtype(np.float32 if type_name == "Q8_K" else np.float16)
    blocks[:, d_at : d_at + number.itemsize] = d.astype(number).view(np.uint8)
    if dmin_at is not None:
        blocks[:, dmin_at : dmin_at + 2] = (d * ratio).astype(np.float16).view(np.uint8)


def values_of(data: np.ndarray, type_name: str) -> np.ndarray:
    """f32: the values of bytes of a type, flat."""
    kind, data = BY_NAME[type_name], np.ascontiguousarray(data).reshape(-1)
    shape = (data.nbytes // kind.bytes * kind.columns,)
    return to_float64(Tensor("weights", shape, type_name, data)).astype(np.float32)


def make_vocabulary(n_vocab: int, seed: int = 0) -> tuple[list[str], list[int], list[str]]:
    """A byte-level BPE vocabulary: tokens, their types and the merges. The last two are BOS and EOS."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    tokens = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]
    words = [chr(256 + others.index(ord(" "))), *"etaoinshrdlu"]  # what merges are made of
    merges: list[str] = []
    rng = np.random.default_rng(seed)
    while len(tokens) < n_vocab - 2:
        left, right = words[rng.integers(len(words))], words[rng.integers(1, len(words))]
        if left + right not in tokens and right[0] != words[0]:
            tokens.append(left + right)
            words.append(left + right)
            merges.append(f"{left} {right}")
    normal, control = int(gguf.TokenType.NORMAL), int(gguf.TokenType.CONTROL)
    return [*tokens, BOS, EOS], [normal] * len(tokens) + [control] * 2, merges


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).view(np.uint8)


def _first_match(types: dict[str, str], name: str) -> str:
    return next((type_name for pattern, type_name in types.items() if fnmatch(name, pattern)), "F32")


def _add_tensor(writer: gguf.GGUFWriter, name: str, data: np.ndarray, type_name: str) -> np.ndarray:
    tensor_type = GGMLQuantizationType[type_name]
    writer.add_tensor(name, data, raw_dtype=tensor_type)
    return values_of(data, type_name).reshape(*data.shape[:-1], -1)


def add_key(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)

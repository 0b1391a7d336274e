"""Write a GGUF with the shape of a real model and random weights, for measurements of speed alone.

    python tests/benchmarks/random_model.py qwen3-30b-a3b moe.gguf --layers 8 --vocab VOCABULARY.gguf
    python tests/benchmarks/random_model.py qwen3-a3b-dense dense.gguf --layers 8 --vocab VOCABULARY.gguf --type Q4_0

Shapes and types of tensors are those of a real file, so time and memory are too; the text is noise. The vocabulary is a
file's that has no tensors. Without --type the types are those of Q4_K_M.
"""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize


class Shape(NamedTuple):
    arch: str
    n_layer: int
    n_embd: int
    n_ff: int  # of an expert, where there are some
    n_head: int
    n_head_kv: int
    head_dim: int
    n_expert: int = 0
    n_used: int = 0
    tied: bool = False


SHAPES = {
    "qwen3-0.6b": Shape("qwen3", 28, 1024, 3072, 16, 8, 128, tied=True),
    "qwen3-4b": Shape("qwen3", 36, 2560, 9728, 32, 8, 128, tied=True),
    "gemma3-1b": Shape("gemma3", 26, 1152, 6912, 4, 1, 256, tied=True),
    "gemma3-4b": Shape("gemma3", 34, 2560, 10240, 8, 4, 256, tied=True),
    "phi4-mini": Shape("phi3", 32, 3072, 8192, 24, 8, 128, tied=True),
    "qwen3-8b": Shape("qwen3", 36, 4096, 12288, 32, 8, 128),
    "qwen3-30b-a3b": Shape("qwen3moe", 48, 2048, 768, 32, 4, 128, 128, 8),
    "qwen3-a3b-dense": Shape("qwen3", 48, 2048, 8 * 768, 32, 4, 128),  # what of it works on a token
}


#: Where a block's scales are, halves, and their ratio: with 1 and 7.5, the mean of Q4_K's nibbles, the mean is about 0.
_SCALES = {
    Type.Q4_0: (0, 1), Type.Q4_1: (0, 1, -7.5), Type.Q5_0: (0, 1), Type.Q5_1: (0, 1, -15.5), Type.Q8_0: (0, 1),
    Type.Q2_K: (80, 1, 1.5), Type.Q3_K: (108, 1), Type.Q4_K: (0, 1, 7.5), Type.Q5_K: (0, 1, 15.5), Type.Q6_K: (208, 1),
    Type.IQ1_S: (0, 1), Type.IQ2_XXS: (0, 1), Type.IQ2_XS: (0, 1), Type.IQ2_S: (0, 1), Type.IQ3_XXS: (0, 1),
    Type.IQ3_S: (0, 1), Type.IQ4_NL: (0, 1), Type.IQ4_XS: (0, 1), Type.TQ1_0: (52, 1), Type.TQ2_0: (64, 1),
}  # fmt: skip

#: What rows are that no whole number of blocks fits, as llama-quantize makes them.
_OTHERWISE = {Type.Q4_K: Type.Q5_0, Type.Q5_K: Type.Q5_1, Type.Q6_K: Type.Q8_0}


def blocks(kind: Type, rows: int, columns: int) -> np.ndarray:
    """Quantised rows with mean about 0 and a deviation of 0.02: some random blocks, again and again."""
    size, n_bytes = GGML_QUANT_SIZES[kind]
    n, rng = rows * columns // size, np.random.default_rng(1)
    raw = rng.integers(0, 256, (min(n, 40_009), n_bytes), dtype=np.uint8)
    if kind == Type.IQ1_M:  # four bits of its scale are in each of four numbers
        raw[:, 49::2] = raw[:, 49::2] & 15 | np.array([0x00, 0x00, 0x40, 0x20], np.uint8)  # 2⁻⁷
    elif kind == Type.MXFP4:
        raw[:, 0] = 119  # 2⁻⁸
    elif kind not in _SCALES:
        known = ", ".join(k.name for k in _SCALES)
        raise SystemExit(f"there are no random blocks of {kind.name}: {known}, IQ1_M, MXFP4")
    else:
        at, *ratios = _SCALES[kind]
        for factor in 1.0, 0.02:  # of what comes out with 1
            if factor != 1:
                factor /= dequantize(raw[:1000], kind).std()
            raw[:, at : at + 2 * len(ratios)] = (np.array(ratios) * factor).astype(np.float16).view(np.uint8)
    return np.resize(raw, (n, n_bytes)).reshape(rows, -1)


class Writer:
    def __init__(self, path: str, shape: Shape, n_layer: int, kind: str | None, vocabulary: str) -> None:
        self._shape, self._n_layer, self._file = shape, n_layer, GGUFWriter(path, shape.arch)
        self._small, self._large = (Type[kind], Type[kind]) if kind else (Type.Q4_K, Type.Q6_K)
        self._fused = Type[kind] if kind else Type.Q5_K
        self._copy_vocabulary(GGUFReader(vocabulary))

    def write(self) -> None:
        s, f = self._shape, self._file
        for add, value in (
            (f.add_block_count, self._n_layer), (f.add_context_length, 40960), (f.add_embedding_length, s.n_embd),
            (f.add_feed_forward_length, s.n_ff), (f.add_head_count, s.n_head), (f.add_head_count_kv, s.n_head_kv),
            (f.add_key_length, s.head_dim), (f.add_value_length, s.head_dim), (f.add_layer_norm_rms_eps, 1e-6),
            (f.add_rope_freq_base, 1e6), (f.add_vocab_size, self._n_vocab),
        ):  # fmt: skip
            add(value)
        if s.arch == "gemma3":
            f.add_sliding_window(512 if s.n_embd < 2000 else 1024)
        if s.arch == "phi3":
            f.add_rope_dimension_count(96)
            f.add_sliding_window(262144)
            for name in "long", "short":
                f.add_tensor(f"rope_factors_{name}.weight", np.ones(48, np.float32))
        if s.n_expert:
            f.add_expert_count(s.n_expert)
            f.add_expert_used_count(s.n_used)
            f.add_expert_feed_forward_length(s.n_ff)
        self._matrix("token_embd", self._large if s.tied else self._small, self._n_vocab, s.n_embd)
        for i in range(self._n_layer):
            self._layer(f"blk.{i}.", i)
        self._ones("output_norm", s.n_embd)
        if not s.tied:
            self._matrix("output", self._large, self._n_vocab, s.n_embd)
        f.write_header_to_file()
        f.write_kv_data_to_file()
        f.write_tensors_to_file()
        f.close()

    def _layer(self, prefix: str, i: int) -> None:
        s, eighth = self._shape, self._n_layer // 8
        # the layers that Q4_K_M gives more bits: the first and last eighth, and every third between
        more = i < eighth or i >= 7 * self._n_layer // 8 or (i - eighth) % 3 == 2
        small, large = self._small, self._large if more else self._small
        q_dim, kv_dim = s.n_head * s.head_dim, s.n_head_kv * s.head_dim
        for name in "attn_norm", "ffn_norm", *(("post_attention_norm", "post_ffw_norm") if s.arch == "gemma3" else ()):
            self._ones(prefix + name, s.n_embd)
        self._matrix(f"{prefix}attn_output", small, s.n_embd, q_dim)
        if s.arch == "phi3":  # with matrices of one name
            self._matrix(f"{prefix}attn_qkv", self._fused, q_dim + 2 * kv_dim, s.n_embd)
            self._matrix(f"{prefix}ffn_up", small, 2 * s.n_ff, s.n_embd)
            self._matrix(f"{prefix}ffn_down", large, s.n_embd, s.n_ff)
            return
        for name in "attn_q_norm", "attn_k_norm":
            self._ones(prefix + name, s.head_dim)
        self._matrix(f"{prefix}attn_q", small, q_dim, s.n_embd)
        self._matrix(f"{prefix}attn_k", small, kv_dim, s.n_embd)
        self._matrix(f"{prefix}attn_v", large, kv_dim, s.n_embd)
        suffix = "_exps" if s.n_expert else ""
        for part in "gate", "up":
            self._matrix(f"{prefix}ffn_{part}{suffix}", small, s.n_ff, s.n_embd, s.n_expert)
        self._matrix(f"{prefix}ffn_down{suffix}", large, s.n_embd, s.n_ff, s.n_expert)
        if s.n_expert:
            router = np.random.default_rng(i).normal(0, 0.02, (s.n_expert, s.n_embd)).astype(np.float32)
            self._file.add_tensor(f"{prefix}ffn_gate_inp.weight", router)

    def _matrix(self, name: str, kind: Type, rows: int, columns: int, n: int = 0) -> None:
        if columns % GGML_QUANT_SIZES[kind][0]:
            kind = _OTHERWISE[kind]
        data = blocks(kind, max(n, 1) * rows, columns)
        self._file.add_tensor(f"{name}.weight", data.reshape(n, rows, -1) if n else data, raw_dtype=kind)

    def _ones(self, name: str, size: int) -> None:
        self._file.add_tensor(f"{name}.weight", np.ones(size, np.float32))

    def _copy_vocabulary(self, source: GGUFReader) -> None:
        self._n_vocab = len(source.fields["tokenizer.ggml.tokens"].data)
        for key, field in source.fields.items():
            if not key.startswith("tokenizer."):
                continue
            value: Any = field.contents()
            if field.types[0] == GGUFValueType.ARRAY:
                self._file.add_array(key, value)
            else:
                self._file.add_key_value(key, value, field.types[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("out")
    parser.add_argument("--vocab", required=True, help="file to take the vocabulary from")
    parser.add_argument("--type", help="of all matrices")
    parser.add_argument("--layers", type=int, help="fewer than the real model has")
    options = parser.parse_args()
    shape = SHAPES[options.shape]
    Writer(options.out, shape, options.layers or shape.n_layer, options.type, options.vocab).write()


if __name__ == "__main__":
    main()

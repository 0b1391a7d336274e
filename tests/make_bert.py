"""Writes small BERTs with random weights, and a vocabulary of letters, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.make_model import add_key, finish

CLS, SEP = 2, 3
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def write_bert(
    path: Path, *, n_ctx: int = 400, n_layer: int = 2, n_embd: int = 64, labels: int = 0, **metadata: Any
) -> None:
    """labels: of a classifier, 0 for none. metadata: keys to add or replace."""
    rng = np.random.default_rng(0)
    tokens = [*_SPECIAL, *(f"▁{letter}" for letter in _LETTERS), *_LETTERS]
    control, normal = int(gguf.TokenType.CONTROL), int(gguf.TokenType.NORMAL)
    keys = {
        "bert.block_count": n_layer,
        "bert.context_length": n_ctx,
        "bert.embedding_length": n_embd,
        "bert.feed_forward_length": 2 * n_embd,
        "bert.attention.head_count": 2,
        "bert.attention.layer_norm_epsilon": 1e-12,
        "bert.attention.causal": False,
        "bert.pooling_type": 1,
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [control] * len(_SPECIAL) + [normal] * (len(tokens) - len(_SPECIAL)),
        "tokenizer.ggml.bos_token_id": CLS,
        "tokenizer.ggml.seperator_token_id": SEP,
        "tokenizer.ggml.unknown_token_id": 1,
        **metadata,
    }
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd": (len(tokens), n_embd), "position_embd": (n_ctx, n_embd), "token_types": (2, n_embd),
        "token_embd_norm": (n_embd,),
    }  # fmt: skip
    for i in range(n_layer):
        shapes |= {f"blk.{i}.attn_{part}": (n_embd, n_embd) for part in ("q", "k", "v", "output")}
        shapes |= {f"blk.{i}.ffn_up": (2 * n_embd, n_embd), f"blk.{i}.ffn_down": (n_embd, 2 * n_embd)}
        shapes |= {f"blk.{i}.{norm}": (n_embd,) for norm in ("attn_output_norm", "layer_output_norm")}
    if labels:
        shapes |= {"cls": (n_embd, n_embd), "cls.output": (labels, n_embd)}
    writer = gguf.GGUFWriter(path, "bert")
    for key, value in keys.items():
        add_key(writer, key, value)
    for name, shape in shapes.items():
        weight = rng.normal(1 if name.endswith("norm") else 0, shape[-1] ** -0.5, shape)
        writer.add_tensor(f"{name}.weight", weight.astype(np.float32))
        if not name.endswith(("embd", "types")):
            writer.add_tensor(f"{name}.bias", rng.normal(0, 0.3, shape[0]).astype(np.float32))
    finish(writer)

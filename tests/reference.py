"""The llama architecture in float64 NumPy, written from the papers: the truth that the engine is held against."""

from __future__ import annotations

import numpy as np


def llama_logits(
    weights: dict[str, np.ndarray],
    tokens: list[int],
    *,
    n_head: int,
    n_head_kv: int | list[int],
    frequencies: np.ndarray | None = None,
    magnitude: float = 1.0,
    eps: float = 1e-5,
    base: float = 10000.0,
) -> np.ndarray:
    """Logits float64[token, n_vocab] of one sequence; frequencies: of RoPE, base^(-2i/d) where None."""
    w = {name: values.astype(np.float64, copy=False) for name, values in weights.items()}
    n = len(tokens)
    x = w["token_embd.weight"][tokens]
    head_dim = w["blk.0.attn_q.weight"].shape[0] // n_head
    if frequencies is None:
        frequencies = base ** (-np.arange(0, head_dim, 2) / head_dim)
    turn = magnitude * np.exp(1j * np.arange(n)[:, None, None] * frequencies)
    hidden = np.triu(np.ones((n, n), bool), 1)

    def norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x * x).mean(axis=1, keepdims=True) + eps) * weight

    def rope(x: np.ndarray) -> np.ndarray:
        turned = (x[..., 0::2] + 1j * x[..., 1::2]) * turn
        return np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)

    layer = 0
    while (p := f"blk.{layer}.") + "attn_q.weight" in w:
        h = norm(x, w[p + "attn_norm.weight"])
        q = rope((h @ w[p + "attn_q.weight"].T).reshape(n, n_head, -1))
        n_kv = n_head_kv[layer] if isinstance(n_head_kv, list) else n_head_kv
        k = rope((h @ w[p + "attn_k.weight"].T).reshape(n, n_kv, -1)).repeat(n_head // n_kv, axis=1)
        v = (h @ w[p + "attn_v.weight"].T).reshape(n, n_kv, -1).repeat(n_head // n_kv, axis=1)
        k, v = (a.astype(np.float16).astype(np.float64) for a in (k, v))  # as the cache keeps them
        scores = np.where(hidden, -np.inf, np.einsum("thd,shd->hts", q, k) / np.sqrt(head_dim))
        shares = np.exp(scores - scores.max(axis=2, keepdims=True))
        shares /= shares.sum(axis=2, keepdims=True)
        x = x + np.einsum("hts,shd->thd", shares, v).reshape(n, -1) @ w[p + "attn_output.weight"].T
        h = norm(x, w[p + "ffn_norm.weight"])
        gate = h @ w[p + "ffn_gate.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w[p + "ffn_up.weight"].T)) @ w[p + "ffn_down.weight"].T
        layer += 1
    return norm(x, w["output_norm.weight"]) @ w.get("output.weight", w["token_embd.weight"]).T

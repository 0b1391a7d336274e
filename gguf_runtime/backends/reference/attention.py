"""The meaning of attention (Vaswani et al. 2017), with the forms of masks and biases that models have."""

from __future__ import annotations

import numpy as np

from ...operations import Attention, BestKeys, Keep
from ..biases import alibi_slopes, distance_buckets
from .operations import Run, softmax
from .selection import greatest


def attention(run: Run, op: Attention) -> np.ndarray:
    """f64[tokens, heads, v_width]; keeps the keys and values of the batch's tokens first."""
    made = np.empty((len(run.ids), op.out.heads, op.v_width))
    for chunk, rows in run.sequences():
        n_keys = chunk.sequence.n_source if op.source else chunk.position + len(chunk.tokens)
        if op.k:
            k = run[op.k][rows]
            v = run[op.v][rows] if op.v else k[..., : op.v_width]
            run.memory.save(chunk.sequence, op.slot, chunk.position, k, v)
        k, v = run.memory.load(chunk.sequence, op.slot, n_keys)
        if op.summaries is not None:
            summaries, _ = run.memory.load(chunk.sequence, op.summaries, n_keys)
            k = np.concatenate([k, summaries[op.stride - 1 :: op.stride]])
            v = k[..., : op.v_width]
        keys = run[op.keys][rows] if op.keys else None
        made[rows] = _attend(run, op, run[op.q][rows], k, v, run.positions[rows], keys)
    return made


def best_keys(run: Run, op: BestKeys) -> np.ndarray:
    """f64[tokens, 1, n]; keeps the keys of the batch's tokens first."""
    made = np.full((len(run.ids), op.n), -1.0)
    for chunk, rows in run.sequences():
        run.memory.save(chunk.sequence, op.slot, chunk.position, run[op.k][rows], None)
        k, _ = run.memory.load(chunk.sequence, op.slot, chunk.position + len(chunk.tokens))
        products = np.maximum(np.einsum("thd,sd->ths", run[op.q][rows], k[:, 0]), 0)
        weights = run[op.weights][rows].reshape(len(products), -1) if op.weights else np.ones(products.shape[:2])
        scores = np.einsum("ths,th->ts", products, weights)
        for row, score in zip(range(rows.start, rows.stop), scores, strict=True):
            best = _choose(op, score[op.stride - 1 : run.positions[row] + 1 : op.stride], run.positions[row] + 1)
            made[row, : len(best)] = best
    return made


def _choose(op: BestKeys, scores: np.ndarray, n_tokens: int) -> np.ndarray:
    """Positions, by the scores of each stride-th of n_tokens."""
    tail = np.arange(len(scores) * op.stride, n_tokens)
    if op.spread == "filled":
        each = np.concatenate([np.repeat(scores, op.stride), np.full(len(tail), np.inf)])
        return np.array(greatest(each, op.n))
    if op.spread == "whole":
        best = np.array(greatest(scores, (op.n + 1) // op.stride - 1), np.int64)
        return np.concatenate([(best[:, None] * op.stride + np.arange(op.stride)).reshape(-1), tail])
    return np.array(greatest(scores, op.n)) * op.stride + op.stride - 1


def keep(run: Run, op: Keep) -> np.ndarray:
    """f64[tokens, heads, width]: the keys."""
    for chunk, rows in run.sequences():
        run.memory.save(chunk.sequence, op.slot, chunk.position, run[op.k][rows], run[op.v][rows] if op.v else None)
    return run[op.k]


def _attend(
    run: Run, op: Attention, q: np.ndarray, k: np.ndarray, v: np.ndarray, positions: np.ndarray,
    keys: np.ndarray | None,
) -> np.ndarray:  # fmt: skip
    """One sequence: q f64[tokens, heads, width] at these positions, k and v f64[all tokens, kv_heads, width].

    keys: f64[tokens, 1, n], the only ones that each token sees.
    """
    n_heads = q.shape[1]
    k, v = (np.repeat(x, n_heads // op.kv_heads, axis=1) for x in (k, v))
    logits = np.einsum("thd,shd->ths", q, k) * op.scale
    if op.softcap:
        logits = op.softcap * np.tanh(logits / op.softcap)
    at, n_own = _key_positions(op, len(k))
    behind = positions[:, None] - at  # how far each key lies before each query
    if op.alibi:
        logits -= alibi_slopes(n_heads, op.alibi)[None, :, None] * np.abs(behind)[:, None]
    if op.bias:
        table = run.weights(op.bias)
        logits += table[distance_buckets(behind, len(table), op.causal)].transpose(0, 2, 1)
    sees = _sees(op, positions, behind)
    sees[:, n_own:] = behind[:, n_own:] >= 0
    if keys is not None:
        of_choice = slice(n_own if op.stride else 0, None)
        sees[:, of_choice] &= (at[of_choice] == keys.reshape(len(q), -1, 1)).any(axis=1)
    logits = np.where(sees[:, None], logits, -np.inf)
    if op.sinks:
        sinks = np.broadcast_to(run.weights(op.sinks).reshape(1, n_heads, 1), (len(q), n_heads, 1))
        shares = softmax(np.concatenate([logits, sinks], axis=2))[..., :-1]
    else:
        shares = softmax(logits)
    return np.einsum("ths,shd->thd", shares, v)


def _key_positions(op: Attention, n: int) -> tuple[np.ndarray, int]:
    """Where n keys are, of which the first are the slot's own, and how many these are; then come summaries."""
    if not op.stride:
        return np.arange(n), n
    n_own = next(own for own in range(n + 1) if own + own // op.stride == n)
    return np.concatenate([np.arange(n_own), np.arange(op.stride - 1, n_own, op.stride)]), n_own


def _sees(op: Attention, positions: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """Which keys each token sees: bool[tokens, all tokens]."""
    sees = behind >= 0 if op.causal else np.ones(behind.shape, bool)
    if op.window:
        sees = sees & ((behind < op.window) if op.causal else (np.abs(behind) <= op.window // 2))
    if op.chunk:
        sees = sees & (positions[:, None] - behind >= (positions // op.chunk * op.chunk)[:, None])
    return sees

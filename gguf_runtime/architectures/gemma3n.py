"""Gemma 3n (2025)."""

from __future__ import annotations

from ..operations import (
    Activate,
    Attention,
    Combine,
    Concat,
    Gate,
    HeadLinear,
    Mul,
    Norm,
    Repeat,
    RopeFrequencies,
    Scale,
    Slice,
    Value,
    View,
)
from . import per_layer
from .hparams import ModelError
from .layers import Layers

_N_KEEPING = 20  # layers with keys and values of their own; later ones use those of the last two
_N_SPARSE = 10  # first layers in whose feed-forward only what exceeds most of it counts
_DEVIATIONS = 1.6448533535003662  # by this many: 5 % of a normal distribution


def gemma3n(m: Layers) -> None:
    """Four streams (AltUp, Baykal et al. 2023): one passes the layer, the others are predicted and corrected by it."""
    w = m.w
    w.ignore("activation_sparsity_scale", "attention.shared_kv_layers")  # the same in all models
    n, active = w.count("altup.num_inputs"), w.count("altup.active_idx", 0, least=0)
    if active >= n or n < 3:
        raise ModelError(f"{w.prefix}altup.*: {n} streams, of which {active} is active, are not supported")
    full = m.rope_frequencies("halves")
    local = m.rope_frequencies("halves", base=w.number("rope.freq_base_swa", 10000.0), scaled=False)
    x = m.embed(m.n_embd**0.5)
    embedded = per_layer.embed(m, x, w.count("embedding_length_per_layer_input"))
    streams = _join(m, x, _of_magnitude(m, _project(m, m.graph(Repeat(x, n - 1)), "altup_proj"), x))
    for _ in m.layers():
        predicted = _predict(m, streams, active)
        x = _stream(m, predicted, active)
        window = m.window(5)
        y = _layer(m, x, local if window else full, window)
        streams = _correct(m, predicted, y, x)
        x = m.graph(Scale(_stream(m, streams, active), weight=m.tensor("altup_correct_scale.weight", m.n_embd)))
        added = per_layer.read(m, x, embedded)
        streams = _join(m, _stream(m, streams, 0), m.add(_others(m, streams), added))
    others = _of_magnitude(m, _project(m, _others(m, streams), "altup_unembd_proj"), _stream(m, streams, active))
    x = m.add(_stream(m, streams, 0), m.graph(Combine(others, None)))
    m.output(m.graph(Scale(x, 1 / n)), softcap=30.0)


def _layer(m: Layers, x: Value, rope: RopeFrequencies, window: int) -> Value:
    """Attention, with a low-rank branch beside it (Laurel), and feed-forward."""
    h = m.norm(x, "attn_norm")
    rank = m.w.shape(m.name("laurel_l.weight"))[0]
    low = m.linear(m.linear(h, "laurel_l", rank), "laurel_r", m.n_embd)
    laurel = m.add(h, m.norm(low, "laurel_post_norm"))
    y = m.add(x, m.norm(_attention(m, h, rope, window), "post_attention_norm"))
    y = m.graph(Scale(m.add(y, laurel), 0.5**0.5))
    return m.add(y, m.norm(m.ffn(m.norm(y, "ffn_norm"), lambda gate, up: _glu(m, gate, up)), "post_ffw_norm"))


def _attention(m: Layers, h: Value, rope: RopeFrequencies, window: int) -> Value:
    """Norms of queries, keys and values; logits are not scaled."""
    q, k, v = m.qkv(h)  # later layers' files have keys and values that nobody reads
    q, k = m.rotate(*m.qk_norm(q, k), rope)
    if m.i < _N_KEEPING:
        return m.project(m.attend(q, k, m.bare_norm(v), scale=1.0, window=window))
    slot = _N_KEEPING - (2 if window else 1)
    return m.project(m.graph(Attention(q, None, None, slot, k.heads, v.width, 1.0, m.causal, window)))


def _glu(m: Layers, gate: Value, up: Value) -> Value:
    if m.i < _N_SPARSE:
        gate = m.graph(Activate(gate, "sparse", (_DEVIATIONS,)))
    return m.graph(Gate(gate, up, "gelu"))


def _modalities(m: Layers, x: Value, n: int) -> Value:
    h = m.graph(Scale(m.norm(x, "altup_router_norm"), 1 / m.n_embd))
    return m.graph(Activate(m.linear(h, "altup_router", n), "tanh"))


def _predict(m: Layers, streams: Value, active: int) -> Value:
    """Each stream plus a mixture of all."""
    n = streams.heads
    mixture = m.linear(_modalities(m, _stream(m, streams, active), n), "altup_predict_coef", n * n, n)
    return m.add(streams, m.graph(Combine(streams, mixture)))


def _correct(m: Layers, predicted: Value, y: Value, x: Value) -> Value:
    """Each stream by what the layer added to the active one, times 1 + a coefficient."""
    n = predicted.heads
    coefficients = m.linear(_modalities(m, y, n), "altup_correct_coef", n, n)
    change = m.add(y, x, -1.0)
    return m.add(m.add(predicted, change), m.graph(Mul(change, coefficients)))


def _stream(m: Layers, streams: Value, i: int) -> Value:
    return m.graph(Slice(m.graph(View(streams, 1)), i * m.n_embd, (i + 1) * m.n_embd))


def _others(m: Layers, streams: Value) -> Value:
    """All streams but the first."""
    flat = m.graph(Slice(m.graph(View(streams, 1)), m.n_embd, streams.size))
    return m.graph(View(flat, streams.heads - 1))


def _join(m: Layers, first: Value, others: Value) -> Value:
    return m.graph(View(m.graph(Concat(first, m.graph(View(others, 1)))), others.heads + 1))


def _project(m: Layers, streams: Value, name: str) -> Value:
    """Each stream by a matrix of its own."""
    return m.graph(HeadLinear(streams, m.w.tensor(f"{name}.weight", streams.heads, m.n_embd, m.n_embd)))


def _of_magnitude(m: Layers, streams: Value, x: Value) -> Value:
    """Streams as long as x: their directions times x·(x / |x|), which is |x|."""
    length = m.graph(Combine(m.graph(View(x, x.size)), _direction(m, x)))
    return m.graph(Mul(_direction(m, streams), length))


def _direction(m: Layers, x: Value) -> Value:
    return m.graph(Norm(x, None, 1e-30, "l2"))

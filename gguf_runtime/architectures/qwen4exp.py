"""Qwen 4's experiment (Qwen ThreadPool 2026): Qwen 3.5 between hyper-connections, and a memory of n-grams."""

from __future__ import annotations

import numpy as np

from ..operations import (
    Activate,
    Add,
    BestKeys,
    Combine,
    Conv,
    EmbedNgrams,
    Gate,
    HeadLinear,
    Linear,
    Mul,
    Norm,
    Repeat,
    Rope,
    Scale,
    Value,
    View,
)
from .layers import Layers
from .qwen_next import delta_net_35, gated_attention
from .summaries import mean


def qwen4exp(m: Layers) -> None:
    """Blocks read mixtures of several streams instead of norms, and what they made is shared out to all of them."""
    m.w.ignore("rope.dimension_sections")  # of positions in pictures; a text's are the same in all
    memory, with_memory = _ngrams(m)
    x = m.graph(Repeat(m.embed(), m.w.count("hyper_connection.count", least=2)))
    for i in m.layers():
        if i in with_memory:
            x = m.graph(Add(x, _recall(m, memory, x)))
        h, shares = _read(m, x, "attn")
        x = _write(m, x, delta_net_35(m, h, gate="sigmoid") if m.recurrent(4) else _attention(m, h), shares)
        h, shares = _read(m, x, "ffn")
        x = _write(m, x, m.moe(h, normalise=True), shares)
    _, h = _mixture(m, x, "output_hc")
    m.output(h, norm="")


def _attention(m: Layers, h: Value) -> Value:
    """Tokens see the best blocks of keys, whose means are rotated as the first of a block would be."""
    stride = m.w.count("attention.compress_ratios", 0, layer=m.i, least=0)
    n_head, width = m.w.count("attention.indexer.head_count"), m.w.count("attention.indexer.key_length")
    if not stride:
        return gated_attention(m, h)
    rope = m.rope_frequencies("halves")
    q = m.norm(m.linear(h, "indexer.q_proj", n_head * width, n_head), "indexer.q_norm")
    k = m.norm(mean(m, m.linear(h, "indexer.k_proj", width), stride), "indexer.k_norm")
    q, k = m.graph(Rope(q, rope)), m.graph(Rope(k, rope, 0, stride - 1))
    n = min(m.w.count("attention.indexer.top_k"), m.n_ctx) + stride - 1
    return gated_attention(m, h, m.graph(BestKeys(q, k, None, m.new_slot(), n, stride, "filled")))


def _mixture(m: Layers, x: Value, prefix: str) -> tuple[Value, Value]:
    """The streams, normed, and the mean of them after gates that depend on all."""
    kind, eps = m.norm_kind
    size, rank = x.size, m.w.count("hyper_connection.low_rank")
    normed = m.graph(Norm(x, m.w.tensor(f"{prefix}_norm.weight", x.heads, x.width), eps, kind))
    low = m.graph(Linear(normed, m.w.tensor(f"{prefix}_down.weight", rank, size)))
    low = m.graph(Activate(m.graph(Scale(low, 1 / x.heads)), "silu"))
    gates = m.graph(Linear(low, m.w.tensor(f"{prefix}_up.weight", size, rank), heads=x.heads))
    total = m.graph(Combine(m.graph(Gate(gates, normed, "sigmoid")), None))
    return normed, m.graph(Scale(total, 1 / x.heads))


def _read(m: Layers, x: Value, block: str) -> tuple[Value, Value]:
    """What a block reads, and how much of its result each stream receives: 1 where nothing says otherwise."""
    normed, h = _mixture(m, x, m.name(f"hc_{block}"))
    shares = m.graph(Scale(m.linear(normed, f"hc_{block}_inject", x.heads, x.heads), 1 / x.heads))
    return h, m.graph(Scale(m.graph(Activate(shares, "sigmoid")), 2.0))


def _write(m: Layers, x: Value, y: Value, shares: Value) -> Value:
    return m.graph(Add(x, m.graph(Mul(y, shares))))


def _ngrams(m: Layers) -> tuple[Value | None, list[int]]:
    """What a table has for the n-grams that end with each token, and the layers that look at it."""
    w, layers = m.w, m.w.integers("ple.layers")
    if not layers:
        return None, []
    n, per_n = w.count("ple.ngram_size", least=2), w.count("ple.heads_per_ngram")
    sizes, offsets = (w.integers(f"ple.head_{part}", (n - 1) * per_n) for part in ("vocab_sizes", "offsets"))
    multipliers, width = w.integers("ple.layer_multipliers", n), w.count("embedding_length_per_layer_input")
    table = w.rows("per_layer_token_embd.weight", max(map(sum, zip(sizes, offsets, strict=True))), width)
    end = w.count("ple.eos_token_id", least=0)
    w.ignore("ple.image_token_id")
    op = EmbedNgrams(table, tuple(multipliers), tuple(sizes), tuple(offsets), end, m.new_slot())
    return m.graph(View(m.graph(op), 1)), layers


def _recall(m: Layers, memory: Value | None, x: Value) -> Value:
    """The memory's value for each stream, as far as its key meets the stream, and a convolution over such values."""
    assert memory
    n, width = x.heads, x.width
    key = m.norm(m.linear(memory, "ple_key", n * width, n), "ple_norm_key", n, width)
    met = m.graph(Mul(key, m.norm(x, "ple_norm_query", n, width)))
    met = m.graph(HeadLinear(met, m.constant("ones", np.ones((n, 1, width)))))
    met = m.graph(Activate(m.graph(Scale(met, width**-0.5)), "signed_sqrt", (1e-6,)))
    value = m.graph(Mul(m.linear(memory, "ple_value", width), m.graph(Activate(met, "sigmoid"))))
    weight = m.tensor("ple_conv1d.weight", n * width, m.w.count("ple.conv_kernel"))
    past = Conv(m.norm(value, "ple_norm_conv", n, width), weight, m.new_slot(), None, m.w.count("ple.ngram_size"))
    return m.graph(Add(value, m.graph(Activate(m.graph(past), "silu"))))

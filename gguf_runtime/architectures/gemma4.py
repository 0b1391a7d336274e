"""Gemma 4 (2026)."""

from __future__ import annotations

from ..operations import Attention, Linear, Rope, RopeFrequencies, Scale, Value
from . import per_layer
from .hparams import ModelError
from .layers import Layers


def gemma4(m: Layers) -> None:
    """As gemma3; layers with windows have narrower heads, the last ones use keys and values of earlier ones."""
    w = m.w
    full = m.rope_frequencies("halves")
    local = m.rope_frequencies(
        "halves",
        n_rot=w.count("rope.dimension_count_swa", w.count("attention.key_length_swa")),
        base=w.number("rope.freq_base_swa", 10000.0),
        scaled=False,
    )
    w.ignore("attention.value_length", "attention.value_length_swa")  # as wide as keys
    x = m.embed(m.n_embd**0.5)
    size = w.count("embedding_length_per_layer_input", 0, least=0)
    embedded = per_layer.embed(m, x, size) if size else None
    keeps: dict[bool, Attention] = {}  # the last attention that keeps keys and values, by whether it has a window
    for _ in m.layers():
        window = m.window()
        y = _attention(m, m.norm(x, "attn_norm"), local if window else full, window, keeps)
        x = m.add(x, m.norm(y, "post_attention_norm"))
        x = m.add(x, m.norm(_feed_forward(m, x), "post_ffw_norm"))
        if embedded:
            x = m.add(x, per_layer.read(m, x, embedded))
        if scale := m.optional("layer_output_scale.weight", 1):
            x = m.graph(Scale(x, weight=scale))
    m.output(x, softcap=w.number("final_logit_softcapping", 30.0))


def _attention(m: Layers, h: Value, rope: RopeFrequencies, window: int, keeps: dict[bool, Attention]) -> Value:
    """Norms of queries, keys and values; logits are not scaled."""
    width = m.w.count("attention.key_length_swa") if window else m.head_dim
    parts = _projections(m, h, width)
    q = m.graph(Rope(m.norm(parts[0], "attn_q_norm"), rope))
    if m.i < m.n_layer - m.w.count("attention.shared_kv_layers", 0, least=0):
        k, v = parts[1], parts[-1]  # without values of its own a layer takes what its keys are made of
        k = m.graph(Rope(m.norm(k, "attn_k_norm"), rope))
        op = Attention(q, k, m.bare_norm(v), m.i, k.heads, width, 1.0, m.causal, window)
        keeps[bool(window)] = op
    else:
        if bool(window) not in keeps:
            raise ModelError(f"layer {m.i} is to use keys of an earlier layer of its kind, but there is none")
        op = keeps[bool(window)]._replace(q=q, k=None, v=None)
    return m.project(m.graph(op))


def _projections(m: Layers, h: Value, width: int) -> list[Value]:
    """Queries, and what there is of keys and values."""
    n_head, n_kv = m.n_head, m.n_head_kv
    if m.has("attn_qkv"):
        return m.slices(h, "attn_qkv", (n_head * width, n_head), (n_kv * width, n_kv), (n_kv * width, n_kv))
    names = ("attn_q", n_head), ("attn_k", n_kv), ("attn_v", n_kv)
    return [m.linear(h, name, heads * width, heads) for name, heads in names if m.has(name)]


def _feed_forward(m: Layers, x: Value) -> Value:
    """A feed-forward, beside experts in some models, each with its norms."""
    y = m.ffn(m.norm(x, "ffn_norm"), "gelu")
    if not m.has("ffn_gate_inp"):
        return y
    h = m.graph(Scale(m.bare_norm(x), m.n_embd**-0.5, m.tensor("ffn_gate_inp.scale", m.n_embd)))
    logits = m.graph(Linear(h, m.tensor("ffn_gate_inp.weight", m.n_expert, m.n_embd)))
    route = m.route_by(logits)
    experts = m.experts(m.norm(x, "pre_ffw_norm_2"), route, "gelu")
    return m.add(m.norm(y, "post_ffw_norm_1"), m.norm(experts, "post_ffw_norm_2"))

"""Per-layer embeddings (Gemma 3n, 4): a second, wide embedding of each token, of which every layer reads its part."""

from __future__ import annotations

from ..operations import Activate, Embed, Linear, Mul, Norm, Scale, Slice, Value, View
from .layers import Layers


def embed(m: Layers, x: Value, size: int) -> Value:
    """The token's own, and a projection of its embedding x: size numbers for each layer."""
    n, kind = m.n_layer, m.norm_kind
    table = m.w.rows("per_layer_token_embd.weight", m.n_vocab, n * size)
    own = m.graph(View(m.graph(Embed(table, size**0.5)), n))
    made = m.graph(Linear(x, m.w.tensor("per_layer_model_proj.weight", n * size, m.n_embd), heads=n))
    made = m.graph(Scale(made, m.n_embd**-0.5))
    made = m.graph(Norm(made, m.w.tensor("per_layer_proj_norm.weight", size), kind[1], kind[0]))
    return m.graph(View(m.graph(Scale(m.add(made, own), 0.5**0.5)), 1))


def read(m: Layers, x: Value, embedded: Value) -> Value:
    """What the layer makes of its part: a gate that depends on x, and a projection."""
    size = embedded.size // m.n_layer
    own = m.graph(Slice(embedded, m.i * size, (m.i + 1) * size))
    gate = m.graph(Activate(m.linear(x, "inp_gate", size), "gelu"))
    return m.norm(m.linear(m.graph(Mul(gate, own)), "proj", m.n_embd), "post_norm")

"""Multi-head latent attention (DeepSeek 2024): keys and values are made of one short vector for each token.

Only that latent and one rotated part that all heads share are kept. Queries are turned into queries of the latent
("absorbed"), and what attention mixes of latents into values; older files, and small models, make keys and values of
each head instead.
"""

from __future__ import annotations

from typing import NamedTuple

from ..loader import Tensor
from ..operations import (
    Attention,
    BestKeys,
    Concat,
    HeadLinear,
    Linear,
    Norm,
    Rope,
    RopeFrequencies,
    Scale,
    Slice,
    Value,
)
from . import rope
from .hparams import ModelError
from .layers import Layers


def rotation(m: Layers) -> tuple[RopeFrequencies, float]:
    """RoPE in pairs, and by what it makes logits grow: YaRN's part of the scale of attention."""
    mu = m.w.number("rope.scaling.yarn_log_multiplier", 0.0) / 0.1  # converters have multiplied it
    # DeepSeek-V2 and 3 leave cos and sin as they are, whatever mu
    of_rope = float(mu != 0) if m.w.prefix == "deepseek2." else mu
    frequencies = m.rope_frequencies("pairs", factors=False, yarn_mu=of_rope)
    factor = m.w.number("rope.scaling.factor", 1.0) if m.w.text("rope.scaling.type", "") == "yarn" else 1.0
    return frequencies, (frequencies.magnitude * rope.yarn_magnitude(factor, mu)) ** 2


class Absorbed(NamedTuple):
    """What attention of latents needs: queries of each head, one key, and what queries were made of."""

    q: Value
    k: Value
    q_latent: Value
    rank: int  # the latent's part of keys
    width: int  # a head's own width, before it was absorbed
    v_width: int


def absorbed(m: Layers, h: Value, frequencies: RopeFrequencies | None, *, suffix: str = "") -> Absorbed:
    """Queries and keys of the latent and the rotated part. suffix: of the keys that have their sizes."""
    rank = m.w.count(f"attention.kv_lora_rank{suffix}")
    width, v_width = (m.w.count(f"attention.{part}_length_mla{suffix}") for part in ("key", "value"))
    q, q_latent = _queries(m, h, width)
    if not m.w.count("rope.dimension_count", least=0):  # keys are the latent alone
        of_latent = HeadLinear(q, m.tensor("attn_k_b.weight", q.heads, rank, width))
        c = m.norm(m.linear(h, "attn_kv_a_mqa", rank), "attn_kv_a_norm")
        return Absorbed(m.graph(of_latent), c, q_latent, rank, width, v_width)
    c, k = _latent(m, h, rank)
    n_nope = _nope(width, k.width)
    of_latent = HeadLinear(m.graph(Slice(q, 0, n_nope)), m.tensor("attn_k_b.weight", q.heads, rank, n_nope))
    rotated = _rotate(m, m.graph(Slice(q, n_nope, width)), frequencies)
    q, k = m.graph(Concat(m.graph(of_latent), rotated)), m.graph(Concat(c, _rotate(m, k, frequencies)))
    return Absorbed(q, k, q_latent, rank, width, v_width)


def attend(m: Layers, a: Absorbed, *, growth: float = 1.0, window: int = 0, keys: Value | None = None,
           sinks: Tensor | None = None) -> Value:  # fmt: skip
    """Attention whose values are the keys' latents; then each head's value of what was mixed."""
    scale = growth * a.width**-0.5
    o = m.graph(Attention(a.q, a.k, None, m.i, 1, a.rank, scale, m.causal, window=window, sinks=sinks, keys=keys))
    return m.graph(HeadLinear(o, m.tensor("attn_v_b.weight", o.heads, a.v_width, a.rank)))


def attend_heads(m: Layers, h: Value, frequencies: RopeFrequencies | None, *, growth: float = 1.0) -> Value:
    """Attention with keys and values of each head, made of the latent."""
    width, v_width = m.head_dim, m.head_dim_v
    q, _ = _queries(m, h, width)
    c, k_rope = _latent(m, h, m.w.count("attention.kv_lora_rank"))
    n_nope = _nope(width, k_rope.width)
    kv = m.linear(c, "attn_kv_b", m.n_head * (n_nope + v_width), m.n_head)
    k = m.graph(Concat(m.graph(Slice(kv, 0, n_nope)), _rotate(m, k_rope, frequencies)))
    v = m.graph(Slice(kv, n_nope, kv.width))
    return m.attend(_rotate(m, q, frequencies, n_nope), k, v, scale=growth * width**-0.5)


def best_keys(m: Layers, h: Value, q_latent: Value, frequencies: RopeFrequencies, *, rotated_last: bool = False,
              eps: float = 1e-6) -> Value:  # fmt: skip
    """The keys that a small attention of its own, the indexer, finds to matter (DeepSeek-V3.2, 2025).

    rotated_last: whether the last columns of its heads are rotated, not the first. eps: of its norm.
    """
    n_head, width = m.w.count("attention.indexer.head_count"), m.w.count("attention.indexer.key_length")
    q = m.linear(q_latent, "indexer.attn_q_b", n_head * width, n_head)
    weight, bias = (m.tensor(f"indexer.k_norm.{part}", width) for part in ("weight", "bias"))
    k = m.graph(Norm(m.linear(h, "indexer.attn_k", width), weight, eps, "layer", bias))
    weights = m.graph(Linear(h, m.tensor("indexer.proj.weight", n_head, m.n_embd)))
    weights = m.graph(Scale(weights, (width * n_head) ** -0.5))
    first = width - 2 * len(frequencies.frequencies) if rotated_last else 0
    q, k = _rotate(m, q, frequencies, first), _rotate(m, k, frequencies, first)
    n = min(m.w.count("attention.indexer.top_k"), m.n_ctx)
    return m.graph(BestKeys(q, k, weights, m.new_slot(), n))


def ignore_indexer(m: Layers) -> None:
    """Files may have its tensors in layers that see the keys which were found for one before."""
    names = "attn_q_b.weight", "attn_k.weight", "k_norm.weight", "k_norm.bias", "proj.weight"
    m.w.ignore(*(m.name(f"indexer.{name}") for name in names))


def _queries(m: Layers, h: Value, width: int) -> tuple[Value, Value]:
    """Queries of each head, and what they were made of, which may be a short vector too."""
    # the latter are of what is kept; the first is in files of models that do without, too
    m.w.ignore(*(f"attention.{key}" for key in ("q_lora_rank", "head_count_kv", "key_length", "value_length")))
    if not m.has("attn_q_a"):
        return m.linear(h, "attn_q", m.n_head * width, m.n_head), h
    h = m.norm(m.linear(h, "attn_q_a", m.w.count("attention.q_lora_rank")), "attn_q_a_norm")
    return m.linear(h, "attn_q_b", m.n_head * width, m.n_head), h


def _latent(m: Layers, h: Value, rank: int) -> tuple[Value, Value]:
    """The latent, and the part of keys that is to be rotated."""
    c, k = m.slices(h, "attn_kv_a_mqa", (rank, 1), (m.w.count("rope.dimension_count"), 1))
    return m.norm(c, "attn_kv_a_norm"), m.norm(k, "attn_k_norm") if m.has("attn_k_norm") else k


def _nope(width: int, n_rot: int) -> int:
    if n_rot >= width:
        raise ModelError(f"RoPE over {n_rot} dimensions leaves none of a head of {width}")
    return width - n_rot


def _rotate(m: Layers, x: Value, frequencies: RopeFrequencies | None, offset: int = 0) -> Value:
    if frequencies and not 0 <= offset <= x.width - 2 * len(frequencies.frequencies):
        raise ModelError(f"RoPE over {2 * len(frequencies.frequencies)} dimensions, but a head has {x.width}")
    return m.graph(Rope(x, frequencies, offset)) if frequencies else x

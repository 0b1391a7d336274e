"""GLM 5.3 Flash (Zhipu 2026): hyper-connections around delta attention, and around latent attention without RoPE."""

from __future__ import annotations

from ..operations import BestKeys, Combine, Norm, Scale, Value
from . import mla
from .delta_net import kimi_delta_attention, low_rank
from .hparams import ModelError
from .hyper import Streams
from .layers import Layers
from .summaries import weighted_mean


def glm5_next(m: Layers) -> None:
    """Experts are chosen as in GLM 5; streams are mixed by matrices that are nearly doubly stochastic."""
    m.w.ignore("rope.freq_base")
    streams = Streams(m)
    keys: Value | None = None

    def attention(h: Value) -> Value:
        nonlocal keys
        if not m.n_head_kv:
            return kimi_delta_attention(m, h, low_rank(m, h, "ssm_g"), bounded_sign=-1.0)
        a = mla.absorbed(m, h, None)
        if keys is None or m.w.flag("attention.indexer.types", True, layer=m.i):
            keys = _best_keys(m, h, a.q_latent)
        return m.project(mla.attend(m, a, keys=keys))

    x = streams.start(m.embed())
    for _ in m.layers():
        x = streams.block(x, "attn", attention)
        x = streams.block(x, "ffn", lambda h: m.moe(h, gating="sigmoid"))
    m.output(m.graph(Scale(m.graph(Combine(x, None)), 1 / streams.n)))


def _best_keys(m: Layers, h: Value, q_latent: Value) -> Value:
    """Whole pools of tokens, whose keys are weighted means, and those in no pool yet."""
    pool, n_head, width = (m.w.count(f"attention.indexer.{key}") for key in ("kpool", "head_count", "key_length"))
    if not m.w.flag("attention.indexer.kpool_select_tail"):
        raise ModelError("attention that does not see the last tokens is not supported")
    q = m.linear(q_latent, "indexer.attn_q_b", n_head * width, n_head)
    weight, bias = (m.tensor(f"indexer.k_norm.{part}", width) for part in ("weight", "bias"))
    eps = m.w.number("attention.layer_norm_epsilon", 0.0)
    k = m.graph(Norm(m.linear(h, "indexer.attn_k", width), weight, eps, "layer", bias))
    gate = m.linear(h, "indexer_compressor_gate", width)
    k = weighted_mean(m, k, gate, "indexer_compressor_ape", width, pool)
    weights = m.graph(Scale(m.linear(h, "indexer.proj", n_head), (width * n_head) ** -0.5))
    n = min(m.w.count("attention.indexer.top_k"), m.n_ctx) // pool * pool
    return m.graph(BestKeys(q, k, weights, m.new_slot(), n + pool - 1, pool, "whole"))

"""GLM 5.3 Flash (Zhipu 2026): hyper-connections around delta attention, and around latent attention without RoPE."""

from __future__ import annotations

from ..operations import Combine, Scale, Value
from . import mla
from .delta_net import kimi_delta_attention, low_rank
from .hparams import ModelError
from .hyper import Streams
from .layers import Layers


def glm5_next(m: Layers) -> None:
    """Experts are chosen as in GLM 5; streams are mixed by matrices that are nearly doubly stochastic."""
    _check_keys(m)
    streams = Streams(m)

    def attention(h: Value) -> Value:
        if not m.n_head_kv:
            return kimi_delta_attention(m, h, low_rank(m, h, "ssm_g"), bounded_sign=-1.0)
        mla.ignore_indexer(m)
        m.w.ignore(*(m.name(f"indexer_compressor_{part}.weight") for part in ("gate", "ape")))
        return m.project(mla.attend(m, mla.absorbed(m, h, None)))

    x = streams.start(m.embed())
    for _ in m.layers():
        x = streams.block(x, "attn", attention)
        x = streams.block(x, "ffn", lambda h: m.moe(h, gating="sigmoid"))
    m.output(m.graph(Scale(m.graph(Combine(x, None)), 1 / streams.n)))


def _check_keys(m: Layers) -> None:
    """Tokens see the best pools of keys; up to so many tokens, which are all that there are."""
    n_best, select_tail = m.w.count("attention.indexer.top_k"), m.w.flag("attention.indexer.kpool_select_tail")
    m.w.ignore(*(f"attention.indexer.{key}" for key in ("kpool", "head_count", "key_length", "types")))
    m.w.ignore("rope.freq_base")
    if m.n_ctx > n_best or not select_tail:
        raise ModelError(
            f"{m.w.file.path}: choosing among more than {n_best} keys is not supported: "
            f"ask for a context of {n_best} with -c"
        )

"""The pieces that model families share: an architecture puts them together, layer by layer."""

from __future__ import annotations

from collections.abc import Callable

from ..loader import Tensor
from ..operations import (
    Activate,
    Norm,
    Scale,
    SelectRows,
    Value,
)
from . import pooling
from .attention import AttentionPieces
from .feed_forward import FeedForwardPieces, Glu
from .hparams import ModelError


class Layers(AttentionPieces, FeedForwardPieces):
    """All pieces; and how most models put them together, and what they give."""

    def pre_norm(self, x: Value, attention: Callable[[Value], Value], feed_forward: Callable[[Value], Value], *,
                 second: str = "ffn_norm") -> Value:  # fmt: skip
        """All layers as most models have them: x += attention(norm x), x += feed_forward(norm x).

        second: the name of the norm before the feed-forward.
        """
        for _ in self.layers():
            x = self.add(x, attention(self.norm(x, "attn_norm")))
            x = self.add(x, feed_forward(self.norm(x, second)))
        return x

    def output(self, x: Value, *, norm: str = "output_norm", scale: float = 1.0, softcap: float = 0.0,
               bias: Tensor | None = None) -> None:  # fmt: skip
        """Logits of the wanted tokens; from the embedding's matrix where there is no other. bias: if not the file's."""
        w = self.w
        matrix = w.optional_rows("output.weight", self.n_vocab, self.n_embd) or self.embedding
        bias, factor = bias or w.optional("output.bias", self.n_vocab), w.optional("output.scale", 1)
        if self.result not in ("", "logits"):
            self.encoded(x, norm=norm)
            return
        self.result = "logits"
        x = self.graph(SelectRows(x))
        y = self.product(self.last_norm(x, norm) if norm else x, matrix, bias, factor)
        if scale != 1:
            y = self.graph(Scale(y, scale))
        if softcap:
            self.graph(Activate(y, "softcap", (softcap,)))

    def encoded(self, x: Value, *, norm: str = "") -> None:
        """The end of an encoder: embeddings of the wanted tokens, or what `result` asks for of each sequence."""
        if self.result == "logits":
            raise ModelError(f"{self.w.file.path}: an encoder, which gives embeddings and has no next token")
        self.result = self.result or "embeddings"
        if self.result == "embeddings":
            x = self.graph(SelectRows(x))
        x = self.last_norm(x, norm) if norm else x
        pooling.pool(self.graph, self.w, x, self.result, self.norm_kind[1])

    def last_norm(self, x: Value, name: str) -> Value:
        kind, eps = self.norm_kind
        weight, bias = self.w.tensor(f"{name}.weight", x.width), self.w.optional(f"{name}.bias", x.width)
        return self.graph(Norm(x, weight, eps, kind, bias))


__all__ = ["Glu", "Layers"]

"""The pieces of feed-forwards that model families share, experts among them."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..loader import Tensor
from ..operations import (
    Activate,
    Combine,
    ExpertLinear,
    ExpertScale,
    Gate,
    Linear,
    Mul,
    Route,
    Value,
)
from .hparams import ModelError
from .pieces import Pieces

#: A kind of Activate and Gate, or what an architecture makes of gate and up.
Glu = str | Callable[[Value, Value], Value]


class FeedForwardPieces(Pieces):
    """Feed-forwards, routes and experts."""

    def activate(self, up: Value, kind: Glu, gate: Value | None = None) -> Value:
        """The middle of a feed-forward: activation(gate)·up, or activation(up) where there is no gate."""
        if not isinstance(kind, str):
            return kind(gate or up, up)
        return self.graph(Gate(gate, up, kind) if gate else Activate(up, kind))

    def clamped_glu(self, key: str) -> Glu:
        """SwiGLU of gates up to a limit of the layer, and of up within it; 0 for no limit."""
        limit = self.w.number(key, 0.0, layer=self.i)

        def glu(gate: Value, up: Value) -> Value:
            gate = self.graph(Activate(gate, "clamp", (-math.inf, limit)))
            return self.graph(Gate(gate, self.graph(Activate(up, "clamp", (-limit, limit)))))

        return glu if limit > 1e-6 else "silu"

    def ffn(self, h: Value, kind: Glu = "silu", *, gated: bool = True, suffix: str = "", n_ff: int = 0) -> Value:
        """Feed-forward: down(activation(gate)·up), or without a gate down(activation(up)).

        The gate may be the first half of ffn_up's rows. suffix: of the tensors' names, as in ffn_up_shexp.
        """
        n_ff = n_ff or self.n_ff
        if not gated:
            y = self.activate(self.linear(h, f"ffn_up{suffix}", n_ff), kind)
        else:
            if self.has(f"ffn_gate{suffix}"):
                gate, up = self.linear(h, f"ffn_gate{suffix}", n_ff), self.linear(h, f"ffn_up{suffix}", n_ff)
            else:
                gate, up = self.slices(h, f"ffn_up{suffix}", (n_ff, 1), (n_ff, 1))
            y = self.activate(up, kind, gate)
        return self.linear(y, f"ffn_down{suffix}", self.n_embd)

    @property
    def n_expert(self) -> int:
        return self.w.count("expert_count", 0, least=0)

    @property
    def n_ff_expert(self) -> int:
        """The inner size of an expert, as its matrix tells: which key does depends on the architecture."""
        self.w.ignore("expert_feed_forward_length")
        return self.w.shape(self.name("ffn_down_exps.weight"))[-1]

    def route(self, h: Value, *, gating: str = "softmax", normalise: bool = True) -> Value:
        """Which experts take each token, by ffn_gate_inp·h."""
        return self.route_by(self.linear(h, "ffn_gate_inp", self.n_expert), gating=gating, normalise=normalise)

    def route_by(self, logits: Value, *, gating: str = "softmax", normalise: bool = True, by_logits: bool = False,
                 experts: Tensor | None = None) -> Value:  # fmt: skip
        """Which experts take each token; with a selection bias, groups and factors where the file has them.

        A factor of what an expert gives (ffn_down_exps.scale) becomes one of its weight, unless that goes by_logits,
        as then it may weigh what the expert takes.
        """
        w, n, factor = self.w, self.n_expert, self.w.number("expert_weights_scale", 0.0) or 1.0
        groups = w.count("expert_group_count", 1, least=0) or 1
        used = w.count("expert_group_used_count", 1, least=0)
        groups, used = (groups, used) if groups > 1 else (1, 1)
        if n % groups or not 0 < used <= groups or not 0 < (n_used := w.count("expert_used_count", layer=self.i)) <= n:
            raise ModelError(f"{n} experts in {groups} groups, of which {used} are used, make no sense")
        selection = self.optional("exp_probs_b.bias", n) or self.optional("exp_probs_b", n)
        scale = None if by_logits else self.optional("ffn_down_exps.scale", n)
        return self.graph(
            Route(logits, n_used, gating, selection, groups, used, normalise, factor, scale, by_logits, experts=experts)
        )

    def experts(self, h: Value, route: Value, kind: Glu = "silu", *, gated: bool = True) -> Value:
        """The routed experts' feed-forwards, summed by the route's weights."""
        return self.graph(Combine(self.each_expert(h, route, kind, gated=gated), route))

    def each_expert(self, h: Value, route: Value, kind: Glu = "silu", *, gated: bool = True) -> Value:
        """The routed experts' feed-forwards, one head for each; h has one head for all of them, or one for each."""
        n, n_ff = self.n_expert, self.n_ff_expert
        if not gated:
            y = self.activate(self.expert_linear(h, route, "ffn_up_exps", n_ff), kind)
        elif self.has("ffn_gate_up_exps"):
            both = self.tensor("ffn_gate_up_exps.weight", n, 2 * n_ff, h.width)
            gate, up = (self.graph(ExpertLinear(h, route, both.rows(at, at + n_ff))) for at in (0, n_ff))
            y = self.activate(up, kind, gate)
        else:
            gate, up = (self.expert_linear(h, route, f"ffn_{part}_exps", n_ff) for part in ("gate", "up"))
            y = self.activate(up, kind, gate)
        return self.expert_linear(y, route, "ffn_down_exps", h.width)

    def expert_linear(self, x: Value, route: Value, name: str, n_rows: int) -> Value:
        weight = self.tensor(f"{name}.weight", self.n_expert, n_rows, x.width)
        y = self.graph(ExpertLinear(x, route, weight, self.optional(f"{name}.bias", self.n_expert, n_rows)))
        if name == "ffn_down_exps" or not self.w.has(self.name(f"{name}.scale")):  # the former's scale is the route's
            return y
        if self.w.has(self.name(f"{name}.bias")):
            raise ModelError(f"{self.name(name)}: experts with a bias and a scale are not supported")
        return self.graph(ExpertScale(y, route, self.tensor(f"{name}.scale", self.n_expert)))

    def moe(self, h: Value, kind: Glu = "silu", *, shared_kind: Glu | None = None, gating: str = "softmax",
            normalise: bool | None = None) -> Value:  # fmt: skip
        """Experts, and where there are some those that every token passes; in layers without experts a feed-forward.

        shared_kind: of the latter two, by default that of experts. gating, normalise: where the file's keys do not say
        how; normalise is None where they do.
        """
        shared_kind = shared_kind or kind
        # which layers these are keys tell by rules that differ by architecture, and tensors by being there
        self.w.ignore("leading_dense_block_count", "interleave_moe_layer_step")
        if not self.has("ffn_gate_inp"):
            return self.ffn(h, shared_kind)
        if normalise is None:
            gating, normalise = self.gating(gating), self.w.flag("expert_weights_norm")
        y = self.experts(h, self.route(h, gating=gating, normalise=normalise), kind)
        return self.add(y, self.shared_expert(h, shared_kind)) if self.has("ffn_up_shexp") else y

    def gating(self, default: str = "softmax") -> str:
        """How logits of experts become weights; default: where the file does not say so."""
        kinds = [default, "softmax", "sigmoid", "softmax_used", "sqrt_softplus"]
        kind = self.w.count("expert_gating_func", 0, least=0)
        if kind >= len(kinds):
            raise ModelError(f"{self.w.prefix}expert_gating_func is {kind}, which is not known")
        return kinds[kind]

    def shared_expert(self, h: Value, kind: Glu = "silu", *, gated: bool = True) -> Value:
        """Experts that every token passes, as one, times sigmoid(x·ffn_gate_inp_shexp) where there is such a gate."""
        self.w.ignore("expert_shared_count", "expert_shared_feed_forward_length")  # the tensor's own shape tells it
        n_ff = self.w.shape(self.name("ffn_down_shexp.weight"))[-1]
        y = self.ffn(h, kind, gated=gated, suffix="_shexp", n_ff=n_ff)
        if self.has("ffn_gate_inp_shexp"):
            gate = self.graph(Linear(h, self.tensor("ffn_gate_inp_shexp.weight", 1, self.n_embd)))
            y = self.graph(Mul(y, self.graph(Activate(gate, "sigmoid"))))
        return y

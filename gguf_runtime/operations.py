"""The vocabulary in which a model is written: values, and the operations that make them.

A value has one row of f32 for each token of a batch, which is `heads` × `width` numbers. Each operation makes one
value; `shape` is its (heads, width). What an operation computes is said once, in backends/reference.py.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeGuard, cast, get_args

import numpy as np

from .loader import Tensor

#: What a value has a row for: each token; each token whose logits are wanted; each sequence.
Rows = Literal["token", "selected", "sequence"]


class Value(NamedTuple):
    """A result: its number in the graph, its shape, what it has rows for, and the layer that made it."""

    number: int
    heads: int
    width: int
    rows: Rows
    layer: int

    @property
    def size(self) -> int:
        """Numbers in a row."""
        return self.heads * self.width


_UNMADE = Value(-1, 0, 0, "token", 0)  # of an operation that is not in a graph yet
Shape = tuple[int, int]


class RopeFrequencies(NamedTuple):
    """How positions turn into angles: angle = position·frequency, cos and sin times `magnitude` (Su et al. 2021)."""

    layout: Literal["pairs", "halves"]  # neighbours rotate together, or elements half of n_rot apart
    frequencies: np.ndarray  # f64[n_rot / 2]
    magnitude: float = 1.0


class Input(NamedTuple):
    """What the block before made."""

    x: Value
    out: Value = _UNMADE

    @property
    def shape(self) -> Shape:
        return self.x.heads, self.x.width


class Embed(NamedTuple):
    """The row of a table for each token, by its id or its position, times `scale`; "cycle": rows again and again."""

    table: Tensor
    scale: float = 1.0
    by: Literal["token", "position", "cycle"] = "token"
    out: Value = _UNMADE

    @property
    def shape(self) -> Shape:
        return 1, self.table.shape[1]


class EmbedNgrams(NamedTuple):
    """Rows of a table for each token, by the n-grams that end with it, 2-grams first: a head for each row.

    The row of head h is offsets[h] + (t₀·multipliers[0] xor t₁·multipliers[1] …) mod sizes[h] (in 64 bits), t₀ being
    the token itself, t₁ the one before. `end` stands for those before the text, and before an `end`. The slot keeps
    the last tokens.
    """

    table: Tensor
    multipliers: tuple[int, ...]
    sizes: tuple[int, ...]
    offsets: tuple[int, ...]
    end: int
    slot: int
    out: Value = _UNMADE

    @property
    def shape(self) -> Shape:
        return len(self.sizes), self.table.shape[1]


class SelectRows(NamedTuple):
    """The rows of the tokens whose logits are wanted."""

    x: Value
    out: Value = _UNMADE

    @property
    def shape(self) -> Shape:
        return self.x.heads, self.x.width


class Pool(NamedTuple):
    """One row for each sequence: the mean of its rows, or the first or the last one."""

    x: Value
    kind: Literal["mean", "first", "last"]
    out: Value = _UNMADE

    @property
    def shape(self) -> Shape:
        return self.x.heads, self.x.width


class View(NamedTuple):
    """The same numbers with other heads."""

    x: Value
    heads: int
    out: Value = _UNMADE

    @property
    def shape(self) -> Shape:
        return self.heads, self.x.size // self.heads


class Slice(NamedTuple):
    """Columns start … stop − 1 of each head."""

    x: Value
    start: int
    stop: int
    out: Value = _UNMADE

    @property
    def shape(self) -> Shape:
        return self.x.heads, self.stop - self.start


class Concat(NamedTuple):
    """Each head of a followed by that of b; one head of b serves all of a."""

    a: Value
    b: Value
    out: Value = _UNMADE

    @property
    def shape(self) -> Shape:
        return self.a.heads, self.a.width + self.b.width


class Repeat(NamedTuple):
    """Heads that serve several: all of them `times` times over ("tiled"), or each `times` times in a row."""

    x: Value
    times: int
    tiled: bool = False
    out: Value = _UNMADE

    @property
    def shape(self) -> Shape:
        return self.x.heads * self.times, self.x.width


class Norm(NamedTuple):
    """Each head by itself: x / √(mean x² + eps), "layer": of x less its mean, "l2": x / max(√Σx², eps).

    weight, bias: for the columns of a head, or of all heads.
    """

    x: Value
    weight: Tensor | None
    eps: float
    kind: Literal["rms", "layer", "l2"] = "rms"
    bias: Tensor | None = None
    out: Value = _UNMADE

    @property
    def shape(self) -> Shape:
        return self.x.heads, self.x.width


class Linear(NamedTuple):
    """The product of a matrix with each row, as `heads` heads."""

    x: Value
    weight: Tensor
    bias: Tensor | None = None
    heads: int = 1
    out: Value = _UNMADE

    @property
    def shape(self) -> Shape:
        return self.heads, self.weight.shape[0] // self.heads


class HeadLinear(NamedTuple):
    """Each head has a matrix of its own: weight (heads, rows, columns)."""

    x: Value
    weight: Tensor
    out: Value = _UNMADE

    @property
    def shape(self) -> Shape:
        return self.weight.shape[0], self.weight.shape[1]


class Activate(NamedTuple):
    """A function of each number; backends/reference.py lists them, and what parameters they take."""

    x: Value
    kind: str
    parameters: tuple[float, ...] = ()
    out: Value = _UNMADE

    @property
    def shape(self) -> Shape:
        return self.x.heads, self.x.width


class Gate(NamedTuple):
    """activation(gate)·up; limit: with clamped values, as gpt-oss has it (0: none)."""

    gate: Value
    up: Value
    kind: str = "silu"
    limit: float = 0.0
    out: Value = _UNMADE

    @property
    def shape(self) -> Shape:
        return self.gate.heads, self.gate.width


class Add(NamedTuple):
    """a + scale·b; one head, or one column, of b serves all of a."""

    a: Value
    b: Value
    scale: float = 1.0
    out: Value = _UNMADE

    @property
    def shape(self) -> Shape:
        return self.a.heads, self.a.width


class Mul(NamedTuple):
    """a·b, number by number; one head, or one column, of either serves all of the other."""

    a: Value
    b: Value
    out: Value = _UNMADE

    @property
    def shape(self) -> Shape:
        return max(self.a.heads, self.b.heads), max(self.a.width, self.b.width)


class Scale(NamedTuple):
    """x·factor·weight + bias; weight, bias: for the columns of a head, or of all heads, or one for all.

    Those of shape (heads, 1) have one for each head.
    """

    x: Value
    factor: float = 1.0
    weight: Tensor | None = None
    bias: Tensor | None = None
    out: Value = _UNMADE

    @property
    def shape(self) -> Shape:
        return self.x.heads, self.x.width


class ScaleByPosition(NamedTuple):
    """x·(1 + rate·ln(1 + ⌊(position + offset) / length⌋)): queries of attention with temperature."""

    x: Value
    rate: float
    length: int
    offset: int = 0
    out: Value = _UNMADE

    @property
    def shape(self) -> Shape:
        return self.x.heads, self.x.width


class Rope(NamedTuple):
    """Rotary position embedding of 2·len(frequencies) columns of each head, from `offset` on.

    delay: tokens are turned as one so many positions before them.
    """

    x: Value
    frequencies: RopeFrequencies
    offset: int = 0
    delay: int = 0
    out: Value = _UNMADE

    @property
    def shape(self) -> Shape:
        return self.x.heads, self.x.width


class Attention(NamedTuple):
    """Attention of each token to its sequence, whose keys and values a slot of the cache keeps.

    k, v: what the slot is to keep; None where another operation fills it. v is None with k: values are the first
    `v_width` columns of keys (MLA). kv_heads, v_width: of the slot. causal: tokens see only those before them, and
    themselves. window: how many they see, themselves the last (on both sides where not causal: half before, half
    after); chunk: they see only their own piece of the sequence; 0 for all. sinks: for each head a logit that joins
    the softmax and gives nothing. softcap: c·tanh(logit / c), 0 for none. alibi: the greatest bias, 0 for none.
    bias: (buckets, heads) added by distance, as T5 does. keys: the positions of those that each token sees (BestKeys).
    source: keys and values are those of the source text, which the graph's encoder has kept. summaries: a slot whose
    keys of each `stride`-th token join those of `slot`, outside of any window; `keys` then chooses among them only.
    """

    q: Value
    k: Value | None
    v: Value | None
    slot: int
    kv_heads: int
    v_width: int
    scale: float
    causal: bool = True
    window: int = 0
    chunk: int = 0
    sinks: Tensor | None = None
    softcap: float = 0.0
    alibi: float = 0.0
    bias: Tensor | None = None
    keys: Value | None = None
    source: bool = False
    summaries: int | None = None
    stride: int = 0
    out: Value = _UNMADE

    @property
    def shape(self) -> Shape:
        return self.q.heads, self.v_width


class BestKeys(NamedTuple):
    """The positions of the n keys that matter most to each token, for sparse attention (DeepSeek 2025).

    A key, which the slot keeps, scores Σₕ weights[h]·max(q[h]·k, 0), without weights the sum. −1 fills up where there
    are fewer keys. stride: only each stride-th token's key counts. spread: it stands for the block of tokens that ends
    with it; chosen are those after the last block, and of the rest n − (stride − 1) in blocks ("whole"), or so many
    that there are n ("filled").
    """

    q: Value
    k: Value
    weights: Value | None
    slot: int
    n: int
    stride: int = 1
    spread: Literal["", "whole", "filled"] = ""
    out: Value = _UNMADE

    @property
    def shape(self) -> Shape:
        return 1, self.n


class Keep(NamedTuple):
    """Keys and values of each token, kept by a slot for attention in other places; the keys again.

    v is None where values are part of keys.
    """

    k: Value
    v: Value | None
    slot: int
    out: Value = _UNMADE

    @property
    def shape(self) -> Shape:
        return self.k.heads, self.k.width


class Route(NamedTuple):
    """Which experts each token takes, and with which weights: n_used heads of (number, weight).

    gating: softmax of all logits, their sigmoid, "softmax_used": of those that were taken, "sqrt_softplus", "none".
    selection: added for the choice only. groups: n > 1 groups of neighbours, of which the `groups_used` best compete.
    normalise: weights sum to 1 (at most 2¹⁴ times what they were). expert_scale: a factor for each expert's weight.
    experts: (vocabulary, n_used): they are chosen by the token's id. share: so many neighbours share one expert, whose
    number is theirs divided by this; its weight is that of the expert that has this number among all.
    """

    logits: Value
    n_used: int
    gating: str = "softmax"
    selection: Tensor | None = None
    groups: int = 1
    groups_used: int = 1
    normalise: bool = True
    scale: float = 1.0
    expert_scale: Tensor | None = None
    by_logits: bool = False  # chosen by raw logits, whatever the gating
    share: int = 1
    experts: Tensor | None = None
    out: Value = _UNMADE

    @property
    def shape(self) -> Shape:
        return self.n_used, 2


class ExpertLinear(NamedTuple):
    """The products of the experts that a route names: one head for each. x has one head for all, or one for each.

    weight: (experts, rows, columns). bias: (experts, rows).
    """

    x: Value
    route: Value
    weight: Tensor
    bias: Tensor | None = None
    out: Value = _UNMADE

    @property
    def shape(self) -> Shape:
        return self.route.heads, self.weight.shape[1]


class ExpertScale(NamedTuple):
    """x[j]·weight[e] for the expert e that a route names in head j. weight: (experts,)."""

    x: Value
    route: Value
    weight: Tensor
    out: Value = _UNMADE

    @property
    def shape(self) -> Shape:
        return self.x.heads, self.x.width


class Combine(NamedTuple):
    """Sums of heads: out[i] = Σⱼ weights[i][j]·x[j]; weights: a route's, numbers that were computed, None: all 1."""

    x: Value
    weights: Value | None
    out: Value = _UNMADE

    @property
    def shape(self) -> Shape:
        weights = self.weights
        of_route = weights is None or (weights.heads == self.x.heads and weights.width == 2)
        return 1 if weights is None or of_route else weights.heads, self.x.width


class Conv(NamedTuple):
    """A causal convolution of each column with itself: weight (columns, taps), taps `dilation` tokens apart.

    The slot keeps the last (taps − 1)·dilation tokens.
    """

    x: Value
    weight: Tensor
    slot: int
    bias: Tensor | None = None
    dilation: int = 1
    out: Value = _UNMADE

    @property
    def shape(self) -> Shape:
        return self.x.heads, self.x.width


class Shift(NamedTuple):
    """The row of the token before; of the first token zeros. The slot keeps the last row."""

    x: Value
    slot: int
    out: Value = _UNMADE

    @property
    def shape(self) -> Shape:
        return self.x.heads, self.x.width


class Recurrence(NamedTuple):
    """A state for each head, kept by the slot, that every token changes and reads.

    backends/reference.py says for each kind what `inputs` and `weights` are.
    """

    kind: str
    inputs: tuple[Value, ...]
    weights: tuple[Tensor, ...]
    slot: int
    heads: int
    width: int
    out: Value = _UNMADE

    @property
    def shape(self) -> Shape:
        return self.heads, self.width


#: Operations that keep a state of each text, whatever its length.
Stateful = Conv | Shift | EmbedNgrams | Recurrence
Op = (
    Input | Embed | EmbedNgrams | SelectRows | Pool | View | Slice | Concat | Repeat | Norm | Linear | HeadLinear
    | Activate | Gate | Add | Mul | Scale | ScaleByPosition | Rope | Attention | BestKeys | Keep | Route
    | ExpertLinear | ExpertScale | Combine | Conv | Shift | Recurrence
)  # fmt: skip
_OPERATIONS = get_args(Op)


def values_read(op: Op) -> list[Value]:
    """The values that an operation reads."""
    found: list[Value] = []
    for name, item in zip(op._fields, op, strict=True):
        if name == "out" or isinstance(op, Input):
            continue
        if isinstance(item, Value):
            found.append(item)
        elif _are_values(item):
            found += item
    return found


def tensors_read(op: Op) -> list[Tensor]:
    """The weights that an operation reads."""
    found: list[Tensor] = []
    for item in op:
        if isinstance(item, Tensor):
            found.append(item)
        elif isinstance(item, tuple) and not isinstance(item, Value | RopeFrequencies):
            found += [tensor for tensor in item if isinstance(tensor, Tensor)]
    return found


def describe(op: Op) -> str:
    """An operation for messages: its name, what kind it is, the tensor it reads and its layer."""
    kind = getattr(op, "kind", "") or getattr(op, "gating", "")
    tensors = tensors_read(op)
    of = f" of {tensors[0].name}" if tensors else f" in layer {op.out.layer}"
    return f"{type(op).__name__}{f' ({kind})' if kind else ''}{of}"


def _are_values(item: object) -> TypeGuard[tuple[Value, ...]]:
    return type(item) is tuple and bool(item) and all(isinstance(value, Value) for value in cast(tuple[object], item))

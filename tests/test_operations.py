"""Every operation on the CPU against its meaning in float64: ragged batches of several sequences, in pieces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest

from gguf_runtime.backends import Batch, Chunk, KvTypes
from gguf_runtime.backends.cpu import Cpu, CpuBackend
from gguf_runtime.backends.reference import ReferenceBackend
from gguf_runtime.graph import Graph
from gguf_runtime.loader import Tensor
from gguf_runtime.operations import (
    Activate,
    Add,
    Attention,
    BestKeys,
    Combine,
    Concat,
    Conv,
    Embed,
    EmbedNgrams,
    ExpertLinear,
    ExpertScale,
    Gate,
    HeadLinear,
    Keep,
    Linear,
    Mul,
    Norm,
    Pool,
    Recurrence,
    Repeat,
    Rope,
    RopeFrequencies,
    Route,
    Scale,
    ScaleByPosition,
    Shift,
    Slice,
    Value,
    View,
)
from tests import kit

CPU = Cpu(2)
N_TOKENS, WIDTH, HEADS = 50, 96, 4
#: Steps of a test: of each sequence, how many tokens come next.
STEPS = [(30, 17), (1, 0), (1, 3), (60, 1), (2, 2), (300, 0), (1, 1), (1, 40)]


def tensor(name: str, *shape: int, mean: float = 0.0) -> Tensor:
    """Random weights, the same for the same name; halves, which is what a GPU keeps."""
    seed = int.from_bytes(name.encode(), "little")
    values = (mean + np.random.default_rng(seed).normal(size=shape)).astype(np.float16).astype(np.float32)
    return Tensor(name, shape, "F32", values.view(np.uint8).reshape(-1))


def embedded(g: Graph, heads: int = HEADS, width: int = WIDTH, name: str = "x") -> Value:
    return g(View(g(Embed(tensor(name, N_TOKENS, width))), heads))


FREQUENCIES = 10000.0 ** (-np.arange(8) / 8)
PAIRS, HALVES = RopeFrequencies("pairs", FREQUENCIES), RopeFrequencies("halves", FREQUENCIES, 1.3)


def over_x(make: Callable[[Value], object]) -> Callable[[Graph], None]:
    return lambda g: g(make(embedded(g)))  # type: ignore[arg-type,return-value]


def of_two(make: Callable[[Value, Value], object], heads: int = HEADS, width: int = WIDTH) -> Callable[[Graph], None]:
    return lambda g: g(make(embedded(g), embedded(g, heads, width, "y")))  # type: ignore[arg-type,return-value]


CASES: dict[str, Callable[[Graph], None]] = {
    "embed-scaled": lambda g: g(Embed(tensor("t", N_TOKENS, 33), 3.0)),  # type: ignore[dict-item,return-value]
    "embed-position": lambda g: g(Embed(tensor("p", 400, 40), 1.0, "position")),  # type: ignore[dict-item,return-value]
    "norm-rms": over_x(lambda x: Norm(x, tensor("w", 24), 1e-5)),
    "norm-rms-bare": over_x(lambda x: Norm(x, None, 1e-5)),
    "norm-rms-own": over_x(lambda x: Norm(x, tensor("w", 96), 1e-5)),
    "norm-rms-bias": over_x(lambda x: Norm(x, tensor("w", 24), 1e-5, "rms", tensor("b", 24))),
    "norm-layer": over_x(lambda x: Norm(x, tensor("w", 24), 1e-5, "layer", tensor("b", 24))),
    "norm-layer-bare": over_x(lambda x: Norm(x, None, 1e-5, "layer")),
    "norm-l2": over_x(lambda x: Norm(x, None, 1e-6, "l2")),
    "activate-xielu": over_x(lambda x: Activate(x, "xielu", (0.7, 1.1, 0.5, -1e-6))),
    "activate-softcap": over_x(lambda x: Activate(x, "softcap", (0.9,))),
    "activate-clamp": over_x(lambda x: Activate(x, "clamp", (-0.3, 0.8))),
    "activate-sparse": over_x(lambda x: Activate(x, "sparse", (0.3,))),
    "activate-sinkhorn": lambda g: g(Activate(embedded(g, 4, 16), "sinkhorn", (20, 1e-6))),
    "activate-softmax": over_x(lambda x: Activate(x, "softmax")),
    **{
        f"activate-{kind}": over_x(lambda x, kind=kind: Activate(x, kind))  # type: ignore[misc]
        for kind in ("silu", "gelu", "relu", "squared_relu", "sigmoid", "softplus", "tanh", "exp")
    },
    **{
        f"gate-{kind}": of_two(lambda a, b, kind=kind: Gate(a, b, kind, 0.7 * (kind == "clamped_silu")))  # type: ignore[misc]
        for kind in ("silu", "gelu", "relu", "sigmoid", "clamped_silu")
    },
    "add": of_two(lambda a, b: Add(a, b)),
    "add-scaled": of_two(lambda a, b: Add(a, b, -0.4)),
    "add-one-head": of_two(lambda a, b: Add(a, b), 1, 24),
    "mul": of_two(lambda a, b: Mul(a, b)),
    "mul-one-head": of_two(lambda a, b: Mul(b, a), 1, 24),
    "mul-one-column": of_two(lambda a, b: Mul(a, b), HEADS, HEADS),
    "mul-one-number": of_two(lambda a, b: Mul(b, a), 1, 1),
    "scale": over_x(lambda x: Scale(x, 0.3)),
    "scale-weight": over_x(lambda x: Scale(x, 0.3, tensor("w", 24), tensor("b", 96))),
    "scale-one-weight": over_x(lambda x: Scale(x, 1.0, tensor("w", 1))),
    "scale-by-head": over_x(lambda x: Scale(x, 0.3, tensor("w", 4, 1), tensor("b", 4, 1))),
    "scale-by-position": over_x(lambda x: ScaleByPosition(x, 0.3, 7, 1)),
    "slice": over_x(lambda x: Slice(x, 5, 19)),
    "concat": of_two(lambda a, b: Concat(a, b), HEADS, 40),
    "concat-one-head": of_two(lambda a, b: Concat(a, b), 1, 10),
    "repeat": over_x(lambda x: Repeat(x, 3)),
    "repeat-tiled": over_x(lambda x: Repeat(x, 3, True)),
    "rope-pairs": over_x(lambda x: Rope(x, PAIRS)),
    "rope-halves": over_x(lambda x: Rope(x, HALVES)),
    "rope-offset": over_x(lambda x: Rope(x, HALVES, 8)),
    "rope-delay": over_x(lambda x: Rope(x, HALVES, delay=3)),
}


def rope_and_what_it_read(g: Graph) -> None:
    x = embedded(g)
    g(Add(g(Rope(x, PAIRS)), x))


def products_of_a_gelu_gate(g: Graph) -> None:
    x = g(Norm(embedded(g, 1), tensor("w", 96), 1e-5, "layer", tensor("b", 96)))
    gate, up = (g(Linear(x, tensor(name, 64, 96), tensor(f"{name}.b", 64))) for name in ("gate", "up"))
    y = g(Linear(g(Gate(gate, up, "gelu")), tensor("down", 96, 64)))
    g(Add(embedded(g, 1), y))


def attends(heads: int = 4, kv_heads: int = 2, latent: int = 0, **options: Any) -> Callable[[Graph], None]:
    """Attention of heads of 32; latent: values are so many first columns of the keys."""

    def write(g: Graph) -> None:
        x = embedded(g, 1)

        def projected(name: str, n_heads: int) -> Value:
            return g(Scale(g(Linear(x, tensor(name, 32 * n_heads, 96), None, n_heads)), 0.1))

        v = None if latent else projected("v", kv_heads)
        q, k = projected("q", heads), projected("k", kv_heads)
        g(Attention(q, k, v, 3, kv_heads, latent or 32, 0.5, **options))

    return write


def experts(g: Graph, n: int = 12, n_used: int = 3, **options: Any) -> tuple[Value, Value]:
    """What experts work on, and a route."""
    x = embedded(g, 1)
    options = {"logits": tensor("router", n, 96)} | options
    logits = g(Scale(g(Linear(x, options.pop("logits"))), 0.2))
    return x, g(Route(logits, n_used, **options))


_NUMBERS = np.random.default_rng(2).integers(0, 12, (N_TOKENS, 3)).astype(np.int32)
TABLE = Tensor("table", _NUMBERS.shape, "I32", _NUMBERS.view(np.uint8).reshape(-1))


def routes(**options: Any) -> Callable[[Graph], None]:
    return lambda g: None if experts(g, **options) else None


def sums_of_experts(**options: Any) -> Callable[[Graph], None]:
    def write(g: Graph) -> None:
        x, route = experts(g, **options)
        g(Combine(g(ExpertLinear(x, route, tensor("up", 12, 70, 96), tensor("up.b", 12, 70))), route))

    return write


def feed_forwards(kind: str = "silu", biases: bool = False, **options: Any) -> Callable[[Graph], None]:
    """Experts whose gates are fused with their products."""

    def bias(name: str, n_rows: int) -> Tensor | None:
        return tensor(f"{name}.b", 12, n_rows) if biases else None

    def write(g: Graph) -> None:
        x, route = experts(g, **options)
        gate, up = (g(ExpertLinear(x, route, tensor(name, 12, 72, 96), bias(name, 72))) for name in ("gate", "up"))
        y = g(Gate(gate, up, kind, 2.0 * (kind == "clamped_silu")))
        g(Combine(g(ExpertLinear(y, route, tensor("down", 12, 96, 72), bias("down", 96))), route))

    return write


def experts_whose_input_is_weighted(g: Graph) -> None:
    x, route = experts(g, gating="sigmoid", normalise=False, by_logits=True)
    weighted = g(Mul(x, g(Slice(route, 1, 2))))
    g(Combine(g(ExpertLinear(weighted, route, tensor("up", 12, 70, 96))), None))


def experts_whose_products_are_scaled(g: Graph) -> None:
    x, route = experts(g)
    y = g(ExpertLinear(x, route, tensor("up", 12, 70, 96)))
    g(Combine(g(ExpertScale(y, route, tensor("up.scale", 12))), route))


def matrices_of_heads(g: Graph) -> None:
    g(HeadLinear(embedded(g), tensor("w", HEADS, 40, 24)))


def rows_of_larger_matrices(g: Graph) -> None:
    x, route = experts(g)
    both = tensor("both", 12, 140, 96)
    gate, up = (g(ExpertLinear(x, route, both.rows(first, first + 70))) for first in (0, 70))
    g(Gate(gate, up))


CASES |= {
    "route": routes(),
    "route-sigmoid": routes(gating="sigmoid", selection=tensor("bias", 12), scale=2.5),
    "route-none": routes(gating="none", normalise=False),
    "route-softmax-used": routes(gating="softmax_used", normalise=False),
    "route-sqrt-softplus": routes(gating="sqrt_softplus"),
    "route-groups": routes(gating="sigmoid", groups=4, groups_used=2),
    "route-groups-of-one": routes(groups=12, groups_used=5),
    "route-by-logits": routes(gating="sigmoid", by_logits=True, expert_scale=tensor("scale", 12)),
    "route-shared": routes(share=3),
    "route-by-token": routes(experts=TABLE),
    "route-of-one": routes(n=1, n_used=1),
    "experts": sums_of_experts(),
    "experts-all": sums_of_experts(n_used=12),
    "experts-by-token": sums_of_experts(experts=TABLE),
    "experts-shared": sums_of_experts(share=3),
    "feed-forwards": feed_forwards(),
    "feed-forwards-biases": feed_forwards("clamped_silu", biases=True),
    "feed-forwards-gelu": feed_forwards("gelu"),
    "combine-heads": lambda g: g(Combine(embedded(g), embedded(g, 3, 3 * HEADS, "m"))),  # type: ignore[dict-item,return-value]
    "combine-sum": over_x(lambda x: Combine(x, None)),
}
CASES |= {
    case.__name__: case
    for case in (
        experts_whose_input_is_weighted, experts_whose_products_are_scaled, matrices_of_heads, rows_of_larger_matrices,
    )  # fmt: skip
}
def chooses(n: int, stride: int = 1, spread: Literal["", "whole", "filled"] = "", *, weighted: bool = True,
            latent: bool = False) -> Callable[[Graph], None]:  # fmt: skip
    """Attention to the keys that score best: small whole numbers, so that many are equal and all are exact."""

    def whole(g: Graph, heads: int, width: int, name: str) -> Value:
        table = tensor(name, N_TOKENS, heads * width)
        numbers = np.round(table.data.view(np.float32))
        return g(View(g(Embed(table._replace(data=numbers.view(np.uint8)))), heads))

    def write(g: Graph) -> None:
        weights = whole(g, 1, 3, "w") if weighted else None
        keys = g(BestKeys(whole(g, 3, 32, "bq"), whole(g, 1, 32, "bk"), weights, 4, n, stride, spread))
        n_kv = 1 if latent else 2
        heads = {"q": 4, "k": n_kv, "v": n_kv}
        q, k, v = (g(Scale(embedded(g, n_heads, 32 * n_heads, name), 0.3)) for name, n_heads in heads.items())
        g(Attention(q, k, None if latent else v, 3, n_kv, 24 if latent else 32, 0.5, keys=keys))

    return write


def summarises(*, chosen: bool) -> Callable[[Graph], None]:
    """Attention to a window, and to the keys of each fourth token in another slot, all or some of them."""

    def write(g: Graph) -> None:
        q, k, summary = (
            g(Scale(embedded(g, heads, 32 * heads, name), 0.3)) for name, heads in (("q", 4), ("k", 1), ("s", 1))
        )
        g(Keep(summary, None, 7))
        keys = None
        if chosen:
            x, y = (g(Activate(embedded(g, heads, 32 * heads, name), "relu")) for name, heads in (("x", 2), ("y", 1)))
            keys = g(BestKeys(x, y, None, 8, 6, 4))
        g(Attention(q, k, None, 3, 1, 32, 0.5, window=20, keys=keys, summaries=7, stride=4))

    return write


CASES |= {
    "summaries": summarises(chosen=False),
    "summaries-chosen": summarises(chosen=True),
    "keys": chooses(20),
    "keys-unweighted": chooses(20, weighted=False),
    "keys-latent": chooses(500, latent=True),
    "keys-in-blocks": chooses(31, 4, "whole"),
    "keys-filled": chooses(30, 4, "filled"),
    "embed-cycle": lambda g: g(Embed(tensor("p", 7, 40), 1.0, "cycle")),  # type: ignore[dict-item,return-value]
    "activate-reciprocal": over_x(lambda x: Activate(x, "reciprocal")),
    "activate-signed-sqrt": over_x(lambda x: Activate(x, "signed_sqrt", (0.1,))),
}
CASES |= {case.__name__: case for case in (rope_and_what_it_read, products_of_a_gelu_gate)}
CASES |= {
    "attention": attends(),
    "attention-window": attends(window=20),
    "attention-chunk": attends(chunk=32),
    "attention-softcap": attends(softcap=1.5),
    "attention-alibi": attends(6, 3, alibi=8.0),
    "attention-sinks": attends(sinks=tensor("sinks", 4)),
    "attention-latent": attends(4, 1, 24),
    "attention-both": attends(causal=False),
    "attention-both-window": attends(causal=False, window=15),
    "attention-bias": attends(causal=False, bias=tensor("bias", 32, 4)),
    "attention-causal-bias": attends(bias=tensor("bias", 32, 4)),
    "attention-all": attends(window=30, chunk=40, softcap=2.0, sinks=tensor("sinks", 4), alibi=4.0),
}


def recurs(kind: str, heads: int, width: int, n: int, groups: int, each: bool) -> Callable[[Graph], None]:
    """A recurrence of states of n × width; each: whether each row has a decay of its own. Numbers are below 1."""

    def write(g: Graph) -> None:
        def numbers(name: str, n_heads: int, size: int, activation: str = "tanh") -> Value:
            return g(Activate(g(Scale(embedded(g, n_heads, n_heads * size, name), 0.3)), activation))

        q, k = (numbers(name, groups, n) for name in "qk")
        v, rates = numbers("v", heads, width), n if each else 1
        a = tensor("a", heads, rates, mean=-6.0)
        if kind == "ssm":
            inputs = v, numbers("step", heads, 1, "sigmoid"), k, q
            weights: tuple[Tensor, ...] = a, tensor("d", heads, 1)
        else:
            decay = numbers("decay", heads, rates, "sigmoid")
            weights = (tensor("u", heads, n),) if kind == "rwkv6" else ()
            if kind == "delta":
                inputs = q, k, v, g(Scale(decay, -1.0)), numbers("beta", heads, 1, "sigmoid")
            elif kind == "rwkv7":
                inputs = q, k, v, decay, numbers("r", heads, n), numbers("s", heads, n)
            else:
                inputs = q, k, v, decay
        g(Recurrence(kind, inputs, weights, 5, heads, width))

    return write


CASES |= {
    "conv": over_x(lambda x: Conv(x, tensor("taps", 96, 4), 5)),
    "conv-dilated": over_x(lambda x: Conv(x, tensor("taps", 96, 4), 5, tensor("bias", 96), 3)),
    "shift": over_x(lambda x: Shift(x, 5)),
    "embed-ngrams": lambda g: g(  # type: ignore[dict-item,return-value]
        EmbedNgrams(tensor("t", 60, 24), (3, 5, 7), (20, 11, 19, 10), (0, 20, 31, 50), 4, 5)
    ),
    "ssm-of-columns": recurs("ssm", 70, 1, 16, 1, True),
    "ssm-of-heads": recurs("ssm", 6, 20, 33, 2, False),
    "ssm-of-heads-each": recurs("ssm", 4, 16, 16, 1, True),
    "delta": recurs("delta", 4, 24, 16, 4, False),
    "delta-each": recurs("delta", 4, 24, 17, 4, True),
    "linear": recurs("linear", 4, 24, 16, 4, False),
    "linear-each": recurs("linear", 4, 24, 17, 4, True),
    "rwkv6": recurs("rwkv6", 4, 24, 17, 4, True),
    "rwkv7": recurs("rwkv7", 4, 24, 17, 4, True),
}


@pytest.mark.parametrize("name", CASES)
def test_operation(name: str) -> None:
    g = Graph()
    CASES[name](g)
    wanted, found = run(ReferenceBackend(g, 320)), run(CpuBackend(g, CPU, 320, KvTypes()))
    tolerance = 2e-3 if g.kv else 3e-6  # keys and values are halves
    np.testing.assert_allclose(found, wanted, atol=tolerance * np.abs(wanted).max(), rtol=tolerance)


@pytest.mark.parametrize("kind", ["mean", "first", "last"])
def test_texts_are_pooled_and_gone_on_with(kind: Literal["mean", "first", "last"]) -> None:
    g = Graph()
    x = g(Norm(g(Embed(tensor("t", N_TOKENS, 83))), tensor("w", 83), 1e-5))
    g(Activate(g(Linear(g(Pool(x, kind)), tensor("m", 40, 83), tensor("b", 40))), "tanh"))
    rng = np.random.default_rng(1)
    for lengths in [1], [300], [2, 1, 40], list(range(1, 24)), [1] * 60:
        texts, rows = [rng.integers(0, N_TOKENS, n).astype(np.int32) for n in lengths], []
        for backend in ReferenceBackend(g, 320), CpuBackend(g, CPU, 320, KvTypes()):
            batch = zip(kit.sequences(backend, len(texts)), texts, strict=True)
            rows.append(backend.start(Batch([Chunk(sequence, text) for sequence, text in batch]))())
        assert len(rows[0]) == len(lengths)
        np.testing.assert_allclose(rows[1], rows[0], atol=3e-6, rtol=3e-6)


def run(backend: ReferenceBackend | CpuBackend) -> np.ndarray:
    """The result of all steps."""
    rng = np.random.default_rng(1)
    sequences = kit.sequences(backend, len(STEPS[0]))
    made = []
    for sizes in STEPS:
        chunks = []
        for sequence, n in zip(sequences, sizes, strict=True):
            if n:
                sequence.reserve(n)
                tokens = rng.integers(0, N_TOKENS, n).astype(np.int32)
                chunks.append(Chunk(sequence, tokens, n, sequence.n_computed))
                sequence.n_computed += n
        made.append(backend.start(Batch(chunks))().copy())
    return np.concatenate(made)

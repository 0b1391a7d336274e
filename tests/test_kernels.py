"""Every kernel, on every instruction set that this CPU can run, against float64 NumPy and gguf.quants."""

from __future__ import annotations

import os

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_runtime.backends.cpu.logits import Ranking
from gguf_runtime.backends.host import HostDevice
from gguf_runtime.kernels import isa
from gguf_runtime.kernels.layout import (
    COLUMNS,
    FLOATS,
    FORMATS,
    LANES,
    LANES_APART,
    LANES_D,
    LANES_MASKS,
    LANES_SUMS,
    PAGE,
    RECORD_BYTES,
    ROUNDED,
    SCRATCH,
    SUMS,
    WOVEN,
    D,
    head_bytes,
)
from gguf_runtime.kernels.library import Library
from gguf_runtime.kernels.memory import address
from gguf_runtime.kernels.tensor_types import BY_NAME
from tests.make_model import random_tensor, values_of

ISAS = {i.name: i for i in isa.runnable()}
#: One of each size of registers, and AVX2, which most machines have; GGRUN_TEST_ISAS=all (`make test-isas`) tries all.
TRIED = [
    name
    for name, one in ISAS.items()
    if os.environ.get("GGRUN_TEST_ISAS") == "all"
    or name == "avx2"
    or one == next(first for first in ISAS.values() if first.byte_registers == one.byte_registers)
]
#: Types of keys and values, each once as either.
CACHES = [
    ("f16", "f16"), ("f16", "q8_0"), ("q8_0", "q4_0"), ("q4_0", "f32"), ("f32", "bf16"), ("bf16", "q5_1"),
    ("q5_1", "q5_0"), ("q5_0", "q4_1"), ("q4_1", "iq4_nl"), ("iq4_nl", "f16"),
]  # fmt: skip
GATES = [("Q4_K", "bytes"), ("Q8_0", "bytes"), ("Q4_1", "bytes"), ("F16", "floats")]  # types of weights, of the result
#: All that products and gates tell apart: tried on one instruction set for each size of registers, and on AVX2.
KINDS = frozenset({
    "F32", "F16", "BF16", "Q1_0", "Q4_0", "Q4_1", "Q5_0", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q6_K", "IQ2_XXS", "NVFP4",
})  # fmt: skip
#: Tried on every instruction set.
EVERYWHERE = frozenset({"F16", "BF16", "Q4_1", "Q8_0", "Q4_K", "IQ2_XXS"})
FORMS = ("bytes", "floats", "byte_lanes", "float_lanes")
#: Types of weights that are multiplied as bf16: with instructions for pairs of them, and for tiles.
BFLOATS = {"bfloats": ["BF16"], "tiles": sorted(KINDS - FLOATS | {"BF16"})}


@pytest.fixture(scope="module", params=TRIED)
def library(request: pytest.FixtureRequest) -> Library:
    library = Library(ISAS[request.param])
    dotted = types_of(library)
    products = [f"rows.embed:{fmt}" for fmt in unpacked(library)] + [f"matmul.linear:{fmt}" for fmt in dotted]
    products += [f"matvec.linear:{fmt}:{n}" for fmt in dotted for n in (1, 3)]
    if library.isa.dots_bytes:  # where it pays; elsewhere no plan asks for it
        products += [f"matmul.linear:{fmt}:rounded" for fmt in dotted if fmt in ROUNDED]
        products += ["matmul.swiglu:Q4_K:byte_lanes:rounded"]
    for fmt, kind in GATES:
        products += [f"matvec.swiglu:{fmt}:{n}:{kind}" for n in (1, 3)]
        products += [f"matmul.swiglu:{fmt}:{out}" for out in (f"{kind[:-1]}_lanes", "plain")]
    for how in library_bfloats(library):
        products += [f"matmul.linear:{fmt}:{how}" for fmt in BFLOATS[how]]
        products += [f"matmul.swiglu:{fmt}:bfloat_lanes:{how}" for fmt in BFLOATS[how] if fmt in KINDS]
    products += ["rows.pack:bfloat_lanes"] if library.isa.dots_bfloats else []
    others = [f"rows.{name}:{kind}" for name in ("pack", "norm:rms:weight", "gate:silu") for kind in FORMS]
    others += ["rows.norm:rms:weight:plain", "rows.gate:silu:plain", "rows.add", "rows.gather"]
    attention = ["rope.rope:pairs", "rope.rope:halves", "attention.merge:plain"]
    for types in caches_of(library):
        attention += [f"kv.save:{types[0]}:{types[1]}", f"attention.attend:{types[0]}:{types[1]}:plain"]
    attention += ["attention.attend:f16:f16:plain:bfloats"] if library.isa.dots_bfloats else []
    library.load([*products, *others, *attention, *Ranking.KERNELS])
    return library


def types_of(library: Library) -> list[str]:
    """Types whose products are tried: all on the best instruction set."""
    if library.isa == next(iter(ISAS.values())):
        return sorted(FORMATS)
    return sorted(KINDS if is_first(library) or library.isa.name == "avx2" else EVERYWHERE)


def is_first(library: Library) -> bool:
    """Whether an instruction set is the first with registers of its size."""
    return library.isa == next(isa for isa in ISAS.values() if isa.byte_registers == library.isa.byte_registers)


def unpacked(library: Library) -> list[str]:
    """Types that are dequantised."""
    return sorted(FORMATS) if is_first(library) else types_of(library)


def caches_of(library: Library) -> list[tuple[str, str]]:
    return CACHES if library.isa == next(iter(ISAS.values())) else CACHES[:3]


def library_bfloats(library: Library) -> list[str]:
    """The ways of multiplying bf16 that an instruction set has."""
    return ["bfloats"] * library.isa.dots_bfloats + ["tiles"] * library.isa.has_tiles


def count(n: int) -> np.ndarray:
    return np.array([n], np.int64)


def matrix(fmt: str, rows: int, columns: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random weights of a type: (their bytes, one row after the other; their values by gguf.quants)."""
    raw = random_tensor(np.random.default_rng(seed), fmt, rows, columns)
    return raw, values_of(raw, fmt).reshape(rows, columns)


def record_form(fmt: str, lanes: bool) -> str:
    """The form in which a type of weights wants activations."""
    return ("float" if fmt in FLOATS else "byte") + ("_lanes" if lanes else "s")


def no_records(form: str, n_tokens: int, n_columns: int) -> np.ndarray:
    n_records = -(-n_columns // COLUMNS) * (-(-n_tokens // LANES) if form.endswith("lanes") else n_tokens)
    return np.zeros((n_records, RECORD_BYTES[form]), np.uint8)


def pack(library: Library, form: str, x: np.ndarray) -> np.ndarray:
    """Activations as records."""
    out = no_records(form, *x.shape)
    library.get(f"rows.pack:{form}")(a=x, b=x, out=out, n_columns=x.shape[1], n_tokens=count(len(x)))
    return out


def apart(records: np.ndarray) -> np.ndarray:
    """Of records of byte_lanes, the columns that are kept apart: f32[record][16 tokens][256], zeros for the others."""
    lines = records[:, LANES_APART:LANES_MASKS].copy().view(np.float32).reshape(-1, COLUMNS // 32, LANES, 1)
    masks = records[:, LANES_MASKS:].copy().view(np.uint32).reshape(-1, 2, COLUMNS // 32)
    np.testing.assert_array_equal(masks[:, 0], masks[:, 1])
    kept = np.where(masks[:, 0, :, None, None] >> np.arange(32, dtype=np.uint32) & 1, lines, 0)
    return kept.transpose(0, 2, 1, 3).reshape(-1, LANES, COLUMNS)


def packed_values(form: str, records: np.ndarray, n_tokens: int, n_columns: int) -> np.ndarray:
    """What records stand for, in float64[n_tokens][n_columns]."""
    if form == "floats":
        values = records.view(np.float32).reshape(-1, n_tokens, COLUMNS)
    elif form == "float_lanes":
        values = records.view(np.float32).reshape(-1, -(-n_tokens // LANES), COLUMNS, LANES)
        values = values.transpose(0, 1, 3, 2).reshape(len(values), -1, COLUMNS)
    elif form == "bytes":
        q = records[:, :COLUMNS].copy().view(np.int8).astype(np.float64)
        d = records[:, D : D + 64].copy().view(np.float32)[:, list(WOVEN)].astype(np.float64)
        values = (q * d.repeat(16, axis=1)).reshape(-1, n_tokens, COLUMNS)
    else:
        q = records[:, :LANES_D].copy().view(np.int8).reshape(-1, COLUMNS // 4, LANES, 4).transpose(0, 2, 1, 3)
        d = records[:, LANES_D:LANES_SUMS].copy().view(np.float32).reshape(-1, COLUMNS // 32, LANES).transpose(0, 2, 1)
        values = q.reshape(len(q), LANES, COLUMNS) * d.astype(np.float64).repeat(32, axis=2) + apart(records)
        values = values.reshape(-1, -(-n_tokens // LANES) * LANES, COLUMNS)
    return values[:, :n_tokens].transpose(1, 0, 2).reshape(n_tokens, -1)[:, :n_columns].astype(np.float64)


def columns_of(fmt: str) -> list[int]:
    """Row lengths to try: whole records, parts of one, and for types of 32 columns an odd number of blocks."""
    if fmt in FLOATS:
        return [256, 40, 333]
    block = BY_NAME[fmt].columns
    return [512, 768] if block == COLUMNS else [512, 512 + 2 * block, 256 + block, block]


def shapes(types: list[str]) -> list[tuple[str, int]]:
    return [(fmt, columns) for fmt in types for columns in columns_of(fmt)]


def test_dequantise_bit_for_bit(library: Library) -> None:
    for fmt, columns in shapes(unpacked(library)):
        raw, values = matrix(fmt, 37, columns)
        ids = np.random.default_rng(1).integers(0, 37, 50).astype(np.int32)
        out, scratch = np.zeros((50, columns), np.float32), np.zeros(SCRATCH, np.uint8)
        library.get(f"rows.embed:{fmt}")(
            weights=raw,
            row_bytes=raw.shape[1],
            n_columns=columns,
            ids=ids,
            out=out,
            scratch=scratch,
            n_tokens=count(50),
        )
        np.testing.assert_array_equal(out, values[ids], fmt)


@pytest.mark.parametrize("fmt", ["MXFP4", "NVFP4", "TQ1_0", "TQ2_0", "I8", "I16", "I32", "I64"])
def test_every_scale_and_byte_is_dequantised(library: Library, fmt: str) -> None:
    if fmt not in unpacked(library):
        pytest.skip("with these registers another instruction set is tried")
    blocks = np.random.default_rng(11).integers(0, 256, (256, BY_NAME[fmt].bytes), np.uint8)
    if fmt.endswith("FP4"):
        blocks[:, : {"MXFP4": 1, "NVFP4": 4}[fmt]] = np.arange(256, dtype=np.uint8)[:, None]
    if fmt.startswith("TQ"):
        blocks[:, -2:] = np.frombuffer(np.float16(0.75).tobytes(), np.uint8)
    out, columns = np.zeros((1, 256 * BY_NAME[fmt].columns), np.float32), 256 * BY_NAME[fmt].columns
    library.get(f"rows.embed:{fmt}")(
        weights=blocks, row_bytes=blocks.size, n_columns=columns, ids=np.zeros(1, np.int32), out=out,
        scratch=np.zeros(SCRATCH, np.uint8), n_tokens=count(1),
    )  # fmt: skip
    np.testing.assert_array_equal(out[0], values_of(blocks, fmt))


def test_products(library: Library) -> None:
    rng = np.random.default_rng(2)
    for fmt, columns in shapes(types_of(library)):
        raw, values = matrix(fmt, 53, columns)
        bias = rng.normal(size=53).astype(np.float32)
        for n_tokens in (1, 3, 15, 29, 61):
            x = (rng.normal(size=(n_tokens, columns)) * rng.uniform(0.1, 10, columns)).astype(np.float32)
            start = rng.normal(size=(n_tokens, 53)).astype(np.float32)
            arguments = {
                "weights": raw, "row_bytes": raw.shape[1], "n_rows": 53, "n_columns": columns, "bias": bias, "add": 1,
                "scratch": np.zeros(SCRATCH, np.uint8),
            }  # fmt: skip
            for module in ("matvec", "matmul")[n_tokens > 3 :]:
                form = record_form(fmt, module == "matmul")
                out, records = start.copy(), pack(library, form, x)
                if module == "matmul":
                    arguments["n_tokens"] = count(n_tokens)
                kernel = f"matmul.linear:{fmt}" if module == "matmul" else f"matvec.linear:{fmt}:{n_tokens}"
                library.get(kernel)(out=out, x=records, **arguments)
                seen = packed_values(form, records, n_tokens, columns)
                wanted = start + bias + seen @ values.T.astype(np.float64)
                size = np.abs(seen) @ np.abs(values.T.astype(np.float64)) + 1  # what rounding errors are relative to
                assert np.max(np.abs(out - wanted) / size) < 2e-6, (fmt, columns, kernel)
            if fmt in ROUNDED and n_tokens > 1 and library.isa.dots_bytes:
                out = start.copy()
                library.get(f"matmul.linear:{fmt}:rounded")(out=out, x=records, **arguments)
                bytes_of = np.abs(np.pad(values, ((0, 0), (0, -columns % COLUMNS)))).reshape(53, -1, COLUMNS)
                # a group's scale tells only how large its weights may be: at most twice as large as they are
                step = np.repeat(bytes_of.max(axis=2), COLUMNS, axis=1)[:, :columns] * 2 / 127
                error = np.sqrt(seen**2 @ (step.T.astype(np.float64) ** 2) / 12)  # of steps that are independent
                assert np.max(np.abs(out - wanted) / (error + 2e-6 * size)) < 5, (fmt, columns)


@pytest.mark.parametrize(("fmt", "columns"), [("Q4_K", 512), ("Q4_1", 608), ("Q6_K", 512), ("Q5_0", 96)])
def test_large_columns_are_kept_apart(library: Library, fmt: str, columns: int) -> None:
    if fmt not in types_of(library):
        pytest.skip("this type is tried with another instruction set")
    rng = np.random.default_rng(10)
    raw, values = matrix(fmt, 53, columns)
    n_large = 3
    for n_tokens in (5, 16, 25, 61, 150):
        x, scratch = rng.normal(size=(n_tokens, columns)), np.full(SCRATCH, 0xFF, np.uint8)
        large = np.zeros((n_tokens, columns), bool)
        for t in range(0, n_tokens, LANES):  # those of 16 tokens are alike, and each in a group of 32 of its own
            groups = rng.choice(columns // 32, n_large, replace=False)
            large[t : t + LANES, 32 * groups + rng.integers(0, 32, n_large)] = True
        x = np.where(large, 60 * np.sign(x) + x, x).astype(np.float32)
        weight = rng.uniform(1, 2, columns).astype(np.float32)
        records, count_of = no_records("byte_lanes", n_tokens, columns), count(n_tokens)
        if n_tokens % LANES:  # what stands beside the last tokens is of no account
            records.reshape(-(-columns // COLUMNS), -1, records.shape[1])[:, -1, : 4 * COLUMNS * LANES] = 0x55
        library.get("rows.norm:rms:weight:apart_lanes")(
            x=x, weight=weight, bias=0, out=records, n_columns=columns, n_heads=1, own_weights=0, eps=1e-5,
            scratch=scratch, n_tokens=count_of,
        )
        kept = apart(records).reshape(-(-columns // COLUMNS), -1, COLUMNS)
        kept = kept.transpose(1, 0, 2).reshape(kept.shape[1], -1)[:n_tokens, :columns]
        np.testing.assert_array_equal(kept != 0, large)
        exact = x / np.sqrt((x.astype(np.float64) ** 2).mean(axis=1, keepdims=True) + 1e-5) * weight
        np.testing.assert_allclose(kept[large], exact[large], rtol=1e-6)
        seen, rest = packed_values("byte_lanes", records, n_tokens, columns), np.where(large, 0, exact)
        step = np.abs(rest).reshape(n_tokens, -1, 32).max(axis=2).repeat(32, axis=1) / 127
        assert np.all(np.abs(seen - exact) <= 0.5001 * step + 1e-6 * np.abs(exact))
        arguments = {
            "weights": raw, "row_bytes": raw.shape[1], "n_rows": 53, "n_columns": columns, "x": records, "bias": 0,
            "add": 0, "scratch": scratch, "n_tokens": count_of,
        }  # fmt: skip
        out = np.full((n_tokens, 53), np.nan, np.float32)
        wanted, size = seen @ values.T.astype(np.float64), np.abs(seen) @ np.abs(values.T.astype(np.float64)) + 1
        if library.isa.dots_bytes:
            library.get(f"matmul.linear:{fmt}:rounded")(out=out, **arguments)
            # what weights lose by rounding is not multiplied by the large numbers
            lost = np.sqrt(((seen - kept) ** 2).sum(axis=1))[:, None] * np.abs(values).max() * 2 / 127 / np.sqrt(12)
            assert np.max(np.abs(out - wanted) / (lost + 2e-6 * size)) < 5


@pytest.mark.parametrize(("fmt", "kind"), GATES)
def test_gated_products(library: Library, fmt: str, kind: str) -> None:
    rng = np.random.default_rng(8)
    for rows in (256, 72, 48):
        (gate, gates), (up, ups) = matrix(fmt, rows, 512, 1), matrix(fmt, rows, 512, 2)
        for n_tokens in (1, 3, 9, 150):
            x = rng.normal(size=(n_tokens, 512)).astype(np.float32)
            arguments = {
                "gate": gate, "up": up, "row_bytes": gate.shape[1], "n_rows": rows, "n_columns": 512,
                "scratch": np.zeros(SCRATCH, np.uint8),
            }  # fmt: skip
            kernels = [f"matmul.swiglu:{fmt}:{kind[:-1]}_lanes", f"matmul.swiglu:{fmt}:plain"]
            if fmt == "Q4_K" and library.isa.dots_bytes:
                kernels.append(f"matmul.swiglu:{fmt}:byte_lanes:rounded")
            if n_tokens <= 3:
                kernels = [f"matvec.swiglu:{fmt}:{n_tokens}:{kind}"]
            for kernel in kernels:
                records = pack(library, record_form(fmt, n_tokens > 3), x)
                seen = packed_values(record_form(fmt, n_tokens > 3), records, n_tokens, 512)
                a, b = seen @ gates.T.astype(np.float64), seen @ ups.T.astype(np.float64)
                with np.errstate(over="ignore"):
                    wanted = a / (1 + np.exp(-a)) * b
                if n_tokens > 3:
                    arguments["n_tokens"] = count(n_tokens)
                form = kernel.split(":")[2 + (n_tokens <= 3)]
                if form == "plain":
                    got = out = np.full((n_tokens, rows), np.nan, np.float32)
                else:
                    out = no_records(form, n_tokens, rows)
                library.get(kernel)(out=out, x=records, **arguments)
                if form != "plain":
                    got = packed_values(form, out, n_tokens, rows)
                tolerance = 1e-5 if form.startswith(("plain", "float")) else 0.5001 / 127
                if kernel.endswith("rounded"):
                    tolerance = 0.03
                assert np.max(np.abs(got - wanted)) <= tolerance * np.max(np.abs(wanted)) + 1e-5


def nearest_bfloats(x: np.ndarray) -> np.ndarray:
    """f32 rounded to bf16, as f64."""
    bits = x.view(np.uint32)
    return (bits + 0x7FFF + (bits >> 16 & 1) & 0xFFFF0000).view(np.float32).astype(np.float64)


@pytest.mark.parametrize("how", BFLOATS)
def test_products_of_bfloats(library: Library, how: str) -> None:
    if how not in library_bfloats(library):
        pytest.skip("not an instruction of this set")
    rng = np.random.default_rng(9)
    tried = [(fmt, n) for fmt in BFLOATS[how] for n in ([256, 41, 333, 512] if fmt == "BF16" else columns_of(fmt))]
    for fmt, columns in tried:
        (raw, values), (other, others) = matrix(fmt, 72, columns), matrix(fmt, 72, columns, 1)
        for n_tokens in (2, 9, 61):
            x = rng.normal(size=(n_tokens, columns)).astype(np.float32)
            records = pack(library, "bfloat_lanes", x)
            arguments = {
                "row_bytes": raw.shape[1], "n_rows": 72, "n_columns": columns, "x": records,
                "scratch": np.full(SCRATCH, 0xFF, np.uint8), "n_tokens": count(n_tokens),
            }  # fmt: skip
            out = np.zeros((n_tokens, 72), np.float32)
            library.get(f"matmul.linear:{fmt}:{how}")(weights=raw, out=out, bias=0, add=0, **arguments)
            a, b = (nearest_bfloats(x) @ nearest_bfloats(w).T for w in (values, others))
            np.testing.assert_allclose(out, a, atol=1e-5 * np.abs(a).max())
            if fmt not in KINDS:
                continue
            gated = no_records("bfloat_lanes", n_tokens, 72)
            library.get(f"matmul.swiglu:{fmt}:bfloat_lanes:{how}")(gate=raw, up=other, out=gated, **arguments)
            lines = gated.view(np.uint16).astype(np.uint32).reshape(-1, COLUMNS // 2, LANES, 2) << 16
            got = lines.view(np.float32).transpose(0, 2, 1, 3).reshape(-1, COLUMNS)[:n_tokens, :72]
            wanted = a / (1 + np.exp(-a)) * b
            np.testing.assert_allclose(got, wanted, rtol=2**-8, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("form", ["bytes", "byte_lanes"])
def test_packing_is_the_nearest_byte(library: Library, form: str) -> None:
    rng = np.random.default_rng(3)
    x = (rng.normal(size=(5, 600)) * rng.choice([0, 1e-3, 1, 300], 600)).astype(np.float32)
    records = pack(library, form, x)
    values = packed_values(form, records, 5, 608)[:, :600]
    groups = np.pad(x, ((0, 0), (0, 8))).reshape(5, 19, 32)
    step = np.abs(groups).max(axis=2) / 127
    assert np.all(np.abs(values - x) <= step.repeat(32, axis=1)[:, :600] * 0.5001)
    if form == "bytes":
        sums = records[:, SUMS : SUMS + 64].copy().view(np.float32)[:, list(WOVEN)]
        q = records[:, :COLUMNS].copy().view(np.int8).astype(np.float64).reshape(-1, 16, 16).sum(axis=2)
        d = records[:, D : D + 64].copy().view(np.float32)[:, list(WOVEN)]
        np.testing.assert_allclose(sums, q * d, rtol=1e-6, atol=1e-6)
    else:
        q = records[:, :LANES_D].copy().view(np.int8).reshape(-1, 16, 4, LANES, 4).sum(axis=(2, 4), dtype=np.int32)
        sums = records[:, LANES_SUMS:LANES_APART].copy().view(np.int32).reshape(-1, 16, LANES)
        np.testing.assert_array_equal(sums, q)


def test_extreme_bytes_do_not_overflow(library: Library) -> None:
    # every q at its largest, every activation at ±127: where 16-bit sums would overflow
    raw = np.zeros((16, 256 // 32, 34), np.uint8)
    raw[:, :, 0:2] = np.frombuffer(np.float16(1).tobytes(), np.uint8)
    for q in (127, -128):
        raw[:, :, 2:] = np.int8(q).view(np.uint8)
        for sign in (1, -1):
            x = np.full((1, 256), sign, np.float32)
            out = np.zeros((1, 16), np.float32)
            library.get("matvec.linear:Q8_0:1")(
                weights=raw, row_bytes=272, n_rows=16, n_columns=256, x=pack(library, "bytes", x), out=out, bias=0,
                add=0, scratch=np.zeros(SCRATCH, np.uint8),
            )  # fmt: skip
            np.testing.assert_allclose(out, q * sign * 256, rtol=1e-6)


@pytest.mark.parametrize("n", [1, 16, 100, 576])
def test_rms_norm(library: Library, n: int) -> None:
    rng = np.random.default_rng(4)
    x, weight = rng.normal(size=(7, n)).astype(np.float32) * 30, rng.normal(size=n).astype(np.float32)
    out = np.zeros_like(x)
    library.get("rows.norm:rms:weight:plain")(
        x=x, weight=weight, bias=0, out=out, n_columns=n, n_heads=1, own_weights=0, eps=1e-5,
        scratch=np.zeros(SCRATCH, np.uint8), n_tokens=count(7),
    )
    exact = x.astype(np.float64)
    exact = exact / np.sqrt((exact**2).mean(axis=1, keepdims=True) + 1e-5) * weight
    np.testing.assert_allclose(out, exact, rtol=2e-6, atol=1e-7)


def test_swiglu_over_the_whole_range(library: Library) -> None:
    gate = np.concatenate([np.linspace(-120, 120, 4001), [0, -1000, 1000]]).astype(np.float32)[None]
    up, out = np.ones_like(gate), np.zeros_like(gate)
    library.get("rows.gate:silu:plain")(a=gate, b=up, out=out, n_columns=gate.shape[1], n_tokens=count(1))
    with np.errstate(over="ignore"):
        exact = gate / (1 + np.exp(-gate.astype(np.float64)))
    np.testing.assert_allclose(out, exact, rtol=3e-7, atol=1e-30)


def test_what_samplers_ask_of_logits(library: Library) -> None:
    rows = np.random.default_rng(0).standard_normal((3, 1000), np.float32)
    rows[1], rows[2, 7:9] = np.round(rows[1]), -np.nan
    k, n_parts = 40, 3
    found, best, sums = np.zeros((3, n_parts, k), np.int32), np.zeros((3, k), np.int32), np.zeros((3, n_parts, 2))
    x, found_at, best_at, sums_at = (np.array([address(array)], np.int64) for array in (rows, found, best, sums))
    sizes = {"n_rows": 3, "n_parts": n_parts, "n_columns": 1000}
    shape = {"x": x, **{name: np.array([size], np.int64) for name, size in sizes.items()}}
    largest = {**shape, "k": np.array([k], np.int64), "scratch": np.zeros(SCRATCH, np.uint8)}
    of_parts, of_rows, of_sums = Ranking.KERNELS
    library.get(of_parts)(out=found_at, **largest)
    library.get(of_rows)(found=found_at, out=best_at, **largest)
    library.get(of_sums)(out=sums_at, **shape)
    truth = HostDevice("NumPy", "")
    np.testing.assert_array_equal(best, truth.best(rows, k))
    total = np.log((sums[:2, :, 1] * np.exp(sums[:2, :, 0])).sum(axis=1))
    np.testing.assert_allclose(total, truth.normalizers(rows[:2]), atol=1e-6)


def test_add_and_gather(library: Library) -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(2, 5, 37)).astype(np.float32)
    out = np.zeros_like(a)
    library.get("rows.add")(a=a, b=b, out=out, n_columns=37, n_tokens=count(5))
    np.testing.assert_array_equal(out, a + b)
    rows, few = np.array([4, 0, 4], np.int32), np.zeros((3, 37), np.float32)
    library.get("rows.gather")(x=a, rows=rows, out=few, n_columns=37, n_tokens=count(3))
    np.testing.assert_array_equal(few, a[rows])


@pytest.mark.parametrize("layout", ["pairs", "halves"])
@pytest.mark.parametrize(("head_dim", "n_rot"), [(64, 64), (128, 128), (80, 20), (72, 72)])
def test_rope(library: Library, layout: str, head_dim: int, n_rot: int) -> None:
    rng = np.random.default_rng(6)
    x, theta = rng.normal(size=(5, 3, head_dim)).astype(np.float32), rng.normal(size=(5, n_rot // 2))
    cos, sin = np.cos(theta).astype(np.float32), np.sin(theta).astype(np.float32)
    first, second = (
        (slice(0, n_rot, 2), slice(1, n_rot, 2)) if layout == "pairs" else (slice(n_rot // 2), slice(n_rot // 2, n_rot))
    )
    turned = (x[..., first] + 1j * x[..., second]) * (cos + 1j * sin)[:, None]
    wanted = x.copy()
    wanted[..., first], wanted[..., second] = turned.real, turned.imag
    out = x.copy()
    library.get(f"rope.rope:{layout}")(
        x=out, cos=cos, sin=sin, n_heads=3, head_dim=head_dim, n_rot=n_rot, n_tokens=count(5)
    )
    np.testing.assert_allclose(out, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("n_heads", "n_kv_heads", "head_dim", "v_dim", "before", "n_tokens"),
    [
        (9, 3, 64, 64, 0, 70),
        (8, 2, 128, 128, 100, 3),
        (4, 4, 80, 80, 63, 1),
        (6, 2, 72, 40, 10, 40),
        (71, 1, 64, 64, 5, 2),
        (2, 1, 256, 256, 700, 9),
    ],
)
@pytest.mark.parametrize("window", [0, 1, 64, 90])
def test_attention(
    library: Library, n_heads: int, n_kv_heads: int, head_dim: int, v_dim: int, before: int, n_tokens: int, window: int
) -> None:
    case = Attended(n_heads, n_kv_heads, head_dim, v_dim, before, n_tokens)
    out, wanted = case.run(library, "f16", "f16", window), case.exact("f16", "f16", window)
    np.testing.assert_allclose(out, wanted, atol=8e-6)
    spans = case.run(library, "f16", "f16", window, span=2)
    np.testing.assert_allclose(spans, wanted, atol=8e-6)
    if library.isa.dots_bfloats:
        # queries, keys, weights and values each rounded to 8 bits of mantissa; scores here reach about 40
        rounded = case.run(library, "f16", "f16", window, how=":bfloats")
        assert np.abs(rounded - wanted).max() < 0.25 and np.sqrt(np.mean((rounded - wanted) ** 2)) < 0.02


@pytest.mark.parametrize(("k_type", "v_type"), CACHES[1:])
def test_attention_over_a_cache_of_each_type(library: Library, k_type: str, v_type: str) -> None:
    if (k_type, v_type) not in caches_of(library):
        pytest.skip("with these registers another instruction set is tried")
    for heads in ((6, 2, 64, 128, 100, 40), (4, 4, 96, 32, 200, 1)):
        case = Attended(*heads)
        out, wanted = case.run(library, k_type, v_type, 0), case.exact(k_type, v_type, 0)
        # a number on the border between two steps may fall to either; it has a part of the weight
        largest = max(np.abs(case.k).max(), np.abs(case.v).max())
        parts = {"q8_0": 127, "q5_1": 15, "q5_0": 16, "q4_1": 7, "q4_0": 8, "iq4_nl": 5}  # steps up to the largest
        step = max(largest / parts.get(kind, np.inf) for kind in (k_type, v_type))
        difference = np.abs(out - wanted)
        assert np.median(difference) < 1e-5 and difference.max() < max(0.2 * step, 1e-5)


class Attended:
    """Random heads over pages, through the kernels and through float64."""

    def __init__(self, n_heads: int, n_kv_heads: int, head_dim: int, v_dim: int, before: int, n_tokens: int) -> None:
        rng = np.random.default_rng(7)
        self.n_heads, self.n_kv_heads, self.before, self.n_tokens = n_heads, n_kv_heads, before, n_tokens
        self.k = rng.normal(size=(before + n_tokens, n_kv_heads, head_dim)).astype(np.float32)
        self.v = rng.normal(size=(before + n_tokens, n_kv_heads, v_dim)).astype(np.float32)
        self.q = rng.normal(size=(n_tokens, n_heads, head_dim)).astype(np.float32) * 3

    def run(self, library: Library, k_type: str, v_type: str, window: int, span: int = 0, how: str = "") -> np.ndarray:
        """span: pages of a span, into which each block is cut; 0: none is."""
        total, head_dim, v_dim = len(self.k), self.k.shape[2], self.v.shape[2]
        k_bytes, v_bytes = head_bytes(k_type, head_dim), head_bytes(v_type, v_dim)
        v_offset = self.n_kv_heads * k_bytes
        # pages begin full of NaN: nothing may be read that was not written
        pages = [np.full(v_offset + self.n_kv_heads * v_bytes, 0xFF, np.uint8) for _ in range(-(-total // PAGE))]
        table = np.array([address(page) for page in pages], np.int64)
        slots = np.array([(table[i // PAGE], i % PAGE) for i in range(total)], np.int64)
        common = {
            "head_dim": head_dim, "v_dim": v_dim, "k_offset": 0, "v_offset": v_offset, "k_bytes": k_bytes,
            "v_bytes": v_bytes, "scratch": np.zeros(SCRATCH, np.uint8),
        }  # fmt: skip
        library.get(f"kv.save:{k_type}:{v_type}")(
            k=self.k, v=self.v, v_token=self.n_kv_heads * v_dim, slots=slots, n_heads=self.n_kv_heads,
            n_tokens=count(total), **common
        )
        step = max(1, 32 // (self.n_heads // self.n_kv_heads))
        blocks, splits, row = [], [], 0
        for i in range(0, self.n_tokens, step):
            n, n_pages = min(step, self.n_tokens - i), -(-total // PAGE)
            n_pages = -(-(self.before + i + n) // PAGE)
            if not span:
                blocks.append((address(table), i, n, self.before + i, 0, n_pages, -1, 1, total))
                continue
            splits.append((i, n, row, -(-n_pages // span)))
            for page in range(0, n_pages, span):
                blocks.append((address(table), i, n, self.before + i, page, min(page + span, n_pages), row, 0, total))
                row += n
        out = np.full((self.n_tokens, self.n_heads, v_dim), np.nan, np.float32)
        partials = np.full((row, self.n_heads, -(-v_dim // 16) * 16 + 16), np.nan, np.float32)
        library.get(f"attention.attend:{k_type}:{v_type}:plain{how}")(
            q=self.q, out=out, blocks=np.array(blocks, np.int64), n_heads=self.n_heads, n_kv_heads=self.n_kv_heads,
            scale=head_dim**-0.5, window=window, chunk=0, softcap=0.0, slopes=0, bias=0, sinks=0, partials=partials,
            n_blocks=count(len(blocks)), chosen=0, n_chosen=0, summaries=0, summary_keys=0, summary_values=0,
            stride_seen=0, n_tokens=count(self.n_tokens), **common,
        )  # fmt: skip
        if span:
            library.get("attention.merge:plain")(
                out=out, splits=np.array(splits, np.int64), n_heads=self.n_heads, v_dim=v_dim, sinks=0,
                partials=partials,
                scratch=common["scratch"], n_splits=count(len(splits)), n_tokens=count(self.n_tokens),
            )  # fmt: skip
        return out

    def exact(self, k_type: str, v_type: str, window: int) -> np.ndarray:
        group, total = self.n_heads // self.n_kv_heads, len(self.k)
        k, v = (as_cached(a, kind).repeat(group, axis=1) for a, kind in ((self.k, k_type), (self.v, v_type)))
        scores = np.einsum("thd,shd->hts", self.q.astype(np.float64), k) * self.k.shape[2] ** -0.5
        position = self.before + np.arange(self.n_tokens)[:, None]
        hidden = np.arange(total) > position
        if window:
            hidden |= np.arange(total) <= position - window
        scores = np.where(hidden, -np.inf, scores)
        weights = np.exp(scores - scores.max(axis=2, keepdims=True))
        weights /= weights.sum(axis=2, keepdims=True)
        return np.einsum("hts,shd->thd", weights, v)


def as_cached(x: np.ndarray, kind: str) -> np.ndarray:
    """What a type of cache keeps of numbers, by gguf's own quantisation."""
    if kind in ("f32", "f16"):
        return x.astype(kind.replace("f", "float")).astype(np.float64)
    if kind == "bf16":
        return nearest_bfloats(x)
    if kind == "iq4_nl":
        return in_steps(x)
    quant = gguf.GGMLQuantizationType[kind.upper()]
    return dequantize(gguf.quants.quantize(x, quant), quant).astype(np.float64)


def in_steps(x: np.ndarray) -> np.ndarray:
    """What iq4_nl keeps: ggml's quantize_row_iq4_nl_ref, which gguf-py lacks."""
    steps, groups = np.array(gguf.quants.IQ4_NL.kvalues), x.reshape(-1, 32)
    largest = np.take_along_axis(groups, np.abs(groups).argmax(axis=1)[:, None], axis=1)
    q = steps[np.searchsorted((steps[1:] + steps[:-1]) / 2, groups * (steps[0] / largest), side="right")]
    d = (groups**3 * q).sum(axis=1) / (groups**2 * q**2).sum(axis=1)
    return (d.astype(np.float16).astype(np.float64)[:, None] * q).reshape(x.shape)


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=16, max_size=64))
@settings(max_examples=200, deadline=None)
def test_halves_round_as_numpy_does(values: list[float]) -> None:
    # keys go through f16 in the cache; the generic path rounds with integers
    x = np.array(values[: len(values) // 16 * 16], np.float32)
    with np.errstate(over="ignore"):
        wanted = x.astype(np.float16)
    for one in ISAS.values():
        page = np.zeros(2 * len(x) * PAGE, np.uint8)
        nothing = np.zeros(16, np.float32)
        Library(one).get("kv.save:f16:f16")(
            k=x, v=nothing, slots=np.array([[address(page), 0]], np.int64), n_heads=1, head_dim=len(x), v_dim=0,
            v_token=0,
            k_offset=0, v_offset=0, k_bytes=0, v_bytes=0, scratch=nothing, n_tokens=count(1),
        )  # fmt: skip
        np.testing.assert_array_equal(page.view(np.float16)[::PAGE], wanted)

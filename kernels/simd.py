"""SIMD vectors as Numba types, and the operations on them.

A vector lives in registers: its Numba data model is an LLVM vector. Kernels always think in 512-bit
vectors (`f32x16`, `i8x64`, …); where registers are narrower, LLVM splits them. This module and `isa.py`
are the only ones that know instruction sets. Addresses are plain integers, in bytes; loads and stores
need no alignment. Only the compiler's own process imports this module.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from .isa import Isa, detect
from .layout import LANES, WOVEN

#: The instruction set to compile for.
TARGET: Isa = detect()
#: What Arm's intrinsics are named until compiler.py puts LLVM's name in its place: on the way Numba compiles code
#: for the machine that it runs on, which may be another and know none of them.
ARM = "ggrun.arm."
ARM_INTRINSICS = ("sdot.v4i32.v16i8", "usdot.v4i32.v16i8")

I1, I8, I16, I32, I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()


class _BFloat(ir.Type):
    """LLVM's type of bf16, which llvmlite has no name for."""

    intrinsic_name = "bf16"

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


BF16 = _BFloat()
_ELEMENTS = {"i8": I8, "i16": I16, "i32": I32, "f16": F16, "f32": F32}


class Vector(types.Type):
    """The Numba type of a vector of `lanes` elements; `element` is a key of _ELEMENTS."""

    def __init__(self, element: str, lanes: int) -> None:
        self.element, self.lanes = element, lanes
        self.llvm = ir.VectorType(_ELEMENTS[element], lanes)
        super().__init__(f"{element}x{lanes}")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Vector) -> None:
        super().__init__(manager, fe_type, fe_type.llvm)


f32x16, i32x16 = Vector("f32", 16), Vector("i32", 16)
i8x16, i8x32, i8x64 = Vector("i8", 16), Vector("i8", 32), Vector("i8", 64)
i16x16, i16x32 = Vector("i16", 16), Vector("i16", 32)
i8x8 = Vector("i8", 8)
ADDRESS = types.int64

#: For njit: no exceptions, and none of the wrappers that Python would call.
NUMBA_OPTIONS: dict[str, Any] = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


# --- making operations ---------------------------------------------------------------------------


def _op(result: Any, arguments: Sequence[Any], emit: Callable[..., ir.Value]) -> Any:
    """An intrinsic of fixed types; `emit(builder, *values)` gives its LLVM value (None for void).

    A `None` among `arguments` takes any type, and as `result` gives the first argument's type.
    """
    names = [f"a{i}" for i in range(len(arguments))]

    def typing_context(context: Any, *given: Any) -> Any:
        wanted = [g if w is None else w for w, g in zip(arguments, given, strict=True)]
        out = wanted[0] if result is None else result

        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, values: Any) -> ir.Value:
            value = emit(builder, *values)
            return context.get_dummy_value() if out == types.void else value

        return out(*wanted), codegen

    # Numba reads the parameters' names and number from the function's own signature
    scope: dict[str, Any] = {"body": typing_context}
    exec(f"def op(context, {', '.join(names)}):\n    return body(context, {', '.join(names)})", scope)
    return intrinsic(scope["op"])


def call(builder: ir.IRBuilder, name: str, result: ir.Type, values: Sequence[ir.Value]) -> ir.Value:
    """Call an LLVM intrinsic by its full name."""
    kind = ir.FunctionType(result, [v.type for v in values])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), values)


def _suffix(kind: ir.Type) -> str:
    """How LLVM spells a type within an intrinsic's name."""
    if isinstance(kind, ir.VectorType):
        return f"v{kind.count}{_suffix(kind.element)}"
    return {F32: "f32", F16: "f16"}.get(kind) or f"i{kind.width}"


def constant(element: ir.Type, values: Sequence[Any]) -> ir.Constant:
    return ir.Constant(ir.VectorType(element, len(values)), list(values))


def splat(builder: ir.IRBuilder, value: ir.Value, lanes: int) -> ir.Value:
    kind = ir.VectorType(value.type, lanes)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, I32(0))
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), constant(I32, [0] * lanes))


def shuffled(builder: ir.IRBuilder, a: ir.Value, b: ir.Value | None, lanes: Sequence[int]) -> ir.Value:
    b = ir.Constant(a.type, ir.Undefined) if b is None else b
    return builder.shuffle_vector(a, b, constant(I32, lanes))


def loaded(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type, offset: int = 0) -> ir.Value:
    if offset:
        address = builder.add(address, I64(offset))
    value = builder.load(builder.inttoptr(address, kind.as_pointer()), typ=kind)
    value.align = 1
    return value


def stored(builder: ir.IRBuilder, address: ir.Value, value: ir.Value, offset: int = 0) -> None:
    if offset:
        address = builder.add(address, I64(offset))
    builder.store(value, builder.inttoptr(address, value.type.as_pointer())).align = 1


def inline(function: Callable[..., Any]) -> Any:
    """Mark a function that kernels call; it is always inlined into them."""
    return njit(**NUMBA_OPTIONS)(function)


# --- operators: + - * & | ^ << >> on vectors of one type -----------------------------------------

_OPERATORS: dict[Any, tuple[str, str]] = {
    operator.add: ("add", "fadd"), operator.sub: ("sub", "fsub"), operator.mul: ("mul", "fmul"),
    operator.and_: ("and_", ""), operator.or_: ("or_", ""), operator.xor: ("xor", ""),
    operator.lshift: ("shl", ""), operator.rshift: ("lshr", ""),
}  # fmt: skip


def _define_operator(function: Any, integer: str, floating: str) -> None:
    @infer_global(function)
    class _Template(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            if len(args) == 2 and isinstance(args[0], Vector) and args[0] == args[1]:
                return signature(args[0], *args)
            return None

    @lower_builtin(function, Vector, Vector)
    def _lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return getattr(builder, floating if sig.return_type.element[0] == "f" else integer)(*args)


for _function, _names in _OPERATORS.items():
    _define_operator(_function, *_names)


# --- memory --------------------------------------------------------------------------------------


def _load(kind: Vector) -> Any:
    return _op(kind, [ADDRESS], lambda b, address: loaded(b, address, kind.llvm))


load_f32 = _load(f32x16)
load_i8x16, load_i8x32, load_i8x64 = _load(i8x16), _load(i8x32), _load(i8x64)
#: store(address, vector)
store = _op(types.void, [ADDRESS, None], stored)


def _scalar_load(result: Any, kind: ir.Type, cast: str = "") -> Any:
    def emit(b: ir.IRBuilder, address: ir.Value) -> ir.Value:
        value = loaded(b, address, kind)
        return getattr(b, cast)(value, I64) if cast else value

    return _op(result, [ADDRESS], emit)


#: One number from memory; the integers come widened to 64 bits.
get_i64 = _scalar_load(types.int64, I64)
get_i32 = _scalar_load(types.int64, I32, "sext")
get_u32 = _scalar_load(types.int64, I32, "zext")
get_u16 = _scalar_load(types.int64, I16, "zext")
get_u8 = _scalar_load(types.int64, I8, "zext")
get_f32 = _scalar_load(types.float32, F32)
put_f32 = _op(types.void, [ADDRESS, types.float32], stored)
put_i8 = _op(types.void, [ADDRESS, types.int64], lambda b, p, v: stored(b, p, b.trunc(v, I8)))


def _scatter(b: ir.IRBuilder, address: ir.Value, v: ir.Value) -> None:
    four_bytes = v.type.element == I8
    values = b.bitcast(v, ir.VectorType(I32, v.type.count // 4)) if four_bytes else v
    for i in range(values.type.count):
        stored(b, address, b.extract_element(values, I32(i)), 4 * LANES * i)


def _to_bfloat(b: ir.IRBuilder, v: ir.Value) -> ir.Value:
    return b.bitcast(b.fptrunc(v, ir.VectorType(BF16, 16)), i8x32.llvm)


#: Sixteen floats as bf16, to nearest even.
to_bfloat = _op(i8x32, [f32x16], _to_bfloat)
#: scatter(address, vector): each 32 bits of it into a line of their own, LANES × 4 bytes apart.
scatter = _op(types.void, [ADDRESS, None], _scatter)


def _prefetch(locality: int) -> Any:
    def emit(b: ir.IRBuilder, address: ir.Value) -> None:
        values = [b.inttoptr(address, I8.as_pointer()), I32(0), I32(locality), I32(1)]
        call(b, "llvm.prefetch.p0", ir.VoidType(), values)

    return _op(types.void, [ADDRESS], emit)


#: prefetch(address): have this cache line ready soon; any address will do. The second: in the second cache only.
prefetch, prefetch_later = _prefetch(3), _prefetch(2)


# --- half precision: in hardware where there is any, else with integers -----------------------------


def _half_to_float(b: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    """f16 bits (i16 vector) → f32. Without hardware: shift into place, rescale by 2^112."""
    lanes = bits.type.count
    if TARGET.half:
        return b.fpext(b.bitcast(bits, ir.VectorType(F16, lanes)), ir.VectorType(F32, lanes))

    def every(value: int) -> ir.Constant:
        return constant(I32, [value] * lanes)

    floats = ir.VectorType(F32, lanes)
    wide = b.zext(bits, ir.VectorType(I32, lanes))
    sign = b.shl(b.and_(wide, every(0x8000)), every(16))
    magnitude = b.and_(wide, every(0x7FFF))
    scaled = b.fmul(b.bitcast(b.shl(magnitude, every(13)), floats), constant(F32, [2.0**112] * lanes))
    is_special = b.icmp_unsigned(">=", magnitude, every(0x7C00))  # infinity and NaN keep a full exponent
    special = b.or_(b.shl(magnitude, every(13)), every(0x7F800000))
    chosen = b.select(is_special, special, b.bitcast(scaled, special.type))
    return b.bitcast(b.or_(chosen, sign), floats)


def _float_to_half(b: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """f32 → f16 bits (i16 vector), to nearest even; beyond the range of f16, infinity."""
    lanes = value.type.count
    if TARGET.half:
        return b.bitcast(b.fptrunc(value, ir.VectorType(F16, lanes)), ir.VectorType(I16, lanes))

    def every(value: int) -> ir.Constant:
        return constant(I32, [value] * lanes)

    ints, floats = ir.VectorType(I32, lanes), ir.VectorType(F32, lanes)
    bits = b.bitcast(value, ints)
    sign = b.lshr(b.and_(bits, every(0x80000000)), every(16))
    magnitude = b.and_(bits, every(0x7FFFFFFF))
    # normal numbers: rebias the exponent, round half to even on the 13 bits that go
    odd = b.and_(b.lshr(magnitude, every(13)), every(1))
    normal = b.lshr(b.add(magnitude, b.add(every((0xFFF - (112 << 23)) & 0xFFFFFFFF), odd)), every(13))
    # subnormal ones: adding 0.5 lets the float unit round at the right bit
    half = constant(F32, [0.5] * lanes)
    small = b.sub(b.bitcast(b.fadd(b.bitcast(magnitude, floats), half), ints), every(0x3F000000))
    chosen = b.select(b.icmp_unsigned("<", magnitude, every(113 << 23)), small, normal)
    chosen = b.select(b.icmp_unsigned(">=", magnitude, every(0x477FF000)), every(0x7C00), chosen)
    chosen = b.select(b.icmp_unsigned(">", magnitude, every(0x7F800000)), every(0x7E00), chosen)
    return b.trunc(b.or_(chosen, sign), ir.VectorType(I16, lanes))


def _bf16_to_float(b: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    wide = ir.VectorType(I32, bits.type.count)
    return b.bitcast(b.shl(b.zext(bits, wide), ir.Constant(wide, [16] * bits.type.count)), f32x16.llvm)


def half_at(b: ir.IRBuilder, address: ir.Value) -> ir.Value:
    return b.extract_element(_half_to_float(b, loaded(b, address, ir.VectorType(I16, 1))), I32(0))


load_f16 = _op(f32x16, [ADDRESS], lambda b, p: _half_to_float(b, loaded(b, p, i16x16.llvm)))
load_bf16 = _op(f32x16, [ADDRESS], lambda b, p: _bf16_to_float(b, loaded(b, p, i16x16.llvm)))
store_f16 = _op(types.void, [ADDRESS, f32x16], lambda b, p, v: stored(b, p, _float_to_half(b, v)))
get_f16 = _op(types.float32, [ADDRESS], half_at)
put_f16 = _op(types.void, [ADDRESS, types.float32], lambda b, p, v: stored(b, p, _float_to_half(b, splat(b, v, 1))))


def _spread_halves(n: int) -> Any:
    """An operation: n halves from each of two addresses → n vectors: its first on lanes 0 and 1, second on 2 and 3."""

    def emit(b: ir.IRBuilder, p: ir.Value, q: ir.Value) -> ir.Value:
        first, second = (loaded(b, at, ir.VectorType(I16, n)) for at in (p, q))
        both = shuffled(b, first, second, range(2 * n))
        values, none = _half_to_float(b, both), constant(F32, [0.0] * 2 * n)
        lanes = [shuffled(b, values, none, [i, i, n + i, n + i, *[2 * n] * 12]) for i in range(n)]
        if n == 1:
            return lanes[0]
        out = ir.Constant(ir.ArrayType(f32x16.llvm, n), ir.Undefined)
        for i, value in enumerate(lanes):
            out = b.insert_value(out, value, i)
        return out

    return _op(f32x16 if n == 1 else types.UniTuple(f32x16, n), [ADDRESS, ADDRESS], emit)


#: The half at each of two addresses, and two of them, as floats: on lanes 0 and 1 and lanes 2 and 3; zeros beyond.
two_halves, two_pairs_of_halves = _spread_halves(1), _spread_halves(2)
_EVEN_ODD = (0, 2, 4, 6, 1, 3, 5, 7)  # eight blocks of 32 columns, as their groups of 16 come in woven order


def halves_of_eight(stride: int) -> Any:
    """An operation: a half in each of eight blocks, `stride` bytes apart → as floats, in woven order."""

    def emit(b: ir.IRBuilder, p: ir.Value) -> ir.Value:
        halves = ir.Constant(ir.VectorType(I16, 8), ir.Undefined)
        for i, block in enumerate(_EVEN_ODD):
            halves = b.insert_element(halves, loaded(b, p, I16, stride * block), I32(i))
        return shuffled(b, _half_to_float(b, halves), None, [i % 4 + i // 8 * 4 for i in range(16)])

    return _op(f32x16, [ADDRESS], emit)


def pairs_of_eight(stride: int) -> Any:
    """The same of two halves side by side: two vectors."""

    def emit(b: ir.IRBuilder, p: ir.Value) -> ir.Value:
        pairs = ir.Constant(ir.VectorType(I32, 8), ir.Undefined)
        for i, block in enumerate(_EVEN_ODD):
            pairs = b.insert_element(pairs, loaded(b, p, I32, stride * block), I32(i))
        values = _half_to_float(b, b.bitcast(pairs, i16x16.llvm))
        out = ir.Constant(ir.ArrayType(f32x16.llvm, 2), ir.Undefined)
        for which in range(2):
            lanes = [2 * (i % 4 + i // 8 * 4) + which for i in range(16)]
            out = b.insert_value(out, shuffled(b, values, None, lanes), which)
        return out

    return _op(types.UniTuple(f32x16, 2), [ADDRESS], emit)


# --- arithmetic ----------------------------------------------------------------------------------


def multiply_add(b: ir.IRBuilder, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
    """x·y + z of vectors of floats."""
    return call(b, f"llvm.fmuladd.v{x.type.count}f32", x.type, [x, y, z])


def _lanewise(name: str, n_values: int) -> Any:
    def emit(b: ir.IRBuilder, *values: ir.Value) -> ir.Value:
        return call(b, f"{name}.{_suffix(values[0].type)}", values[0].type, values)

    return _op(None, [None] * n_values, emit)


fma = _lanewise("llvm.fmuladd", 3)
maximum, minimum = _lanewise("llvm.maxnum", 2), _lanewise("llvm.minnum", 2)
absolute, nearest, sqrt = (_lanewise(f"llvm.{name}", 1) for name in ("fabs", "rint", "sqrt"))

negative = _op(f32x16, [f32x16], lambda b, v: b.fneg(v))
splat_f32 = _op(f32x16, [types.float32], lambda b, x: splat(b, x, 16))
splat_i32 = _op(i32x16, [types.int64], lambda b, x: splat(b, b.trunc(x, I32), 16))
splat_i16 = _op(i16x32, [types.int64], lambda b, x: splat(b, b.trunc(x, I16), 32))
splat_i8 = _op(i8x64, [types.int64], lambda b, x: splat(b, b.trunc(x, I8), 64))
to_f32 = _op(f32x16, [i32x16], lambda b, v: b.sitofp(v, f32x16.llvm))
to_i32 = _op(i32x16, [f32x16], lambda b, v: b.fptosi(v, i32x16.llvm))
splat_i8x16 = _op(i8x16, [types.int64], lambda b, x: splat(b, b.trunc(x, I8), 16))
shift_right_i8x16 = _op(i8x16, [i8x16, types.int64], lambda b, v, n: b.lshr(v, splat(b, b.trunc(n, I8), 16)))
narrow_i8 = _op(i8x16, [i32x16], lambda b, v: b.trunc(v, i8x16.llvm))
#: Sixteen bytes as floats, unsigned and signed.
bytes_to_f32 = _op(f32x16, [i8x16], lambda b, v: b.uitofp(v, f32x16.llvm))
signed_to_f32 = _op(f32x16, [i8x16], lambda b, v: b.sitofp(v, f32x16.llvm))


def _division(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    return b.fdiv(x, y)


divide = _op(f32x16, [f32x16, f32x16], _division)


def _reduce(name: str, start: float | None) -> Any:
    def emit(b: ir.IRBuilder, v: ir.Value) -> ir.Value:
        values = [v] if start is None else [F32(start), v]
        result = call(b, f"llvm.vector.reduce.{name}.v16f32", F32, values)
        result.fastmath.add("reassoc")  # a tree of additions, not a chain
        return result

    return _op(types.float32, [f32x16], emit)


reduce_add = _reduce("fadd", -0.0)
reduce_max, reduce_min = _reduce("fmax", None), _reduce("fmin", None)


def _put_sum(b: ir.IRBuilder, address: ir.Value, v: ir.Value) -> None:
    stored(b, address, call(b, "llvm.vector.reduce.add.v16i32", I32, [v]))


#: put_sum(address, vector): the sum of its lanes, 32 bits.
put_sum = _op(types.void, [ADDRESS, i32x16], _put_sum)


def _first(b: ir.IRBuilder, n: ir.Value) -> ir.Value:
    """A mask of the lanes below n."""
    limit = b.trunc(b.select(b.icmp_signed("<", n, I64(16)), n, I64(16)), I32)
    return b.icmp_signed("<", constant(I32, range(16)), splat(b, limit, 16))


def _load_first(b: ir.IRBuilder, address: ir.Value, n: ir.Value) -> ir.Value:
    pointer = b.inttoptr(address, F32.as_pointer())
    values = [pointer, I32(4), _first(b, n), constant(F32, [0.0] * 16)]
    return call(b, "llvm.masked.load.v16f32.p0", f32x16.llvm, values)


def _store_first(b: ir.IRBuilder, address: ir.Value, v: ir.Value, n: ir.Value) -> None:
    pointer = b.inttoptr(address, F32.as_pointer())
    call(b, "llvm.masked.store.v16f32.p0", ir.VoidType(), [v, pointer, I32(4), _first(b, n)])


#: load_first(address, n): 16 floats of which only the first n are read, zeros for the rest.
load_first = _op(f32x16, [ADDRESS, types.int64], _load_first)
#: store_first(address, vector, n): stores the first n lanes only.
store_first = _op(types.void, [ADDRESS, f32x16, types.int64], _store_first)
#: first_lanes(vector, n, other): lanes below n from the vector, `other` in the rest; last_lanes: the reverse.
first_lanes, last_lanes = (
    _op(f32x16, [f32x16, types.int64, types.float32], emit)
    for emit in (
        lambda b, v, n, other: b.select(_first(b, n), v, splat(b, other, 16)),
        lambda b, v, n, other: b.select(_first(b, n), splat(b, other, 16), v),
    )
)


def _exp(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """e^x to about a unit in the last place, 0 below -87: x = n ln 2 + r, |r| <= ln 2 / 2, e^r as its Taylor series."""

    def every(value: float) -> ir.Constant:
        return constant(F32, [value] * 16)

    given = x
    x = call(b, "llvm.maxnum.v16f32", x.type, [x, every(-87.0)])
    x = call(b, "llvm.minnum.v16f32", x.type, [x, every(88.0)])
    n = call(b, "llvm.rint.v16f32", x.type, [b.fmul(x, every(1.4426950408889634))])
    r = multiply_add(b, n, every(-0.693145751953125), x)  # ln 2 in two parts, the first one exact
    r = multiply_add(b, n, every(-1.428606765330187e-06), r)
    p = every(1 / 5040)
    for c in (1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0):
        p = multiply_add(b, p, r, every(c))
    bits = b.shl(b.fptosi(n, i32x16.llvm), constant(I32, [23] * 16))
    result = b.bitcast(b.add(b.bitcast(p, i32x16.llvm), bits), f32x16.llvm)
    return b.select(b.fcmp_ordered("<", given, every(-87.0)), every(0.0), result)


exp = _op(f32x16, [f32x16], _exp)


# --- moving lanes --------------------------------------------------------------------------------


def cast(kind: Vector) -> Any:
    """An operation that sees a vector's bits as another type of vector."""
    return _op(kind, [None], lambda b, v: b.bitcast(v, kind.llvm))


as_i8, as_i16 = cast(i8x64), cast(i16x32)


def shuffle(result: Vector, lanes: Sequence[int]) -> Any:
    """An operation picking lanes of one vector."""
    return _op(result, [None], lambda b, v: shuffled(b, v, None, lanes))


def shuffle2(result: Vector, lanes: Sequence[int]) -> Any:
    """An operation picking lanes of two vectors of one type, numbered through."""
    return _op(result, [None, None], lambda b, v, w: shuffled(b, v, w, lanes))


join_8x32 = shuffle2(i8x64, range(64))
#: 16-bit lanes of two vectors in turn.
interleave = shuffle2(i8x64, [i // 4 * 2 + i % 2 + 32 * (i // 2 % 2) for i in range(64)])
#: The same 32 bytes in both halves.
twice_8x32 = shuffle(i8x64, [*range(32)] * 2)
#: Two times 16 bytes a, b → a a b b.
twice_8x16 = shuffle2(i8x64, [*range(16)] * 2 + [*range(16, 32)] * 2)


def lanes_i16(values: Sequence[int]) -> Any:
    """An operation without arguments that gives a constant vector of 32 16-bit lanes."""
    return _op(i16x32, [], lambda b: constant(I16, values))


def _int_bytes(lanes: Sequence[int], n_ints: int) -> Any:
    """An operation giving 16 of the bytes of one or two 64-bit integers."""

    def emit(b: ir.IRBuilder, *ints: ir.Value) -> ir.Value:
        parts = [b.bitcast(splat(b, x, 1), i8x8.llvm) for x in ints]
        return shuffled(b, parts[0], parts[-1], lanes)

    return _op(i8x16, [types.int64] * n_ints, emit)


#: For each 16 columns, in woven order: the byte of its 32 columns, of eight; its own byte, of two times eight.
paired_bytes = _int_bytes([i // 2 for i in WOVEN], 1)
sixteen_bytes = _int_bytes(WOVEN, 2)
#: Sixteen numbers into woven order and back.
weave_bytes, weave = shuffle(i8x16, WOVEN), shuffle(f32x16, WOVEN)
#: The bits of an integer as bytes, 0 or 1.
bits_as_bytes = _op(
    i8x64, [types.int64],
    lambda b, x: b.zext(b.bitcast(splat(b, x, 1), ir.VectorType(I1, 64)), i8x64.llvm),
)  # fmt: skip


def table16(values: Sequence[int]) -> Any:
    """An operation mapping each of 64 bytes (0-15) through a table of 16 bytes."""

    def emit(b: ir.IRBuilder, index: ir.Value) -> ir.Value:
        def shuffle_bytes(name: str, lanes: int) -> ir.Value:
            table = constant(I8, [*values] * (lanes // 16))
            parts = [
                call(b, name, table.type, [table, shuffled(b, index, None, range(i, i + lanes))])
                for i in range(0, 64, lanes)
            ]
            while len(parts) > 1:
                n = 2 * parts[0].type.count
                parts = [shuffled(b, low, high, range(n)) for low, high in zip(parts[::2], parts[1::2], strict=True)]
            return parts[0]

        if TARGET.name.startswith("avx512"):
            return shuffle_bytes("llvm.x86.avx512.pshuf.b.512", 64)
        if TARGET.name.startswith("avx"):
            return shuffle_bytes("llvm.x86.avx2.pshuf.b", 32)
        # a chain of selects over the four bits of the index: no table instruction needed
        rows = [constant(I8, [v] * 64) for v in values]
        for bit in range(4):
            on = b.icmp_unsigned("!=", b.and_(index, constant(I8, [1 << bit] * 64)), constant(I8, [0] * 64))
            rows = [b.select(on, high, low) for low, high in zip(rows[::2], rows[1::2], strict=True)]
        return rows[0]

    return _op(i8x64, [i8x64], emit)


def transposed(b: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """Transpose 16 vectors of 16 lanes: four rounds that each exchange blocks of half the size."""
    for step in (8, 4, 2, 1):
        low = [lane + (16 if lane & step else 0) - (step if lane & step else 0) for lane in range(16)]
        high = [lane + step if not lane & step else lane + 16 for lane in range(16)]
        for i in range(16):
            if not i & step:
                a, c = rows[i], rows[i + step]
                rows[i], rows[i + step] = shuffled(b, a, c, low), shuffled(b, a, c, high)
    return rows


def _transpose(b: ir.IRBuilder, source: ir.Value, stride: ir.Value, out: ir.Value) -> None:
    addresses = [b.add(source, b.mul(stride, I64(i))) for i in range(16)]
    for i, row in enumerate(transposed(b, [loaded(b, address, i32x16.llvm) for address in addresses])):
        stored(b, out, row, 64 * i)


#: transpose(source, stride, out): 16 rows of 16 32-bit lanes, `stride` bytes apart → 16 columns, packed.
transpose = _op(types.void, [ADDRESS, types.int64, ADDRESS], _transpose)


# --- dot products of bytes -----------------------------------------------------------------------


def dot4(b: ir.IRBuilder, acc: ir.Value, q: ir.Value, a: ir.Value, bits: int) -> ir.Value:
    """acc + the sums over four neighbours of q[u8]·a[i8]; acc: i32x16 or i32x8. q has `bits` bits, |a| <= 127."""
    lanes = acc.type.count
    if TARGET.dot == "vpdpbusd" or (TARGET.dot == "avxvnni" and lanes == 8):
        return _vpdpbusd(b, f"llvm.x86.avx512.vpdpbusd.{32 * lanes}", acc, q, a)
    if TARGET.dot == "maddubs512" and lanes == 16:
        return b.add(acc, _maddubs(b, q, a, bits, "llvm.x86.avx512.pmaddubs.w.512", "llvm.x86.avx512.pmaddw.d.512"))
    if TARGET.dot.startswith("maddubs") and lanes == 8:
        return b.add(acc, _maddubs(b, q, a, bits, "llvm.x86.avx2.pmadd.ub.sw", "llvm.x86.avx2.pmadd.wd"))
    if TARGET.dot.endswith("sdot"):
        return _quarters(b, lambda c, w, x: _sdot(b, c, w, x, bits), acc, q, a)
    if TARGET.dot in ("avxvnni", "maddubs256"):
        return _halves(b, lambda c, w, x: dot4(b, c, w, x, bits), acc, q, a)
    wide = ir.VectorType(I32, 4 * lanes)
    product = b.mul(b.zext(q, wide), b.sext(a, wide))
    for i in range(4):
        acc = b.add(acc, shuffled(b, product, None, range(i, 4 * lanes, 4)))
    return acc


def _vpdpbusd(b: ir.IRBuilder, name: str, acc: ir.Value, q: ir.Value, a: ir.Value) -> ir.Value:
    import llvmlite.binding as llvm

    if llvm.llvm_version_info[0] < 22:  # before, the operands were vectors of 32-bit lanes
        q, a = b.bitcast(q, acc.type), b.bitcast(a, acc.type)
    return call(b, name, acc.type, [acc, q, a])


def _sdot(b: ir.IRBuilder, acc: ir.Value, q: ir.Value, a: ir.Value, bits: int) -> ir.Value:
    """dot4 on 128 bits of Arm's: bytes of q with a sign and without, or all with one."""
    if TARGET.dot == "usdot":
        return call(b, f"{ARM}usdot.v4i32.v16i8", acc.type, [acc, q, a])

    def sdot(acc: ir.Value, w: ir.Value) -> ir.Value:
        return call(b, f"{ARM}sdot.v4i32.v16i8", acc.type, [acc, w, a])

    if bits < 8:
        return sdot(acc, q)
    # q = (q - 128) + 2·64
    middle = constant(I8, [64] * 16)
    return sdot(sdot(sdot(acc, b.xor(q, constant(I8, [128] * 16))), middle), middle)


def _parts(n: int) -> Any:
    def apply(b: ir.IRBuilder, operation: Callable[..., ir.Value], *values: ir.Value) -> ir.Value:
        size, parts = [v.type.count // n for v in values], []
        for i in range(n):
            cut = [shuffled(b, v, None, range(i * s, i * s + s)) for v, s in zip(values, size, strict=True)]
            parts.append(operation(*cut))
        while len(parts) > 1:
            lanes = range(2 * parts[0].type.count)
            parts = [shuffled(b, low, high, lanes) for low, high in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]

    return apply


#: Apply an operation to each half of vectors.
_halves = _parts(2)


def _quarters(b: ir.IRBuilder, operation: Callable[..., ir.Value], *values: ir.Value) -> ir.Value:
    """Apply an operation on 128 bits to all of 512, or of 256."""
    return _parts(values[0].type.count // 4)(b, operation, *values)


def _maddubs(b: ir.IRBuilder, q: ir.Value, a: ir.Value, bits: int, pairs: str, fours: str) -> ir.Value:
    """By way of 16-bit sums of two products, which must not overflow: 2·127·127 fits, 2·255·127 does not.

    So an 8-bit q is taken as (q - 128) + 128: |q - 128|·(±a) and 128·a each fit.
    """
    shorts, ints = ir.VectorType(I16, q.type.count // 2), ir.VectorType(I32, q.type.count // 4)

    def sums(q: ir.Value, a: ir.Value) -> ir.Value:
        return call(b, fours, ints, [call(b, pairs, shorts, [q, a]), ir.Constant(shorts, [1] * shorts.count)])

    if bits < 8:
        return sums(q, a)
    zero, middle = ir.Constant(q.type, [0] * q.type.count), ir.Constant(q.type, [128] * q.type.count)
    below = b.icmp_unsigned("<", q, middle)
    size = b.select(below, b.sub(middle, q), b.sub(q, middle))
    return b.add(sums(size, b.select(below, b.sub(zero, a), a)), sums(middle, a))


def dot2(b: ir.IRBuilder, acc: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
    """acc[f32] + the sums over two neighbours of x·y, vectors of 32 bits that each hold two bf16."""
    lanes = acc.type.count
    pairs = ir.VectorType(BF16, 2 * lanes)
    values = [acc, b.bitcast(x, pairs), b.bitcast(y, pairs)]
    return call(b, f"llvm.x86.avx512bf16.dpbf16ps.{32 * lanes}", acc.type, values)


# --- threads -------------------------------------------------------------------------------------


def _take(b: ir.IRBuilder, counter: ir.Value) -> ir.Value:
    return b.atomic_rmw("add", b.inttoptr(counter, I64.as_pointer()), I64(1), "acq_rel")


#: take(counter): the counter's value, one higher for whoever asks next.
take = _op(types.int64, [ADDRESS], _take)


def _watch(b: ir.IRBuilder, address: ir.Value) -> ir.Value:
    return b.load_atomic(b.inttoptr(address, I64.as_pointer()), "acquire", 8, typ=I64)


#: watch(address): an integer that another thread may be writing; announce(address, value) writes one.
watch = _op(types.int64, [ADDRESS], _watch)
announce = _op(
    types.void, [ADDRESS, types.int64],
    lambda b, p, v: b.store_atomic(v, b.inttoptr(p, I64.as_pointer()), "release", 8),
)  # fmt: skip


def _pause(b: ir.IRBuilder) -> None:
    if TARGET.arch == "x86_64":
        call(b, "llvm.x86.sse2.pause", ir.VoidType(), [])


#: Tell the CPU that this thread is waiting.
pause = _op(types.void, [], _pause)


def _invoke(b: ir.IRBuilder, function: ir.Value, *values: ir.Value) -> None:
    kind = ir.FunctionType(ir.VoidType(), [I64] * len(values))
    b.call(b.inttoptr(function, kind.as_pointer()), values)


#: invoke(function, args, thread, n_threads, counter): run a kernel by its address.
invoke = _op(types.void, [types.int64] * 5, _invoke)
#: invoke0(function): call a C function that takes nothing.
invoke0 = _op(types.void, [types.int64], _invoke)

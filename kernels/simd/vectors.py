"""Vector types, how an operation on them is made out of LLVM's instructions, and their operators."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from ..isa import Isa, target
from ..lowering import NUMBA_OPTIONS

#: The instruction set to compile for.
TARGET: Isa = target()

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


# --- making operations ---------------------------------------------------------------------------


def operation(result: Any, arguments: Sequence[Any], emit: Callable[..., ir.Value]) -> Any:
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
    """Call an LLVM intrinsic; name: in full, without `llvm.`."""
    kind = ir.FunctionType(result, [v.type for v in values])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}"), values)


def suffix(kind: ir.Type) -> str:
    """How LLVM spells a type within an intrinsic's name."""
    if isinstance(kind, ir.VectorType):
        return f"v{kind.count}{suffix(kind.element)}"
    return {F32: "f32", F16: "f16"}.get(kind) or f"i{kind.width}"


def constant(element: ir.Type, values: Sequence[Any]) -> ir.Constant:
    return _constant(element, tuple(values))


@cache  # it keeps its text, which takes longer to write than all instructions around it
def _constant(element: ir.Type, values: tuple[Any, ...]) -> ir.Constant:
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


#: What the names of functions contain that are compiled once and called, by compiler.py.
SHARED = "shared_among_calls"


def shared(function: Callable[..., Any]) -> Any:
    """Mark a large function of numbers that a kernel calls in several places; it is not inlined."""
    function.__qualname__ = f"{SHARED}.{function.__qualname__}"
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

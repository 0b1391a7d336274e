"""What threads that share memory need, and calls of other kernels."""

from __future__ import annotations

from llvmlite import ir
from numba import types

from .vectors import ADDRESS, I64, TARGET, call, operation


def _fetch_add(b: ir.IRBuilder, counter: ir.Value) -> ir.Value:
    return b.atomic_rmw("add", b.inttoptr(counter, I64.as_pointer()), I64(1), "acq_rel")


#: fetch_add(counter): the counter's value, one higher for whoever asks next.
fetch_add = operation(types.int64, [ADDRESS], _fetch_add)


def _load_acquire(b: ir.IRBuilder, address: ir.Value) -> ir.Value:
    return b.load_atomic(b.inttoptr(address, I64.as_pointer()), "acquire", 8, typ=I64)


#: load_acquire(address): an integer that another thread may be writing; store_release(address, value) writes one.
load_acquire = operation(types.int64, [ADDRESS], _load_acquire)
store_release = operation(
    types.void, [ADDRESS, types.int64],
    lambda b, p, v: b.store_atomic(v, b.inttoptr(p, I64.as_pointer()), "release", 8),
)  # fmt: skip


def _pause(b: ir.IRBuilder) -> None:
    if TARGET.arch == "x86_64":
        call(b, "x86.sse2.pause", ir.VoidType(), [])


#: Tell the CPU that this thread is waiting.
pause = operation(types.void, [], _pause)


def _invoke(b: ir.IRBuilder, function: ir.Value, *values: ir.Value) -> None:
    kind = ir.FunctionType(ir.VoidType(), [I64] * len(values))
    b.call(b.inttoptr(function, kind.as_pointer()), values)


#: invoke(function, args, thread, n_threads, counter): run a kernel by its address.
invoke = operation(types.void, [types.int64] * 5, _invoke)
#: invoke0(function), invoke1(function, value): call a C function that takes nothing, or an integer.
invoke0, invoke1 = (operation(types.void, [types.int64] * n, _invoke) for n in (1, 2))

"""Compile kernels: Python source → Numba → LLVM IR → a flat image of machine code.

Runs in a process of its own (`python -m gguf_runtime.kernels.compiler keep FOLDER NAME…`, started by
`compilers.py`), so that a warm ggrun never imports Numba, and Numba's settings never reach the user's program.
It ends when its standard input does, which is when the process that started it is gone.
What comes out depends on the kernel and on `simd.TARGET`, and not on the machine.

A kernel is named `module.factory:PARAMETER:…`. The factory, in `kernels/cpu/` or beside it, takes the
parameters as constants to compile in and returns the function to compile, whose own parameters are
(thread, n_threads, counter) and then the slots of its argument record, 8 bytes each, annotated:
`int` (also for addresses), `float` (kept as f64), or `Ref` (the address of an int, read at each run).
"""

from __future__ import annotations

import importlib
import inspect
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from .elf import link
from .kernel_cache import Image, write
from .library import Ref

_writing = threading.Lock()  # held while a file is there under its temporary name

N_RUN_ARGUMENTS = 3  # thread, n_threads, counter


def _resolve(name: str) -> Callable[..., Any]:
    """The function to compile for a kernel's name."""
    path, *parameters = name.split(":")
    module, factory = path.split(".")
    values = [int(p) if p.isdigit() else p for p in parameters]
    return getattr(importlib.import_module(f"{__package__}.cpu.{module}"), factory)(*values)


def _slots(function: Callable[..., Any]) -> dict[str, Any]:
    """Argument names and annotations of a kernel, without those that each run gives."""
    parameters = list(inspect.signature(function, eval_str=True).parameters.values())
    return {p.name: p.annotation for p in parameters[N_RUN_ARGUMENTS:]}


def _entry(symbol: str, slots: dict[str, Any]) -> str:
    """IR of `entry(args, thread, n_threads, counter)`, which unpacks the record and calls the kernel."""
    lines, values = [], ["i64 %thread", "i64 %n_threads", "i64 %counter"]
    for i, kind in enumerate(slots.values()):
        llvm = "double" if kind is float else "i64"
        lines += [
            f"%p{i} = add i64 %args, {8 * i}",
            f"%q{i} = inttoptr i64 %p{i} to ptr",
            f"%v{i} = load {llvm}, ptr %q{i}",
        ]
        if kind == Ref:
            lines += [f"%r{i} = inttoptr i64 %v{i} to ptr", f"%w{i} = load i64, ptr %r{i}"]
        values.append(f"{llvm} %{'w' if kind == Ref else 'v'}{i}")
    body = "\n  ".join(lines)
    return f"""
define void @entry(i64 %args, i64 %thread, i64 %n_threads, i64 %counter) "no-builtins" {{
  %ret = alloca ptr
  %exc = alloca ptr
  {body}
  %status = call i32 @{symbol}(ptr %ret, ptr %exc, {", ".join(values)})
  ret void
}}
declare i32 @{symbol}({", ".join(["ptr", "ptr", *(value.split()[0] for value in values)])})
"""


@cache
def _keep_order() -> None:
    """Where registers are few: have instructions in the order that kernels say; LLVM's would spill more."""
    import llvmlite.binding as llvm

    from .simd import TARGET

    if TARGET.llvm_cpu == "x86-64-v3":
        llvm.set_option("ggrun", "-enable-misched=false")


def assemble(name: str, *, text: bool = False) -> Any:
    """Compile a kernel for `simd.TARGET`: (its argument names, the object file), or assembly with `text`."""
    import llvmlite.binding as llvm
    from numba import types

    from .lowering import lower
    from .simd import SHARED, TARGET

    _keep_order()
    function = _resolve(name)
    slots = _slots(function)
    kinds: list[Any] = [types.int64] * N_RUN_ARGUMENTS
    kinds += [types.float64 if kind is float else types.int64 for kind in slots.values()]
    module, symbol = lower(function, kinds)
    if TARGET.arch == "aarch64":
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    # ELF everywhere (elf.py), but the calling convention of the system's own C
    triple = f"{TARGET.arch}-pc-windows-msvc-elf" if sys.platform == "win32" else f"{TARGET.arch}-unknown-linux-gnu"
    machine = llvm.Target.from_triple(triple).create_target_machine(
        cpu=TARGET.llvm_cpu, features=TARGET.llvm_features, opt=3, reloc="pic", codemodel="small"
    )
    module.link_in(llvm.parse_assembly(_entry(symbol, slots)))
    module.triple, module.data_layout = triple, str(machine.target_data)
    for item in module.functions:
        if not item.is_declaration and item.name != "entry":
            item.linkage = "internal"
            item.add_function_attribute("noinline" if SHARED in item.name else "alwaysinline")
    for item in module.global_variables:
        if not item.is_declaration:
            item.linkage = "internal"
    # no vectoriser: kernels say themselves what is a vector
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = options.slp_vectorization = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return list(slots), machine.emit_assembly(module) if text else machine.emit_object(module)


def main(folder: str, names: list[str]) -> None:
    """Compile the named kernels, each into a file of `folder`; says each name on stdout when it is done."""
    for name in names:
        arguments, obj = assemble(name)
        code, entry = link(obj, "entry")
        with _writing:
            write(Path(folder), name, Image(arguments, entry, code))
        print(name, flush=True)


def _end_with_parent(folder: str, scratch: bool) -> None:
    """End once nobody waits for the kernels any more; without a trace in a folder that is only for them."""

    def watch() -> None:
        while os.read(0, 1):  # not by sys.stdin, whose lock this thread would hold while the interpreter ends
            pass
        with _writing:
            if scratch:
                shutil.rmtree(folder, ignore_errors=True)
            os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal: the parent decides
    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    _end_with_parent(sys.argv[2], sys.argv[1] == "scratch")
    main(sys.argv[2], sys.argv[3:])

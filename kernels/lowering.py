"""From Python to LLVM IR: Numba's front end alone.

Numba, left to itself, optimises and compiles every function for the CPU it runs on, those that are inlined too. Here
it only writes down IR, so that what comes out is the same on every machine, and comes in half the time. One module
takes the IR of a kernel and of all that it calls; `compiler.py` makes code of it, for the CPU that is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils, typed_passes, typing, untyped_passes
from numba.core.codegen import Codegen, CodeLibrary
from numba.core.compiler import CompilerBase
from numba.core.compiler_machinery import PassManager
from numba.core.cpu import CPUContext
from numba.core.registry import cpu_target


class _Library(CodeLibrary):
    """The IR of one function, and the libraries of those that it calls."""

    def __init__(self, codegen: Any, name: str) -> None:
        super().__init__(codegen, name)
        self.texts: list[str] = []
        self._reload_init: set[str] = set()  # for Numba 0.63; always empty
        self.calls: dict[_Library, None] = {}

    def add_ir_module(self, module: Any) -> None:
        self.texts.append(cgutils.normalize_ir_text(str(module)))

    def add_linking_library(self, library: _Library) -> None:
        self.calls[library] = None

    def finalize(self) -> None:
        self._finalized = True

    def get_function(self, name: str) -> Any:
        raise NotImplementedError

    def get_llvm_str(self) -> str:
        return "\n".join(self.texts)

    def get_asm_str(self) -> str:
        raise NotImplementedError

    def get_pointer_to_function(self, name: str) -> int:
        """Of the function's wrapper for Python, which nobody calls."""
        return 0


class _Codegen(Codegen):
    """Makes modules and libraries for Numba; sizes of types are those of any 64-bit machine."""

    _library_class = _Library

    def __init__(self) -> None:
        self._target_data = llvm.create_target_data("e-i64:64-n8:16:32:64")

    def _create_empty_module(self, name: str) -> ir.Module:
        return ir.Module(cgutils.normalize_ir_text(name))

    def _add_module(self, module: Any) -> None:
        raise NotImplementedError

    def set_env(self, name: str, environment: Any) -> None:
        """Nothing: what a function needs to raise exceptions, which kernels do not."""


class _Typing(typing.Context):
    """Knows the types of Python's operators; those of NumPy, tried besides, would take a third of the time."""

    def load_additional_registries(self) -> None:
        pass


class _Context(CPUContext):
    """Knows how to lower what kernels use of Python, without Numba's runtime, which counts references."""

    def init(self) -> None:
        self.is32bit, self._internal_codegen = False, _Codegen()

    def load_additional_registries(self) -> None:
        from numba.cpython import builtins, numbers, rangeobj, tupleobj  # noqa: F401

    def post_lowering(self, module: Any, library: _Library) -> None:
        pass


class _Pipeline(CompilerBase):
    """Numba's passes, without those for what no kernel has: closures, with, literals unrolled, parallel loops."""

    def define_pipelines(self) -> list[Any]:
        passes = PassManager("ggrun")
        for one in (
            untyped_passes.TranslateByteCode, untyped_passes.FixupArgs, untyped_passes.IRProcessing,
            untyped_passes.RewriteSemanticConstants, untyped_passes.DeadBranchPrune, untyped_passes.GenericRewrites,
            untyped_passes.ReconstructSSA, untyped_passes.DeadBranchPrune, typed_passes.NopythonTypeInference,
            typed_passes.PreLowerStripPhis, typed_passes.IRLegalization, typed_passes.NativeLowering,
            typed_passes.NoPythonBackend,
        ):  # fmt: skip
            passes.add_pass(one, one.__name__)
        passes.finalize()
        return [passes]


cpu_target._toplevel_typing_context = _Typing()
cpu_target._toplevel_target_context = _Context(cpu_target.typing_context, "cpu")
#: For njit: no exceptions, no counts of references, and none of the wrappers that Python would call.
NUMBA_OPTIONS: dict[str, Any] = {
    "error_model": "numpy", "_nrt": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True,
    "pipeline_class": _Pipeline,
}  # fmt: skip


def lower(function: Callable[..., Any], kinds: Sequence[Any]) -> tuple[Any, str]:
    """Lower a function of parameters of these kinds: (a module of LLVM, unoptimised, the function's name in it)."""
    dispatcher: Any = njit(types.void(*kinds), **NUMBA_OPTIONS)(function)
    compiled = dispatcher.overloads[tuple(kinds)]
    module = llvm.parse_assembly("")
    for text in (text for library in _reached(compiled.library) for text in library.texts):
        module.link_in(llvm.parse_assembly(text))
    return module, compiled.fndesc.mangled_name


def _reached(library: _Library) -> list[_Library]:
    """A library and all that it calls, directly or not, each once."""
    found, waiting = dict[_Library, None](), [library]
    while waiting:
        if (one := waiting.pop()) not in found:
            found[one] = None
            waiting += one.calls
    return list(found)

"""The conformance kit's models, in ../shared: how to make one, and what the reference gives for it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gguf_runtime import architectures
from gguf_runtime.backends import Batch, Chunk
from gguf_runtime.backends.cpu import CpuBackend
from gguf_runtime.backends.reference import ReferenceBackend
from gguf_runtime.engine.cache import PageAllocator, PrefixCache
from gguf_runtime.engine.sequence import Sequence
from gguf_runtime.graph import Graph
from gguf_runtime.loader import open_gguf
from tests.paths import SHARED

KIT = SHARED / "conformance" / "architectures"


@cache
def _kit() -> tuple[Any, Any]:
    spec = importlib.util.spec_from_file_location("make_arch_model", KIT / "make_arch_model.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, module.load(KIT / "skeletons.json")


def names() -> list[str]:
    """All models."""
    return list(_kit()[1]["models"])


def architecture(name: str) -> str:
    return str(_kit()[1]["models"][name]["arch"])


def file(name: str, folder: Path, weights: str = "F32", changes: Mapping[str, Any] | None = None) -> Path:
    """A model of the kit, made in a folder, with weights of a type; changes: other values of its keys."""
    module, skeletons = _kit()
    if changes:
        skeletons = deepcopy(skeletons)
        _change(skeletons["models"][name], changes)
    path = folder / f"{name}-{weights}.gguf"
    if not path.exists():
        path.write_bytes(module.make(skeletons, name, kind=weights))
    return path


def record(name: str) -> dict[str, np.ndarray]:
    """What llama.cpp gave."""
    return dict(np.load(KIT / "expected" / f"{name}.npz"))


def load(
    name: str, folder: Path, result: architectures.Result = "", changes: Mapping[str, Any] | None = None
) -> architectures.Model:
    """The same, read."""
    return architectures.load(open_gguf(file(name, folder, changes=changes)), result=result)


def _change(skeleton: Any, changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        full = f"{skeleton['arch']}.{key}"
        skeleton["kv"] = [entry for entry in skeleton["kv"] if entry[0] != full]
        kind = {str: "str", float: "f32"}.get(type(value), "u32")
        skeleton["kv"].append([full, kind, value])


def run(graph: Graph, tokens: np.ndarray, step: int, source: np.ndarray | None = None) -> np.ndarray:
    """What the reference makes of a text that it is given in pieces: a row for each token, or one for each piece."""
    backend = ReferenceBackend(graph, 512)
    (sequence,) = sequences(backend, 1)
    if source is not None:
        sequence.reserve(len(source))
        encoder = ReferenceBackend(graph.encoder, 512, backend)
        encoder.start(Batch([Chunk(sequence, source, 0)]))()
        sequence.n_source = len(source)
    rows = []
    for first in range(0, len(tokens), step):
        piece = tokens[first : first + step].astype(np.int32)
        sequence.reserve(len(piece))
        rows.append(backend.start(Batch([Chunk(sequence, piece, len(piece), first)]))())
        sequence.n_computed += len(piece)
    return np.concatenate(rows)


def sequences(backend: ReferenceBackend | CpuBackend, n: int) -> list[Sequence]:
    """Empty texts, whose pages are the backend's."""
    memories = [backend.memory] if backend.memory else []
    states = PageAllocator([backend.states], 64) if backend.states else None
    windows = PageAllocator([backend.windows], 256) if backend.windows else None
    cache = PrefixCache(PageAllocator(memories, 256), states, windows)
    return [Sequence(cache, (), None) for _ in range(n)]


def nmse(truth: np.ndarray, found: np.ndarray) -> float:
    truth, found = truth.astype(np.float64), found.astype(np.float64).reshape(truth.shape)
    return float(((truth - found) ** 2).sum() / (truth**2).sum())

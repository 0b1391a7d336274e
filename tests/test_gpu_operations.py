"""Every operation on a GPU against its meaning in float64, and models of each kind; skipped where there is no GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gguf_runtime.backends import Batch, Chunk, KvTypes
from gguf_runtime.backends.errors import PlanError
from gguf_runtime.backends.gpus import open_gpus
from gguf_runtime.backends.reference import ReferenceBackend
from gguf_runtime.graph import Graph
from gguf_runtime.operations import Attention, ExpertLinear, HeadLinear, Linear
from tests import kit
from tests.cuda_signatures import is_lacking
from tests.paths import needs
from tests.test_gpu import missing
from tests.test_operations import CASES, run

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there is a GPU")

#: Models of each kind, all of whose operations the GPU has.
KINDS = [
    "llama", "qwen2", "qwen3", "qwen3moe", "gemma", "gemma2", "gemma3", "gemma4-moe", "phi3-longrope", "mistral4",
    "smollm3", "glm4", "olmo2", "cohere2", "plamo", "granite", "gpt-oss", "deepseek2", "deepseek2-old", "llama4",
    "mpt", "gpt2", "deci", "lfm2", "qwen3next", "granitehybrid", "rwkv7", "bert",
]  # fmt: skip


def on_gpu(graph: Graph, n_batch: int = 320, kv: str = "f16"):
    from gguf_runtime.backends.cuda.backend import CudaBackend
    from gguf_runtime.backends.cuda.workspace import Workspace

    (device,) = open_gpus(0)
    return CudaBackend(graph, Workspace(device, [graph], n_batch), n_batch, 4096, KvTypes(kv, kv))


@pytest.mark.parametrize("name", CASES)
def test_operation(name: str) -> None:
    g = Graph()
    CASES[name](g)
    if is_lacking(g):
        with pytest.raises(PlanError, match="no kernel for that"):
            on_gpu(g)
        return
    wanted, found = run(ReferenceBackend(g, 320)), run(on_gpu(g))
    rounds = any(isinstance(op, Attention | ExpertLinear | HeadLinear | Linear) for op in g.ops)
    tolerance = 4e-3 if rounds else 2e-5  # what products and the cache read are halves
    np.testing.assert_allclose(found, wanted, atol=tolerance * np.abs(wanted).max(), rtol=tolerance)


def logits(graph: Graph, tokens: np.ndarray, step: int, n: int = 1) -> np.ndarray:
    """What a GPU makes of a text that n sequences are given in pieces, some later than others: of the last of them."""
    backend = on_gpu(graph)
    sequences = kit.sequences(backend, n)
    rows = []
    for first in range(0, len(tokens) + step * (n - 1), step):
        chunks = []
        for i, sequence in enumerate(sequences):
            at = first - i * step
            piece = tokens[max(at, 0) : max(at + step, 0)].astype(np.int32)
            if len(piece):
                sequence.reserve(len(piece))
                chunks.append(Chunk(sequence, piece, len(piece), at))
                sequence.n_computed += len(piece)
        made = backend.start(Batch(chunks))()
        rows.append(made[len(made) - (len(chunks[-1].tokens) if chunks[-1].sequence is sequences[-1] else 0) :])
    return np.concatenate(rows)


def errors(name: str, folder: Path) -> list[float]:
    """Of a model of the kit: as one prompt, in pieces, token by token, and of several sequences."""
    record, model = kit.record(name), kit.load(name, folder)
    ways = [(96, 1), (7, 1), (1, 1), (40, 3)] if model.causal else [(96, 1)]
    found = []
    for step, n in ways:
        made = logits(model.graph, record["tokens"], step, n)
        if len(made) == len(record["tokens"]):
            made = made[record["positions"]]
        found.append(kit.nmse(record["logits" if "logits" in record else "embeddings"], made))
    return found


@needs(kit.KIT)
@pytest.mark.parametrize("name", KINDS)
def test_models_of_each_kind(name: str, tmp_path: Path) -> None:
    assert max(errors(name, tmp_path)) < 1e-3  # of halves, as weights and as what is multiplied with them

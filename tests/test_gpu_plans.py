"""What a GPU would be told to do, without one: launches are data, which agree with the sources of their kernels."""

from __future__ import annotations

from pathlib import Path

import pytest

from gguf_runtime import architectures
from gguf_runtime.backends.cuda.launches import Launch, Multiply, Sizes
from gguf_runtime.backends.cuda.operations import write
from gguf_runtime.backends.errors import PlanError
from gguf_runtime.graph import Graph
from gguf_runtime.loader import open_gguf
from gguf_runtime.operations import Embed, Keep, Linear, Norm
from tests import kit
from tests.cuda_signatures import PlannedGpu, check, is_lacking, launches, planned
from tests.make_model import write_model
from tests.paths import needs
from tests.test_operations import CASES, tensor


@pytest.mark.parametrize("has_wgmma", [True, False])
@pytest.mark.parametrize("kv", ["f16", "q8_0"])
def test_launches_have_the_arguments_that_kernels_take(tmp_path: Path, has_wgmma: bool, kv: str) -> None:
    types = {"*attn_q*": "Q4_K", "*attn_k*": "Q5_0", "*attn_v*": "Q6_K", "*ffn_down*": "Q3_K", "*": "Q8_0"}
    write_model(tmp_path / "model.gguf", types=types, n_embd=512)
    gpu = PlannedGpu(has_wgmma)
    work = launches(planned(architectures.load(open_gguf(tmp_path / "model.gguf")).graph, gpu, kv=kv))
    assert any(isinstance(item, Multiply) for item in work) == (not has_wgmma)
    for item in work:
        check(item, gpu)


def test_operations_have_the_arguments_that_kernels_take() -> None:
    for write_case in CASES.values():
        graph, gpu = Graph(), PlannedGpu()
        write_case(graph)
        if is_lacking(graph):
            with pytest.raises(PlanError, match="no kernel for that"):
                launches(planned(graph, gpu))
            continue
        for item in launches(planned(graph, gpu)):
            check(item, gpu)


KINDS = ["gemma2", "gemma3n", "gpt-oss", "deepseek2", "qwen3next", "lfm2", "rwkv7", "gpt2", "mpt", "t5encoder"]


@needs(kit.KIT)
@pytest.mark.parametrize("name", KINDS)
def test_models_have_the_arguments_that_kernels_take(name: str, tmp_path: Path) -> None:
    gpu = PlannedGpu()
    for item in launches(planned(kit.load(name, tmp_path).graph, gpu)):
        check(item, gpu)


def test_what_is_fused_for_one_token() -> None:
    g = Graph()
    x = g(Embed(tensor("table", 50, 128)))
    h = g(Norm(x, tensor("norm", 128), 1e-5))
    g(Linear(h, tensor("w", 64, 128)))
    plan = planned(g, PlannedGpu())
    kernels = [[item.kernel for item in write(plan, Sizes(n, n)) if isinstance(item, Launch)] for n in (1, 2)]
    assert kernels == [["embed<F16>", "matvec<F16, F16>"], ["embed<F16>", "rms_norm", "matmul<F16, F16, 1, 4>"]]


def test_what_there_is_no_kernel_for_is_named() -> None:
    g = Graph()
    x = g(Embed(tensor("table", 50, 128)))
    g(Keep(x, None, 3))
    with pytest.raises(PlanError, match="Keep in layer 0: the GPU has no kernel"):
        launches(planned(g, PlannedGpu()))

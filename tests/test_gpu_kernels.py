"""CUDA kernels without a GPU: every source compiles, and tiles hold what formats.cuh reads."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from gguf_runtime.kernels.cuda.formats import FORMATS, RETILED, TILE_ROWS, tile, tiled_bytes
from gguf_runtime.kernels.cuda.source import FILES, HOPPER, OPTIONS, options, read, source
from gguf_runtime.kernels.layout import KV_TYPES
from gguf_runtime.kernels.memory import address
from gguf_runtime.kernels.tensor_types import BY_NAME
from tests.make_model import random_tensor, values_of

TYPES = list(FORMATS)
#: One of each kind of order, groups and offsets; those of `matvec` show that the others compile.
KINDS = ["Q4_0", "Q5_1", "Q8_0", "Q3_K", "Q4_K", "Q6_K", "IQ2_S", "IQ1_S", "TQ1_0", "F16"]
FUNCTIONS = re.findall(r"^struct (\w+) {.*$", source("over"), re.MULTILINE)
FUNCTIONS = FUNCTIONS[FUNCTIONS.index("copy") : FUNCTIONS.index("clamped_gate") + 1]
TEMPLATES = {
    "matvec": [f"<{t}, Q6_K>" for t in TYPES],
    "matvec_gate": [f"<{t}, {t}>" for t in KINDS] + ["<Q4_K, F16>"],
    "matmul": [f"<{t}, Q6_K, 2, 4>" for t in TYPES],
    "matmul_gate": [f"<{t}, {t}, 1>" for t in KINDS],
    "dequantise": [f"<{t}>" for t in TYPES],
    "arrange": [f"<{t}>" for t in TYPES],
    "prompt": [f"<{t}, Q6_K, false>" for t in KINDS if t != "F16"] + ["<Q4_K, Q4_K, true>", "<Q4_K, Q5_K, true>"],
    "embed": [f"<{t}>" for t in TYPES],
    "attend_one": ["<64, 64, 3, f16, f16, false>", "<128, 128, 2, q8_0, f16, true>", "<80, 48, 1, f16, f16, true>"]
    + [f"<64, 64, 2, {k}, {v}, false>" for k, v in pairwise([*KV_TYPES, "f32"])],
    "attend_many": ["<64, 64, 2, f16, q4_0, false>", "<128, 128, 2, q8_0, q8_0, true>", "<80, 48, 1, f16, f16, true>"],
    "attend_prompt": ["<64, false>", "<128, false>", "<64, true>", "<128, true>"],
    "attend_any": ["<f16, f16, half_t>"] + [f"<{kind}, {kind}, float>" for kind in KV_TYPES],
    "over": [f"<functions::{name}, float>" for name in FUNCTIONS] + ["<functions::gate<functions::gelu>, half_t>"],
    "norm": ["<rms, half_t>", "<layer, float>", "<l2, float>"],
    "scan": [f"<{kind}>" for kind in ("ssm", "delta", "linear", "rwkv6", "rwkv7")],
    "linear_floats": ["<1>", "<8>"],
    "expert_gate": ["<Q4_K, Q6_K, 2, functions::gate<functions::silu>>"],
    "expert_matmul": ["<Q4_K, 1, 2>", "<F16, 4, 2>"],
    "save": [f"<{kind}, {kind}>" for kind in KV_TYPES],
    "retile": ["<u8>", "<u16>", "<u32>", "<uint2>", "<uint4>"],
    "retile_floats": [f"<{kind}>" for kind in RETILED.values()],
}


def test_every_type_has_a_format() -> None:
    assert set(FORMATS) | set(RETILED) == set(BY_NAME)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not here")
@pytest.mark.parametrize("file", sorted(set(FILES.values())))
def test_sources_compile(tmp_path: Path, file: str) -> None:
    kernels = [name for name, where in FILES.items() if where == file]
    uses = [name + arguments for name in kernels for arguments in TEMPLATES.get(name, [""])]
    pointers = "\n".join(f"    (void*){use}," for use in uses)
    code = tmp_path / file
    code.write_text(f"{source(kernels[0])}\nvoid* kernels[] = {{\n{pointers}\n}};\n")
    for arch in ["compute_75"] + ["compute_90a"] * (HOPPER in options(kernels[0])):
        target = f"-gencode=arch={arch},code={arch}"
        command = ["nvcc", "-ptx", target, *OPTIONS, "-Werror", "all-warnings", "-o", code.with_suffix(".ptx")]
        result = subprocess.run([*command, code], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize(("rows", "steps"), [(21, 2.0), (37, 1.5)])
def test_tiles(name: str, rows: int, steps: float) -> None:
    form = FORMATS[name]
    per_step = form.step // form.columns
    n_blocks = int(steps * per_step)
    blocks = np.random.default_rng(0).integers(0, 256, (rows, n_blocks, form.n_bytes), np.uint8)
    out = np.zeros(tiled_bytes(form, rows, n_blocks * form.columns), np.uint8)
    tile(form, blocks, out)
    n_steps, start = -(-n_blocks // per_step), 0
    n_tiles = -(-rows // TILE_ROWS) * n_steps
    for plane in form.planes:
        row_bytes = per_step * plane.size
        inner = row_bytes // (plane.outer * plane.pieces)
        for row, block in np.ndindex(rows, n_blocks):
            # as formats.cuh adds it up: tile, half, piece, row of eight, lane, byte
            at = start + (row // 16 * n_steps + block // per_step) * 16 * row_bytes + row % 16 // 8 * 8 * row_bytes
            x = block % per_step * plane.size + np.arange(plane.size)
            outer, piece = x // (inner * plane.pieces), x // inner % plane.pieces
            at = at + ((piece * 8 + row % 8) * plane.outer + outer) * inner + x % inner
            np.testing.assert_array_equal(out[at], blocks[row, block, plane.first : plane.first + plane.size])
        start += n_tiles * 16 * row_bytes
    assert start == len(out) == n_tiles * form.tile_bytes


@pytest.fixture(scope="module")
def unpackers(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """formats.cuh as a library for this CPU: unpack_TYPE(tiles, rows of tiles, steps, f32[row][column])."""
    if (compiler := shutil.which("c++")) is None:
        pytest.skip("no C++ compiler is here")
    names = [name for name in FORMATS if name != "F16"]
    code = (tmp_path_factory.mktemp("host") / "formats.cpp").resolve()
    shim = Path(__file__).with_name("host_cuda.h").read_text("utf-8")
    entries = [
        f'extern "C" void unpack_{name}(const u8* tiles, int rows, int steps, float* out)'
        f"{{ unpack<{name}>(tiles, rows, steps, out); }}\n"
        for name in names
    ]
    code.write_text(shim + read("formats.cuh", {"common.cuh"}) + _UNPACK + "".join(entries), "utf-8")
    library = code.with_suffix(".so")
    subprocess.run([compiler, "-std=c++17", "-O0", "-shared", "-fPIC", "-o", library, code], check=True)
    return ctypes.CDLL(str(library))


_UNPACK = """
template <class F>
void unpack(const u8* tiles, int rows, int steps, float* out) {
    constexpr int PIECES = F::STEP / 64;
    for (int all = 0; all < rows * steps * 64; all++) {
        int tile = all / 64, half = all / 32 % 2, lane = all % 32;
        F f;
        f.fetch(tiles, rows * steps, tile, half, lane);
        f.prepare();
        float* row = out + (tile / steps * 16 + 8 * half + lane / 4) * (u64)(steps * F::STEP) + tile % steps * F::STEP;
        for (int piece = 0; piece < PIECES; piece++) for (int i = 0; i < 16; i++) {
            int group = piece / (PIECES / F::GROUPS), factor = F::factor(piece);
            float q = (int)(f.columns(piece, i / 4) >> 8 * (i % 4) & 255) - F::OFFSET * factor;
            row[F::piece(lane % 4, piece) + i] = f.scale(group) / factor * q - f.least(group);
        }
    }
}
"""


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"F16"}))
def test_tiles_are_unpacked(unpackers: ctypes.CDLL, name: str) -> None:
    form, rows = FORMATS[name], 32
    raw = random_tensor(np.random.default_rng(0), name, rows, 3 * form.step)
    tiles, out = np.zeros(tiled_bytes(form, rows, 3 * form.step), np.uint8), np.zeros((rows, 3 * form.step), np.float32)
    tile(form, raw.reshape(rows, -1, form.n_bytes), tiles)
    unpackers[f"unpack_{name}"](ctypes.c_void_p(address(tiles)), rows // 16, 3, ctypes.c_void_p(address(out)))
    np.testing.assert_array_equal(out, values_of(raw, name).reshape(out.shape))

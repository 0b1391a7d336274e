"""Damaged files: whatever happens to a valid one, it is refused with a GGUFError or every byte in it can be read."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gguf_runtime import architectures
from gguf_runtime.architectures import ModelError
from gguf_runtime.loader import GGUFArray, GGUFError
from gguf_runtime.operations import Norm, Rope
from gguf_runtime.tokenizer import Tokenizer
from tests.gguf_files import array, array_body, key, open_bytes, raw_file, string, tensor_info, value
from tests.make_model import write_model

pytestmark = pytest.mark.filterwarnings("ignore:.*pre-tokenizer:UserWarning", "ignore:.*ggml.pre:UserWarning")
_SETTINGS = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
_U32 = struct.Struct("<I")
_NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, 7, 8, 9, 255, 256, 1 << 31, (1 << 32) - 1, 1 << 60, (1 << 63) - 1, (1 << 64) - 1]),
    st.integers(0, (1 << 64) - 1),
)


def small_file() -> bytes:
    """Every kind of value, so that most bytes of it mean something."""
    inner = [array_body(8, [string("a"), string("bc")]), array_body(4, [_U32.pack(5)]), array_body(9, [])]
    keys = [
        key("general.architecture", value(8, string("llama"))),
        key("general.alignment", value(4, _U32.pack(8))),
        key("yes", value(7, b"\1")),
        key("number", value(12, struct.pack("<d", 0.1))),
        key("strings", array(8, [string("x" * i) for i in (0, 3, 300, 1)])),
        key("numbers", array(5, [_U32.pack(i) for i in range(5)])),
        key("nested", array(9, inner)),
    ]
    tensors = [tensor_info("a", [32, 2], 2, 0), tensor_info("b", [3], 0, 40)]
    return raw_file(keys, tensors) + bytes(64)


def model_file(folder: Path) -> bytes:
    """A model with a vocabulary, small enough that most of it is header."""
    write_model(folder / "m.gguf", n_layer=1, n_embd=4, n_head=1, n_head_kv=1, n_ff=4, n_vocab=270)
    return (folder / "m.gguf").read_bytes()


def read_everything(folder: Path, content: bytes, mmap: bool) -> None:
    with open_bytes(folder, content, mmap) as file:
        for found in file.metadata.values():
            read_value(found)
        total = sum(int(tensor.data[0]) * 0 + len(bytes(tensor.data)) for tensor in file.tensors.values())
        assert total <= len(content)
        Tokenizer.from_metadata(file.metadata).encode("Hello <|eos|> world", parse_special=True)


def read_value(found: object) -> None:
    if isinstance(found, GGUFArray):
        for element in found:
            read_value(element)


def survives(folder: Path, content: bytes, mmap: bool = True) -> None:
    try:
        read_everything(folder, content, mmap)
    except GGUFError as error:
        assert "\n" not in str(error)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return [small_file(), model_file(tmp_path_factory.mktemp("model"))]


@_SETTINGS
@given(which=st.integers(0, 1), data=st.data(), mmap=st.booleans())
def test_changed_bytes(tmp_path: Path, files: list[bytes], which: int, data: st.DataObject, mmap: bool) -> None:
    content = bytearray(files[which])
    places = st.integers(0, len(content) - 1)
    for place, byte in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=8)):
        content[place] = byte
    survives(tmp_path, bytes(content), mmap)


@_SETTINGS
@given(which=st.integers(0, 1), data=st.data(), number=_NUMBERS, wide=st.booleans())
def test_spliced_integers(
    tmp_path: Path, files: list[bytes], which: int, data: st.DataObject, number: int, wide: bool
) -> None:
    content = files[which]
    place = data.draw(st.integers(0, len(content) - 8))
    packed = struct.pack("<Q", number)[: 8 if wide else 4]
    survives(tmp_path, content[:place] + packed + content[place + len(packed) :])


@_SETTINGS
@given(which=st.integers(0, 1), data=st.data(), extra=st.binary(max_size=20))
def test_cut_and_stretched(tmp_path: Path, files: list[bytes], which: int, data: st.DataObject, extra: bytes) -> None:
    content = files[which]
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(content))] * 2)))
    survives(tmp_path, content[:start] + extra + content[end:])


def test_truncated_anywhere(tmp_path: Path, files: list[bytes]) -> None:
    content = files[0]
    for n in range(len(content) - 24):  # the last 24 are padding
        with pytest.raises(GGUFError):
            open_bytes(tmp_path, content[:n])


_HYPERPARAMETERS = [
    "block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count",
    "attention.head_count_kv", "attention.key_length", "attention.value_length", "rope.dimension_count",
    "rope.freq_base", "attention.layer_norm_rms_epsilon", "rope.scaling.type", "rope.scaling.factor",
    "rope.scaling.attn_factor", "rope.scaling.original_context_length", "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow", "nextn_predict_layers", "attention.sliding_window", "attention.scale",
    "expert_count", "vocab_size",
]  # fmt: skip
_FLOATS = st.one_of(st.floats(width=32), st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-38, 3e38, float("nan")]))
_VALUES = st.one_of(
    _NUMBERS.map(lambda n: value(10, struct.pack("<Q", n))),
    st.integers(-3, 300).map(lambda n: value(5, struct.pack("<i", n))),
    _FLOATS.map(lambda x: value(6, struct.pack("<f", x))),
    st.booleans().map(lambda x: value(7, struct.pack("<?", x))),
    st.sampled_from(["", "yarn", "linear", "longrope", "none", "llama", "x\0y"]).map(lambda s: value(8, string(s))),
    st.lists(st.integers(-1, 9), max_size=4).map(lambda ns: array(5, [struct.pack("<i", n) for n in ns])),
    st.lists(_FLOATS, max_size=3).map(lambda xs: array(6, [struct.pack("<f", x) for x in xs])),
    st.just(array(9, [array_body(8, [string("a")])])),
)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], list[bytes], bytes]:
    """Of a small model: hyperparameters by name, all tensors, and the bytes of these."""
    keys = {
        "block_count": 1, "context_length": 64, "embedding_length": 32, "feed_forward_length": 32,
        "attention.head_count": 2, "attention.head_count_kv": 1, "rope.dimension_count": 16,
    }  # fmt: skip
    shapes = {
        "token_embd.weight": (32, 8), "output_norm.weight": (32,), "blk.0.attn_norm.weight": (32,),
        "blk.0.attn_q.weight": (32, 32), "blk.0.attn_k.weight": (32, 16), "blk.0.attn_v.weight": (32, 16),
        "blk.0.attn_output.weight": (32, 32), "blk.0.ffn_norm.weight": (32,), "blk.0.ffn_gate.weight": (32, 32),
        "blk.0.ffn_up.weight": (32, 32), "blk.0.ffn_down.weight": (32, 32),
        "rope_factors_long.weight": (8,), "rope_factors_short.weight": (8,),
    }  # fmt: skip
    tensors, offset = [], 0
    for name, dims in shapes.items():
        tensors.append(tensor_info(name, dims, 0, offset))
        offset += -(-4 * math.prod(dims) // 32) * 32
    named = {name: value(4, _U32.pack(n)) for name, n in keys.items()}
    named["attention.layer_norm_rms_epsilon"] = value(6, struct.pack("<f", 1e-5))
    return named, tensors, struct.pack("<f", 1.0) * (offset // 4)


@_SETTINGS
@given(changes=st.dictionaries(st.sampled_from(_HYPERPARAMETERS), st.one_of(st.none(), _VALUES), max_size=4))
def test_hyperparameters_of_any_kind(
    tmp_path: Path, parts: tuple[dict[str, bytes], list[bytes], bytes], changes: dict[str, bytes | None]
) -> None:
    """A model is made of them whose tensors are all there and whose angles are numbers, or they are refused."""
    named, tensors, data = parts
    keys = [key("general.architecture", value(8, string("llama")))]
    keys += [key(f"llama.{name}", typed) for name, typed in {**named, **changes}.items() if typed is not None]
    with open_bytes(tmp_path, raw_file(keys, tensors) + data) as file:
        try:
            model: Any = architectures.load(file)
        except ModelError as error:
            assert "\n" not in str(error)
            return
        for op in model.graph.ops:
            if isinstance(op, Rope):
                assert np.isfinite(op.frequencies.frequencies).all() and np.isfinite(op.frequencies.magnitude)
            assert not isinstance(op, Norm) or op.eps >= 0
        assert model.n_layer == 1 and model.n_ctx_train > 0
        del model


def test_hyperparameters_that_are_sound(tmp_path: Path, parts: tuple[dict[str, bytes], list[bytes], bytes]) -> None:
    """The model that the test above starts from."""
    named, tensors, data = parts
    keys = [key("general.architecture", value(8, string("llama")))]
    keys += [key(f"llama.{name}", typed) for name, typed in named.items()]
    assert architectures.load(open_bytes(tmp_path, raw_file(keys, tensors) + data)).n_vocab == 8


@pytest.mark.parametrize("typed", [value(4, _U32.pack(7)), array(8, [string("llama")]), value(8, string("ll\0ama"))])
def test_an_architecture_that_is_no_name(tmp_path: Path, typed: bytes) -> None:
    with pytest.raises(ModelError, match="not supported"):
        architectures.load(open_bytes(tmp_path, raw_file([key("general.architecture", typed)])))

"""Damaged files: whatever happens to a valid one, it is refused with a GGUFError or every byte in it can be read."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gguf_runtime.loader import GGUFArray, GGUFError
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

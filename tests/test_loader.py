"""The GGUF reader against files written by gguf-py, and by hand."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest

from gguf_runtime.kernels.tensor_types import BY_NAME, TENSOR_TYPES
from gguf_runtime.loader import GGUFArray, GGUFError, open_gguf
from tests.gguf_files import array, array_body, key, open_bytes, raw_file, string, tensor_info, value
from tests.make_model import values_of, write_model

TYPES = sorted(BY_NAME)


def fails(tmp_path: Path, content: bytes, *names: str) -> None:
    """The file is refused, by an error that names its place."""
    with pytest.raises(GGUFError) as caught:
        open_bytes(tmp_path, content)
    for name in ("file.gguf", *names):
        assert name in str(caught.value)


@pytest.mark.parametrize("mmap", [True, False])
def test_tensors_are_the_bytes_written(tmp_path: Path, mmap: bool) -> None:
    types = {f"blk.{i}.ffn_up.weight": name for i, name in enumerate(TYPES)}
    weights = write_model(tmp_path / "m.gguf", n_layer=len(TYPES), types=types)
    with open_gguf(tmp_path / "m.gguf", mmap) as file:
        assert file.version == 3
        assert list(file.tensors) == list(weights)
        for name, expected in weights.items():
            tensor = file.tensors[name]
            assert tensor.shape == expected.shape
            assert tensor.data.dtype == np.uint8 and tensor.n_bytes == tensor.data.size
            assert not tensor.data.flags.writeable
            blocks = np.array(tensor.data).reshape(*tensor.shape[:-1], -1)
            assert np.array_equal(values_of(blocks, tensor.type).reshape(expected.shape), expected)
            del tensor, blocks


def test_tensor_types_are_ggmls() -> None:
    ours = {(number, t.name, t.columns, t.bytes) for number, t in TENSOR_TYPES.items()}
    theirs = {(t.value, t.name, *size) for t, size in gguf.GGML_QUANT_SIZES.items()}
    assert ours == theirs  # of which make_model.py mends two


def test_every_kind_of_value(tmp_path: Path) -> None:
    scalars = {
        "uint8": (0, "B", 200), "int8": (1, "b", -100), "uint16": (2, "H", 60000), "int16": (3, "h", -30000),
        "uint32": (4, "I", 1 << 31), "int32": (5, "i", -5), "float32": (6, "f", 0.5), "bool": (7, "?", True),
        "uint64": (10, "Q", 1 << 63), "int64": (11, "q", -1 << 60), "float64": (12, "d", 0.1),
    }  # fmt: skip
    keys = [key(name, value(number, struct.pack("<" + code, x))) for name, (number, code, x) in scalars.items()]
    keys += [key(f"many {name}", array(n, [struct.pack("<" + code, x)] * 3)) for name, (n, code, x) in scalars.items()]
    inner = [array_body(8, [string("a"), string("b")]), array_body(9, []), array_body(4, [b"\1\0\0\0"])]
    keys += [
        key("text", value(8, string("Ünïcode"))),
        key("nested", array(9, inner)),
        key("none", array(8, [])),
    ]
    file = open_bytes(tmp_path, raw_file(keys, version=2))
    assert file.version == 2
    for name, (_, _, x) in scalars.items():
        assert file.metadata[name] == x and type(file.metadata[name]) is type(x)
        many = file.metadata[f"many {name}"]
        assert isinstance(many, GGUFArray) and many.element_type == name
        assert list(many) == [x] * 3 and many[-1] == x and many[1:] == [x, x]
        assert many.numpy().tolist() == [x] * 3
    assert file.metadata["text"] == "Ünïcode"
    nested = file.metadata["nested"]
    assert isinstance(nested, GGUFArray) and len(nested) == 3
    assert [list(one) for one in nested] == [["a", "b"], [], [1]]
    none = file.metadata["none"]
    assert isinstance(none, GGUFArray) and list(none) == [] and none.strings() == []
    with pytest.raises(IndexError):
        none[0]
    with pytest.raises(GGUFError, match="none"):
        none.numpy()


def test_arrays_of_strings_that_look_like_lengths(tmp_path: Path) -> None:
    """What the quick walk over strings cannot take: long ones, empty ones, text full of zeros and lengths."""
    rng = np.random.default_rng(0)
    strings = []
    for _ in range(5000):
        n = int(rng.integers(0, 40))
        strange = [b"", b"\0" * n, struct.pack("<Q", n) * 2, rng.bytes(n), b"x" * 256, b"\xff" * (2000 * n)]
        strings.append(strange[rng.integers(6)] if rng.random() < 0.1 else b"word")
    encoded = [struct.pack("<Q", len(s)) + s for s in strings]
    file = open_bytes(tmp_path, raw_file([key("s", array(8, encoded)), key("after", value(4, b"\7\0\0\0"))]))
    read = file.metadata["s"]
    assert isinstance(read, GGUFArray)
    assert read.strings() == strings
    assert read[5] == strings[5].decode(errors="replace")
    assert file.metadata["after"] == 7


@pytest.mark.parametrize("alignment", [1, 8, 32, 4096])
def test_alignment(tmp_path: Path, alignment: int) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "test")
    writer.add_custom_alignment(alignment)
    for i in range(3):
        writer.add_tensor(f"t{i}", np.arange(i + 1, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = open_gguf(tmp_path / "a.gguf")
    for i in range(3):
        assert file.tensors[f"t{i}"].data.view(np.float32).tolist() == list(range(i + 1))


def split_model(tmp_path: Path) -> list[Path]:
    writer = gguf.GGUFWriter(tmp_path / "s.gguf", "test", split_max_tensors=2)
    for i in range(5):
        writer.add_tensor(f"t{i}", np.full(4, i, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(tmp_path.glob("s-0*.gguf"))


@pytest.mark.parametrize("part", [0, 1, 2])
def test_split_file_opens_by_any_part(tmp_path: Path, part: int) -> None:
    parts = split_model(tmp_path)
    assert len(parts) == 3
    file = open_gguf(parts[part])
    assert file.path == parts[0]
    assert file.metadata["general.architecture"] == "test"
    assert {name: t.data.view(np.float32)[0] for name, t in file.tensors.items()} == {f"t{i}": i for i in range(5)}


def test_split_files_in_capitals(tmp_path: Path) -> None:
    for path in split_model(tmp_path):
        path.rename(path.with_suffix(".GGUF"))
    assert len(open_gguf(tmp_path / "s-00002-of-00003.GGUF").tensors) == 5


def test_split_file_with_a_part_missing_or_wrong(tmp_path: Path) -> None:
    first, second, third = split_model(tmp_path)
    content = second.read_bytes()
    second.unlink()
    with pytest.raises(GGUFError, match=second.name):
        open_gguf(first)
    second.write_bytes(third.read_bytes())
    with pytest.raises(GGUFError, match=second.name):
        open_gguf(first)
    second.write_bytes(content.replace(b"t2", b"t0"))
    with pytest.raises(GGUFError, match="t0"):
        open_gguf(first)
    second.write_bytes(raw_file([key("split.no", value(2, b"\1\0")), key("split.count", value(2, b"\3\0"))]))
    with pytest.raises(GGUFError, match="split.tensors.count"):
        open_gguf(first)
    second.write_bytes(content)
    lone = first.rename(tmp_path / "renamed.gguf")
    with pytest.raises(GGUFError, match="00001-of-00003.gguf"):
        open_gguf(lone)


def test_what_is_no_gguf(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.gguf", "a\0b"):
        with pytest.raises(GGUFError):
            open_gguf(path)
    fails(tmp_path, b"", "empty")
    fails(tmp_path, b"GG", "not a GGUF")
    fails(tmp_path, b"PK\3\4" + bytes(100), "not a GGUF")
    fails(tmp_path, b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1")
    fails(tmp_path, b"GGUF" + struct.pack("<IQQ", 4, 0, 0), "version 4")
    fails(tmp_path, b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian")


HUGE = [1 << 31, (1 << 32) - 1, 1 << 60, (1 << 64) - 1]


@pytest.mark.parametrize("n", HUGE)
def test_huge_counts_take_no_memory(tmp_path: Path, n: int) -> None:
    pad = bytes(64)
    u64 = struct.pack("<Q", n)
    files = {
        "header": b"GGUF" + struct.pack("<IQ", 3, 0) + u64 + pad,
        "the header": b"GGUF" + struct.pack("<I", 3) + u64 + bytes(8) + pad,
        "key 1 of 1": raw_file([u64 + pad]),
        "'text'": raw_file([key("text", value(8, u64 + pad))]),
        "'strings'": raw_file([key("strings", value(9, struct.pack("<I", 8) + u64 + pad))]),
        "'a string'": raw_file([key("a string", array(8, [u64 + pad]))]),
        "'numbers'": raw_file([key("numbers", value(9, struct.pack("<I", 0) + u64 + pad))]),
        "'arrays'": raw_file([key("arrays", value(9, struct.pack("<I", 9) + u64 + pad))]),
        "tensor 't'": raw_file(tensors=[tensor_info("t", [n], 0, 0)]) + pad,
        "'t'": raw_file(tensors=[tensor_info("t", [n, n, n, n], 0, 0)]) + pad,
        "tensor 't', ": raw_file(tensors=[tensor_info("t", [4], 0, n & ~31)]) + pad,
    }
    for place, content in files.items():
        tracemalloc.start()
        fails(tmp_path, content, place.rstrip(", "))
        assert tracemalloc.get_traced_memory()[1] < 200_000
        tracemalloc.stop()


def test_damage_is_named(tmp_path: Path) -> None:
    u32 = struct.pack("<I", 1)
    fails(tmp_path, raw_file([key("a", value(4, u32)), key("a", value(4, u32))]), "'a'", "twice")
    fails(tmp_path, raw_file([key("a", value(13, u32))]), "'a'", "type 13")
    fails(tmp_path, raw_file([key("a", value(9, struct.pack("<IQ", 13, 1)))]), "'a'", "type 13")
    fails(tmp_path, raw_file([struct.pack("<Q", 2) + b"\xff\xfe" + value(4, u32)]), "key 1", "UTF-8")
    name = "tokenizer.chat_template"
    fails(tmp_path, raw_file([key(name, value(8, struct.pack("<Q", 1) + b"\x80"))]), f"'{name}'", "UTF-8")
    deep = array_body(4, [])
    for _ in range(100):
        deep = array_body(9, [deep])
    fails(tmp_path, raw_file([key("a", value(9, deep))]), "'a'", "nested")
    for bad in (value(4, bytes(4)), value(4, struct.pack("<I", 24)), value(8, string("32")), value(7, b"\1")):
        fails(tmp_path, raw_file([key("general.alignment", bad)]), "general.alignment", "power of two")


def test_names_that_are_not_utf_8_are_shown_as_well_as_can_be(tmp_path: Path) -> None:
    text = struct.pack("<Q", 5) + b"Andr\xe9"
    keys = [key("general.author", value(8, text)), key("general.tags", array(8, [text])), key("n", value(0, b"\7"))]
    metadata = open_bytes(tmp_path, raw_file(keys)).metadata
    assert metadata["general.author"] == "Andr\ufffd" and metadata["n"] == 7
    assert list(metadata["general.tags"]) == ["Andr\ufffd"]  # type: ignore[arg-type]


@pytest.mark.parametrize("ending", [".part1of2", ".part2of2", "-split-a", ".split-b", "-part-b", ".part1"])
def test_pieces_of_a_file_that_was_cut(tmp_path: Path, ending: str) -> None:
    write_model(tmp_path / "x y.GGUF", n_layer=1, n_embd=64, n_head=2, n_head_kv=1, n_ff=64)
    content = (tmp_path / "x y.GGUF").read_bytes()
    half = len(content) // 2
    first = ending in (".part1of2", "-split-a", ".part1")
    piece = tmp_path / f"x y.GGUF{ending}"
    piece.write_bytes(content[:half] if first else content[half:])
    with pytest.raises(GGUFError, match=r"a piece of x y\.GGUF.*join all.*cat"):
        open_gguf(piece)
    piece.write_bytes(content)  # a name is only a name
    assert open_gguf(piece).tensors
    with pytest.raises(GGUFError, match="No such file"):
        open_gguf(tmp_path / f"z.gguf{ending}")


def test_damaged_tensors_are_named(tmp_path: Path) -> None:
    data = bytes(256)
    assert open_bytes(tmp_path, raw_file(tensors=[tensor_info("t", [32], 0, 0)]) + data).tensors["t"].n_bytes == 128
    for dims, type_number, offset, problem in [
        ([0], 0, 0, "not positive"),
        ([1 << 63], 0, 0, "not positive"),
        ([], 0, 0, "0 dimensions"),
        ([1] * 5, 0, 0, "5 dimensions"),
        ([32], 4, 0, "type 4"),
        ([32], 99, 0, "type 99"),
        ([33], 2, 0, "whole Q4_0 blocks"),
        ([128], 12, 0, "whole Q4_K blocks"),
        ([32], 0, 16, "multiple of 32"),
        ([32], 0, 160, "outside the file"),
        ([65], 0, 0, "outside the file"),
    ]:
        fails(
            tmp_path,
            raw_file(tensors=[tensor_info("t", dims, type_number, offset)]) + data,
            "tensor 't'",
            problem,
        )
    infos = [tensor_info("a", [32], 0, 0), tensor_info("b", [32], 0, 96)]
    fails(tmp_path, raw_file(tensors=infos) + data, "tensor 'b'", "overlaps tensor 'a'")
    infos = [tensor_info("a", [32], 0, 0), tensor_info("a", [32], 0, 128)]
    fails(tmp_path, raw_file(tensors=infos) + data, "tensor 'a'", "twice")
    fails(
        tmp_path,
        raw_file([], tensors=[struct.pack("<Q", 1) + b"\xff" + bytes(40)]) + data,
        "tensor 1",
        "UTF-8",
    )


def test_closed_while_in_use(tmp_path: Path) -> None:
    weights = write_model(tmp_path / "m.gguf")
    with open_gguf(tmp_path / "m.gguf") as file:
        data = file.tensors["output_norm.weight"].data
        tokens = file.metadata["tokenizer.ggml.tokens"]
    assert not file.tensors and not file.metadata
    assert np.array_equal(data.view(np.float32), weights["output_norm.weight"])
    assert isinstance(tokens, GGUFArray) and tokens[0] == "!" and tokens.strings()[1] == b'"'


def test_nothing_after_an_empty_array(tmp_path: Path) -> None:
    for number in (4, 8, 9, 12):
        content = raw_file([key("a", array(number, []))])[: 24 + 9 + 4 + 12]  # to the end of the array's length
        file = open_bytes(tmp_path, content)
        assert list(file.metadata["a"]) == []

"""Which layers go where: arithmetic alone, without a GPU."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_runtime import splitter
from gguf_runtime.splitter import CPU, Gpu, Layer, Offload, SplitError, table

LAYERS = [Layer(100, 10, (f"blk.{i}.attn_q.weight", f"blk.{i}.ffn_up.weight")) for i in range(8)]
LAYERS.append(Layer(300, 0, ("output.weight",)))
ONE = [Gpu("CUDA0", 10_000)]


def split(layers: list[Layer], gpus: list[Gpu], offload: Offload) -> list[str]:
    """The layers' devices."""
    return splitter.split(layers, gpus, offload).devices


@pytest.mark.parametrize(
    ("asked", "on_gpu"),
    [(0, []), (1, [7]), (3, [5, 6, 7]), (8, [*range(8)]), (9, [*range(9)]), (99, [*range(9)]), ("all", [*range(9)])],
)
def test_the_last_layers_go_and_the_output_with_more_than_all(asked, on_gpu) -> None:
    devices = split(LAYERS, ONE, Offload(asked))
    assert [i for i, device in enumerate(devices) if device != CPU] == on_gpu


@pytest.mark.parametrize(
    ("room", "n"), [(0, 0), (109, 0), (110, 1), (549, 4), (550, 5), (880, 8), (1179, 8), (1180, 9), (9999, 9)]
)
def test_auto_fills_to_the_byte(room: int, n: int) -> None:
    devices = split(LAYERS, [Gpu("CUDA0", room)], Offload("auto"))
    assert sum(device != CPU for device in devices) == n


def test_too_much_says_how_many_fit() -> None:
    with pytest.raises(SplitError, match=r"5 layers fit .-ngl 5"):
        split(LAYERS, [Gpu("CUDA0", 600)], Offload(8))
    assert split(LAYERS, [Gpu("CUDA0", 800)], Offload(8, cache_in_ram=True)).count("CUDA0") == 8


def test_several_gpus_share_in_order() -> None:
    two = [Gpu("CUDA0", 2000), Gpu("CUDA1", 2000)]
    devices = split(LAYERS, two, Offload("all"))
    assert devices == ["CUDA0"] * devices.count("CUDA0") + ["CUDA1"] * devices.count("CUDA1")
    assert devices.count("CUDA0") == 5
    assert split(LAYERS, two, Offload("all", tensor_split=(3, 1))).count("CUDA0") == 8
    assert split(LAYERS, two, Offload("all", tensor_split=(0, 1))).count("CUDA0") == 0
    with pytest.raises(SplitError, match="shares"):
        split(LAYERS, two, Offload("all", tensor_split=(1, 1, 1)))
    # in proportion it would not fit, one after the other it does
    assert split(LAYERS, [Gpu("CUDA0", 440), Gpu("CUDA1", 740)], Offload("all")).count("CUDA0") == 4


def test_overrides() -> None:
    devices = split(LAYERS, ONE, Offload("all", overrides=((r"blk\.[0-2]\.", "cpu"), ("output", "CPU"))))
    assert devices == [CPU] * 3 + ["CUDA0"] * 5 + [CPU]
    with pytest.raises(SplitError, match="CUDA7"):
        split(LAYERS, ONE, Offload("all", overrides=(("output", "CUDA7"),)))
    with pytest.raises(SplitError, match="regular expression"):
        split(LAYERS, ONE, Offload("all", overrides=(("(", "CPU"),)))


@given(
    st.lists(st.integers(1, 1000), min_size=2, max_size=40),
    st.lists(st.integers(0, 5000), min_size=1, max_size=4),
)
def test_auto_never_takes_more_than_there_is(sizes: list[int], rooms: list[int]) -> None:
    layers, gpus = [Layer(size, 1) for size in sizes], [Gpu(f"CUDA{i}", room) for i, room in enumerate(rooms)]
    if not sum(rooms):
        return
    devices = split(layers, gpus, Offload("auto"))
    for gpu in gpus:
        assert sum(a.n_bytes for a, d in zip(layers, devices, strict=True) if d == gpu.name) <= gpu.room
    n = sum(device != CPU for device in devices)
    if n < len(layers):
        with pytest.raises(SplitError):
            split(layers, gpus, Offload(n + 1))


def test_the_table_counts_everything() -> None:
    devices = split(LAYERS, ONE, Offload(3))
    lines = table(LAYERS, devices).splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["0-4", CPU], ["5-7", "CUDA0"], ["output", CPU]]


@pytest.mark.parametrize(
    ("room", "n", "streams"), [(1180, 9, False), (1179, 8, False), (879, 5, True), (550, 2, True), (400, 3, False)]
)
def test_auto_leaves_room_for_streaming_where_layers_stay_in_ram(room: int, n: int, streams: bool) -> None:
    found = splitter.split(LAYERS, [Gpu("CUDA0", room, 250)], Offload("auto"))
    assert sum(device != CPU for device in found.devices) == n
    assert bool(found.streams_to) == streams


def test_layers_asked_for_come_before_streaming() -> None:
    for room, streams in (1000, True), (800, True), (799, False):
        found = splitter.split(LAYERS, [Gpu("CUDA0", room, 250)], Offload(5))
        assert found.devices.count("CUDA0") == 5 and bool(found.streams_to) == streams
    only_output_in_ram = splitter.split(LAYERS, [Gpu("CUDA0", 9999, 250)], Offload(8))
    assert only_output_in_ram.streams_to is None

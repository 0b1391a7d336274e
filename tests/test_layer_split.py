"""Which layers and blocks go where: arithmetic alone, without a GPU."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_runtime.engine import layer_split
from gguf_runtime.engine.layer_split import CPU, Block, GpuRoom, Offload, SplitError, table

N = 8
BLOCKS = [
    block
    for i in range(N)
    for block in (Block(i, 40, 10, (f"blk.{i}.attn_q.weight",)), Block(i, 60, 0, (f"blk.{i}.ffn_up.weight",)))
]
BLOCKS.append(Block(N, 300, 0, ("output.weight",)))
ONE = [GpuRoom("CUDA0", 10_000)]


def split(blocks: list[Block], gpus: list[GpuRoom], offload: Offload) -> list[str]:
    """The layers' devices, where no layer is divided."""
    devices = layer_split.split(blocks, gpus, offload).devices
    devices = dict(zip((block.layer for block in blocks), devices, strict=True))
    return list(devices.values())


@pytest.mark.parametrize(
    ("asked", "on_gpu"),
    [(0, []), (1, [7]), (3, [5, 6, 7]), (8, [*range(8)]), (9, [*range(9)]), (99, [*range(9)]), ("all", [*range(9)])],
)
def test_the_last_layers_go_and_the_output_with_more_than_all(asked, on_gpu) -> None:
    devices = split(BLOCKS, ONE, Offload(asked))
    assert [i for i, device in enumerate(devices) if device != CPU] == on_gpu


@pytest.mark.parametrize(
    ("room", "n"), [(0, 0), (109, 0), (110, 1), (549, 4), (550, 5), (880, 8), (1179, 8), (1180, 9), (9999, 9)]
)
def test_auto_fills_to_the_byte(room: int, n: int) -> None:
    devices = split(BLOCKS, [GpuRoom("CUDA0", room)], Offload("auto"))
    assert sum(device != CPU for device in devices) == n


def test_too_much_says_how_many_fit() -> None:
    with pytest.raises(SplitError, match=r"5 layers fit .-ngl 5"):
        split(BLOCKS, [GpuRoom("CUDA0", 600)], Offload(8))
    assert split(BLOCKS, [GpuRoom("CUDA0", 800)], Offload(8, cache_in_ram=True)).count("CUDA0") == 8


def test_several_gpus_share_in_order() -> None:
    two = [GpuRoom("CUDA0", 2000), GpuRoom("CUDA1", 2000)]
    devices = split(BLOCKS, two, Offload("all"))
    assert devices == ["CUDA0"] * devices.count("CUDA0") + ["CUDA1"] * devices.count("CUDA1")
    assert devices.count("CUDA0") == 5
    assert split(BLOCKS, two, Offload("all", tensor_split=(3, 1))).count("CUDA0") == 8
    assert split(BLOCKS, two, Offload("all", tensor_split=(0, 1))).count("CUDA0") == 0
    with pytest.raises(SplitError, match="shares"):
        split(BLOCKS, two, Offload("all", tensor_split=(1, 1, 1)))
    # in proportion it would not fit, one after the other it does
    assert split(BLOCKS, [GpuRoom("CUDA0", 440), GpuRoom("CUDA1", 740)], Offload("all")).count("CUDA0") == 4


def test_overrides_move_blocks() -> None:
    devices = split(BLOCKS, ONE, Offload("all", overrides=((r"blk\.[0-2]\.", "cpu"), ("output", "CPU"))))
    assert devices == [CPU] * 3 + ["CUDA0"] * 5 + [CPU]
    for pattern, *layer in ("ffn_.*", "CUDA0", CPU), ("attn", CPU, "CUDA0"), ("expert", "CUDA0", "CUDA0"):
        devices = layer_split.split(BLOCKS, ONE, Offload("all", overrides=((pattern, "CPU"),))).devices
        assert devices == layer * N + ["CUDA0"]
    for layers in 0, 3, "auto":  # the other way; of two that match the last counts
        overrides = ("attn", "CPU"), ("attn_q", "CUDA0")
        devices = layer_split.split(BLOCKS, ONE, Offload(layers, overrides=overrides)).devices
        assert devices[: 2 * N : 2] == ["CUDA0"] * N
    with pytest.raises(SplitError, match="CUDA7"):
        split(BLOCKS, ONE, Offload("all", overrides=(("output", "CUDA7"),)))
    with pytest.raises(SplitError, match="regular expression"):
        split(BLOCKS, ONE, Offload("all", overrides=(("(", "CPU"),)))


def test_what_overrides_move_away_leaves_room() -> None:
    to_ram = Offload("all", overrides=(("ffn", "CPU"),))
    room = N * 50 + 300  # the attention of all layers, and the output
    assert layer_split.split(BLOCKS, [GpuRoom("CUDA0", room)], to_ram).devices == ["CUDA0", CPU] * N + ["CUDA0"]
    with pytest.raises(SplitError, match=r"8 layers fit"):
        layer_split.split(BLOCKS, [GpuRoom("CUDA0", room - 1)], to_ram)
    found = layer_split.split(BLOCKS, [GpuRoom("CUDA0", 260)], to_ram._replace(layers="auto"))
    assert found.n_layers == 5 and found.devices.count("CUDA0") == 5
    # what they bring takes of it
    to_gpu = Offload("auto", overrides=(("ffn", "CUDA0"),))
    found = layer_split.split(BLOCKS, [GpuRoom("CUDA0", N * 60 + 110)], to_gpu)
    assert found.devices == [CPU, "CUDA0"] * 6 + ["CUDA0"] * 4 + [CPU]
    with pytest.raises(SplitError, match="-ot moves"):
        layer_split.split(BLOCKS, [GpuRoom("CUDA0", N * 60 - 1)], to_gpu)


@given(
    st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 500)), min_size=2, max_size=40),
    st.lists(st.integers(0, 5000), min_size=1, max_size=4),
    st.data(),
)
def test_no_gpu_gets_more_than_it_has_room_for(sizes: list[tuple[int, int]], rooms: list[int], data) -> None:
    blocks = [Block(i // 2, *size, (f"block {i}.",)) for i, size in enumerate(sizes)]
    n_layers, gpus = blocks[-1].layer + 1, [GpuRoom(f"CUDA{i}", room) for i, room in enumerate(rooms)]
    to = st.sampled_from([CPU, *(gpu.name for gpu in gpus)])
    moved = data.draw(st.dictionaries(st.integers(0, len(blocks) - 1), to, max_size=5))
    overrides = tuple((rf"block {i}\.", device) for i, device in moved.items())
    in_ram = data.draw(st.booleans())
    try:
        found = layer_split.split(blocks, gpus, Offload("auto", overrides=overrides, cache_in_ram=in_ram))
    except SplitError:
        assert set(moved.values()) - {CPU}  # by name more was put somewhere than fits
        return
    assert all(found.devices[i] == device for i, device in moved.items())
    for gpu in gpus:
        here = [block for block, device in zip(blocks, found.devices, strict=True) if device == gpu.name]
        assert sum(block.weights + (0 if in_ram else block.cache) for block in here) <= max(gpu.room, 0)
    n = found.n_layers
    chosen = range(n_layers) if n == n_layers else range(n_layers - 1)[-n:] if n else ()
    on_gpu = {i for i, device in enumerate(found.devices) if device != CPU}
    assert on_gpu - moved.keys() == {i for i, block in enumerate(blocks) if block.layer in chosen} - moved.keys()
    if n < n_layers:
        with pytest.raises(SplitError):
            layer_split.split(blocks, gpus, Offload(n + 1, overrides=overrides, cache_in_ram=in_ram))


def rows(offload: Offload) -> list[list[str]]:
    lines = table(BLOCKS, layer_split.split(BLOCKS, ONE, offload).devices).splitlines()
    assert {len(line) for line in lines} == {len(lines[0])}
    return [line.replace("MiB", "").split() for line in lines[1:]]


def test_the_table_counts_everything() -> None:
    assert [row[:2] for row in rows(Offload(3))] == [["0-4", CPU], ["5-7", "CUDA0"], ["output", CPU]]


def test_the_table_says_where_layers_are_divided() -> None:
    found = rows(Offload("all", overrides=((r"blk\.[2-5]\.ffn", "CPU"), (r"blk\.7\.attn", "CPU"))))
    assert [row[:-2] for row in found] == [
        ["0-1", "CUDA0"],
        ["2-5", "attention", "CUDA0"],
        ["2-5", "feed-forward", CPU],
        ["6", "CUDA0"],
        ["7", "attention", CPU],
        ["7", "feed-forward", "CUDA0"],
        ["output", "CUDA0"],
    ]


@pytest.mark.parametrize(
    ("room", "n", "streams"), [(1180, 9, False), (1179, 8, False), (879, 5, True), (550, 2, True), (400, 3, False)]
)
def test_auto_leaves_room_for_streaming_where_layers_stay_in_ram(room: int, n: int, streams: bool) -> None:
    found = layer_split.split(BLOCKS, [GpuRoom("CUDA0", room, 250)], Offload("auto"))
    assert found.n_layers == n
    assert bool(found.streams_to) == streams


def test_auto_leaves_room_for_streaming_of_what_overrides_keep_in_ram() -> None:
    to_ram = Offload("auto", overrides=(("ffn", "CPU"),))
    for room, n, streams in (950, 9, True), (949, 8, True), (649, 7, True), (501, 5, True), (500, 8, False):
        found = layer_split.split(BLOCKS, [GpuRoom("CUDA0", room, 250)], to_ram)
        assert (found.n_layers, bool(found.streams_to)) == (n, streams), room


def test_layers_asked_for_come_before_streaming() -> None:
    for room, streams in (1000, True), (800, True), (799, False):
        found = layer_split.split(BLOCKS, [GpuRoom("CUDA0", room, 250)], Offload(5))
        assert found.devices.count("CUDA0") == 10 and bool(found.streams_to) == streams
    only_output_in_ram = layer_split.split(BLOCKS, [GpuRoom("CUDA0", 9999, 250)], Offload(8))
    assert only_output_in_ram.streams_to is None

"""The layer splitter: what runs on which device, computed from its bytes before anything is allocated.

-ngl counts layers, as llama.cpp does; overrides move blocks, of which a layer has two: attention and feed-forward.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Literal, NamedTuple

CPU = "CPU"

#: How many layers to put on GPUs: a number, all of them, or as many as fit.
LayerCount = int | Literal["all", "auto"]


class SplitError(Exception):
    """More was asked for than the GPUs have room for, or a device that is not there."""


class Offload(NamedTuple):
    """What goes to GPUs.

    layers: the last N layers, and with N beyond their number the output too. main_gpu: the only one to use, None for
    all. tensor_split: how much of it each GPU gets, in proportion; by default in proportion to free memory.
    overrides: (pattern, device): blocks one of whose tensors matches go there, whatever else is said; of several that
    match, the last counts. cache_in_ram: keys and values stay in the system's memory.
    """

    layers: LayerCount = 0
    main_gpu: int | None = None
    tensor_split: tuple[float, ...] = ()
    overrides: tuple[tuple[str, str], ...] = ()
    cache_in_ram: bool = False


class Block(NamedTuple):
    """A block of a layer (see Graph.blocks), and what it takes on a GPU, in bytes; the output counts as a layer."""

    layer: int
    weights: int
    cache: int
    tensors: tuple[str, ...] = ()


class GpuRoom(NamedTuple):
    """A GPU, and how many bytes blocks may take of it: what is free, less what work there needs.

    streaming: bytes that it takes to stream weights to it, where layers stay in RAM.
    """

    name: str
    room: int
    streaming: int = 0


class Split(NamedTuple):
    """The device of each block; the -ngl that this comes to; and the GPU to which weights are streamed, if any."""

    devices: list[str]
    n_layers: int = 0
    streams_to: GpuRoom | None = None


def split(blocks: Sequence[Block], gpus: Sequence[GpuRoom], offload: Offload) -> Split:
    """Where each block goes; the last one is the output. Raises SplitError.

    Layers on GPUs are in one run up to the last layer, so that a step changes devices as seldom as can be; overrides
    then move blocks out of it or into it, and what they move away leaves its room to others. Where some stay in RAM,
    "auto" leaves room to stream them if that takes less than half of what there is; a number of layers that was asked
    for comes first, and they are streamed if there is room left.
    """
    sizes = [block.weights if offload.cache_in_ram else block.weights + block.cache for block in blocks]
    moved = _moved(blocks, gpus, offload.overrides)
    left = [_without(gpu, sum(sizes[i] for i, device in moved.items() if device == gpu.name)) for gpu in gpus]
    layers = [0] * (blocks[-1].layer + 1)  # bytes of each, less what is moved
    for i, block in enumerate(blocks):
        layers[block.layer] += 0 if i in moved else sizes[i]

    def place(n: int, gpus: Sequence[GpuRoom]) -> list[str] | None:
        found = _assign(layers, gpus, _chosen(layers, n), offload.tensor_split)
        return found and [moved.get(i, found[block.layer]) for i, block in enumerate(blocks)]

    devices: list[str] | None
    if offload.layers == "auto":
        leaving = [gpu._replace(room=gpu.room - gpu.streaming) if _is_worth(gpu) else gpu for gpu in left]
        for n in range(len(layers), -1, -1):
            devices = place(n, left)
            if devices and CPU in devices[:-1]:
                devices = place(n, leaving)
            if devices:
                break
    else:
        n = len(layers) if offload.layers == "all" else min(offload.layers, len(layers))
        devices = place(n, left)
    if devices is None:
        raise SplitError(_too_much(layers, left, n, offload.tensor_split))
    return Split(devices, n, _stream_to(sizes, gpus, devices))


def _moved(blocks: Sequence[Block], gpus: Sequence[GpuRoom], overrides: Sequence[tuple[str, str]]) -> dict[int, str]:
    """The blocks that are moved by name, and where to."""
    moved: dict[int, str] = {}
    known = {name.lower(): name for name in [CPU, *(gpu.name for gpu in gpus)]}
    for pattern, device in overrides:
        if device.lower() not in known:
            raise SplitError(f"there is no device {device!r}; there are {', '.join(known.values())}")
        try:
            matches = re.compile(pattern).search
        except re.error as error:
            raise SplitError(f"{pattern!r} is no regular expression: {error}") from error
        moved |= {i: known[device.lower()] for i, block in enumerate(blocks) if any(map(matches, block.tensors))}
    return moved


def _without(gpu: GpuRoom, n_bytes: int) -> GpuRoom:
    """The GPU with so many bytes taken."""
    if n_bytes and n_bytes > gpu.room:
        raise SplitError(f"-ot moves {_gib(n_bytes)} to {gpu.name}, and there is room for {_gib(max(0, gpu.room))}")
    return gpu._replace(room=gpu.room - n_bytes)


def _is_worth(gpu: GpuRoom) -> bool:
    return 0 < gpu.streaming < gpu.room / 2


def _stream_to(sizes: Sequence[int], gpus: Sequence[GpuRoom], devices: list[str]) -> GpuRoom | None:
    """A GPU with room for streaming, where blocks other than the output stay in RAM."""
    for gpu in gpus if CPU in devices[:-1] else ():
        used = sum(size for size, device in zip(sizes, devices, strict=True) if device == gpu.name)
        if gpu.streaming and used + gpu.streaming <= gpu.room:
            return gpu
    return None


def _chosen(layers: Sequence[int], n: int) -> range:
    """The layers that -ngl n means: the last n, and with more than there are the output too."""
    n_layer = len(layers) - 1
    return range(max(0, n_layer - n), n_layer if n <= n_layer else len(layers))


def _assign(
    layers: Sequence[int], gpus: Sequence[GpuRoom], chosen: range, tensor_split: Sequence[float]
) -> list[str] | None:
    """Share the chosen layers, given by their bytes, among the GPUs, in order; None where they do not fit."""
    if not chosen:
        return [CPU] * len(layers)
    shares = tensor_split or tuple(max(gpu.room, 0) for gpu in gpus)
    if not tensor_split and not sum(shares):
        return None
    if len(shares) != len(gpus) or min(shares, default=0) < 0 or sum(shares) <= 0:
        raise SplitError(f"{len(tensor_split)} shares of the layers, but there are {len(gpus)} GPUs")
    sizes = [layers[i] for i in chosen]
    by_share = _by_share(sizes, shares)
    found = by_share if _fits(sizes, gpus, by_share) else None
    if found is None and not tensor_split:
        found = _one_after_another(sizes, gpus)
    if found is None:
        return None
    devices = [CPU] * len(layers)
    for i, gpu in zip(chosen, found, strict=True):
        devices[i] = gpus[gpu].name
    return devices


def _by_share(sizes: Sequence[int], shares: Sequence[float]) -> list[int]:
    """For each size the GPU in whose share of the sum its middle falls."""
    ends = [sum(shares[: i + 1]) / sum(shares) for i in range(len(shares))]
    found, before = [], 0
    for size in sizes:
        middle = (before + size / 2) / sum(sizes) if sum(sizes) else 0.0
        found.append(next((i for i, end in enumerate(ends) if middle < end and shares[i] > 0), len(shares) - 1))
        before += size
    return found


def _fits(sizes: Sequence[int], gpus: Sequence[GpuRoom], found: Sequence[int]) -> bool:
    used = [sum(size for size, gpu in zip(sizes, found, strict=True) if gpu == i) for i in range(len(gpus))]
    return all(n_bytes <= gpu.room for n_bytes, gpu in zip(used, gpus, strict=True))


def _one_after_another(sizes: Sequence[int], gpus: Sequence[GpuRoom]) -> list[int] | None:
    """Fill the first GPU, then the next; None where they do not fit."""
    found, gpu, used = [], 0, 0
    for size in sizes:
        while gpu < len(gpus) and used + size > gpus[gpu].room:
            gpu, used = gpu + 1, 0
        if gpu == len(gpus):
            return None
        found.append(gpu)
        used += size
    return found


def _too_much(layers: Sequence[int], gpus: Sequence[GpuRoom], n: int, tensor_split: Sequence[float]) -> str:
    needed, room = sum(layers[i] for i in _chosen(layers, n)), sum(max(0, gpu.room) for gpu in gpus)
    most = next(m for m in range(n - 1, -1, -1) if _assign(layers, gpus, _chosen(layers, m), tensor_split))
    return (
        f"{n} layers need {_gib(needed)} of GPU memory and there is room for {_gib(room)}: {most} layers fit "
        f"(-ngl {most}, or -ngl auto), and a shorter context (-c) takes less"
    )


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.2f} GiB"


def table(blocks: Sequence[Block], devices: Sequence[str]) -> str:
    """Who has what, for people: runs of layers, their device, and the bytes of weights and cache.

    Where layers are divided among devices, a line for each part of all that are divided alike.
    """
    lines = [f"{'layers':>20}  {'device':8} {'weights':>12} {'cache':>12}"]
    placed = zip(blocks, devices, strict=True)
    layers = [list(layer) for _, layer in groupby(placed, key=lambda item: item[0].layer)]

    def alike(layer: list[tuple[Block, str]]) -> tuple[bool, list[str]]:
        return layer is layers[-1], [device for _, device in layer]

    for (is_output, where), run in groupby(layers, key=alike):
        members = list(run)
        first, last = members[0][0][0].layer, members[-1][0][0].layer
        name = "output" if is_output else f"{first}-{last}" if last > first else str(first)
        if len(set(where)) == 1:
            lines.append(_line(name, where[0], [block for layer in members for block, _ in layer]))
            continue
        for i, device in enumerate(where):
            part = [layer[i][0] for layer in members]
            lines.append(_line(f"{name} {'attention' if part[0].cache else 'feed-forward'}", device, part))
    return "\n".join(lines)


def _line(name: str, device: str, blocks: Sequence[Block]) -> str:
    weights, cache = (sum(getattr(block, kind) for block in blocks) / 2**20 for kind in ("weights", "cache"))
    return f"{name:>20}  {device:8} {weights:8.1f} MiB {cache:8.1f} MiB"

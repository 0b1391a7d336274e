"""The layer splitter: which layers run on which device, computed from their bytes before anything is allocated."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

CPU = "CPU"

#: How many layers to put on GPUs: a number, all of them, or as many as fit.
Layers = int | Literal["all", "auto"]


class SplitError(Exception):
    """More was asked for than the GPUs have room for, or a device that is not there."""


class Offload(NamedTuple):
    """What goes to GPUs.

    layers: the last N layers, and with N beyond their number the output too. main_gpu: the only one to use, None for
    all. tensor_split: how much of it each GPU gets, in proportion; by default in proportion to free memory.
    overrides: (pattern, device): layers one of whose tensors matches go there. cache_in_ram: keys and values stay in
    the system's memory.
    """

    layers: Layers = 0
    main_gpu: int | None = None
    tensor_split: tuple[float, ...] = ()
    overrides: tuple[tuple[str, str], ...] = ()
    cache_in_ram: bool = False


class Layer(NamedTuple):
    """What a layer takes on a GPU, in bytes; the output counts as a layer."""

    weights: int
    cache: int
    tensors: tuple[str, ...] = ()

    @property
    def n_bytes(self) -> int:
        return self.weights + self.cache


class Gpu(NamedTuple):
    """A GPU, and how many bytes layers may take of it: what is free, less what work there needs.

    streaming: bytes that it takes to stream weights to it, where layers stay in RAM.
    """

    name: str
    room: int
    streaming: int = 0


class Split(NamedTuple):
    """The device of each layer, the output being the last; and the GPU to which weights are streamed, if any."""

    devices: list[str]
    streams_to: Gpu | None = None


def split(layers: Sequence[Layer], gpus: Sequence[Gpu], offload: Offload) -> Split:
    """Where each layer goes; the last of `layers` is the output. Raises SplitError.

    Layers on GPUs are in one run up to the last layer, so that a step changes devices as seldom as can be. Where others
    stay in RAM, "auto" leaves room to stream them if that takes less than half of what there is; a number of layers
    that was asked for comes first, and they are streamed if there is room left.
    """
    if offload.layers == "auto":
        leaving = [gpu._replace(room=gpu.room - gpu.streaming) if _is_worth(gpu) else gpu for gpu in gpus]
        devices = next(
            found
            for n in range(len(layers), -1, -1)
            if (found := _assign(layers, gpus if n >= len(layers) - 1 else leaving, _chosen(layers, n), offload))
        )
    else:
        n = len(layers) if offload.layers == "all" else min(offload.layers, len(layers))
        chosen = _chosen(layers, n)
        found = _assign(layers, gpus, chosen, offload)
        if found is None:
            raise SplitError(_too_much(layers, gpus, n, offload))
        devices = found
    devices = _overridden(layers, gpus, devices, offload.overrides)
    return Split(devices, _stream_to(layers, gpus, devices, offload))


def _is_worth(gpu: Gpu) -> bool:
    return 0 < gpu.streaming < gpu.room / 2


def _stream_to(layers: Sequence[Layer], gpus: Sequence[Gpu], devices: list[str], offload: Offload) -> Gpu | None:
    """A GPU with room for streaming, where layers other than the output stay in RAM."""
    for gpu in gpus if CPU in devices[:-1] else ():
        sizes = (layer.weights if offload.cache_in_ram else layer.n_bytes for layer in layers)
        used = sum(size for size, device in zip(sizes, devices, strict=True) if device == gpu.name)
        if gpu.streaming and used + gpu.streaming <= gpu.room:
            return gpu
    return None


def _chosen(layers: Sequence[Layer], n: int) -> range:
    """The layers that -ngl n means: the last n, and with more than there are the output too."""
    n_layer = len(layers) - 1
    return range(max(0, n_layer - n), n_layer if n <= n_layer else len(layers))


def _assign(
    layers: Sequence[Layer], gpus: Sequence[Gpu], chosen: range, offload: Offload
) -> list[str] | None:
    """Share the chosen layers among the GPUs, in order; None where they do not fit."""
    if not chosen:
        return [CPU] * len(layers)
    shares = offload.tensor_split or tuple(max(gpu.room, 0) for gpu in gpus)
    if not offload.tensor_split and not sum(shares):
        return None
    if len(shares) != len(gpus) or min(shares, default=0) < 0 or sum(shares) <= 0:
        raise SplitError(f"{len(offload.tensor_split)} shares of the layers, but there are {len(gpus)} GPUs")
    sizes = [layers[i].weights if offload.cache_in_ram else layers[i].n_bytes for i in chosen]
    by_share = _by_share(sizes, shares)
    found = by_share if _fits(sizes, gpus, by_share) else None
    if found is None and not offload.tensor_split:
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


def _fits(sizes: Sequence[int], gpus: Sequence[Gpu], found: Sequence[int]) -> bool:
    used = [sum(size for size, gpu in zip(sizes, found, strict=True) if gpu == i) for i in range(len(gpus))]
    return all(n_bytes <= gpu.room for n_bytes, gpu in zip(used, gpus, strict=True))


def _one_after_another(sizes: Sequence[int], gpus: Sequence[Gpu]) -> list[int] | None:
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


def _too_much(layers: Sequence[Layer], gpus: Sequence[Gpu], n: int, offload: Offload) -> str:
    needed = sum(layers[i].n_bytes for i in _chosen(layers, n))
    most = next(m for m in range(n - 1, -1, -1) if _assign(layers, gpus, _chosen(layers, m), offload))
    room = sum(max(0, gpu.room) for gpu in gpus)
    return (
        f"{n} layers need {needed / 2**30:.2f} GiB of GPU memory and there is room for {room / 2**30:.2f} GiB: "
        f"{most} layers fit (-ngl {most}, or -ngl auto), and a shorter context (-c) takes less"
    )


def _overridden(
    layers: Sequence[Layer], gpus: Sequence[Gpu], devices: list[str], overrides: Sequence[tuple[str, str]]
) -> list[str]:
    known = {name.lower(): name for name in [CPU, *(gpu.name for gpu in gpus)]}
    for pattern, device in overrides:
        if device.lower() not in known:
            raise SplitError(f"there is no device {device!r}; there are {', '.join(known.values())}")
        try:
            matches = re.compile(pattern).search
        except re.error as error:
            raise SplitError(f"{pattern!r} is no regular expression: {error}") from error
        for i, layer in enumerate(layers):
            if any(map(matches, layer.tensors)):
                devices[i] = known[device.lower()]
    return devices


def table(layers: Sequence[Layer], devices: Sequence[str]) -> str:
    """Who has what, for people: runs of layers, their device, and the bytes of weights and cache."""
    lines = [f"{'layers':>10}  {'device':8} {'weights':>12} {'cache':>12}"]
    first = 0
    for i in range(1, len(layers) + 1):
        if i < len(layers) and devices[i] == devices[first] and i < len(layers) - 1:
            continue
        run = layers[first:i]
        name = "output" if first == len(layers) - 1 else f"{first}-{i - 1}" if i - first > 1 else str(first)
        weights, cache = (sum(getattr(layer, kind) for layer in run) / 2**20 for kind in ("weights", "cache"))
        lines.append(f"{name:>10}  {devices[first]:8} {weights:8.1f} MiB {cache:8.1f} MiB")
        first = i
    return "\n".join(lines)

"""`ggrun devices`: what there is to run layers on, and how much of a model fits."""

from __future__ import annotations

from typing import Any

import click

from .command import LlamaCommand, section
from .loading import load, take_model
from .options import load_options, model_options, verbose_option


@click.command(cls=LlamaCommand, help="Show the CPU and the GPUs, and what of a model fits where.")
@section("Model", model_options)
@section("Output", verbose_option)
@load_options()
def command(verbose: bool, **options: Any) -> None:
    model = take_model(options)
    show()
    if model is not None:
        with load(model, **options) as llm:
            click.echo(f"\n{llm.engine.placement.table() or 'all layers run on the CPU'}")


def show() -> None:
    """The CPU and the GPUs, a line each."""
    from ..backends.errors import GpuError
    from ..backends.gpus import open_gpus
    from ..kernels.cores import physical_cores
    from ..kernels.isa import detect

    click.echo(f"CPU    {physical_cores()} cores, {detect().name}")
    try:
        for gpu in open_gpus():
            free, total = (n / 2**30 for n in gpu.handle.mem_info)
            click.echo(f"{gpu.name:6} {gpu.description}, {free:.1f} of {total:.1f} GiB free")
    except GpuError as error:
        click.echo(f"GPU    none: {error}")

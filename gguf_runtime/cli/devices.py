"""`ggrun devices`: what there is to run layers on, and how much of a model fits."""

from __future__ import annotations

import click

from ..backends.errors import GpuError
from ..backends.gpus import open_gpus
from ..kernels.cores import physical_cores
from ..kernels.isa import detect
from .options import model_path, verbose_option


@click.command(help="Show the CPU and the GPUs, and what of a model fits where.")
@click.option("-m", "--model", metavar="FILE", help="GGUF file of a model to fit in.")
@click.option("-c", "--ctx-size", type=click.IntRange(0), default=4096, metavar="N", help="Tokens of its context.")
@verbose_option
def command(model: str | None, ctx_size: int, verbose: bool) -> None:
    click.echo(f"CPU    {physical_cores()} cores, {detect().name}")
    try:
        for gpu in open_gpus():
            free, total = (n / 2**30 for n in gpu.handle.mem_info)
            click.echo(f"{gpu.name:6} {gpu.description}, {free:.1f} of {total:.1f} GiB free")
    except GpuError as error:
        click.echo(f"GPU    none: {error}")
    if model is not None:
        from ..llm import LLM

        with LLM(model_path(model), n_ctx=ctx_size) as llm:
            click.echo(f"\n{llm.engine.placement.table() or 'all layers run on the CPU'}")

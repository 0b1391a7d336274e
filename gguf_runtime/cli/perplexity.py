"""`ggrun perplexity`: how well a model predicts a text."""

from __future__ import annotations

import math
from typing import Any

import click
import numpy as np

from ..engine import Chunk, Engine
from ..files import read_text
from .command import LlamaCommand
from .loading import load, take_model
from .options import load_options, model_options, verbose_option

_LOGITS_BYTES = 64 << 20  # of one step


@click.command(cls=LlamaCommand, help="Measure how well a model predicts a text, as llama-perplexity does.")
@model_options
@click.option("-f", "--file", metavar="FILE", required=True, help="The text.")
@load_options(ctx_size=512)
@verbose_option
def command(file: str, verbose: bool, **options: Any) -> None:
    """Chunks of n_ctx tokens, each on its own; the second half of each is scored, so that all have some context."""
    text = read_text(file, errors="replace").removesuffix("\n")
    model = take_model(options)
    llm = load(model, **options)
    n_ctx = llm.engine.n_ctx
    tokens = llm.tokenize(text)
    if len(tokens) < 2 * n_ctx:
        raise click.ClickException(
            f"the text has {len(tokens)} tokens: two chunks of {n_ctx} are needed, so add text or lower -c"
        )
    bos = llm.tokenizer.bos_id if llm.tokenizer.add_bos else None
    losses = np.zeros(0)
    for i in range(len(tokens) // n_ctx):
        chunk = tokens[i * n_ctx : (i + 1) * n_ctx]
        losses = np.concatenate([losses, _losses(llm.engine, chunk, bos)])
        click.echo(f"[{i + 1}]{math.exp(losses.mean()):.4f},", err=True, nl=False)
    click.echo(err=True)
    perplexity = math.exp(losses.mean())
    deviation = math.sqrt((np.square(losses).mean() - losses.mean() ** 2) / (len(losses) - 1))
    click.echo(f"Final estimate: PPL = {perplexity:.4f} +/- {deviation * perplexity:.5f}")


def _losses(engine: Engine, chunk: list[int], bos: int | None) -> np.ndarray:
    """f64: -log p of each token in the second half of the chunk but its first; BOS takes the place of token 0."""
    inputs = chunk if bos is None else [bos, *chunk[1:]]
    first, last = len(chunk) // 2, len(chunk) - 1
    rows = max(1, _LOGITS_BYTES // (4 * engine.n_vocab))
    sequence = engine.new_sequence()
    try:
        engine.step([Chunk(sequence, inputs[:first], 0)])
        losses = []
        for start in range(first, last, rows):
            end = min(start + rows, last)
            logits = engine.step([Chunk(sequence, inputs[start:end], end - start)])
            losses.append(_cross_entropy(logits, chunk[start + 1 : end + 1]))
        return np.concatenate(losses)
    finally:
        sequence.release()


def _cross_entropy(logits: np.ndarray, targets: list[int]) -> np.ndarray:
    """f64[n]: -log softmax(logits)[target] of each row of f32[n, n_vocab]."""
    best = logits.max(axis=1)
    mass = np.exp(logits - best[:, None]).sum(axis=1, dtype=np.float64)
    return np.log(mass) + best - logits[np.arange(len(targets)), targets]

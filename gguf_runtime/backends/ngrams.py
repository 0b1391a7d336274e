"""Which rows of a table stand for the n-grams that end with a token."""

from __future__ import annotations

from ..operations import EmbedNgrams


def ngram_rows(op: EmbedNgrams, tokens: list[int]) -> list[int]:
    """The row of each head, from a token and those before it, the last first."""
    ended = tokens.index(op.end, 1) if op.end in tokens[1:] else len(tokens)
    tokens = tokens[:ended] + [op.end] * (len(tokens) - ended)
    per_n, mixed = len(op.sizes) // (len(tokens) - 1), tokens[0] * op.multipliers[0]
    rows: list[int] = []
    for token, multiplier in zip(tokens[1:], op.multipliers[1:], strict=True):
        mixed = (mixed ^ token * multiplier) & (1 << 64) - 1
        heads = range(len(rows), len(rows) + per_n)
        rows += [mixed % op.sizes[head] + op.offsets[head] for head in heads]
    return rows

"""Prompts to fill in what is missing between two parts of a text (fill in the middle, Bavarian et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterable

from .tokenizer import Tokenizer
from .vocabulary import TokenizerError

_MARKS = {"fim_pre": "before", "fim_suf": "after", "fim_mid": "between"}


def infill_prompt(
    tokenizer: Tokenizer,
    prefix: str,
    suffix: str,
    *,
    begun: str = "",
    files: Iterable[tuple[str, str]] = (),
    suffix_first: bool = False,
    n_most: int,
) -> list[int]:
    """Token ids after which a model writes what comes between prefix and suffix, in llama.cpp's order.

    begun: what is there of it already. files: (name, text) of others that belong to the same project, for models with
    tokens for that. suffix_first: as some models want it. n_most: how many tokens there may be: of a longer prefix the
    beginning is left out, of a longer suffix the end, and of files the first. Raises TokenizerError where the model has
    no tokens for this.
    """
    marks = tokenizer.fim_ids
    if missing := [what for name, what in _MARKS.items() if name not in marks]:
        raise TokenizerError(f"the model cannot fill in: it has no token for what comes {' and '.join(missing)} (FIM)")

    def tokens(text: str) -> list[int]:
        return tokenizer.encode(text, add_special=False)

    before, after, between = tokens(prefix), tokens(suffix), tokens(begun)
    bos = [tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else []
    room = max(0, n_most - len(bos) - len(_MARKS) - len(between))
    after = after[: max(room // 4, room - len(before))]
    before = before[max(0, len(before) - (room - len(after))) :]
    first, second = [marks["fim_pre"], *before, *between], [marks["fim_suf"], *after]
    if suffix_first:
        first, second = second, first
    prompt = [*bos, *first, *second, marks["fim_mid"]]
    context = list(_context(tokenizer, files))
    return [*context[max(0, len(context) - max(0, n_most - len(prompt))) :], *prompt]


def _context(tokenizer: Tokenizer, files: Iterable[tuple[str, str]]) -> Iterable[int]:
    """What comes before all: a project and its files, the last one being that which is written (Hui et al. 2024)."""
    marks = tokenizer.fim_ids

    def tokens(text: str) -> list[int]:
        return tokenizer.encode(text, add_special=False)

    if "fim_rep" in marks:
        yield from (marks["fim_rep"], *tokens("myproject\n"))
    for name, text in files:
        if "fim_sep" in marks:
            yield from (marks["fim_sep"], *tokens(f"{name}\n"), *tokens(text))
        else:
            yield from (*tokens("\n\n--- snippet ---\n\n"), *tokens(text))
    if "fim_sep" in marks:
        yield from (marks["fim_sep"], *tokens("filename\n"))

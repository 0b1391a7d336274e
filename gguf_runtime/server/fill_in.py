"""Prompts for what is between two texts, with other files of the project before them."""

from __future__ import annotations

from collections.abc import Sequence

from .texts import ModelTexts

_NEAR = 3  # of four parts of the room, what the text before the cursor may take
_SPARE = 16  # tokens, for what marks the parts


def fill_in(
    texts: ModelTexts, prefix: str, suffix: str, extra: Sequence[tuple[str, str]], prompt: str, n_room: int
) -> list[int | str]:
    """A prompt for what is between prefix and suffix, cut to fit: what is near the cursor stays, and of the files
    beside it what is last. Raises Failure."""
    tokenizer, ids = texts.tokenizer, texts.tokenizer.fill_in_ids
    before = tokenizer.encode(prefix, add_special=False) + tokenizer.encode(prompt, add_special=False)
    after = tokenizer.encode(suffix, add_special=False)
    n_before = min(len(before), _NEAR * n_room // 4)
    before = before[len(before) - n_before :]
    after = after[: max(0, n_room - n_before - _SPARE)]
    around = _files(texts, extra) if extra else []
    around = around[max(0, len(around) - max(0, n_room - len(before) - len(after) - _SPARE)) :]
    if around and "fim_sep" in ids:
        around += [ids["fim_sep"], *tokenizer.encode("filename\n", add_special=False)]
    whole = texts.fill_in([*before], [*after])
    n_bos = int(whole[0] == tokenizer.bos_id)
    return [*whole[:n_bos], *around, *whole[n_bos:]]


def _files(texts: ModelTexts, extra: Sequence[tuple[str, str]]) -> list[int]:
    """Other files of the project, in the form for that if the model has one."""
    tokenizer, ids = texts.tokenizer, texts.tokenizer.fill_in_ids
    found = [ids["fim_rep"], *tokenizer.encode("project\n", add_special=False)] if "fim_rep" in ids else []
    for name, text in extra:
        if "fim_sep" in ids:
            found += [ids["fim_sep"], *tokenizer.encode(f"{name}\n", add_special=False)]
        found += tokenizer.encode(text, add_special=False)
    return found

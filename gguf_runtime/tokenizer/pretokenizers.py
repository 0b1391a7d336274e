"""How text is cut before BPE, by the name in `tokenizer.ggml.pre`.

Names, expressions and what goes with them are facts from llama.cpp's src/llama-vocab.cpp and src/unicode.cpp;
split.py says how the expressions are applied.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

from .split import Thousands


class PreTokenizer(NamedTuple):
    """The expressions are applied one after another.

    ignore_merges: a piece that is a token is that token, whatever the merges would make of it.
    add_bos: texts begin with BOS, unless the file says that they do not; needs_bos: even then. add_sep: a separator is
    between two, unless the file says otherwise.
    bos_id: BOS where the file names none.
    byte_level: tokens write bytes as printable characters; otherwise they are UTF-8, with ▁ for a space if
    marks_spaces.
    """

    expressions: tuple[str | Thousands, ...]
    ignore_merges: bool = False
    add_bos: bool = False
    needs_bos: bool = False
    add_sep: bool = False
    bos_id: int | None = 11
    byte_level: bool = True
    marks_spaces: bool = True


# what most expressions are made of: the ending of an English contraction, words, symbols, white space
_ENDING = r"'(?:[sdmtSDMT]|[lL][lL]|[vV][eE]|[rR][eE])"
_WORD = r"[^\r\n\p{L}\p{N}]?[\p{L}]+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_DIGIT, _DIGITS, _3_DIGITS = r"[\p{N}]", r"[\p{N}]+", r"[\p{N}]{1,3}"

_GPT2 = r"'(?:[stmd]|re|ve|ll)| ?[\p{L}]+| ?[\p{N}]+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = f"{_ENDING}|{_WORD}|{_3_DIGITS}|{_SYMBOLS}|{_SPACES}"
_QWEN2 = f"{_ENDING}|{_WORD}|{_DIGIT}|{_SYMBOLS}|{_SPACES}"


def _cased(upper: str, lower: str, ending: str, digits: str) -> str:
    """As GPT-4o has it: a word ends before an upper-case letter that follows a lower-case one."""
    before, ending = r"[^\r\n\p{L}\p{N}]?", f"(?:{ending})?"
    words = f"{before}[{upper}]*[{lower}]+{ending}|{before}[{upper}]+[{lower}]*{ending}"
    return rf"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"


_HAN_KANA = "[一-龥\u3040-\u30ff]+"
_HAN_HANGUL = "[\u0800-龥가-\ud7ff]+"
_DEEPSEEK_WORD = r"[!-/:-@\[-`{-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+"
_DEEPSEEK_SYMBOLS = "\\s?[!-/:-~！-／：-～‘-‟\u3000-。]+"
#: Letters that have case, as DeepSeek LLM lists them.
_DEEPSEEK_LETTERS = (
    "A-Za-z\xb5\xc0-\xd6\xd8-\xf6\xf8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377"
    "\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556"
    "\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a"
    "\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4"
    "\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc"
    "\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f"
    "\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b"
    "\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a"
    "\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    "\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_AFMOE_SCRIPTS = (
    "[一-\u9fff\u3400-\u4dbf\u8c48-\ufaff\u3040-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e40-\u0eff\u1780-\u17ff"
    "\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff가-\ud7af\u1100-\u11ff]+"
)
_YOUTU_SCRIPTS = f"[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-\u303f\ufe30-\ufe4f]+|[ㄅ-ㄯ]+|{_HAN_KANA}"
_BLOOM = " ?[^(\\s|.,!?…。，、।۔،)]+"
_LINES = r"[^\n]+|[\n]+"

DEFAULT = PreTokenizer((r"[\p{P}$+<=>^~|]+", _GPT2, _DIGITS, "[0-9][0-9][0-9]"))

_BY_NAMES = {
    "default": DEFAULT,
    # Llama 3 and those that cut as it does
    "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano": PreTokenizer(
        (_LLAMA3,), ignore_merges=True, add_bos=True
    ),
    "dbrx smaug-bpe": PreTokenizer((_LLAMA3,)),
    "chatglm-bpe": PreTokenizer((_LLAMA3,), bos_id=None),
    "glm4 glm5": PreTokenizer((_LLAMA3,), ignore_merges=True, bos_id=None),
    "minicpm5": PreTokenizer((_3_DIGITS, f"{_ENDING}|{_WORD}|{_DIGITS}|{_SYMBOLS}|{_SPACES}"), ignore_merges=True),
    "jais-2": PreTokenizer(
        (
            rf"{_ENDING}|{_WORD}|{_3_DIGITS}|{_SYMBOLS}|\s*[\r\n]+|"
            + "|".join(rf"\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4))
            + r"|\s{1,2}(?!\S)|\s",
        )
    ),
    # GPT-2
    "gpt-2 phi-2 mpt olmo jais trillion granite-docling exaone4 gigachat a.x-4.0 mellum modern-bert "
    "jina-es jina-de jina-v2-es jina-v2-de": PreTokenizer((_GPT2,)),
    "jina-v1-en jina-v2-code roberta-bpe": PreTokenizer((_GPT2,), add_sep=True),
    "starcoder refact command-r smollm codeshell exaone minerva-7b mellum2": PreTokenizer((_DIGIT, _GPT2)),
    "falcon": PreTokenizer((r"[\p{P}$+<=>^~|`]+", _GPT2, "[0-9][0-9][0-9]")),
    "chameleon": PreTokenizer(
        (
            "<sentinel:[0-9]+>",
            "IMGIMG[A-I]{1,4}Z",
            "[\t\n]|    |  ",
            _DIGIT,
            r"[\p{P}!-/:-@\[-`{-~]",
            _GPT2,
        ),
        add_bos=True,
    ),
    # Qwen 2
    "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2": PreTokenizer((_QWEN2,)),
    "qwen35": PreTokenizer(
        (
            rf"{_ENDING}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|{_DIGIT}"
            rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}",
        )
    ),
    "laguna": PreTokenizer((_LINES, _QWEN2)),
    "ufakzeka": PreTokenizer((f"{_WORD}|{_DIGIT}|{_SYMBOLS}|{_SPACES}",)),
    "seed-coder": PreTokenizer((rf"{_ENDING}|{_WORD}|{_DIGIT}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}",)),
    "bailingmoe bailingmoe2 llada-moe": PreTokenizer(
        (rf"{_ENDING}|{_WORD}|{_DIGIT}|{_SYMBOLS}|\s*[\r\n]|\s+(?!\S)|\s+",)
    ),
    "exaone-moe": PreTokenizer(
        (
            rf"{_ENDING}|[^\r\n\p{{L}}\p{{N}}]?(?:[\p{{L}}][\p{{M}}]*(?: [\p{{L}}][\p{{M}}]*)*)+|{_DIGIT}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
        )
    ),
    # GPT-4o
    "gpt-4o llama4 kanana2 talkie minimax-m2": PreTokenizer((_cased(r"\p{upper}", r"\p{lower}", _ENDING, _3_DIGITS),)),
    "tekken": PreTokenizer((_cased(r"\p{upper}", r"\p{lower}", "", _DIGIT),), ignore_merges=True, add_bos=True),
    "granite-embed-multi-97m": PreTokenizer(
        (_cased(r"\p{upper}\p{M}", r"\p{lower}\p{M}", _ENDING, _3_DIGITS),), ignore_merges=True
    ),
    "tiny_aya cohere2moe": PreTokenizer((Thousands(_DIGITS), _cased(r"\p{L}\p{M}", r"\p{L}\p{M}", _ENDING, _3_DIGITS))),
    "youtu": PreTokenizer((_YOUTU_SCRIPTS, _cased(r"\p{L}\p{M}", r"\p{L}\p{M}", _ENDING, _DIGIT)), ignore_merges=True),
    "kimi-k2": PreTokenizer(
        (rf"[\p{{Han}}]+|[^\r\n\p{{L}}\p{{N}}]?[\p{{L-Han}}]+(?:{_ENDING})?|{_3_DIGITS}|{_SYMBOLS}|{_SPACES}",)
    ),
    # DeepSeek
    "deepseek-llm": PreTokenizer(
        ("[\r\n]", rf"\s?[{_DEEPSEEK_LETTERS}]+", _DEEPSEEK_SYMBOLS, r"(?<!\s)\s+\Z", _HAN_HANGUL, _DIGITS)
    ),
    "deepseek-coder": PreTokenizer(("[\r\n]", r"\s?[\p{L}]+", r"\s?[\p{P}]+", _HAN_HANGUL, _DIGIT)),
    "deepseek-v3 hunyuan-dense joyai-llm hy_v4": PreTokenizer(
        (_3_DIGITS, _HAN_KANA, rf"{_DEEPSEEK_WORD}[\r\n]*|{_SPACES}")
    ),
    "spark2_5": PreTokenizer((_3_DIGITS, _HAN_KANA, rf"{_DEEPSEEK_WORD}|[\r\n]|\s+(?!\S)|\s+", _DIGIT)),
    "afmoe": PreTokenizer((Thousands(_DIGITS), _AFMOE_SCRIPTS, rf"{_DEEPSEEK_WORD}[\r\n]*|{_SPACES}")),
    # others
    "poro-chat bloom gpt3-finnish": PreTokenizer((_BLOOM,)),
    "viking": PreTokenizer((_BLOOM, _DIGIT)),
    "superbpe": PreTokenizer((_DIGITS, Thousands("[0-9]+", cut_after=False))),
    "gemma4 granite-embed-multi-311m": PreTokenizer((_LINES,), needs_bos=True, byte_level=False),
    "sarvam-moe": PreTokenizer((_LINES,), byte_level=False),
    "whitespace": PreTokenizer((r"\S+",), byte_level=False, marks_spaces=False),
}
_BY_NAME = {name: pre for names, pre in _BY_NAMES.items() for name in names.split()}


def find(name: object) -> PreTokenizer:
    """What goes by this name; for a name that is not known, with a warning, llama.cpp's default."""
    if isinstance(name, str) and name in _BY_NAME:
        return _BY_NAME[name]
    problem = "tokenizer.ggml.pre is missing" if name is None else f"pre-tokenizer {name!r} is not known"
    warnings.warn(f"{problem}: text is cut by a default rule, and answers may be worse for it", stacklevel=2)
    return DEFAULT

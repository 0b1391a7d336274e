"""A model that says what a script has: for clients of the server, which are to get calls, thoughts and texts from it.

Its layers add nothing, each token has a unit vector as its embedding, and the output sends it to the token that comes
next. The last token of a prompt, which the chat template writes, begins a script, and each piece of a script is a token
of its own, which comes nowhere else.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.make_model import BOS, EOS, add_key, finish, make_vocabulary

_N_WIDE = 64  # of the feed-forward part, which adds nothing
_HEAD = 64
_SURE = 40.0  # by how much the next token's logit is above all others, after the norm

FIRST = {"city": 'Ghent, "B"', "days": 3, "deep": {"list": [1, None, 2.5, True, "x</tool_call>\n"], "none": {}}}
SECOND = {"city": "東京", "days": 1}
HELLO, LOOKING, FOUND = "Hello, wörld!\n\n- one\n- 二", "I'll look both up, né.", "It rains in Ghent; 🌞 in 東京."
BASH = {"command": 'ls -la "a b" | head\n', "description": "List"}
SHELL = {"command": ["bash", "-lc", "echo '$HOME'"], "timeout_ms": 1000}


def _calling(*calls: tuple[str, Any]) -> str:
    made = ({"name": name, "arguments": arguments} for name, arguments in calls)
    return "\n".join(f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>" for call in made)


#: By what the template ends a prompt with, which says whose tools there are, and how many results: two calls at once,
#: after their results a call without arguments, then a text; and what coding agents may get.
SCRIPTS = {
    "<|plain|>": f"<think>\nA greeting.\n</think>\n\n{HELLO}",
    "<|ours0|>": f"<think>\nTwo places.\n</think>\n\n{LOOKING}\n"
    + _calling(("get_weather", FIRST), ("get_weather", SECOND)),
    "<|ours2|>": _calling(("list_places", {})),
    "<|ours3|>": f"<think>\nThat's all.\n</think>\n\n{FOUND}",
    "<|bash0|>": f"<think>\nLook first.\n</think>\n\nLet me see.\n{_calling(('Bash', BASH))}",
    "<|bash1|>": "There is nothing, sir.",
    "<|shell0|>": f"<think>\nRun it.\n</think>\n\n{_calling(('shell', SHELL))}",
    "<|shell1|>": "All is done here.",
}
TEMPLATE = (
    "{{ bos_token }}{% if tools %}[tools] {{ tools | tojson }}\n{% endif %}{% set ns = namespace(n=0) %}"
    "{% set names = (tools or []) | map(attribute='function.name') | list %}"
    "{% macro header() %}[assistant]{% if 'get_weather' in names %}<|ours{{ ns.n }}|>{% elif 'Bash' in names %}"
    "<|bash{{ ns.n }}|>{% elif 'shell' in names %}<|shell{{ ns.n }}|>{% else %}<|plain|>{% endif %}{% endmacro %}"
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ header() }}"
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ m.content or '' }}{% for call in m.tool_calls or [] %}\n<tool_call>\n"
    "{{ {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}\n</tool_call>{% endfor %}\n"
    "{% else %}{% if m.role == 'tool' %}{% set ns.n = ns.n + 1 %}{% endif %}[{{ m.role }}] {{ m.content }}\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ header() }}{% endif %}"
)


def write_scripted(path: Path) -> None:
    tokens, kinds, merges = make_vocabulary(320)
    follows: dict[int, int] = {}
    for begin, script in SCRIPTS.items():
        at = len(tokens)
        tokens.append(begin)
        kinds.append(int(gguf.TokenType.CONTROL))
        for piece in _pieces(script, set(tokens)):
            tokens.append(piece)
            kinds.append(int(gguf.TokenType.NORMAL))
            follows[at], at = len(tokens) - 1, len(tokens) - 1
        follows[at] = tokens.index(EOS)
    n_embd = -(-len(tokens) // 256) * 256
    output = np.zeros((len(tokens), n_embd), np.float32)
    for token in range(len(tokens)):
        output[follows.get(token, tokens.index(EOS)), token] = _SURE / n_embd**0.5
    writer = gguf.GGUFWriter(path, "llama")
    keys = {
        "llama.block_count": 1, "llama.context_length": 16384, "llama.embedding_length": n_embd,
        "llama.feed_forward_length": _N_WIDE, "llama.attention.head_count": n_embd // _HEAD,
        "llama.attention.head_count_kv": 1, "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": _HEAD, "llama.vocab_size": len(tokens),
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds, "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": tokens.index(BOS), "tokenizer.ggml.eos_token_id": tokens.index(EOS),
        "tokenizer.chat_template": TEMPLATE,
    }  # fmt: skip
    for key, value in keys.items():
        add_key(writer, key, value)
    none = {
        "attn_q": (n_embd, n_embd), "attn_k": (_HEAD, n_embd), "attn_v": (_HEAD, n_embd),
        "attn_output": (n_embd, n_embd), "ffn_gate": (_N_WIDE, n_embd), "ffn_up": (_N_WIDE, n_embd),
        "ffn_down": (n_embd, _N_WIDE),
    }  # fmt: skip
    tensors = {f"blk.0.{name}.weight": np.zeros(shape, np.float32) for name, shape in none.items()}
    ones = ("blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight")
    tensors |= {name: np.ones(n_embd, np.float32) for name in ones}
    tensors |= {"token_embd.weight": np.eye(len(tokens), n_embd, dtype=np.float32), "output.weight": output}
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    finish(writer)


def _pieces(script: str, known: set[str]) -> list[str]:
    """The script in pieces of three bytes or more, none of which there is yet, as byte-level BPE spells them; also cut
    within characters."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(256, 512))
    spelled = {byte: chr(byte if byte in printable else next(others)) for byte in range(256)}
    pieces, piece = list[str](), ""
    for byte in script.encode():
        piece += spelled[byte]
        if len(piece) >= 3 and piece not in known:
            known.add(piece)
            pieces.append(piece)
            piece = ""
    if piece and piece in known:  # the end is there already: it goes with what is before it
        piece = pieces.pop() + piece
    return [*pieces, piece] if piece else pieces

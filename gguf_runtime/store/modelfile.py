"""Modelfiles: a model, and how it is to be asked, in Ollama's notation.

    FROM llama3.2:1b
    PARAMETER temperature 0.2
    SYSTEM You answer in verse.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import read_text
from .errors import StoreError

#: Ollama's parameters that mean something here, and what their values are.
PARAMETERS: dict[str, type] = {
    "num_ctx": int, "num_predict": int, "num_keep": int, "num_batch": int, "num_thread": int, "num_gpu": int,
    "main_gpu": int, "use_mmap": bool, "use_mlock": bool, "seed": int, "stop": str, "temperature": float, "top_k": int,
    "top_p": float, "min_p": float, "typical_p": float, "repeat_last_n": int, "repeat_penalty": float,
    "presence_penalty": float, "frequency_penalty": float, "mirostat": int, "mirostat_tau": float,
    "mirostat_eta": float,
}  # fmt: skip
#: Those that mean nothing, neither here nor to Ollama since.
_OUTDATED = ("low_vram", "f16_kv", "logits_all", "vocab_only", "embedding_only", "num_gqa")
_ROLES = ("system", "user", "assistant")
_INSTRUCTION = re.compile(r"[ \t]*(\w+)[ \t]+(.*)")


@dataclass(frozen=True)
class Modelfile:
    """base: what FROM names. parameters: (name, value) in their order. template: in Go. messages: (role, text)."""

    base: str
    parameters: tuple[tuple[str, Any], ...] = ()
    template: str | None = None
    system: str | None = None
    messages: tuple[tuple[str, str], ...] = ()
    licenses: tuple[str, ...] = ()

    def over(self, other: Modelfile) -> Modelfile:
        """What this one says, and beside it what the Modelfile of its base says."""
        own = {name for name, _ in self.parameters}
        kept = tuple(pair for pair in other.parameters if pair[0] not in own)
        return Modelfile(
            self.base,
            (*kept, *self.parameters),
            other.template if self.template is None else self.template,
            other.system if self.system is None else self.system,
            self.messages or other.messages,
            self.licenses or other.licenses,
        )

    def text(self) -> str:
        """As it is written."""
        lines = [f"FROM {self.base}"]
        if self.template is not None:
            lines.append(f"TEMPLATE {_quoted(self.template)}")
        if self.system is not None:
            lines.append(f"SYSTEM {_quoted(self.system)}")
        for name, value in self.parameters:
            shown = str(value).lower() if isinstance(value, bool) else value
            lines.append(f"PARAMETER {name} {_quoted(shown) if isinstance(shown, str) else shown}")
        lines += [f"MESSAGE {role} {_quoted(text)}" for role, text in self.messages]
        lines += [f"LICENSE {_quoted(text)}" for text in self.licenses]
        return "\n".join(lines) + "\n"


def read(path: Path) -> Modelfile:
    """The Modelfile at a path. Raises StoreError, with the line, and OSError."""
    try:
        text = read_text(path)
    except ValueError as error:
        raise StoreError(str(error)) from None
    try:
        return parse(text)
    except StoreError as error:
        raise StoreError(f"{path}: {error}") from None


def parse(text: str) -> Modelfile:
    """Raises StoreError, with the number of the line."""
    found: dict[str, Any] = {}
    parameters, messages, licenses = [], [], []
    lines, i = text.split("\n"), 0
    while i < len(lines):
        start = i
        if not lines[i].strip() or lines[i].lstrip().startswith("#"):
            i += 1
            continue
        match = _INSTRUCTION.fullmatch(lines[i])
        if not match:
            raise StoreError(f"line {i + 1}: {lines[i].strip()!r} is no instruction with something after it")
        name, rest = match[1].upper(), match[2]
        role = ""
        if name in ("MESSAGE", "PARAMETER"):
            role, _, rest = rest.lstrip().partition(" ")
        value, i = _value(lines, i, rest)
        try:
            match name:
                case "FROM" | "TEMPLATE" | "SYSTEM":
                    found[name] = value
                case "PARAMETER" if role.lower() in _OUTDATED:
                    pass
                case "PARAMETER":
                    parameters.append((role.lower(), _parameter(role.lower(), value)))
                case "MESSAGE":
                    messages.append((_role(role.lower()), value))
                case "LICENSE":
                    licenses.append(value)
                case "ADAPTER":
                    raise StoreError("ADAPTER: LoRA adapters are not supported; merge it into the model")
                case "RENDERER" | "PARSER":
                    raise StoreError(f"{name} {value} is a part of Ollama: without it the model's own template counts")
                case "REQUIRES":
                    pass  # a version of Ollama
                case _:
                    raise StoreError(f"{name} is not an instruction that ggrun knows")
        except StoreError as error:
            raise StoreError(f"line {start + 1}: {error}") from None
    if not found.get("FROM"):
        raise StoreError("no FROM says which model it is about")
    return Modelfile(
        found["FROM"], tuple(parameters), found.get("TEMPLATE"), found.get("SYSTEM"), tuple(messages), tuple(licenses)
    )


def _value(lines: list[str], i: int, rest: str) -> tuple[str, int]:
    """The value that begins with `rest` in line i, which may be in quotes or over several lines; the line after it."""
    rest = rest.strip()
    if len(rest) > 1 and rest[0] == rest[-1] == '"' and not rest.startswith('"""'):
        return rest[1:-1], i + 1
    quote = next((quote for quote in ('"""', '"') if rest.startswith(quote)), None)
    if quote is None:
        return rest, i + 1
    value, end, after = "\n".join([rest.removeprefix(quote), *lines[i + 1 :]]).partition(quote)
    if not end:
        raise StoreError(f"line {i + 1}: {quote} is not closed")
    if more := after.partition("\n")[0].strip():
        raise StoreError(f"line {i + 1}: {more!r} stands after what is in quotes")
    return value, i + 1 + value.count("\n")


def _parameter(name: str, value: str) -> Any:
    if name not in PARAMETERS:
        raise StoreError(f"PARAMETER {name} is not supported; there are {', '.join(PARAMETERS)}")
    kind = PARAMETERS[name]
    try:
        if kind is bool:
            return {"true": True, "false": False}[value.lower()]
        return kind(value)
    except (ValueError, KeyError):
        raise StoreError(f"PARAMETER {name} does not take {value!r}") from None


def _role(role: str) -> str:
    if role not in _ROLES:
        raise StoreError(f"MESSAGE {role}: the roles are {', '.join(_ROLES)}")
    return role


def _quoted(text: str) -> str:
    """In quotes that hold what is in the text."""
    if '"' in text or "\n" in text or text != text.strip() or not text:
        return f'"""{text}"""'
    return f'"{text}"'

"""What has been computed of a prompt, kept in a file: the next process that begins alike goes on from there.

A file is a line that names the format, a line of JSON (whose pages these are, of which tokens, their checksums), and
the pages of the KV cache as they are.
"""

from __future__ import annotations

import hashlib
import json
import warnings
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from .cache import Sequence
from .digest import content_digest
from .files import replacing
from .generation import Generation
from .graph import Rope
from .llm import LLM

_MAGIC = b"ggrun prompt cache 1\n"
_MOST = 1 << 28  # bytes of the line of JSON


class PromptCacheError(Exception):
    """The file is something else, and not to be written over."""


class PromptCache:
    """A context that begins with what the file holds, if that is of this model in these settings."""

    def __init__(self, path: str | Path, llm: LLM) -> None:
        """Raises PromptCacheError, OSError. A file that is of no use here is told in a warning."""
        self.path = Path(path)
        self.context = llm.new_context()
        self._origin = {"model": fingerprint(llm), "form": self.context.sequence.form}
        if self.path.exists() and self.path.stat().st_size:
            with self.path.open("rb") as file:
                self._read(file)

    def keep(self, generation: Generation) -> None:
        """Write what the context holds of the answer's prompt, unless the file had most of it. Raises OSError."""
        n = min(len(generation.prompt), len(self.context.tokens))
        if generation.n_reused >= n / 2 or self.context.tokens[:n] != generation.prompt[:n]:
            return
        self.context.truncate(n)
        pages = self.context.sequence.pages
        checksums = [zlib.crc32(pool.read(page)) for pool, page in pages()]
        head = {**self._origin, "tokens": generation.prompt[:n], "checksums": checksums}
        with replacing(self.path) as file:
            file.write(_MAGIC + json.dumps(head).encode() + b"\n")
            for pool, page in pages():
                file.write(pool.read(page))

    def _read(self, file: BinaryIO) -> None:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise PromptCacheError(f"{self.path} is no prompt cache: it stays as it is, name another file")
        try:
            head = json.loads(file.readline(_MOST))
            tokens, checksums = [int(token) for token in head["tokens"]], head["checksums"]
            origin = {name: head[name] for name in self._origin}
        except (ValueError, KeyError, TypeError, RecursionError):
            self._useless("is damaged")
            return
        if origin != self._origin:
            self._useless("was made with another model or other settings")
        elif len(tokens) <= self.context.engine.n_ctx and not self._fill(file, tokens, checksums):
            self._useless("is damaged")

    def _fill(self, file: BinaryIO, tokens: list[int], checksums: list[Any]) -> bool:
        """Fill the context with the pages that follow in the file; False where they are not what was written."""
        sequence: Sequence = self.context.sequence
        sequence.grow(len(tokens))
        sequence.n_tokens, self.context.tokens = len(tokens), tokens
        pages = list(sequence.pages())
        sound = len(pages) == len(checksums)
        for (pool, page), checksum in zip(pages, checksums, strict=False):
            data = file.read(pool.layout.n_bytes)
            sound = sound and len(data) == pool.layout.n_bytes and zlib.crc32(data) == checksum
            if sound:
                pool.write(page, data)
        if not sound or file.read(1):
            self.context.release()
            return False
        return True

    def _useless(self, why: str) -> None:
        warnings.warn(f"the prompt cache {self.path} {why}: it is made anew", RuntimeWarning, stacklevel=2)


def fingerprint(llm: LLM) -> str:
    """What tells a model from others: all bytes of its files, and its angles, on which the context's size may tell."""
    digest = hashlib.sha256(content_digest(llm.file).encode())
    for op in llm.engine.model.graph().ops:
        if isinstance(op, Rope):
            digest.update(op.frequencies.frequencies.tobytes() + repr(op.frequencies.magnitude).encode())
    return digest.hexdigest()

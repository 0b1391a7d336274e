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

from .backends.pages import RecordMemory
from .backends.states import NOTHING
from .digest import content_digest
from .engine.sequence import Sequence
from .files import replacing
from .generation import Generation
from .llm import LLM
from .operations import Rope

_MAGIC = b"ggrun prompt cache 1\n"
_MOST = 1 << 28  # bytes of the line of JSON


class PromptCacheError(Exception):
    """The file is something else, and not to be written over."""


class PromptCache:
    """A prefix that is kept in a file: the model begins with it where that is of this model in these settings."""

    def __init__(self, path: str | Path, llm: LLM) -> None:
        """Raises PromptCacheError, OSError. A file that is of no use here is told in a warning."""
        self.path, self._engine = Path(path), llm.engine
        self._memories = llm.engine.pages.memories
        self._states = llm.engine.states.memories if llm.engine.states else []
        self._windows = llm.engine.windows.memories if llm.engine.windows else []
        form = " ".join(memory.form for memory in [*self._memories, *self._windows, *self._states])
        self._origin = {"model": fingerprint(llm), "form": form}
        if self.path.exists() and self.path.stat().st_size:
            with self.path.open("rb") as file:
                self._read(file)

    def keep(self, generation: Generation) -> None:
        """Write what is computed of the answer's prompt, unless the file had most of it. Raises OSError."""
        if generation.n_reused >= generation.n_prompt / 2:
            return
        with self._engine.lock:
            # the last token is never there; and a state after all of the prompt is of no use to the same prompt
            beyond = [] if self._states else [0]
            sequence = self._engine.new_sequence([*generation.prompt, *beyond], tree="")
            sequence.begin()
            tokens = sequence.context[: sequence.n_computed].tolist()
            contents = [memory.read(number) for memory, number in self._places(sequence)]
            sequence.release()
        head = {**self._origin, "tokens": tokens, "checksums": list(map(zlib.crc32, contents))}
        with replacing(self.path) as file:
            file.write(_MAGIC + json.dumps(head).encode() + b"\n")
            file.writelines(contents)

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
        elif len(tokens) <= self._engine.n_ctx and not self._fill(file, tokens, checksums):
            self._useless("is damaged")

    def _fill(self, file: BinaryIO, tokens: list[int], checksums: list[Any]) -> bool:
        """Fill pages with what follows in the file; False where they are not what was written."""
        with self._engine.lock:
            sequence = self._engine.new_sequence(tokens, tree="")
            sequence.reserve(len(tokens))
            sequence.drop_unseen(len(tokens))
            places = self._places(sequence)
            sound = len(places) == len(checksums)
            for (memory, page), checksum in zip(places, checksums, strict=False):
                data = file.read(memory.n_bytes)
                sound = sound and len(data) == memory.n_bytes and zlib.crc32(data) == checksum
                if sound:
                    memory.write(page, data)
            sound = sound and not file.read(1)
            sequence.n_computed = len(tokens) if sound else 0
            sequence.release()
            return sound

    def _places(self, sequence: Sequence) -> list[tuple[RecordMemory, int]]:
        """Where what is computed of a sequence is kept: pages, those that windows see, and the last state."""
        last = [mark.record for mark in sequence.marks[-1:] if mark.record != NOTHING]
        kinds = (
            (self._memories, sequence.pages[: sequence.n_pages].tolist()),
            (self._windows, sequence.windows_held),
            (self._states, last),
        )
        return [(memory, number) for memories, numbers in kinds for memory in memories for number in numbers]

    def _useless(self, why: str) -> None:
        warnings.warn(f"the prompt cache {self.path} {why}: it is made anew", RuntimeWarning, stacklevel=2)


def fingerprint(llm: LLM) -> str:
    """What tells a model from others: all bytes of its files, and its angles, on which the context's size may tell."""
    digest = hashlib.sha256(content_digest(llm.file).encode())
    for op in llm.engine.model.graph.ops:
        if isinstance(op, Rope):
            digest.update(op.frequencies.frequencies.tobytes() + repr(op.frequencies.magnitude).encode())
    return digest.hexdigest()

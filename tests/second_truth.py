"""transformers as a second truth: `make test-transformers LLAMA_CPP=folder`, which writes docs/transformers.md.

    python tests/second_truth.py LLAMA_CPP             all models
    python tests/second_truth.py LLAMA_CPP qwen3 bert  some, without the page

LLAMA_CPP is a checkout of llama.cpp: its converter writes the files, as it wrote those that people have. Small random
models are made by transformers, in an environment of its own in .venv/transformers, which the first use sets up.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gguf_runtime import architectures
from gguf_runtime.architectures import Result
from gguf_runtime.engine import Chunk, Engine
from gguf_runtime.loader import GGUFFile, open_gguf
from gguf_runtime.tokenizer import Tokenizer
from tests.kit import nmse

_ROOT = Path(__file__).resolve().parents[1]
_HOME = _ROOT / ".venv" / "transformers"
_WORKER = Path(__file__).with_name("transformers_models.py")
_PAGE = _ROOT / "docs" / "transformers.md"
_LIMIT = 1e-3
_DEVICES = "reference", "cpu"


class Found(NamedTuple):
    """What a model gave: the architecture in its file, whether its text became the same tokens, errors (NMSE)."""

    architecture: str
    same_tokens: bool
    errors: dict[str, float]

    @property
    def passed(self) -> bool:
        return self.same_tokens and all(error <= _LIMIT for error in self.errors.values())

    def __str__(self) -> str:
        cells = [self.architecture, *(f"{self.errors[device]:.0e}" for device in _DEVICES)]
        return " | ".join([*cells, "the same" if self.same_tokens else "**others**"])


def environment() -> Path:
    """The Python that has transformers."""
    python = _HOME / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", _HOME], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "torch", "transformers"], check=True)
    return python


def make(name: str, folder: Path, llama_cpp: Path) -> None:
    """Raises SystemExit, with what it said, where a model cannot be made."""
    command = [environment(), _WORKER, llama_cpp, folder, name]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SystemExit(f"{done.stdout}\n{name} was not made")


def check(name: str, folder: Path) -> Found:
    truth = np.load(folder / f"{name}.npz")
    with open_gguf(folder / f"{name}.gguf") as file:
        tokens = Tokenizer.from_metadata(file.metadata).encode(str(truth["text"]))
        errors = {device: nmse(truth["rows"], _rows(file, truth["tokens"], device)) for device in _DEVICES}
        return Found(str(file.metadata["general.architecture"]), list(truth["tokens"]) == list(tokens), errors)


def _rows(file: GGUFFile, tokens: np.ndarray, device: str) -> np.ndarray:
    """Logits, or hidden states, of all tokens."""
    causal = architectures.load(file).causal
    result: Result = "logits" if causal else "embeddings"
    engine = Engine(file, result=result, type_k="f32", type_v="f32", device=device, devices=(), n_threads=2)
    try:
        return engine.step([Chunk(engine.new_sequence(), tokens, len(tokens))])
    finally:
        engine.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("llama_cpp", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = options.keep or Path(folder)
        for name in options.names:
            if not (folder/f"{name}.gguf").exists(): make(name, folder, options.llama_cpp.resolve())
            found = check(name, folder)
            print(f"{name:16} {found}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

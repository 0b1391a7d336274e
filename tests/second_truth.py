"""transformers as a second truth: `make test-transformers LLAMA_CPP=folder`, which writes docs/transformers.md.

    python -m tests.second_truth LLAMA_CPP             all models
    python -m tests.second_truth LLAMA_CPP qwen3 bert  some, without the page

LLAMA_CPP is a checkout of llama.cpp: its converter writes the files, as it wrote those that people have. Small random
models are made by transformers, in an environment of its own in .venv/transformers, which the first use sets up.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal, NamedTuple

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
_DEVICES: tuple[Literal["reference", "cpu"], ...] = ("reference", "cpu")
_NOTES = (
    "What is left has two causes. `gpt-oss`: ggrun rounds the range of dimensions that YaRN mixes, as llama.cpp does,",
    "whose files cannot say otherwise; transformers does not for this model. Encoders and `falcon`: GELU by the tanh",
    "formula, as in llama.cpp, where transformers has the exact one.",
)


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


def make(llama_cpp: Path, folder: Path, names: list[str]) -> list[str]:
    """Their names; all, where none are given. Raises SystemExit, with what was said, where one cannot be made."""
    command = [environment(), _WORKER, llama_cpp, folder, *names]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SystemExit(done.stdout)
    return [file.stem for file in sorted(folder.glob("*.npz"), key=lambda file: file.stat().st_mtime)]


def check(name: str, folder: Path) -> Found:
    truth = np.load(folder / f"{name}.npz")
    with open_gguf(folder / f"{name}.gguf") as file:
        tokens = Tokenizer.from_metadata(file.metadata).encode(str(truth["text"]))
        errors = {device: nmse(truth["rows"], _rows(file, truth["tokens"], device)) for device in _DEVICES}
        return Found(str(file.metadata["general.architecture"]), list(truth["tokens"]) == list(tokens), errors)


def _rows(file: GGUFFile, tokens: np.ndarray, device: Literal["reference", "cpu"]) -> np.ndarray:
    """Logits, or hidden states, of all tokens."""
    causal = architectures.load(file).causal
    result: Result = "logits" if causal else "embeddings"
    engine = Engine(file, result=result, type_k="f32", type_v="f32", device=device, devices=(), n_threads=2)
    try:
        return engine.step([Chunk(engine.new_sequence(), tokens, len(tokens))])
    finally:
        engine.close()


def _page(found: dict[str, Found]) -> str:
    n = sum(result.passed for result in found.values())
    lines = [
        "# Transformers as a second truth",
        "",
        "Small random models, made by transformers and written by llama.cpp's converter, as the files are that people",
        "have; logits (of encoders: hidden states) of a text of 95 tokens, in float32, against transformers' own. The",
        "numbers are normalised mean squared errors with F32 weights and cache: of the reference device (NumPy in",
        "float64), and of the CPU's kernels; 1e-3 passes. Tokens: what the file's tokenizer makes of the text.",
        "`make test-transformers LLAMA_CPP=folder` writes this page.",
        "",
        *_NOTES,
        "",
        f"Of {len(found)} models pass: {n}.",
        "",
        "| Model | Architecture | Reference | CPU | Tokens |",
        "|---|---|---|---|---|",
        *(f"| `{name}` | {result} |" for name, result in found.items()),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("llama_cpp", type=Path, help="a checkout of llama.cpp")
    parser.add_argument("names", nargs="*", help="models; all, and the page, where none is named")
    options = parser.parse_args()
    found: dict[str, Found] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in make(options.llama_cpp.resolve(), Path(folder), options.names):
            found[name] = check(name, Path(folder))
            print(f"{name:16} {found[name]}", flush=True)
    if not options.names:
        _PAGE.write_text(_page(found), "utf-8")
    return 0 if all(result.passed for result in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Perplexity of every tensor type beside llama.cpp's on the same text and machine; writes docs/perplexity.md.

    python tests/benchmarks/perplexity.py model-F16.gguf --text TEXT --llama-cpp build/bin [--imatrix FILE] [TYPE …]

The types are made by llama-quantize, those that one name stands for as mixtures of several as people have them. Where
the two differ by more than 1 %, NumPy in float64 tells which is nearer to what the file says. What was measured before
stays in the page.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import click
import numpy as np

from gguf_runtime.engine import Chunk, Engine
from gguf_runtime.loader import open_gguf
from gguf_runtime.tokenizer import Tokenizer

_PAGE = Path(__file__).resolve().parents[2] / "docs" / "perplexity.md"
_TYPES = [
    "F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0",
    "IQ4_NL", "IQ4_XS", "MXFP4", "Q3_K_L", "Q3_K_M", "Q3_K_S", "IQ3_M", "IQ3_S", "IQ3_XS", "IQ3_XXS", "Q2_K",
    "Q2_K_S", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "TQ2_0", "TQ1_0", "Q2_0", "Q1_0",
]  # fmt: skip
_CLOSE = 0.01
_HEAD = """\
# Perplexity

SmolLM2-135M-Instruct, widened with zeros so that every type applies (as the golden outputs' README tells), in each
type as llama-quantize makes it with an importance matrix; `ggrun perplexity -c 512` and `llama-perplexity -c 512` on
the same 8 kB of text and the same machine. Where the two differ by more than 1 %, the last column has what NumPy in
float64 makes of the file. `python tests/benchmarks/perplexity.py` writes this page.

| Type | ggrun | llama.cpp | ggrun is | exact |
|---|---:|---:|---:|---:|
"""


def _perplexity(*command: str | Path) -> float:
    done = subprocess.run(command, capture_output=True, text=True)
    found = re.search(r"Final estimate: PPL = ([\d.]+)", done.stdout + done.stderr)
    if done.returncode or not found:
        raise click.ClickException(f"{command[0]}: {done.stderr[-500:]}")
    return float(found[1])


def _quantise(source: Path, kind: str, tools: Path, imatrix: Path | None) -> Path:
    target = source.with_name(f"{source.stem}-{kind}.gguf")
    if not target.exists():
        options = ["--imatrix", imatrix] if imatrix else []
        if kind == "MXFP4":  # by this name the program makes experts alone so
            options += ["--tensor-type", "attn=mxfp4", "--tensor-type", "ffn=mxfp4"]
        name = "Q8_0" if kind == "MXFP4" else kind
        subprocess.run([tools / "llama-quantize", *options, source, target, name], check=True, capture_output=True)
    return target


def _exact(path: Path, text: str) -> float:
    """The same by NumPy in float64."""
    n, losses = 512, []
    with open_gguf(path) as file:
        engine, tokenizer = Engine(file, n_ctx=n, device="reference"), Tokenizer.from_metadata(file.metadata)
        tokens = np.array(tokenizer.encode(text))
        for chunk in tokens[: len(tokens) // n * n].reshape(-1, n):
            inputs = np.concatenate([[tokenizer.bos_id], chunk[1:]]) if tokenizer.add_bos else chunk
            logits = engine.step([Chunk(engine.new_sequence(), inputs, n // 2)])[:-1].astype(np.float64)
            logits -= logits.max(axis=1, keepdims=True)
            scores = logits[np.arange(len(logits)), chunk[n // 2 + 1 :]]
            losses.append(np.log(np.exp(logits).sum(axis=1)) - scores)
    return float(np.exp(np.mean(losses)))


def _row(path: Path, kind: str, text: Path, tools: Path, flags: Iterable[str]) -> str:
    ours = _perplexity(sys.executable, "-m", "gguf_runtime", "perplexity", "-m", path, "-f", text, "-t", "2")
    theirs = _perplexity(tools / "llama-perplexity", "-m", path, "-f", text, "-c", "512", "-t", "2", *flags)
    exact = ""
    if abs(ours / theirs - 1) > _CLOSE:
        exact = f"{_exact(path, text.read_text('utf-8').removesuffix(chr(10))):.3f}"
    return f"| {kind} | {ours:.3f} | {theirs:.3f} | {100 * (ours / theirs - 1):+.2f} % | {exact} |"


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("types", nargs=-1)
@click.option("--text", type=click.Path(path_type=Path), required=True)
@click.option("--llama-cpp", type=click.Path(path_type=Path), required=True, help="Folder of llama-quantize.")
@click.option("--imatrix", type=click.Path(path_type=Path), help="Importance matrix; IQ1 and IQ2 need one.")
@click.option("--flags", default="", help="More of llama-perplexity's, such as -nr where its AMX kernels fail.")
def main(model: Path, types: tuple[str, ...], text: Path, llama_cpp: Path, imatrix: Path | None, flags: str) -> None:
    lines = _PAGE.read_text("utf-8").splitlines() if _PAGE.exists() else []
    rows = {line.split()[1]: line for line in lines if re.match(r"\| [A-Z]+\d", line)}
    for kind in types or _TYPES:
        path = model if kind in model.stem else _quantise(model, kind, llama_cpp, imatrix)
        rows[kind] = _row(path, kind, text, llama_cpp, flags.split())
        click.echo(rows[kind])
        _PAGE.write_text(_HEAD + "\n".join(rows[k] for k in _TYPES if k in rows) + "\n", "utf-8")


if __name__ == "__main__":
    main()

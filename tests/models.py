"""The conformance kit's models through the real engine, against llama.cpp's record: `make test-models`.

    python -m tests.models                       all models on the CPU; writes docs/architectures.md
    python -m tests.models --device GPU          the same on GPUs
    python -m tests.models qwen3 mixtral         some, without the table

Each model has F32 weights, and then F16 ones. A text is given whole, token by token, and three times over in ragged
batches, in pieces between which others go on.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gguf_runtime.architectures import ModelError, Result
from gguf_runtime.backends.errors import PlanError
from gguf_runtime.engine import Chunk, Engine, Offload
from gguf_runtime.engine.engine import EngineError
from gguf_runtime.loader import open_gguf
from tests import kit

TABLE = Path(__file__).resolve().parents[1] / "docs" / "architectures.md"
DEVICES = "CPU", "GPU"
#: Weights → the largest error that passes. The cache is of halves, which alone makes 1e-6, at most 2e-5.
LIMITS = {"F32": 1e-4, "F16": 1e-3}
_PIECES = 0, 1, 1, 2, 5, 17, 40  # tokens of a sequence in one ragged step


class Found(NamedTuple):
    """What a model gave: the errors (NMSE) by weights and way, or why there are none."""

    errors: dict[tuple[str, str], float]
    failure: str = ""

    @property
    def passed(self) -> bool:
        return not self.failure and all(error <= LIMITS[weights] for (weights, _), error in self.errors.items())

    def __str__(self) -> str:
        if self.failure:
            return self.failure
        worst: dict[str, float] = {}
        for (weights, _), error in self.errors.items():
            worst[weights] = float(np.maximum(worst.get(weights, 0), error))
        found = ", ".join(f"{weights} {error:.0e}" for weights, error in worst.items())
        return found if self.passed else f"**wrong**: {', '.join(self._wrong())}"

    def _wrong(self) -> Iterator[str]:
        for (weights, way), error in self.errors.items():
            if not error <= LIMITS[weights]:
                yield f"{weights} {way} {error:.0e}"


def check(name: str, folder: Path, device: str = "CPU", weights: Iterable[str] = LIMITS) -> Found:
    """Run a model of the kit, made in a folder, in all ways, with these types of weights, on a device."""
    record, errors = kit.record(name), {}
    offload = Offload("all") if device == "GPU" else Offload()
    try:
        for kind in weights:
            with open_gguf(kit.file(name, folder, kind)) as file:
                result: Result = "embeddings" if record["mode"] == "enc" else "logits"
                engine = Engine(file, result=result, n_threads=2, offload=offload)
                try:
                    for way, found in rows_of(engine, record):
                        error = kit.nmse(record[result], found)
                        errors[kind, way] = float(np.maximum(errors.get((kind, way), 0), error))  # NaN stays
                finally:
                    engine.close()
    except (ModelError, PlanError, EngineError, ValueError) as error:
        return Found(errors, str(error).removeprefix(f"{folder / name}-F32.gguf: "))
    return Found(errors)


def rows_of(engine: Engine, record: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Each way to give a text, and what it gives at the recorded positions; several of the last way."""
    tokens, rows = record["tokens"], record["positions"]
    source: Iterable[int] = ()
    if record["mode"] == "encdec":
        source, tokens = tokens, record["decoder_tokens"]
    yield "whole", engine.step([Chunk(engine.new_sequence(source=source), tokens, len(tokens))])[rows]
    if record["mode"] in ("enc", "bidi"):
        texts = [tokens[:5], tokens, tokens[:50]]
        found = engine.step([Chunk(engine.new_sequence(), text, len(text)) for text in texts])
        yield "ragged", found[5 : 5 + len(tokens)][rows]
        return
    sequence = engine.new_sequence(source=source)
    yield "one by one", np.concatenate([engine.step([Chunk(sequence, [token], 1)]) for token in tokens])[rows]
    for found in _ragged(engine, tokens, source):
        yield "ragged", found[rows]


def _ragged(engine: Engine, tokens: np.ndarray, source: Iterable[int]) -> Iterator[np.ndarray]:
    """Logits of three sequences that have the same tokens, in different pieces."""
    rng = np.random.default_rng(7)
    sequences = [engine.new_sequence(source=source) for _ in range(3)]
    found: list[list[np.ndarray]] = [[] for _ in sequences]
    while any(sequence.n_computed < len(tokens) for sequence in sequences):
        chunks, owners = [], []
        for sequence, rows in zip(sequences, found, strict=True):
            piece = tokens[sequence.n_computed :][: rng.choice(_PIECES)]
            if len(piece):
                chunks.append(Chunk(sequence, piece, len(piece)))
                owners.append(rows)
        if chunks:
            parts = np.split(engine.step(chunks), np.cumsum([len(chunk.tokens) for chunk in chunks])[:-1])
            for rows, part in zip(owners, parts, strict=True):
                rows.append(part)
    yield from map(np.concatenate, found)


# the table: a row for each model, a column for each device


def _read_table() -> dict[str, dict[str, str]]:
    """What the table says, by device and model."""
    found: dict[str, dict[str, str]] = {device: {} for device in DEVICES}
    lines = TABLE.read_text("utf-8").splitlines() if TABLE.exists() else []
    for line in lines:
        if line.startswith("| `"):
            name, _, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            for device, cell in zip(DEVICES, cells, strict=True):
                found[device][name.strip("`")] = cell
    return found


def _write_table(results: dict[str, dict[str, str]]) -> None:
    n = {device: sum(cell.startswith("F32") for cell in results[device].values()) for device in DEVICES}
    names = kit.names()
    lines = [
        "# Architectures",
        "",
        "Random models with the structure of real ones, run by the engine as a whole prompt, token by token, and in",
        "ragged batches of several texts whose prompts are interrupted (texts that have to be whole: alone, and beside",
        "others); against llama.cpp's logits, or embeddings. The numbers are the largest normalised mean squared",
        "errors, with F32 and with F16 weights (the cache is F16 in both; 1e-4 and 1e-3 pass). Elsewhere it says what",
        "is wrong or missing. `make test-models` writes this page.",
        "",
        "F16 weights are other weights: where a choice hangs on them (which keys, which experts), logits differ.",
        "",
        f"Of {len(names)} models pass: {', '.join(f'{n[device]} on the {device}' for device in DEVICES)}.",
        "",
        f"| Model | Architecture | {' | '.join(DEVICES)} |",
        f"|---|---|{'---|' * len(DEVICES)}",
    ]
    for name in names:
        cells = [results[device].get(name, "not run") for device in DEVICES]
        lines.append(f"| `{name}` | {kit.architecture(name)} | {' | '.join(cells)} |")
    TABLE.write_text("\n".join(lines) + "\n", "utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="models; all, and the table, where none is named")
    parser.add_argument("--device", choices=DEVICES, default="CPU")
    options = parser.parse_args()
    results, n_passed, names = _read_table(), 0, options.names or kit.names()
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            result = check(name, Path(folder), options.device)
            results[options.device][name] = str(result)
            n_passed += result.passed
            print(f"{name:24} {result}", flush=True)
            for file in Path(folder).glob("*"):
                file.unlink()
    print(f"{n_passed} of {len(names)} models pass on the {options.device}")
    if not options.names:
        _write_table(results)
    return 0 if n_passed == len(names) else 1


if __name__ == "__main__":
    sys.exit(main())

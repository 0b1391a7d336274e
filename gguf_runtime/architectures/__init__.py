"""Model architectures, one file a family: hyperparameters from the metadata, and the graph.

`load(file)` finds the architecture that a file names and reads it.
"""

from __future__ import annotations

import importlib
from typing import Any, Protocol

from ..graph import Graph
from ..loader import GGUFFile
from .weights import ModelError, Weights

#: `general.architecture` → the module that builds it.
FAMILIES = {"llama": "llama"}


class Model(Protocol):
    """What every architecture gives: facts that the engine needs, and the graph."""

    n_layer: int
    n_ctx_train: int
    n_vocab: int

    def graph(self) -> Graph:
        """From token ids to logits, layers in their order."""
        ...


def load(file: GGUFFile) -> Model:
    """Read the model in a file. Raises ModelError where its architecture, or something in it, is not supported."""
    name = file.metadata.get("general.architecture")
    if name not in FAMILIES:
        raise ModelError(f"{file.path}: architecture {name!r} is not supported; ggrun runs {', '.join(FAMILIES)}")
    module: Any = importlib.import_module(f".{FAMILIES[name]}", __name__)
    return module.read(Weights(file))


__all__ = ["FAMILIES", "Model", "ModelError", "load"]

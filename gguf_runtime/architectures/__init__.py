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


def load(file: GGUFFile, n_ctx: int = 0) -> Model:
    """Read the model in a file, for texts of up to n_ctx tokens, 0 for what it was trained for.

    Raises ModelError where its architecture, or something in it, is not supported: nothing in a file is left out.
    """
    name = file.metadata.get("general.architecture")
    if name not in FAMILIES:
        raise ModelError(f"{file.path}: architecture {name!r} is not supported; ggrun runs {', '.join(FAMILIES)}")
    module: Any = importlib.import_module(f".{FAMILIES[name]}", __name__)
    weights = Weights(file)
    model: Model = module.read(weights, n_ctx)
    model.graph()  # asks for each tensor that it needs
    weights.check_all_used()
    return model


__all__ = ["FAMILIES", "Model", "ModelError", "load"]

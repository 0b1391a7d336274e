"""What embeddings of tokens become: one row for each sequence, or scores of it."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from ..graph import Graph
from ..loader import Tensor
from ..operations import Activate, Linear, Norm, Pool, Value
from .hparams import HParams, ModelError

#: What a graph gives: logits, embeddings of tokens, or a row for each sequence; "" for what the model is made for.
Result = Literal["", "logits", "embeddings", "mean", "first", "last", "rank"]
_BY_NUMBER: tuple[Result, ...] = ("", "mean", "first", "last", "rank")
_UNSPECIFIED = -1, 0xFFFFFFFF  # as llama.cpp writes it when it saves a model
_TENSORS = "cls", "cls.norm", "cls.output", "dense_2", "dense_3"
_CLASSIFIED: dict[int, Literal["mean", "first"]] = {1: "mean", 2: "first"}  # what a file says of its classifier
#: Where rerankers look that do not say, if not at the first token: a decoder's last one has seen all others.
_RANKED: dict[str, Literal["mean", "first", "last"]] = {"modern-bert": "mean", "qwen3": "last", "qwen3vl": "last"}


def named(w: HParams) -> Result:
    """The pooling that a file asks for; "" where it asks for none."""
    w.ignore(*(f"{name}.{part}" for name in _TENSORS for part in ("weight", "bias")))  # where logits are asked for
    number = w.number("pooling_type", 0)
    if number in _UNSPECIFIED:
        return ""
    if number not in range(len(_BY_NUMBER)):
        raise ModelError(f"{w.prefix}pooling_type is {number:g}, which is not known")
    return _BY_NUMBER[int(number)]


def pool(graph: Graph, w: HParams, x: Value, result: Result, eps: float) -> None:
    """What `result` asks for, from embeddings x. Raises ModelError where the file has no classifier to rank with."""
    architecture, classifier = w.prefix[:-1], _classifier(w, x.width)
    ranked = _CLASSIFIED.get(w.count("classifier.pooling_type", 0, least=0)) or _RANKED.get(architecture, "first")
    if result == "rank":
        if not (classifier.dense or classifier.output):
            raise ModelError(f"{w.file.path}: no classifier (cls.weight, cls.output.weight) to rank with")
        _classify(graph, graph(Pool(x, ranked)), classifier, architecture, eps)
        return
    if result == "mean" or result == "first" or result == "last":
        x = graph(Pool(x, result))
    for name in "dense_2", "dense_3":  # of sentence transformers
        w.ignore(f"{name}_feat_in", f"{name}_feat_out")
        if w.has(f"{name}.weight"):
            n = w.shape(f"{name}.weight")[0]
            x = graph(Linear(x, w.tensor(f"{name}.weight", n, x.width), w.optional(f"{name}.bias", n)))


class _Classifier(NamedTuple):
    """Each may be missing."""

    dense: Tensor | None
    dense_bias: Tensor | None
    norm: Tensor | None
    output: Tensor | None
    output_bias: Tensor | None


def _classifier(w: HParams, width: int) -> _Classifier:
    w.ignore("classifier.output_labels")  # their names
    n_labels = math.prod(w.shape("cls.output.weight")) // width if w.has("cls.output.weight") else 0
    return _Classifier(
        w.optional("cls.weight", width, width),
        w.optional("cls.bias", width),
        w.optional("cls.norm.weight", width),
        w.optional("cls.output.weight", n_labels, width),
        w.optional("cls.output.bias", n_labels),
    )


def _classify(graph: Graph, x: Value, c: _Classifier, architecture: str, eps: float) -> None:
    """Scores of each label; shares, in Qwen 3."""
    if c.dense:
        x = graph(Linear(x, c.dense, c.dense_bias))
        x = graph(Activate(x, "gelu" if architecture == "modern-bert" else "tanh"))
    if c.norm:
        x = graph(Norm(x, c.norm, eps, "layer"))
    if c.output:
        x = graph(Linear(x, c.output, c.output_bias))
    if architecture in ("qwen3", "qwen3vl"):
        graph(Activate(x, "softmax"))

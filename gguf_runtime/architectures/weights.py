"""Reading a model's hyperparameters and tensors with every check that memory safety needs."""

from __future__ import annotations

import math
import re
import warnings
from typing import Any

from ..loader import GGUFArray, GGUFFile, Tensor

_LIMIT = 1 << 31  # no hyperparameter of a real model comes near
#: Tensors that files have and no runtime uses: tables of RoPE angles, which are computed instead.
_NEVER_USED = re.compile(r"(.*\.)?(attn_rot_embd|rope\.freqs|rotary_emb\.inv_freq)(\.weight)?")
#: Keys that change nothing, or that only say what others say too.
_DESCRIPTIVE = frozenset(
    [
        "vocab_size",
        "tensor_data_layout",
        "attention.layer_norm_epsilon",
        "rope.scaling.finetuned",
        "rope.scaling.original_context_length",
        "rope.scaling.yarn_attn_factor",
        "rope.scaling.yarn_beta_fast",
        "rope.scaling.yarn_beta_slow",
    ]
)
#: Keys that, as their names tell, have a part in what is computed.
_COMPUTED = re.compile(r"(attention|rope|ssm|expert|moe)|.*(scale|scaling|soft_?cap|norm|clamp|residual|step|gating)")


class ModelError(Exception):
    """The file is a GGUF, but not a model that can be run."""


class Weights:
    """A file's hyperparameters (keys without the architecture's prefix) and tensors.

    Notes what is asked for, so that `check_all_used` can tell what an architecture has left out.
    """

    def __init__(self, file: GGUFFile) -> None:
        self.file = file
        self.prefix = f"{file.metadata['general.architecture']}."
        self._keys: set[str] = set()
        self._tensors: set[str] = set()

    @property
    def n_layer(self) -> int:
        """Layers of the forward pass: without those at the end that predict further tokens (MTP)."""
        n = self.count("block_count")
        if n > len(self.file.tensors):  # before anything is made for each of them
            raise ModelError(f"{self.file.path}: {n} layers cannot be made of {len(self.file.tensors)} tensors")
        if n <= self._n_nextn:
            raise ModelError(f"{self.prefix}nextn_predict_layers leaves none of {n} layers")
        return n - self._n_nextn

    @property
    def n_vocab(self) -> int:
        """How many tokens there are; the embedding may have more rows, to fill a block."""
        tokens = self.file.metadata.get("tokenizer.ggml.tokens")
        if isinstance(tokens, GGUFArray) and len(tokens):
            return len(tokens)
        embedding = self.file.tensors.get("token_embd.weight")
        if embedding is None or len(embedding.shape) != 2:
            raise ModelError(f"{self.file.path}: tensor token_embd.weight is missing: a vocabulary without a model?")
        return embedding.shape[0]

    @property
    def _n_nextn(self) -> int:
        return self.count("nextn_predict_layers") if self.has("nextn_predict_layers") else 0

    def count(self, key: str, default: int | None = None) -> int:
        """A positive integer."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _LIMIT:
            raise ModelError(f"{self.prefix}{key} is {value!r}, which is not a sensible count")
        return value

    def counts(self, key: str, n_layer: int, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """A positive integer for each layer; the file has one for all or an array of them."""
        value = self._get(key, default)
        if isinstance(value, tuple):
            return value
        if not isinstance(value, GGUFArray):
            return (self.count(key),) * n_layer
        if len(value) != n_layer:
            raise ModelError(f"{self.prefix}{key} has {len(value)} entries for {n_layer} layers")
        found = tuple(value)
        if not all(type(n) is int and 0 < n < _LIMIT for n in found):
            raise ModelError(f"{self.prefix}{key} has entries that are not sensible counts: {list(found[:8])}")
        return found

    def number(self, key: str, default: float | None = None, *, at_least: float = -math.inf) -> float:
        """A finite number."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ModelError(f"{self.prefix}{key} is {value!r}, which is not a number")
        if value < at_least:
            raise ModelError(f"{self.prefix}{key} is {value!r}, where {at_least} is the least that makes sense")
        return float(value)

    def text(self, key: str, default: str) -> str:
        return str(self._get(key, default))

    def has(self, key: str) -> bool:
        """Whether there is such a key that is not 0."""
        self._keys.add(key)
        return bool(self.file.metadata.get(self.prefix + key))

    def tensor(self, name: str, *shape: int) -> Tensor:
        """A tensor of exactly this shape (rows, columns). Raises ModelError where it is missing or differs."""
        return self._present(self.optional(name, *shape), name)

    def optional(self, name: str, *shape: int) -> Tensor | None:
        """The same, or None where the file has no such tensor. Dimensions of 1 may be there or not."""
        tensor = self._find(name)
        if tensor is None:
            return None
        if _essential(tensor.shape) != _essential(shape):
            raise ModelError(f"tensor {name} has shape {tuple(tensor.shape)}, the metadata asks for {shape}")
        return tensor._replace(shape=shape)

    def rows(self, name: str, n_rows: int, n_columns: int) -> Tensor:
        """The first rows of a tensor that may have more."""
        return self._present(self.optional_rows(name, n_rows, n_columns), name)

    def optional_rows(self, name: str, n_rows: int, n_columns: int) -> Tensor | None:
        """The same, or None where the file has no such tensor."""
        tensor = self._find(name)
        if tensor is None:
            return None
        if len(tensor.shape) != 2 or tensor.shape[0] < n_rows or tensor.shape[1] != n_columns:
            raise ModelError(
                f"tensor {name} has shape {tuple(tensor.shape)}, but there are {n_rows} tokens of {n_columns} values"
            )
        n_bytes = tensor.n_bytes // tensor.shape[0] * n_rows
        return tensor._replace(shape=(n_rows, n_columns), data=tensor.data[:n_bytes])

    def check_all_used(self) -> None:
        """Refuse what an architecture has not asked for and a result would lack. Raises ModelError."""
        for name in self.file.tensors.keys() - self._tensors:
            if not (_NEVER_USED.fullmatch(name) or self._is_nextn(name)):
                raise ModelError(
                    f"{self.file.path}: ggrun's {self.prefix[:-1]} models have no tensor {name}: "
                    "the file holds a variant that is not supported"
                )
        for full, value in self.file.metadata.items():
            key = full.removeprefix(self.prefix)
            if key == full or key in self._keys | _DESCRIPTIVE or _is_neutral(key, value):
                continue
            if _COMPUTED.match(key):
                raise ModelError(f"{self.file.path}: key {full} is {value!r}, which ggrun does not support")
            warnings.warn(f"key {full} is not known, and has no effect", stacklevel=2)

    def _is_nextn(self, name: str) -> bool:
        layer = re.match(r"blk\.(\d{1,9})\.", name)
        return layer is not None and self._n_nextn > 0 and int(layer[1]) >= self.n_layer

    def _find(self, name: str) -> Tensor | None:
        self._tensors.add(name)
        return self.file.tensors.get(name)

    def _present(self, tensor: Tensor | None, name: str) -> Tensor:
        if tensor is None:
            raise ModelError(f"{self.file.path}: tensor {name} is missing")
        return tensor

    def _get(self, key: str, default: Any) -> Any:
        self._keys.add(key)
        value = self.file.metadata.get(self.prefix + key, default)
        if value is None:
            raise ModelError(f"{self.file.path}: the metadata lack {self.prefix}{key}")
        return value


def _essential(shape: tuple[int, ...]) -> list[int]:
    """The dimensions that say where values are: a vector of n may be kept as [n, 1]."""
    return [n for n in shape if n != 1]


def _is_neutral(key: str, value: Any) -> bool:
    """Whether a key changes nothing with this value, whatever it stands for."""
    if isinstance(value, GGUFArray):
        return len(value) == 0
    if key == "attention.causal":
        return value is True
    return not value or (value == 1 and key.endswith("scale"))

"""Reading a model's hyperparameters and tensors with every check that memory safety needs."""

from __future__ import annotations

import math
import re
import warnings
from typing import Any

from ..loader import GGUFArray, GGUFFile, Tensor

_LIMIT = 1 << 31  # no hyperparameter of a real model comes near
#: Tensors that files have and no runtime uses: tables of RoPE angles, which are computed instead, and scales for
#: activations in FP4.
_NEVER_USED = re.compile(r"(.*\.)?((attn_rot_embd|rope\.freqs|rotary_emb\.inv_freq)(\.weight)?|input_scale)")
#: Keys that change nothing, or that only say what others say too.
_DESCRIPTIVE = frozenset({
    "attention.layer_norm_epsilon", "feed_forward_length", "nextn_predict_layers", "rope.scaling.finetuned",
    "rope.scaling.original_context_length", "rope.scaling.yarn_attn_factor", "tensor_data_layout", "vocab_size",
})  # fmt: skip
#: Keys that, as their names tell, have a part in what is computed.
_COMPUTED = re.compile(r"(attention|rope|ssm|expert|moe)|.*(scale|scaling|soft_?cap|norm|clamp|residual|step|gating)")


class ModelError(Exception):
    """The file is a GGUF, but not a model that can be run."""


class HParams:
    """A file's hyperparameters (keys without the architecture's prefix) and tensors.

    Where the metadata have an array, it holds a value for each layer: name the `layer` to get its own. Notes what is
    asked for, so that `check_all_used` can tell what an architecture has left out.
    """

    def __init__(self, file: GGUFFile) -> None:
        self.file = file
        self.prefix = f"{file.metadata['general.architecture']}."
        self._keys: set[str] = set()
        self._tensors: set[str] = set()

    def __contains__(self, key: str) -> bool:
        self._keys.add(key)
        return self.prefix + key in self.file.metadata

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
        key = "nextn_predict_layers"
        return self.count(key) if self.file.metadata.get(self.prefix + key) else 0

    def count(self, key: str, default: int | None = None, *, layer: int | None = None, least: int = 1) -> int:
        """An integer, not below `least`."""
        value = self._get(key, default, layer)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < _LIMIT:
            raise ModelError(f"{self.prefix}{key} is {value!r}, which is not a sensible count")
        return value

    def number(
        self, key: str, default: float | None = None, *, layer: int | None = None, at_least: float = -math.inf
    ) -> float:
        """A finite number, not below `at_least`."""
        value = self._get(key, default, layer)
        known = isinstance(value, int | float) and not isinstance(value, bool)
        if not known or not math.isfinite(value) or value < at_least:
            raise ModelError(f"{self.prefix}{key} is {value!r}, which is not a sensible number")
        return float(value)

    def flag(self, key: str, default: bool = False, *, layer: int | None = None) -> bool:
        value = self._get(key, default, layer)
        if not isinstance(value, bool | int):
            raise ModelError(f"{self.prefix}{key} is {value!r}, which is neither true nor false")
        return bool(value)

    def text(self, key: str, default: str) -> str:
        return str(self._get(key, default, None))

    def integers(self, key: str, n: int = 0) -> list[int]:
        """A list of whole numbers that are not one for each layer, at least n of them; empty where there is none."""
        self._keys.add(key)
        values = self.file.metadata.get(self.prefix + key)
        numbers = [int(value) for value in values] if isinstance(values, GGUFArray) else []
        if len(numbers) < n or any(number < 0 for number in numbers):
            raise ModelError(f"{self.prefix}{key} has {len(numbers)} entries, not {n} whole numbers")
        return numbers[:n] if n else numbers

    def is_array(self, key: str) -> bool:
        """Whether the file has a value for each layer."""
        return isinstance(self.file.metadata.get(self.prefix + key), GGUFArray)

    def has(self, name: str) -> bool:
        """Whether the file has a tensor of this name."""
        return self._full_name(name) in self.file.tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's own shape, where the metadata do not tell it. Raises ModelError where it is missing."""
        return tuple(self._present(self._find(name), name).shape)

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

    def optional_rows(self, name: str, n_rows: int, n_columns: int) -> Tensor | None:
        """The first rows of a tensor that may have more, or None where the file has no such tensor."""
        tensor = self._find(name)
        if tensor is None:
            return None
        if len(tensor.shape) != 2 or tensor.shape[0] < n_rows or tensor.shape[1] != n_columns:
            raise ModelError(
                f"tensor {name} has shape {tuple(tensor.shape)}, but there are {n_rows} rows of {n_columns} values"
            )
        return tensor if tensor.shape[0] == n_rows else tensor.rows(0, n_rows)

    def rows(self, name: str, n_rows: int, n_columns: int) -> Tensor:
        """The same. Raises ModelError where it is missing."""
        return self._present(self.optional_rows(name, n_rows, n_columns), name)

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

    def ignore(self, *names: str) -> None:
        """Keys and tensors that an architecture's files have, and that are known to have no part in its result."""
        self._keys |= set(names)
        self._tensors |= set(names)

    def _is_nextn(self, name: str) -> bool:
        layer = re.match(r"blk\.(\d{1,9})\.", name)
        return layer is not None and self._n_nextn > 0 and int(layer[1]) >= self.n_layer

    def _full_name(self, name: str) -> str:
        """A tensor's name in the file: converters have left ".weight" out of some."""
        return name if name in self.file.tensors else name.removesuffix(".weight")

    def _find(self, name: str) -> Tensor | None:
        name = self._full_name(name)
        self._tensors.add(name)
        return self.file.tensors.get(name)

    def _present(self, tensor: Tensor | None, name: str) -> Tensor:
        if tensor is None:
            raise ModelError(f"{self.file.path}: tensor {name} is missing")
        return tensor

    def _get(self, key: str, default: Any, layer: int | None) -> Any:
        self._keys.add(key)
        value = self.file.metadata.get(self.prefix + key, default)
        if value is None:
            raise ModelError(f"{self.file.path}: the metadata lack {self.prefix}{key}")
        return self._of_layer(key, value, layer) if isinstance(value, GGUFArray) else value

    def _of_layer(self, key: str, values: GGUFArray, layer: int | None) -> Any:
        if key == "block_count":
            raise ModelError(f"{self.prefix}{key} is an array, which is not a sensible count")
        n_layer = self.count("block_count")
        if len(values) < n_layer:
            raise ModelError(f"{self.prefix}{key} has {len(values)} entries for {n_layer} layers")
        if layer is None:
            if len(set(values)) > 1:
                raise ModelError(f"{self.prefix}{key} differs by layer, which is not supported there")
            layer = 0
        value = values[layer]
        return value.item() if hasattr(value, "item") else value


def _essential(shape: tuple[int, ...]) -> list[int]:
    """The dimensions that say where values are: a vector of n may be kept as [n, 1]."""
    return [n for n in shape if n != 1]


def _is_neutral(key: str, value: Any) -> bool:
    """Whether a key changes nothing with this value, whatever it stands for."""
    if isinstance(value, GGUFArray):
        return all(_is_neutral(key, item) for item in value)
    return not value or (value == 1 and key.endswith("scale")) or (value is True and key == "attention.causal")

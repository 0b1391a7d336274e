"""The GGUF reader: a file → its metadata and its tensors, memory-mapped."""

from .cursor import GGUFError
from .file import GGUFFile, Tensor
from .lock import lock
from .metadata import GGUFArray, Value
from .overrides import override
from .splits import open_gguf

__all__ = ["GGUFArray", "GGUFError", "GGUFFile", "Tensor", "Value", "lock", "open_gguf", "override"]

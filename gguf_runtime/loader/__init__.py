"""The GGUF reader: a file → its metadata and its tensors, memory-mapped."""

from .cursor import GGUFError
from .file import GGUFFile, Tensor
from .metadata import GGUFArray, Value
from .splits import open_gguf

__all__ = ["GGUFArray", "GGUFError", "GGUFFile", "Tensor", "Value", "open_gguf"]

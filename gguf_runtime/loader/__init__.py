"""The GGUF reader: file → metadata and tensors, memory-mapped."""

from .cursor import GGUFError
from .file import GGUFFile, Tensor, open_gguf
from .metadata import GGUFArray, Value

__all__ = ["GGUFArray", "GGUFError", "GGUFFile", "Tensor", "Value", "open_gguf"]

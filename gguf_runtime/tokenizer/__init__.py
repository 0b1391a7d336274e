"""The tokenizer: text ↔ token ids."""

from .stream import StreamDecoder
from .tokenizer import Tokenizer
from .vocabulary import TokenizerError

__all__ = ["StreamDecoder", "Tokenizer", "TokenizerError"]

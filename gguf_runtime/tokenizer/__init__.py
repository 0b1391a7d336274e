"""The tokenizer: text ↔ token ids."""

from .infill import infill_prompt
from .special import BREAK
from .stream import StreamDecoder
from .tokenizer import Tokenizer
from .vocabulary import THOUGHTS, TokenizerError

__all__ = ["BREAK", "THOUGHTS", "StreamDecoder", "Tokenizer", "TokenizerError", "infill_prompt"]

"""The engine: sequences of tokens go in, a step takes any number of them forward, logits come out.

Its modules, from the bottom up: cache, sequence, layer_split, placement, pipeline, logits, engine, scheduler.
"""

from ..backends import Chunk
from .cache import NoPages
from .engine import ContextFull, Engine, EngineError
from .layer_split import Offload
from .logits import Logits
from .scheduler import Scheduler
from .sequence import Sequence

__all__ = ["Chunk", "ContextFull", "Engine", "EngineError", "Logits", "NoPages", "Offload", "Scheduler", "Sequence"]

"""What every operation means: plain NumPy in float64, slow and exact. The other backends are tested against it."""

from ...operations import Attention, BestKeys, Conv, EmbedNgrams, Keep, Recurrence, Shift
from .attention import attention, best_keys, keep
from .backend import ReferenceBackend, ReferenceDevice
from .operations import MEANING
from .recurrence import conv, embed_ngrams, recurrence, shift

MEANING |= {
    Attention: attention,
    BestKeys: best_keys,
    Keep: keep,
    Conv: conv,
    EmbedNgrams: embed_ngrams,
    Shift: shift,
    Recurrence: recurrence,
}

__all__ = ["MEANING", "ReferenceBackend", "ReferenceDevice"]

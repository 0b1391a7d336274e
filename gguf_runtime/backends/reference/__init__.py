"""What every operation means: plain NumPy in float64, slow and exact. The other backends are tested against it."""

from ...operations import Attention, Conv, Keep, Recurrence, Shift
from .attention import attention, keep
from .backend import ReferenceBackend
from .operations import MEANING
from .recurrence import conv, recurrence, shift

MEANING |= {Attention: attention, Keep: keep, Conv: conv, Shift: shift, Recurrence: recurrence}

__all__ = ["MEANING", "ReferenceBackend"]

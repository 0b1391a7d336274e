"""Each operation's launches on a GPU: a table, to which a new operation adds an entry.

What there is no kernel for is a PlanError that names it.
"""

from __future__ import annotations

from ...fusion import Single
from . import attention, experts, products, recurrence, rows
from .launches import Sizes, Work
from .plan import CudaPlan
from .writer import CudaWriter, unknown

_LAUNCHES = rows.LAUNCHES | products.LAUNCHES | attention.LAUNCHES | experts.LAUNCHES | recurrence.LAUNCHES


def write(plan: CudaPlan, sizes: Sizes) -> list[Work]:
    """What to launch, in order, for batches of a size. Raises PlanError."""
    writer = CudaWriter(plan, sizes)
    for item in plan.fused:
        key, op = (type(item.op), item.op) if isinstance(item, Single) else (type(item), item)
        if key not in _LAUNCHES:
            assert isinstance(item, Single)
            raise unknown(item.op)
        if writer.n(item.makes[0]):
            _LAUNCHES[key](writer, op)
    return writer.work

"""Each operation's steps on the CPU: a table, to which a new operation adds an entry.

What there is no kernel for is a PlanError that names it.
"""

from __future__ import annotations

from ....fusion import Single
from ..buffers import FEW, MANY, ROWWISE
from ..plan import CpuPlan
from ..writer import CpuWriter, KernelCall, unknown
from . import attention, experts, pool, products, recurrence, rows, selection

__all__ = ["first_kernels", "kernels", "state_bytes", "write"]

state_bytes = recurrence.state_bytes
_STEPS = rows.STEPS | products.STEPS | experts.STEPS | attention.STEPS | selection.STEPS | pool.STEPS | recurrence.STEPS


def first_kernels(plan: CpuPlan) -> list[str]:
    """Names of the kernels that a prompt and one token after another need: the others come with guesses and batches."""
    return _kernels(plan, (1, 1, True), (FEW, 1, True), (MANY, 1, False))


def kernels(plan: CpuPlan) -> list[str]:
    """Names of all kernels that any batch may need."""
    sizes = range(1, ROWWISE + 1)
    return _kernels(plan, *((n, n, True) for n in sizes), (FEW, FEW, True), (MANY, 1, False))


def _kernels(plan: CpuPlan, *variants: tuple[int, int, bool]) -> list[str]:
    return list(dict.fromkeys(step.kernel for variant in variants for step in write(plan, *variant)))


def write(plan: CpuPlan, n_tokens: int, n_logits: int, split: bool) -> list[KernelCall]:
    """The steps for batches of a size (see FEW), and of tokens with logits, which may be none. Raises PlanError.

    split: whether the attention of some tokens is cut into spans.
    """
    writer = CpuWriter(plan, n_tokens, n_logits, split)
    for item in plan.fused:
        if n_logits or item.makes[0].rows == "token":
            key, op = (type(item.op), item.op) if isinstance(item, Single) else (type(item), item)
            if key not in _STEPS:
                assert isinstance(item, Single)
                raise unknown(item.op)
            _STEPS[key](writer, op)
    return writer.steps

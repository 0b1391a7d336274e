"""Launches of a batch of some size; operations.py says which."""

from __future__ import annotations

import numpy as np

from ...operations import Op, RopeFrequencies, Value, describe
from ..errors import PlanError
from .launches import Argument, Launch, Multiply, Sizes, Work
from .places import Rows
from .plan import CudaPlan
from .sizes import tiles_of, up


class CudaWriter:
    """Writes the launches of a plan for batches of a size."""

    def __init__(self, plan: CudaPlan, sizes: Sizes) -> None:
        self.plan, self.inputs, self.device, self.sizes = plan, plan.inputs, plan.device, sizes
        self.work: list[Work] = []
        self._packed: tuple[int, int, int] | None = None  # what is in the scratch memory for packed values
        self._turned: set[tuple[int, int]] = set()
        self.grouped: int | None = None  # the route whose pairs of tokens and experts are sorted, in scratch memory

    def launch(
        self, kernel: str, grid: tuple[int, ...], block: int, *arguments: Argument, shared: int = 0,
        overlaps: bool = False,
    ) -> None:  # fmt: skip
        self.work.append(Launch(kernel, grid, block, arguments, shared, overlaps))

    def multiply(self, product: Multiply) -> None:
        self.work.append(product)

    @property
    def one(self) -> bool:
        """Whether there is one token, for which products read what they need themselves."""
        return self.sizes.few and self.sizes.n_tokens == 1

    def n(self, value: Value) -> int:
        """For how many rows of a value is launched."""
        sizes = self.sizes
        return {"token": sizes.n_tokens, "selected": sizes.n_logits, "sequence": sizes.n_chunks}[value.rows]

    def count(self, value: Value) -> int:
        """Address of the number of rows that a value has."""
        inputs = self.inputs
        return {"token": inputs.n_tokens, "selected": inputs.n_logits, "sequence": inputs.n_chunks}[value.rows]

    def rows(self, value: Value) -> Rows:
        return self.plan.rows[value.number]

    def scratch(self, purpose: str) -> int:
        return self.plan.space.scratch[purpose].address

    def floats(self, value: Value) -> Rows:
        """Rows of a value that is f32."""
        rows = self.rows(value)
        assert not rows.halves  # only what products alone read is made as halves
        return rows

    def halves(self, value: Value, step: int, *, each: bool = False) -> Rows:
        """Rows of halves, as products read them: packed, if the value was not made as such.

        step: of whose multiple columns are, filled up with zeros. each: every head has a row by itself.
        """
        rows, heads, width = self.rows(value), *((value.heads, value.width) if each else (1, value.size))
        if rows.halves:
            if rows.stride != heads * up(width, step):
                raise PlanError(f"products of {value.size} columns, in steps of {step}: not on the GPU yet")
            return rows._replace(stride=rows.stride // heads)
        packed = Rows(self.scratch("packed"), up(width, step), True)
        if self._packed != (value.number, heads, packed.stride):
            self._packed = value.number, heads, packed.stride
            grid = tiles_of(heads * packed.stride, 256), self.n(value)
            self.launch("pack_rows", grid, 256, rows.at, rows.stride, packed.at, packed.stride, width, heads,
                        self.count(value))  # fmt: skip
        return packed

    def turns(self, rope: RopeFrequencies, delay: int = 0) -> int:
        """Address of the tokens' (cos, sin)."""
        at, make = self.plan.turns(rope, delay)
        if make and (id(rope), delay) not in self._turned:
            self._turned.add((id(rope), delay))
            name = f"frequencies {id(rope)}"
            frequencies = self.plan.vector(name, lambda: rope.frequencies.astype(np.float64))
            self.launch("angles", (self.sizes.n_tokens,), 64, frequencies, len(rope.frequencies),
                        np.float32(rope.magnitude), delay, at, self.inputs.n_tokens, self.inputs.tokens)  # fmt: skip
        return at


def unknown(op: Op, why: str = "") -> PlanError:
    return PlanError(f"{describe(op)}: the GPU has no kernel for that{why} yet")

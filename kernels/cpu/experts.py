"""Products of experts' matrices with the pairs of tokens and experts that routing.py put in order.

The products are those of matvec.py, for few tokens, and of matmul.py: each expert's weights are read once for all its
pairs. `experts` is the first matrix; each takes expert_bytes. A matrix that a head has of its own is an expert's, and
each token takes all.
"""

from __future__ import annotations

from typing import Any

from ..layout import COLUMNS, LANES, PART_BYTES, SCRATCH
from ..library import Ref
from ..simd import get_f32, get_i32, get_i64, inline, load_f32, load_first, put_f32, splat_f32, store, transpose
from .activation_packing import lanes_writer, writer
from .elementwise import GATES
from .matmul import HALF, LINE, SUMS, VECTOR_SUMS, finish, products
from .matvec import GATED_ROWS, ROW_SUMS, row_chunk, row_dot
from .micro_kernels import ROWS
from .routing import most_parts, most_slots
from .work_stealing import claim

_SQUARE = 4 * LANES * LANES


@inline
def _part(parts, number):
    """(expert, first slot, end), the latter 0 of one that is empty."""
    at = parts + PART_BYTES * (number + 1)
    return get_i64(at), get_i64(at + 8), get_i64(at + 16)


# --- few tokens: rows of weights along the records of each pair ------------------------------------


def row_linear(name: str) -> Any:
    """out: f32[pair][n_rows]; x: records of n_records rows, of which each `each` pairs share one.

    record_bytes: of one row's record. bias: f32[expert][n_rows] or 0.
    """
    dot = row_dot(name, 1)

    def body(
        thread: int, n_threads: int, counter: int,
        experts: int, expert_bytes: int, row_bytes: int, n_rows: int, n_columns: int, x: int, each: int, n_records: int,
        record_bytes: int, out: int, bias: int, parts: int, slots: int, n_used: int, n_experts: int, scratch: int,
        n_tokens: Ref,
    ) -> None:  # fmt: skip
        spare, n_parts = scratch + thread * SCRATCH, most_parts(n_tokens * n_used, n_experts)
        chunk = row_chunk(n_rows * n_parts, n_threads)
        n_chunks = (n_rows + chunk - 1) // chunk
        while True:
            item = claim(counter, thread, n_threads, n_parts * n_chunks)
            if item >= n_parts * n_chunks:
                break
            first = item % n_chunks * chunk
            expert, slot, end = _part(parts, item // n_chunks)
            for s in range(slot, end):
                pair = get_i32(slots + 4 * s)
                record = x + pair // each * record_bytes
                for row in range(first, min(first + chunk, n_rows)):
                    at = experts + expert * expert_bytes + row * row_bytes
                    dot(spare + ROW_SUMS, at, record, n_columns, spare, n_records * record_bytes)
                    value = get_f32(spare + ROW_SUMS)
                    if bias:
                        value += get_f32(bias + 4 * (expert * n_rows + row))
                    put_f32(out + 4 * (pair * n_rows + row), value)

    return body


def row_glu(name: str, kind: str, activation: str) -> Any:
    """out = a gate (elementwise.GATES) of gate·x and up·x, as rows of a kind, one for each pair; else as row_linear.

    p: the gate's parameter.
    """
    dot, put, gate = row_dot(name, 1), writer(kind), inline(GATES[activation])

    @inline
    def values(matrix, row_bytes, first, n_rows, record, n_columns, bias, sums, spare, stride):
        for i in range(GATED_ROWS):
            row = min(first + i, n_rows - 1)
            dot(sums + 4 * i, matrix + row * row_bytes, record, n_columns, spare, stride)
            if bias:
                put_f32(sums + 4 * i, get_f32(sums + 4 * i) + get_f32(bias + 4 * row))

    def body(
        thread: int, n_threads: int, counter: int,
        gates: int, ups: int, expert_bytes: int, up_bytes: int, row_bytes: int, n_rows: int, n_columns: int, x: int,
        each: int, n_records: int, record_bytes: int, out: int, gate_bias: int, up_bias: int, p: float, parts: int,
        slots: int, n_used: int, n_experts: int, scratch: int, n_tokens: Ref,
    ) -> None:  # fmt: skip
        spare, n_pairs, stride = scratch + thread * SCRATCH, n_tokens * n_used, 4 * GATED_ROWS
        n_parts, n_chunks = most_parts(n_pairs, n_experts), (n_rows + GATED_ROWS - 1) // GATED_ROWS
        a, b, most = spare + ROW_SUMS, spare + ROW_SUMS + stride, splat_f32(p)
        next_record = n_records * record_bytes
        while True:
            item = claim(counter, thread, n_threads, n_parts * n_chunks)
            if item >= n_parts * n_chunks:
                break
            first = item % n_chunks * GATED_ROWS
            expert, slot, end = _part(parts, item // n_chunks)
            biases = 4 * expert * n_rows
            a_bias, b_bias = gate_bias + biases if gate_bias else 0, up_bias + biases if up_bias else 0
            for s in range(slot, end):
                pair = get_i32(slots + 4 * s)
                record = x + pair // each * record_bytes
                matrix = gates + expert * expert_bytes
                values(matrix, row_bytes, first, n_rows, record, n_columns, a_bias, a, spare, next_record)
                matrix = ups + expert * up_bytes
                values(matrix, row_bytes, first, n_rows, record, n_columns, b_bias, b, spare, next_record)
                low = gate(load_f32(a), load_f32(b), most, most, most, most)
                high = gate(load_f32(a + 64), load_f32(b + 64), most, most, most, most)
                put(out, pair, first, low, high, n_rows, n_pairs)

    return body


# --- more: each expert's pairs side by side in lanes ----------------------------------------------


def gather(kind: str) -> Any:
    """out: lanes of a kind (activation_packing), of each slot's pair; x: f32[row][n_columns], one for `each` pairs."""
    put = lanes_writer(kind)

    def body(
        thread: int, n_threads: int, counter: int,
        x: int, each: int, n_columns: int, out: int, parts: int, slots: int, n_used: int, n_experts: int, scratch: int,
        n_tokens: Ref,
    ) -> None:  # fmt: skip
        values, n_slots = scratch + thread * SCRATCH, get_i64(parts)
        n_records = (n_columns + COLUMNS - 1) // COLUMNS
        n_items = most_slots(n_tokens * n_used, n_experts, LANES) // LANES * n_records
        while True:
            item = claim(counter, thread, n_threads, n_items)
            if item >= n_items:
                break
            first, column = item // n_records * LANES, item % n_records * COLUMNS
            if first >= n_slots:
                continue
            for c in range(column, min(column + COLUMNS, n_columns), 32):
                for half in range(2):
                    square, n = values + _SQUARE * half, n_columns - c - 16 * half
                    for lane in range(LANES):
                        pair, value = get_i32(slots + 4 * (first + lane)), splat_f32(0.0)
                        if pair >= 0:
                            value = load_first(x + 4 * (pair // each * n_columns + c + 16 * half), n)
                        store(square + 64 * lane, value)
                    transpose(square, 64, square)
                put(out, first, c, values, n_columns, n_slots)

    return body


def linear(name: str, how: str = "exact") -> Any:
    """out: f32[pair][n_rows]; x: records in lanes, of all slots; bias: f32[expert][n_rows] or 0; how: see matmul."""
    multiply = products(name, how)

    def body(
        thread: int, n_threads: int, counter: int,
        experts: int, expert_bytes: int, row_bytes: int, n_rows: int, n_columns: int, x: int, out: int, bias: int,
        parts: int, slots: int, n_used: int, n_experts: int, scratch: int, n_tokens: Ref,
    ) -> None:  # fmt: skip
        scratch += thread * SCRATCH
        n_chunks, n_slots = (n_rows + ROWS - 1) // ROWS, get_i64(parts)
        n_items = most_parts(n_tokens * n_used, n_experts) * n_chunks
        while True:
            item = claim(counter, thread, n_threads, n_items)
            if item >= n_items:
                break
            row = item % n_chunks * ROWS
            expert, first, end = _part(parts, item // n_chunks)
            if end == 0:
                continue
            matrix, own_bias = experts + expert * expert_bytes, bias + 4 * expert * n_rows if bias else 0
            multiply(
                scratch, matrix, row, matrix, row + HALF, ROWS, row_bytes, n_rows, n_columns, x, n_slots, first, end
            )
            for t in range(first, end, LANES):
                for i in range(0, min(ROWS, n_rows - row), 16):
                    sums = scratch + SUMS + (t - first) // LANES * VECTOR_SUMS + LINE * i
                    transpose(sums, LINE, sums)
                    for lane in range(min(LANES, end - t)):
                        to = out + 4 * (get_i32(slots + 4 * (t + lane)) * n_rows + row + i)
                        finish(sums + LINE * lane, to, own_bias, row + i, n_rows - row - i, 0)

    return body


def glu(name: str, kind: str, activation: str, how: str = "exact") -> Any:
    """out = a gate (elementwise.GATES) of gate·x and up·x, in lanes of a kind, for all slots; else as linear.

    p: the gate's parameter.
    """
    multiply, put, gate = products(name, how), lanes_writer(kind), inline(GATES[activation])

    def body(
        thread: int, n_threads: int, counter: int,
        gates: int, ups: int, expert_bytes: int, up_bytes: int, row_bytes: int, n_rows: int, n_columns: int, x: int,
        out: int, gate_bias: int, up_bias: int, p: float, parts: int, slots: int, n_used: int, n_experts: int,
        scratch: int, n_tokens: Ref,
    ) -> None:  # fmt: skip
        scratch += thread * SCRATCH
        n_chunks, n_slots, most = (n_rows + HALF - 1) // HALF, get_i64(parts), splat_f32(p)
        n_items = most_parts(n_tokens * n_used, n_experts) * n_chunks
        while True:
            item = claim(counter, thread, n_threads, n_items)
            if item >= n_items:
                break
            row = item % n_chunks * HALF
            expert, first, end = _part(parts, item // n_chunks)
            if end == 0:
                continue
            a, b, biases = gates + expert * expert_bytes, ups + expert * up_bytes, 4 * expert * n_rows
            multiply(scratch, a, row, b, row, HALF, row_bytes, n_rows, n_columns, x, n_slots, first, end)
            for t in range(first, end, LANES):
                sums = scratch + SUMS + (t - first) // LANES * VECTOR_SUMS
                for i in range(HALF):
                    at, value = sums + LINE * i, splat_f32(0.0)
                    if row + i < n_rows:
                        x_gate, x_up = load_f32(at), load_f32(at + LINE * HALF)
                        if gate_bias:
                            x_gate = x_gate + splat_f32(get_f32(gate_bias + biases + 4 * (row + i)))
                        if up_bias:
                            x_up = x_up + splat_f32(get_f32(up_bias + biases + 4 * (row + i)))
                        value = gate(x_gate, x_up, most, most, most, most)
                    store(at, value)
                put(out, t, row, sums, n_rows, n_slots)

    return body

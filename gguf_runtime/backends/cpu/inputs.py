"""What a batch tells the CPU's kernels."""

from __future__ import annotations

import numpy as np

#: By id of the RopeFrequencies: cos and sin, f32[token][n_rot / 2].
Angles = dict[int, tuple[np.ndarray, np.ndarray]]


class Inputs:
    """Arrays that stay where they are; kernels/cpu/attention.py explains some."""

    def __init__(self, n_tokens: int, n_split: int, n_spans: int, angles: Angles, scratch: np.ndarray) -> None:
        """n_split: the most tokens whose attention is cut, into at most n_spans spans each. scratch: of the threads."""
        self.ids = np.zeros(n_tokens, np.int32)
        self.slots = np.zeros((n_tokens, 2), np.int64)  # page address, place in the page
        self.blocks = np.zeros((max(n_tokens, n_split * n_spans), 8), np.int64)  # attention's tasks
        self.splits = np.zeros((n_split, 4), np.int64)  # those that were cut into spans
        self.rows = np.zeros(n_tokens, np.int32)  # tokens whose logits are wanted
        self.n_tokens, self.n_blocks, self.n_splits, self.n_logits = (np.zeros(1, np.int64) for _ in range(4))
        self.angles = angles
        self.scratch = scratch
        self.n_partials = n_split * n_spans  # for each head

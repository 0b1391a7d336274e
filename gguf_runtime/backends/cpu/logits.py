"""What samplers ask of rows of logits, found by all threads: kernels/cpu/logits.py."""

from __future__ import annotations

import numpy as np

from ...kernels.layout import MOST_BEST
from ...kernels.library import Library
from ...kernels.memory import address
from ...kernels.thread_pool import ThreadPool

_MOST_PARTS = 32  # of a row
_LEAST_PART = 4096  # columns that are worth a thread's while


class Ranking:
    """Programs that look at all of some rows; to be used by one thread at a time."""

    KERNELS = ("logits.largest_of_parts", "logits.largest", "logits.sums_of_parts")

    def __init__(self, library: Library, threads: ThreadPool, scratch: np.ndarray) -> None:
        library.load(self.KERNELS, quiet=True)
        self._threads = threads
        of_parts, of_rows, sums = (library.get(name) for name in self.KERNELS)
        self._x, self._found, self._out, self._k, *sizes = (np.zeros(1, np.int64) for _ in range(7))
        self._sizes = dict(zip(("n_rows", "n_parts", "n_columns"), sizes, strict=True))
        common = {"x": self._x, **self._sizes}
        best = {**common, "k": self._k, "scratch": scratch}
        self._largest = threads.program(
            [of_parts.bind(out=self._found, **best), of_rows.bind(found=self._found, out=self._out, **best)],
            [False, True],
        )
        self._sums = threads.program([sums.bind(out=self._out, **common)], [False])

    def best(self, rows: np.ndarray, k: int) -> np.ndarray:
        """i32[n][k]: the columns of the k largest of each row, ascending; of equals, the first. rows: f32[n][columns],
        k at most MOST_BEST and the number of columns. A NaN counts as larger than all numbers."""
        assert k <= min(MOST_BEST, rows.shape[1])
        n_parts = self._begin(rows)
        found, out = np.empty((len(rows), n_parts, k), np.int32), np.empty((len(rows), k), np.int32)
        self._found[0], self._out[0], self._k[0] = address(found), address(out), k
        self._threads.run(self._largest, here=True)
        return out

    def normalizers(self, rows: np.ndarray) -> np.ndarray:
        """f64[n]: the logarithm of the sum of exponentials of each row."""
        sums = np.empty((len(rows), self._begin(rows), 2))
        self._out[0] = address(sums)
        self._threads.run(self._sums, here=True)
        best = sums[..., 0].max(axis=1)
        return best + np.log((sums[..., 1] * np.exp(sums[..., 0] - best[:, None])).sum(axis=1))

    def _begin(self, rows: np.ndarray) -> int:
        """Note which rows to look at; gives in how many parts each: one where there are rows enough for all threads."""
        assert rows.flags.c_contiguous and rows.dtype == np.float32
        n_rows, n_columns = rows.shape
        wanted = min(-(-self._threads.n_threads // n_rows), n_columns // _LEAST_PART, _MOST_PARTS)
        n_parts = max(wanted, 1)
        self._x[0] = address(rows)
        for name, size in ("n_rows", n_rows), ("n_parts", n_parts), ("n_columns", n_columns):
            self._sizes[name][0] = size
        return n_parts

"""A download's progress, on standard error: a bar at a terminal, else a line at the beginning."""

from __future__ import annotations

import os
import shutil
import sys
from time import monotonic

_INTERVAL = 0.1  # seconds
_WINDOW = 5.0  # seconds that the speed is taken over


class Progress:
    """Shows how far something is. Call it with the number of bytes so far, and of all if that is known."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._bar = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._begun = self._shown = False
        self._samples: list[tuple[float, int]] = []

    def __call__(self, done: int, total: int | None) -> None:
        if not self._begun:
            self._begun = True
            if not self._bar:
                of = f" ({size(total)})" if total else ""
                print(f"ggrun: getting {self._name}{of}", file=sys.stderr)
        now = monotonic()
        if not self._bar or (self._samples and now - self._samples[-1][0] < _INTERVAL and done != total):
            return
        self._samples = [sample for sample in self._samples if now - sample[0] < _WINDOW] + [(now, done)]
        self._draw(done, total)

    def say(self, text: str) -> None:
        """A word on what is going on."""
        self.end()
        print(f"ggrun: {text}", file=sys.stderr)

    def end(self) -> None:
        """Leave the bar's line."""
        if self._shown:
            print(file=sys.stderr)
            self._shown = False

    def _draw(self, done: int, total: int | None) -> None:
        (start, before), (now, _) = self._samples[0], self._samples[-1]
        speed = (done - before) / (now - start) if now > start else 0.0
        text = f"{size(done)}"
        if total:
            text = f"{100 * done // total:3}%  {size(done)} of {size(total)}"
        if speed > 0:
            text += f"  {size(speed)}/s"
            if total:
                text += f"  {_duration((total - done) / speed)} left" if done < total else ""
        width = shutil.get_terminal_size().columns - 1
        room = width - len(self._name) - len(text) - 4
        bar = ""
        if total and room >= 10:
            full = min(room, 40)
            filled = full * done // total
            bar = f"{'━' * filled}{'─' * (full - filled)}  "
        line = f"{self._name}  {bar}{text}"[:width]
        print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)
        self._shown = True


class HowFar(Progress):
    """Shows nothing, for who asks: done and total bytes, 0 as long as they are not known."""

    done = total = 0

    def __call__(self, done: int, total: int | None) -> None:
        self.done, self.total = done, total or 0


def size(n: float) -> str:
    """A number of bytes, for people."""
    for unit in ("B", "kB", "MB"):
        if n < 999.5:
            return f"{n:.0f} {unit}"
        n /= 1000
    return f"{n:.2f} GB"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

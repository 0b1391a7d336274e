"""What `ggrun serve` does, measured: start, idleness, CPU of a streamed token, many users, long prompts.

    python tests/benchmarks/serving.py MODEL [--only start,idle,cpu,users,stall]

Prints one line a figure. Linux only: CPU times are read from /proc.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

TICK = 1 / os.sysconf("SC_CLK_TCK")
WORDS = ["time", "way", "day", "man", "thing", "world", "life", "hand", "part", "child", "eye", "place", "work", "week"]


class Server:
    """A server process, and plain requests to it."""

    def __init__(self, model: str, *args: str) -> None:
        self.started = time.perf_counter()
        line = [str(Path(sys.executable).with_name("ggrun")), "serve", model, "--port", "0", *args]
        self.process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr
        found = re.search(r":(\d+)$", self.process.stderr.readline().strip())
        assert found
        self.port = int(found[1])
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)

    def wait(self) -> float:
        """Seconds from the command to /health 200."""
        while True:
            connection = self.connect()
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return time.perf_counter() - self.started
            connection.close()
            time.sleep(0.01)

    def stream(self, messages: list[dict[str, str]], n: int, **more: Any) -> tuple[float, list[float]]:
        """When the request was sent, and when each token came."""
        body = {"messages": messages, "max_tokens": n, "stream": True, "ignore_eos": True, "temperature": 0, **more}
        connection = self.connect()
        start = time.perf_counter()
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        response = connection.getresponse()
        assert response.status == 200, response.read()
        times = []
        for line in response:
            if line.startswith(b'data: {') and b'"content":"' in line:
                times.append(time.perf_counter())
        connection.close()
        return start, times

    @property
    def processes(self) -> dict[int, float]:
        """Process → seconds of CPU: this one's first, then its engines'."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        found = {}
        for one in [pid, *map(int, children)]:
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            found[one] = (int(fields[11]) + int(fields[12])) * TICK
        return found

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


def text(n_words: int, seed: int) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(n_words))


def at_once(jobs: list[Callable[[], Any]]) -> list[Any]:
    """What jobs give that run side by side."""
    results: list[Any] = [None] * len(jobs)

    def run(i: int) -> None:
        results[i] = jobs[i]()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def percentile(values: list[float], p: float) -> float:
    return sorted(values)[min(len(values) - 1, int(p * len(values)))]


def start(model: str, args: list[str]) -> None:
    seconds = []
    for _ in range(5):
        server = Server(model, *args)
        seconds.append(server.wait())
        server.close()
    print(f"start to /health 200: median {statistics.median(seconds):.2f} s of {[round(s, 2) for s in seconds]}")


def idle(model: str, args: list[str]) -> None:
    server = Server(model, *args)
    server.wait()
    server.stream([{"role": "user", "content": "Hi"}], 20)
    time.sleep(2)
    before = server.processes
    time.sleep(60)
    after = server.processes
    print(f"idle for 60 s: CPU ticks {[round((after[pid] - before[pid]) / TICK) for pid in after]} (HTTP, engine)")
    server.close()


def cpu(model: str, args: list[str]) -> None:
    server = Server(model, *args)
    server.wait()
    for n_clients, n_tokens in ((1, 500), (32, 200)):
        def job(i: int, n: int = n_tokens) -> Any:
            return server.stream([{"role": "user", "content": text(20, i)}], n)

        jobs = [partial(job, i) for i in range(n_clients)]
        at_once(jobs)
        before, begun = server.processes, time.perf_counter()
        times = at_once(jobs)
        seconds, after = time.perf_counter() - begun, server.processes
        n = sum(len(found) for _, found in times)
        spent = after[server.process.pid] - before[server.process.pid]
        print(f"{n_clients} streams: HTTP process {1e6 * spent / n:.0f} µs of CPU a token, {n / seconds:.1f} tokens/s")
    server.close()


def users(model: str, args: list[str]) -> None:
    """32 clients, with a common system prompt of about 500 tokens and without one."""
    for shared in (True, False):
        server = Server(model, *args)
        server.wait()
        system = text(480, 0)

        def job(i: int, shared: bool = shared, system: str = system, server: Server = server) -> Any:
            own = text(random.Random(i).randint(20, 60), i + 1)
            message = {"role": "system", "content": system if shared else text(480, 1000 + i)}
            return server.stream([message, {"role": "user", "content": own}], 100)

        begun = time.perf_counter()
        results = at_once([lambda i=i: job(i) for i in range(32)])
        seconds = time.perf_counter() - begun
        n = sum(len(times) for _, times in results)
        first = [times[0] - sent for sent, times in results]
        kind = "a common system prompt" if shared else "nothing in common"
        print(f"32 clients, {kind}: {n / seconds:.1f} tokens/s, first token 95 %: {percentile(first, 0.95):.2f} s")
        server.close()


def stall(model: str, args: list[str]) -> None:
    """8 streams, then 8 prompts of 4,000 tokens."""
    server = Server(model, "-c", "8192", *args)
    server.wait()
    sent = threading.Event()

    def job(i: int) -> Any:
        return server.stream([{"role": "user", "content": text(20, i)}], 700)

    def long(i: int) -> Any:
        sent.wait()
        return server.stream([{"role": "user", "content": text(3900, 100 + i)}], 2)

    timer = threading.Timer(4, sent.set)
    timer.start()
    begun = time.perf_counter()
    results = at_once([lambda i=i: job(i) for i in range(8)] + [lambda i=i: long(i) for i in range(8)])
    there = min(start for start, _ in results[8:])
    end = max(times[0] for _, times in results[8:])
    before, during = [], []
    for _, times in results[:8]:
        for one, other in zip(times, times[1:], strict=False):
            if other < there:
                before.append(other - one)
            elif one < end:
                during.append(other - one)
    print(
        f"8 streams and 8 prompts of 4,000: between tokens 99 % {1000 * percentile(during, 0.99):.0f} ms "
        f"({1000 * percentile(before, 0.99):.0f} ms before), longest {1000 * max(during):.0f} ms; "
        f"the prompts took {end - there:.1f} s, all {time.perf_counter() - begun:.1f} s"
    )
    server.close()


KINDS = {"start": start, "cpu": cpu, "users": users, "stall": stall, "idle": idle}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--only", default=",".join(KINDS))
    options, args = parser.parse_known_args()
    for name in options.only.split(","):
        KINDS[name](options.model, args)


if __name__ == "__main__":
    main()

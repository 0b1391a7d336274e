"""What `ggrun serve` does, measured: start, idleness, CPU of a streamed token, many users, long prompts.

    python tests/benchmarks/serving.py MODEL [--only start,cpu,users,engine,stall,idle]

Prints one line a figure. Linux only: CPU times are read from /proc.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import selectors
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

TICK = 1 / os.sysconf("SC_CLK_TCK")
WORDS = ["time", "way", "day", "man", "thing", "world", "life", "hand", "part", "child", "eye", "place", "work", "week"]


class Request(NamedTuple):
    """messages; tokens of the answer; seconds after which it is sent."""

    messages: list[dict[str, str]]
    n: int
    after: float = 0.0

    @property
    def data(self) -> bytes:
        body = {"messages": self.messages, "max_tokens": self.n, "stream": True, "ignore_eos": True, "temperature": 0}
        data = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
        return head.encode() + data


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

    def streams(self, requests: list[Request]) -> list[tuple[float, list[float]]]:
        """When each request was sent, and when each token came. In one thread, to leave the CPU to the server."""
        selector = selectors.DefaultSelector()
        begun = time.perf_counter()
        todo = sorted(enumerate(requests), key=lambda item: item[1].after)
        found: list[tuple[float, list[float]]] = [(0.0, []) for _ in requests]
        n_open = 0
        while todo or n_open:
            now = time.perf_counter() - begun
            while todo and todo[0][1].after <= now:
                i, request = todo.pop(0)
                connection = socket.create_connection(("127.0.0.1", self.port))
                found[i] = (time.perf_counter(), [])
                connection.sendall(request.data)
                selector.register(connection, selectors.EVENT_READ, i)
                n_open += 1
            for key, _ in selector.select(max(0.0, todo[0][1].after - now) if todo else None):
                connection = key.fileobj  # type: ignore[assignment]
                data = connection.recv(1 << 16)
                now = time.perf_counter()
                found[key.data][1].extend([now] * data.count(b'"content":"'))
                if not data or b"[DONE]" in data:
                    selector.unregister(connection)
                    connection.close()
                    n_open -= 1
        return found

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
    server.streams([Request(user("Hi"), 20)])
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
        requests = [Request(user(text(20, i)), n_tokens) for i in range(n_clients)]
        server.streams(requests)
        before, begun = server.processes, time.perf_counter()
        results = server.streams(requests)
        seconds, after = time.perf_counter() - begun, server.processes
        n = sum(len(times) for _, times in results)
        spent = after[server.process.pid] - before[server.process.pid]
        print(f"{n_clients} streams: HTTP process {1e6 * spent / n:.0f} µs of CPU a token, {n / seconds:.1f} tokens/s")
    server.close()


def crowd(shared: bool) -> list[Request]:
    """32 clients, with a common system prompt of about 500 tokens or without one; 20 to 60 tokens of their own."""
    requests = []
    for i in range(32):
        own = text(random.Random(i).randint(20, 60), i + 1)
        system = {"role": "system", "content": text(480, 0 if shared else 1000 + i)}
        requests.append(Request([system, {"role": "user", "content": own}], 100))
    return requests


def users(model: str, args: list[str]) -> None:
    for shared in (True, False):
        server = Server(model, *args)
        server.wait()
        begun = time.perf_counter()
        results = server.streams(crowd(shared))
        seconds = time.perf_counter() - begun
        n = sum(len(times) for _, times in results)
        first = [times[0] - sent for sent, times in results]
        kind = "a common system prompt" if shared else "nothing in common"
        print(f"32 clients, {kind}: {n / seconds:.1f} tokens/s, first token 95 %: {percentile(first, 0.95):.2f} s")
        server.close()


def engine(model: str, args: list[str]) -> None:
    """The same without HTTP, in turns with it: what the server adds."""
    from gguf_runtime import LLM

    ratios = []
    for _ in range(3):
        server = Server(model, *args)
        server.wait()
        begun = time.perf_counter()
        n = sum(len(times) for _, times in server.streams(crowd(True)))
        over_http = n / (time.perf_counter() - begun)
        server.close()
        with LLM(model) as llm:
            begun = time.perf_counter()
            answers = [
                llm.stream(request.messages, max_tokens=request.n, ignore_eos=True, temperature=0)
                for request in crowd(True)
            ]
            for answer in answers:
                answer.begin()
            while llm.scheduler.step():
                for answer in answers:
                    answer.read()
            alone = sum(answer.n_tokens for answer in answers) / (time.perf_counter() - begun)
        ratios.append(over_http / alone)
        print(f"32 clients, a common system prompt: {over_http:.1f} tokens/s over HTTP, {alone:.1f} from Python alone")
    print(f"over HTTP {statistics.median(ratios):.2f} of what it is from Python alone")


def stall(model: str, args: list[str]) -> None:
    """8 streams, then 8 prompts of 4,000 tokens."""
    server = Server(model, "-c", "8192", *args)
    server.wait()
    begun = time.perf_counter()
    streams = [Request(user(text(20, i)), 700) for i in range(8)]
    results = server.streams([*streams, *(Request(user(text(3900, 100 + i)), 2, 4.0) for i in range(8))])
    there = min(sent for sent, _ in results[8:])
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


def user(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


KINDS = {"start": start, "cpu": cpu, "users": users, "engine": engine, "stall": stall, "idle": idle}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--only", default=",".join(KINDS))
    options, args = parser.parse_known_args()
    for name in options.only.split(","):
        KINDS[name](options.model, args)


if __name__ == "__main__":
    main()

"""A server under fire: many requests, some given up, broken, wrong or too long, and hardly any room for their pages.

    python tests/benchmarks/fire.py MODEL [--requests 1000] [--at-once 16] [--kv-memory 0.02G] [--kill]

Every answer must be what it is alone, up to the first token where the two likeliest are about as likely; afterwards all
pages are free or in the cache, and the counts add up. --kill: the engine is killed in mid-stream three times, and each
client must get an answer or an error. Exit code 1 where something is not so.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.serving import Server  # noqa: E402

TEXT = "/v1/completions"
NEAR = 0.1  # between two logits: which is the larger depends on rounding
N_PROMPTS, N_ANSWER = 24, 48


class Fire:
    """Requests to a server, and what they got. truth: each prompt's tokens alone, and how much likelier each was."""

    def __init__(self, server: Server, seed: int) -> None:
        self.server, self.seed = server, seed
        rng = random.Random(seed)
        common = [rng.randrange(300) for _ in range(200)]
        self.prompts = [
            common[: rng.choice([0, 70, 200])] + [rng.randrange(300) for _ in range(rng.randrange(20, 260))]
            for _ in range(N_PROMPTS)
        ]
        self.truth = [self._alone(prompt) for prompt in self.prompts]

    def body(self, prompt: list[int]) -> dict[str, Any]:
        return {"prompt": prompt, "max_tokens": N_ANSWER, "temperature": 0, "ignore_eos": True, "logprobs": 2}

    def _alone(self, prompt: list[int]) -> tuple[list[str], list[float]]:
        found = self.server.post(TEXT, **self.body(prompt), cache_prompt=False).body["choices"][0]["logprobs"]
        gaps = [max(top.values()) - min(top.values()) if len(top) > 1 else 0.0 for top in found["top_logprobs"]]
        return found["tokens"], gaps

    def one(self, i: int) -> str:
        """What became of a request: "right" and the like, or what is wrong."""
        rng = random.Random(self.seed + i)
        which = rng.randrange(N_PROMPTS)
        body = self.body(self.prompts[which])
        match rng.choices(["whole", "stream", "leave", "break", "wrong", "long"], [45, 15, 15, 5, 10, 10])[0]:
            case "whole":
                answer = self.server.post(TEXT, **body)
                if answer.status != 200:
                    return f"status {answer.status}: {answer.body}"
                return self.compare(which, answer.body["choices"][0]["logprobs"]["tokens"])
            case "stream":
                tokens = []
                for event in self.server.events(TEXT, **body):
                    if event == "[DONE]":
                        return self.compare(which, tokens)
                    if "error" in event:
                        return f"error in a stream: {event}"
                    if logprobs := event["choices"][0]["logprobs"]:
                        tokens += logprobs["tokens"]
                return "a stream without an end"
            case "leave":
                self.leave(json.dumps({**body, "stream": rng.random() < 0.5}).encode(), rng.random() * 0.5)
                return "left"
            case "break":
                self.leave(json.dumps(body).encode()[:-10], 0.0, missing=10)
                return "broke off"
            case "wrong":
                wrong = rng.choice([b"{", b'{"prompt": 7}', b'{"prompt": [99999]}', b"\xff", b"[]", b'{"n": 99}'])
                return self.refused(self.server.ask("POST", TEXT, wrong).status)
            case _:
                return self.refused(self.server.post(TEXT, prompt=[5] * 9000, stream=rng.random() < 0.5).status)

    def leave(self, data: bytes, after: float, missing: int = 0) -> None:
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=600) as connection:
            head = f"POST {TEXT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data) + missing}\r\n\r\n"
            connection.sendall(head.encode() + data)
            time.sleep(after)

    def refused(self, status: int) -> str:
        return "refused" if status == 400 else f"status {status} for what is wrong"

    def compare(self, which: int, tokens: list[str]) -> str:
        expected, gaps = self.truth[which]
        if tokens == expected:
            return "right"
        at = next((i for i, (a, b) in enumerate(zip(tokens, expected, strict=False)) if a != b), None)
        if at is None or len(tokens) != len(expected):
            return f"prompt {which}: {len(tokens)} tokens for {len(expected)}"
        is_near = gaps[at] < NEAR
        return "right up to a near tie" if is_near else f"prompt {which}: token {at} is another, by {gaps[at]:.3f}"


def figures(server: Server) -> dict[str, float]:
    text = server.get("/metrics").body
    return {name: float(value) for name, value in re.findall(r"^((?:ggrun|llamacpp):\w+) (\S+)$", text, re.MULTILINE)}


def kill(server: Server) -> None:
    """The engine, while it answers."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--kv-memory", default="0.02G")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kill", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(args.model, "-c", 2048, "--kv-memory", args.kv_memory, "--parallel", 12, folder=Path(folder))
        server.seconds = 600
        try:
            fire = Fire(server, args.seed)
            if args.kill:
                for i in range(3):
                    threading.Timer(3.0 + 6 * i, kill, (server,)).start()
            with ThreadPoolExecutor(args.at_once) as threads:
                found = Counter(threads.map(fire.one, range(args.requests)))
            end = time.monotonic() + 20
            while (after := figures(server))["ggrun:pages_held"] and time.monotonic() < end:
                time.sleep(0.1)
        finally:
            server.close()  # asserts that no exception was said
        n_logged = len(server.log) - sum(line["path"] == "/metrics" for line in server.log)
    for told, n in found.most_common():
        print(f"{n:5d} {told}")
    names = ("pages_held", "pages_cached", "pages", "preemptions_total", "requests_cancelled_total")
    print(", ".join(f"{name} {after[f'ggrun:{name}']:g}" for name in names), f"logged {n_logged}")
    good = {"right", "right up to a near tie", "left", "broke off", "refused"}
    lost = {told for told in found if "ended unexpectedly" in told} if args.kill else set()
    wrong = set(found) - good - lost
    sys.exit(bool(wrong or after["ggrun:pages_held"] or n_logged != args.requests + N_PROMPTS))


if __name__ == "__main__":
    main()

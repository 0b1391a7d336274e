"""Engines on a Ray cluster: replicas, a node that is killed, and stages. Takes a minute or more: `make test-ray`."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_runtime import LLM
from gguf_runtime.engine import Chunk
from gguf_runtime.server.prefixes import Prefixes, blocks

needs_ray = pytest.mark.skipif("GGRUN_TEST_RAY" not in os.environ, reason="starts Ray clusters: `make test-ray`")
CHAT = "/v1/chat/completions"


def text(*parts: int) -> list[int]:
    """A block of tokens for each part."""
    return blocks([token for part in parts for token in [part] * 64])


def test_blocks_stand_for_all_before_them_and_the_salt() -> None:
    tokens = list(range(200))
    assert len(blocks(tokens)) == 3
    assert blocks(tokens)[:2] == blocks(tokens[:128])
    assert not set(blocks([9, *tokens[1:]])) & set(blocks(tokens))
    assert not set(blocks(tokens, "salt")) & set(blocks(tokens))


def test_the_longest_beginning_goes_before_the_shortest_queue() -> None:
    prefixes = Prefixes(100)
    prefixes.add("a", text(1, 2, 3))
    prefixes.add("b", text(1, 2))
    assert prefixes.ranked(text(1, 2, 3, 4), {"a": 2, "b": 1, "c": 0}, slack=2) == ["a", "b", "c"]
    assert prefixes.ranked(text(1, 2, 4), {"a": 2, "b": 1, "c": 0}, slack=2) == ["b", "a", "c"]  # both hold as much
    assert prefixes.ranked(text(7), {"a": 2, "b": 1, "c": 0}, slack=2) == ["c", "b", "a"]


def test_who_has_too_much_to_do_is_not_preferred() -> None:
    prefixes = Prefixes(100)
    prefixes.add("a", text(1, 2, 3))
    assert prefixes.ranked(text(1, 2, 3), {"a": 4, "b": 1}, slack=2) == ["b", "a"]
    prefixes.forget("a")
    assert prefixes.n_common("a", text(1)) == 0


def test_what_is_remembered_is_bounded() -> None:
    prefixes = Prefixes(3)
    for i in range(1000):
        prefixes.add("a", text(i, i + 1))
    assert prefixes.n_common("a", text(999, 1000)) == 2
    assert prefixes.n_common("a", text(998, 999)) == 1  # what comes last of a text goes first
    assert prefixes.n_common("a", text(997)) == 0


def test_graphs_are_sent_without_their_weights(model: Path) -> None:
    from gguf_runtime import architectures
    from gguf_runtime.backends.ray_weights import pack, unpack
    from gguf_runtime.loader import open_gguf

    with open_gguf(model) as here, open_gguf(model) as there:
        graph = architectures.load(here).graph
        packed = pack(graph.blocks(), here)
        assert len(packed) < sum(tensor.n_bytes for tensor in graph.tensors) / 4
        found = [tensor for block in unpack(packed, there) for tensor in block.tensors]
        wanted = [tensor for block in graph.blocks() for tensor in block.tensors]
        for ours, theirs in zip(wanted, found, strict=True):
            assert ours[:3] == theirs[:3]
            np.testing.assert_array_equal(ours.data, theirs.data)


# with a cluster


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    pytest.importorskip("ray", reason="ray is not installed")
    from tests.ray_nodes import cluster

    with cluster(3, n_cpus=2) as nodes:
        yield nodes


@needs_ray
@pytest.mark.parametrize("n_stages", [2, 3])
def test_stages_in_actors_give_what_one_process_gives(nodes: Any, model: Path, tmp_path: Path, n_stages: int) -> None:
    from tests.make_model import write_model

    write_model(path := tmp_path / "model.gguf", types="Q4_0", n_layer=4)
    found = [_logits(path), _logits(path, ray_stages=n_stages, ray_address=nodes.address)]
    for here, there in zip(*found, strict=True):
        np.testing.assert_array_equal(here, there)


def _logits(path: Path, **where: Any) -> list[np.ndarray]:
    """Of a prompt that takes several passes, tokens one by one, and others after a common beginning."""
    tokens = np.random.default_rng(0).integers(0, 300, 1200).tolist()
    with LLM(path, n_ctx=2048, n_threads=1, kv_memory=50 << 20, **where) as llm:
        engine = llm.engine
        assert len(set(engine.placement.devices)) == where.get("ray_stages", 1)
        first = engine.new_sequence(tokens, tree="")
        found = [engine.step([Chunk(first, tokens, len(tokens))])]
        found += [engine.step([Chunk(first, [i], 1)]) for i in range(3)]
        first.share(tail=True)
        second = engine.new_sequence([*tokens[:100], 5], tree="")
        second.begin()
        assert second.n_computed == 100  # a page, and a copy of the next one's beginning
        found.append(engine.step([Chunk(second, [5, 6], 2), Chunk(first, [7], 1)]))
    return found


@needs_ray
def test_a_stage_that_dies_ends_the_engine(nodes: Any, model: Path) -> None:
    import ray

    from gguf_runtime.backends.errors import DeviceLost

    with LLM(model, n_ctx=256, n_threads=1, kv_memory=8 << 20, ray_stages=1, ray_address=nodes.address) as llm:
        assert llm.generate("a b c", max_tokens=2, ignore_eos=True) is not None
        ray.kill(llm.engine.placement.stages[0]._actor)  # type: ignore[attr-defined]
        with pytest.raises(DeviceLost, match="load the model again"):
            llm.generate("a b c", max_tokens=2, ignore_eos=True)
        assert "load the model again" in llm.engine.gone


@pytest.fixture(scope="module")
def server(nodes: Any, served_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Three replicas, each with a CPU, on any of the nodes."""
    pytest.importorskip("uvicorn")
    from tests.serving import Server

    where = ["--ray", "--ray-address", nodes.address, "--replicas", "3", "-t", "1", "--parallel", "8"]
    server = Server(served_model, *where, folder=tmp_path_factory.mktemp("ray"))
    end = time.monotonic() + 300
    while server.get("/health").status != 200:
        assert time.monotonic() < end, server.said
        time.sleep(0.2)
    yield server
    assert server.close() == 0


def ask(server: Any, words: str, n: int = 20, **more: Any) -> Any:
    """An answer that is as long as it may be."""
    body = {"messages": [{"role": "user", "content": words}], "max_tokens": n, "temperature": 0, "ignore_eos": True}
    return server.post(CHAT, **body, **more)


@needs_ray
def test_a_prefix_stays_where_it_was_computed(server: Any) -> None:
    words = " ".join(f"word{i}" for i in range(100))
    first = ask(server, words)
    assert first.status == 200, first.body
    for _ in range(5):
        again = ask(server, words)
        assert again.body["usage"]["prompt_tokens_details"]["cached_tokens"] > 100
        assert again.body["choices"][0]["message"]["content"]


@needs_ray
def test_what_cannot_be_done_is_told(server: Any) -> None:
    assert ask(server, "Hello", n=5, logit_bias={"99999": 1}).status == 400
    assert ask(server, "Hello " * 9000).status == 400


@needs_ray
def test_a_node_is_killed_in_mid_stream(server: Any, nodes: Any) -> None:
    """Streams that have begun end with an answer or the API's error; all others are answered."""
    begun, ends = threading.Barrier(12 + 1), []

    def stream(i: int) -> None:
        events = server.events(
            CHAT, messages=[{"role": "user", "content": f"{i} " * 50}], max_tokens=3000, ignore_eos=True
        )
        told = [next(events), next(events)]  # the second one has text
        begun.wait(300)
        told += events
        ends.append(told[-1] if told[-1] == "[DONE]" else told[-1]["error"]["message"])

    with ThreadPoolExecutor(24) as threads:
        streams = [threads.submit(stream, i) for i in range(12)]
        begun.wait(300)
        whole = [threads.submit(ask, server, f"{i} whole", n=1000) for i in range(12)]
        time.sleep(1)
        node = _busy_node(nodes)
        nodes.remove_node(node, allow_graceful=False)
        for done in streams:
            done.result(300)
        answers = [done.result(300) for done in whole]
    assert [answer.status for answer in answers] == [200] * 12
    assert all(answer.body["usage"]["completion_tokens"] == 1000 for answer in answers)
    lost = [end for end in ends if end != "[DONE]"]
    assert len(ends) == 12 and all("is gone" in message for message in lost)
    assert 0 < len(lost) < 12
    print(f"streams lost: {len(lost)}, finished: {12 - len(lost)}; not streamed: {len(answers)} answered")
    assert ask(server, "and on").status == 200


def _busy_node(nodes: Any) -> Any:
    """A node that has a replica, and is not the one to which this process belongs."""
    replicas = [pid for pid, line, _ in _processes() if line.startswith(b"ray::ServeReplica")]
    raylets = {above for pid, _, above in _processes() if pid in replicas}
    return next(node for node in nodes.worker_nodes if node.all_processes["raylet"][0].process.pid in raylets)


@needs_ray
def test_an_engine_that_dies_takes_its_replica_along(server: Any) -> None:
    engines = _engines()
    with ThreadPoolExecutor(8) as threads:
        whole = [threads.submit(ask, server, f"{i} again", n=1000) for i in range(8)]
        time.sleep(1)
        os.kill(engines[0], signal.SIGKILL)
        assert [done.result(300).status for done in whole] == [200] * 8


def _engines() -> list[int]:
    """Ids of the processes that have an engine for a replica."""
    known = list(_processes())
    replicas = {pid for pid, line, _ in known if line.startswith(b"ray::ServeReplica")}
    return [pid for pid, line, above in known if b"engine_process" in line and above in replicas]


def _processes() -> Iterator[tuple[int, bytes, int]]:
    """Id, command line, and the parent's id."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            above = (entry / "status").read_text().split("PPid:\t")[1].split("\n")[0]
            yield int(entry.name), (entry / "cmdline").read_bytes(), int(above)


# without one


def test_no_cluster_is_told_in_one_line(ggrun: Any, served_model: Path) -> None:
    from importlib.util import find_spec

    ran = ggrun("serve", served_model, "--port", "0", "--replicas", "2")
    assert ran.returncode == 2 and b"give --ray too" in ran.stderr
    ran = ggrun("serve", served_model, "--port", "0", "--ray", "--replicas", "3..2")
    assert ran.returncode == 2 and b"3..2" in ran.stderr
    if not find_spec("ray"):
        ran = ggrun("serve", served_model, "--port", "0", "--ray")
        assert ran.returncode == 1 and b"pip install 'ggrun[ray]'" in ran.stderr and ran.stderr.count(b"\n") == 1
        ran = ggrun("-m", served_model, "-p", "Hi", "--ray-stages", "2")
        assert ran.returncode == 1 and b"pip install 'ggrun[ray]'" in ran.stderr and ran.stderr.count(b"\n") == 1

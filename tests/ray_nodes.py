"""Ray clusters of several nodes on this machine, small ones, and patient: on a busy machine a node takes a while."""

from __future__ import annotations

import inspect
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

_PATIENCE = 240  # seconds for a node to start
_OBJECTS = 80 << 20  # bytes, the least that Ray takes
_PORTS = "metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port"

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
os.environ.setdefault("RAY_worker_register_timeout_seconds", str(_PATIENCE))
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")


@contextmanager
def cluster(n_nodes: int, n_cpus: float = 2) -> Iterator[Any]:
    """Nodes of so many CPUs each, to whose first this process belongs; the others can be removed (remove_node)."""
    import ray
    from ray.cluster_utils import Cluster

    own: dict[str, Any] = {"num_cpus": n_cpus, "object_store_memory": _OBJECTS}
    with _patience():
        nodes = Cluster()
        try:
            for i in range(n_nodes):
                nodes.add_node(wait=True, **own, **_ports(), **({} if i else {"include_dashboard": False}))
            ray.init(nodes.address, log_to_driver=False, logging_level="ERROR")
            yield nodes
        finally:
            ray.shutdown()
            nodes.shutdown()


@contextmanager
def _patience() -> Iterator[None]:
    """Ray gives a node 30 s to start, and its helpers 15 s to say at which ports they are."""
    from ray import _raylet
    from ray._private import services

    get_node, start_raylet = services.get_node, services.start_raylet

    def patiently(*args: Any) -> Any:
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                return get_node(*args)
            except RuntimeError:  # it has not said yet that it is there
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    def with_ports(*args: Any, **settings: Any) -> Any:
        given = inspect.signature(start_raylet).bind(*args, **settings).arguments
        for name in _PORTS:
            _raylet.persist_port(given["session_dir"], given["node_id"], name, given[name])
        return start_raylet(*args, **settings)

    services.get_node, services.start_raylet = patiently, with_ports
    try:
        yield
    finally:
        services.get_node, services.start_raylet = get_node, start_raylet


def _ports() -> dict[str, int]:
    """Of a node's helpers: ports that are free."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in _PORTS]
        return {name: listener.getsockname()[1] for name, listener in zip(_PORTS, listeners, strict=True)}

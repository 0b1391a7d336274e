"""Ray, which has several machines work together: imported only where it is asked for, and joined here."""

from __future__ import annotations

import logging
import os
import socket
from importlib.util import find_spec

_PATIENCE = 10  # seconds for a cluster to answer
_OBJECTS = 256 << 20  # bytes for what goes from process to process, where the cluster is this machine alone


class ClusterError(Exception):
    """There is no Ray, or no cluster that can be joined; the message says why."""


def join(address: str | None = None) -> None:
    """Become a part of the cluster at an address, or RAY_ADDRESS, on one of whose machines this is ("auto": the one
    that `ray start` began here); by default begin one that is this machine, and ends with this process. Once.

    Raises ClusterError.
    """
    if not find_spec("ray"):
        raise ClusterError("ray is missing, which work on several machines takes: pip install 'ggrun[ray]'")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # its threads would begin another cluster while this one ends
    import ray

    if ray.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS")
    try:
        if address and address != "auto":
            _check_answers(address)
        if address:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(
                "local", include_dashboard=False, object_store_memory=_OBJECTS, log_to_driver=False,
                logging_level=logging.ERROR,
            )  # fmt: skip
    except Exception as error:  # whatever Ray raises for what is not there: ConnectionError, RuntimeError, ValueError …
        where = f"no Ray cluster can be joined at {address}" if address else "Ray cannot be started on this machine"
        raise ClusterError(f"{where}: {' '.join(str(error).split())}") from error


def _check_answers(address: str) -> None:
    """Ray would try for a minute. Raises OSError, ValueError."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()) or "/" in host:
        raise ValueError("an address is HOST:PORT")
    socket.create_connection((host, int(port)), _PATIENCE).close()


def leave() -> None:
    """End what this process has on the cluster, and the cluster that it has begun."""
    import ray

    ray.shutdown()

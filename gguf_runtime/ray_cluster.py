"""Ray, which has several machines work together: imported only where it is asked for, and joined here."""

from __future__ import annotations

import logging
import os
from importlib.util import find_spec

_OBJECTS = 256 << 20  # bytes for what goes from process to process, where the cluster is this machine alone


class ClusterError(Exception):
    """There is no Ray, or no cluster that can be joined; the message says why."""


def check_installed() -> None:
    """Raises ClusterError where Ray is missing."""
    if not find_spec("ray"):
        raise ClusterError("ray is missing, which work on several machines takes: pip install 'ggrun[ray]'")


def join(address: str | None = None) -> None:
    """Become a part of the cluster at an address, or RAY_ADDRESS, on one of whose machines this is ("auto": the one
    that `ray start` began here); by default begin one that is this machine, and ends with this process. Once.

    Raises ClusterError.
    """
    check_installed()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    import ray

    if ray.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS")
    try:
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


def leave() -> None:
    """End what this process has on the cluster, and the cluster that it has begun."""
    import ray

    ray.shutdown()

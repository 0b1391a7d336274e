"""An engine that is several: replicas on a Ray cluster, as one application of Ray Serve for each model."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from .. import ray_cluster
from .engine import Engine
from .protocol import Embedded, EmbedTexts, Failed, Generate, Loaded, Output, StepReport
from .vocabulary import Failure

_DRAIN = 300  # seconds that a replica which is no longer wanted has for its answers
_BLOCKS = 1 << 15  # of a replica's prompts, to be remembered: two million tokens
_FULL = 0.75  # of the answers that a replica makes at once: where there are more, others are started


class Replicas(NamedTuple):
    """How many there are, and what each one takes. least, most: Ray Serve starts more where there is more to do.
    cpus, gpus: that Ray reserves; without cpus, a replica has a machine for itself."""

    least: int = 1
    most: int = 1
    cpus: int = 0
    gpus: int = 0
    address: str | None = None


class RayEngine:
    """Sends each request to a replica, and hands out what comes.

    Where a replica dies, its requests have Failed, to be asked for again; Ray Serve starts another.
    """

    def __init__(self, name: str, handle: Any, loaded: Loaded, on_step: Callable[[StepReport], None]) -> None:
        self.loaded: Loaded | None = loaded
        self._name, self._ask_replica, self._on_step = name, handle.options(method_name="ask", stream=True), on_step
        self._last = 0
        self._requests: dict[int, tuple[asyncio.Task[None], Callable[[Any], None]]] = {}
        self._states: dict[str, StepReport] = {}  # of each replica the last that it told of

    @classmethod
    async def start(
        cls,
        replicas: Replicas,
        path: str,
        settings: dict[str, Any],
        n_parallel: int,
        *,
        on_step: Callable[[StepReport], None],
        on_death: Callable[[Engine], None],
    ) -> RayEngine:
        """As engine.Start has it; on_death is never called, as Ray starts what has died. Raises Failure."""
        name = f"ggrun {Path(path).stem}"
        draft = settings.get("draft")
        own = {"draft": draft and os.path.abspath(draft), "chat_template": None}  # conversations are rendered here
        settings = {**settings, **own}
        try:
            handle = await asyncio.to_thread(deploy, name, replicas, os.path.abspath(path), settings, n_parallel)
            return cls(name, handle, await handle.loaded.remote(), on_step)
        except ray_cluster.ClusterError as error:
            raise Failure("failed", str(error)) from error

    def generate(self, receive: Callable[[Output | Failed], None], *request: Any) -> int:
        return self._begin(receive, Generate(0, *request))

    def embed(self, receive: Callable[[Embedded | Failed], None], *request: Any) -> int:
        return self._begin(receive, EmbedTexts(0, *request))

    def cancel(self, id: int) -> None:
        if found := self._requests.pop(id, None):
            found[0].cancel()

    async def stop(self) -> None:
        requests, self._requests = self._requests, {}
        for id, (task, receive) in requests.items():
            task.cancel()
            receive(Failed(id, "the model has been unloaded", "failed"))
        from ray import serve

        await asyncio.to_thread(serve.delete, self._name)

    def _begin(self, receive: Callable[[Any], None], command: Generate | EmbedTexts) -> int:
        self._last += 1
        self._requests[self._last] = asyncio.create_task(self._run(self._last, command)), receive
        return self._last

    async def _run(self, id: int, command: Generate | EmbedTexts) -> None:
        from ray.exceptions import RayError, RayTaskError

        from .ray_replica import decode

        try:
            async for message in self._ask_replica.remote(command):
                news = decode(message)
                for step in news.steps:
                    self._note(news.replica, step)
                for report in [*news.outputs, *([news.end] if news.end else [])]:
                    self._hand_out(id, report)
        except RayError as error:
            if isinstance(error, RayTaskError):
                self._hand_out(id, Failed(id, f"the replica failed: {error.cause}", "failed"))
            self._states.clear()  # of those that are still there, they come again
        except Exception as error:  # of Ray Serve's own
            self._hand_out(id, Failed(id, f"Ray Serve: {error}", "failed"))
        finally:  # it has not ended as it should
            self._hand_out(id, Failed(id, "the replica that had the request is gone", "failed", again=True))

    def _hand_out(self, id: int, report: Output | Embedded | Failed) -> None:
        is_last = not isinstance(report, Output) or report.ended
        find = self._requests.pop if is_last else self._requests.get
        if found := find(id, None):
            found[1](report)

    def _note(self, replica: str, step: StepReport) -> None:
        """Tell of a step, with the state of all replicas together."""
        self._states[replica] = step
        known = self._states.values()
        state = (
            sum(getattr(step, name) for step in known)
            for name in ("n_preempted", "n_pages_held", "n_pages_kept", "n_pages")
        )
        self._on_step(StepReport([], step.seconds, step.n_tokens, *state))


def deploy(
    name: str, replicas: Replicas, path: str, settings: dict[str, Any], n_parallel: int, router: Any = None
) -> Any:
    """Have Ray Serve start a model's replicas; gives its handle. router: another class than PrefixRouter.

    Raises ClusterError.
    """
    ray_cluster.join(replicas.address)
    from ray import serve
    from ray.serve.config import AutoscalingConfig, RequestRouterConfig

    from .ray_replica import Replica
    from .ray_router import PrefixRouter

    serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR", "enable_access_log": False})
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    own = {"slack": max(1, n_parallel // 4), "n_blocks": _BLOCKS} if router is None else {}
    if not replicas.address and "RAY_ADDRESS" not in os.environ:
        _check_places(replicas)
    deployment = serve.deployment(
        name="engine",
        ray_actor_options={"num_cpus": replicas.cpus, "num_gpus": replicas.gpus},
        max_ongoing_requests=n_parallel * replicas.most,  # none is refused: Ray would try again by chance, not in turn
        max_constructor_retry_count=1,
        graceful_shutdown_timeout_s=_DRAIN,
        graceful_shutdown_wait_loop_s=0.2,
        request_router_config=RequestRouterConfig(
            request_router_class=router or PrefixRouter, request_router_kwargs=own
        ),
        autoscaling_config=AutoscalingConfig(
            min_replicas=replicas.least, max_replicas=replicas.most, target_ongoing_requests=_FULL * n_parallel
        ),
        **({} if replicas.cpus else {"max_replicas_per_node": 1}),
    )(Replica)
    application = deployment.bind(path, settings, n_parallel)
    try:
        return serve.run(application, name=name, route_prefix=None, logging_config={"log_level": "ERROR"})
    except RuntimeError as error:
        raise ray_cluster.ClusterError(_reason(name) or str(error)) from error


def _check_places(replicas: Replicas) -> None:
    """Raises ClusterError where this machine, which is all of the cluster, is too small."""
    from ray import cluster_resources

    n_cpus = int(cluster_resources().get("CPU", 0))
    n_places = n_cpus // replicas.cpus if replicas.cpus else 1
    if n_places < replicas.least:
        each = f"{replicas.cpus} CPUs each" if replicas.cpus else "a machine each"
        raise ray_cluster.ClusterError(
            f"{replicas.least} replicas want {each}, and there is this machine, with {n_cpus} CPUs: give each fewer, "
            "with -t, or join a larger cluster, with --ray-address"
        )


def _reason(name: str) -> str:
    """Why an application could not be started, as its replicas said."""
    from ray import serve

    found = serve.status().applications.get(name)
    messages = [deployment.message for deployment in found.deployments.values()] if found else []
    lines = [line for message in messages for line in message.splitlines() if line.startswith("RuntimeError: ")]
    return lines[-1].removeprefix("RuntimeError: ") if lines else ""

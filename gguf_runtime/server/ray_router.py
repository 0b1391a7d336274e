"""Ray Serve's request router: in the HTTP process, it gives each request to a replica."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from .prefixes import Prefixes, blocks
from .protocol import Generate


class PrefixRouter(RequestRouter):
    """Prefers the replica that holds most of a prompt's beginning, unless it has far more to do than another."""

    def initialize_state(self, slack: int, n_blocks: int) -> None:
        """slack, n_blocks: as Prefixes has them."""
        self._slack, self._prefixes = slack, Prefixes(n_blocks)
        self._loads: Counter[ReplicaID] = Counter()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The replicas by rank."""
        text = _blocks(pending_request)
        by_name = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        loads = {name: self._loads[replica.replica_id] for name, replica in by_name.items()}
        ranked = self._prefixes.ranked(text, loads, self._slack)
        for first in ranked[:1]:  # noted at once, for those that come with it
            self._prefixes.add(first, text)
        return [[by_name[name]] for name in ranked]

    def on_send_request(self, replica_id: ReplicaID) -> None:
        super().on_send_request(replica_id)
        self._loads[replica_id] += 1

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        self._loads[replica_id] = max(0, self._loads[replica_id] - 1)

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_died(replica_id)
        self._forget(replica_id)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        for gone in set(self.curr_replicas) - {replica.replica_id for replica in replicas}:
            self._forget(gone)
        super().update_replicas(replicas)

    def _forget(self, replica_id: ReplicaID) -> None:
        self._prefixes.forget(replica_id.unique_id)
        self._loads.pop(replica_id, None)


def _blocks(request: PendingRequest | None) -> list[int]:
    """Of a prompt; texts to embed have nothing that would be kept."""
    command: Any = request.args[0] if request and request.args else None
    if not isinstance(command, Generate) or not command.options.get("cache_prompt", True):
        return []
    return blocks(command.prompt, command.options.get("cache_salt", ""))

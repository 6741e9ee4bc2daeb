"""A node comes back: what it missed, how long until it is in sync, and what that cost on the wire.

Nothing is written meanwhile, so everything that crosses the returned process's peer links is the price of
its return.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from services.dev.demo.watch import Watch
from services.dev.demo.wire import PeerTraffic
from services.dev.processes import ProcessId

IN_SYNC_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Comeback:
    bytes_sent: int
    """Both directions, as the kernel counted."""
    reconverge_ms: float
    since_exec_ms: float


async def come_back(watch: Watch, node: str, peer_ports: frozenset[int], start: Callable[[], ProcessId]) -> Comeback:
    """Starts the node's process by `start` and watches until it is in sync on every watched volume.

    Raises TimeoutError."""
    others = {status.node for seen in watch.seen.values() if (status := seen.primary)}
    executed_ns = time.monotonic_ns()
    traffic = PeerTraffic(start().pid, peer_ports)
    asked = {node, *others}

    def returned() -> bool:
        """The process answers over NATS, or already speaks to its peers."""
        return traffic.total > 0 or any(node in seen.statuses for seen in watch.seen.values())

    def in_sync() -> bool:
        return all(node in seen.in_sync for seen in watch.seen.values())

    await watch.until(f"{node} back", returned, IN_SYNC_TIMEOUT_S, nodes=asked, each=traffic.sample)
    returned_ns = time.monotonic_ns()
    await watch.until(f"{node} in sync", in_sync, IN_SYNC_TIMEOUT_S, nodes=asked, each=traffic.sample)
    end_ns = time.monotonic_ns()
    return Comeback(traffic.sample(), (end_ns - returned_ns) / 1e6, (end_ns - executed_ns) / 1e6)

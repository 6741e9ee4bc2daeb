"""A cluster is up when its nodes can be found: they are in the catalogue and answer on the bus.

A process that says "ready" has its sockets open; that NATS passes its messages on, and that the catalogue's
bucket was made, is seen only by asking.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress

from services.dev.layout import ADMIN, Layout
from services.dev.state import ClusterState
from stoscore import subjects
from stoscore.bus import Bus
from stoscore.catalogue import Catalogue
from stoscore.errors import Code, StosError
from stoscore.identity import Identity
from stoscore.messages import NodeStatus, NodeStatusRequest

_POLL_S = 0.05
_ASK_S = 2.0


def call_roll(layout: Layout, state: ClusterState, nodes: Iterable[str], timeout_s: float) -> None:
    """Returns when all of these nodes were found. Raises StosError UNAVAILABLE naming those that were not."""
    asyncio.run(_call_roll(layout, state, set(nodes), timeout_s))


async def _call_roll(layout: Layout, state: ClusterState, missing: set[str], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    bus = await Bus.connect(Identity.load(layout.identity(ADMIN)), list(state.nats_urls), name="stos-dev")
    try:
        while missing:
            missing -= await _found(bus, missing)
            if missing and time.monotonic() > deadline:
                names = ", ".join(sorted(missing))
                raise StosError(
                    Code.UNAVAILABLE,
                    f"{names} can't be found over NATS within {timeout_s:.0f} s",
                    next_step=f"see the logs in {layout.logs}",
                )
            await asyncio.sleep(_POLL_S if missing else 0)
    finally:
        await bus.close()


async def _found(bus: Bus, wanted: set[str]) -> set[str]:
    found = set()
    with suppress(StosError):
        for entry in await Catalogue(bus).nodes():
            if entry.node in wanted:
                await bus.request(
                    subjects.node(entry.node, "status"), NodeStatusRequest(), NodeStatus, timeout_s=_ASK_S
                )
                found.add(entry.node)
    return found

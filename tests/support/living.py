"""An identity in the test's own process that lives as in a service: on the bus, renewed, following the trust state."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from stoscore.bus import Bus
from stoscore.following import Follower
from stoscore.identity import Identity
from stoscore.renewal import keep_renewed


@asynccontextmanager
async def living(identity: Identity, nats_urls: list[str]) -> AsyncIterator[Bus]:
    """Its bus, connected. The tasks must still run at the end."""
    bus = await Bus.connect(identity, nats_urls, name=f"test {identity.name}")
    tasks = [
        asyncio.create_task(Follower(identity, bus).run()),
        asyncio.create_task(keep_renewed(identity, bus)),
    ]
    try:
        assert await bus.wait_connected(30)
        yield bus
        for task in tasks:
            assert not task.done(), task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await bus.close()

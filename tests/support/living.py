"""An identity in the test's own process that lives as in a service: on the bus, renewed, following the trust state."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from stoscore.bus import Bus
from stoscore.following import Follower
from stoscore.identity import Identity
from stoscore.renewal import keep_renewed


@asynccontextmanager
async def living(identity: Identity, nats_urls: list[str]) -> AsyncIterator[Bus]:
    """Its bus, connected."""
    bus = await Bus.connect(identity, nats_urls, name=f"test {identity.name}")
    try:
        async with kept_running(Follower(identity, bus).run(), keep_renewed(identity, bus)):
            assert await bus.wait_connected(30)
            yield bus
    finally:
        await bus.close()


@asynccontextmanager
async def kept_running(*jobs: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """They must still run at the end."""
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        yield
        for task in tasks:
            assert not task.done(), task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

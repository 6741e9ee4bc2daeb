"""What the demo sees of its volumes while they come and go."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from services.dev.demo.watch import Watch
from stoscore.bus import Bus
from stoscore.errors import unavailable
from stoscore.messages import ReplicaStatus


class Asked:
    """A bus on which n1 answers, and something happens meanwhile."""

    def __init__(self) -> None:
        self.meanwhile = lambda: None

    async def request(self, subject: str, *asked: Any, **named: Any) -> ReplicaStatus:
        self.meanwhile()
        await asyncio.sleep(0)
        if "n1" not in subject:
            raise unavailable("nobody answers")
        return ReplicaStatus(node="n1", incarnation="1" * 16, role="primary", epoch=1, serving=True, record=None)


async def test_a_volume_may_be_forgotten_while_it_is_asked_for() -> None:
    bus = Asked()
    watch = Watch(cast(Bus, bus), ("n1", "n2"))
    watch.add("data", "ab" * 16)
    watch.add("raw", "cd" * 16)
    bus.meanwhile = lambda: watch.forget("raw")
    await watch.look()
    assert list(watch.seen) == ["data"]
    assert list(watch.seen["data"].statuses) == ["n1"]

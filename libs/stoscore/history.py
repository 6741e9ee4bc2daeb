"""Past events, as the NATS service reads them out of their streams for who may look."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal

from stoscore import subjects
from stoscore.bus import Bus
from stoscore.messages import HistoryPage, HistoryRequest, KeptEvent

Kind = Literal["audit", "decision"]


async def read(bus: Bus, kind: Kind, *, since_unix_ms: int = 0, reporter: str = "") -> AsyncIterator[KeptEvent]:
    """Kept events of one kind, oldest first, to the newest of now. Raises StosError UNAVAILABLE, PERMISSION_DENIED."""
    after = 0
    while True:
        request = HistoryRequest(kind=kind, reporter=reporter, since_unix_ms=since_unix_ms, after=after)
        page = await bus.request(subjects.history("read"), request, HistoryPage, timeout_s=10.0)
        for event in page.events:
            yield event
        after = page.next
        if not after:
            return

"""The audit events of the running cluster, read as an administrator reads them."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from stoscore import subjects
from stoscore.bus import Bus
from stoscore.messages import HistoryPage, HistoryRequest

TIMEOUT_S = 15.0
_POLL_S = 0.1


class Trail:
    """Reads on from where it was."""

    def __init__(self) -> None:
        self._after = 0

    async def read(self, bus: Bus) -> list[dict[str, Any]]:
        """The events since the last call."""
        found = []
        after = self._after
        while True:
            request = HistoryRequest(kind="audit", after=after)
            page = await bus.request(subjects.history("read"), request, HistoryPage, timeout_s=10.0)
            for event in page.events:
                self._after = max(self._after, event.number)
                found.append(json.loads(event.body))
            if not page.next:
                return found
            after = page.next

    async def tells(self, bus: Bus, **wanted: str) -> dict[str, Any]:
        """Waits for an event whose fields match these patterns. Raises AssertionError with what came instead."""
        seen: list[dict[str, Any]] = []
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while True:
                    for event in await self.read(bus):
                        seen.append(event)
                        if all(re.search(pattern, str(event[key])) for key, pattern in wanted.items()):
                            return event
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            told = "\n".join(json.dumps(event) for event in seen[-20:])
            raise AssertionError(f"no audit event with {wanted}; there were:\n{told}") from None

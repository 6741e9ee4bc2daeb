"""Waiting for an audit event."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pydantic import ValidationError

from stoscore import history
from stoscore.bus import Bus
from stoscore.messages import AuditEvent


async def audited(bus: Bus) -> list[AuditEvent]:
    """All that is kept, but for what is no audit event: anybody may write rubbish below his own name."""
    found = []
    async for event in history.read(bus, "audit"):
        try:
            found.append(AuditEvent.model_validate_json(event.body))
        except ValidationError:
            continue
    return found


async def told(bus: Bus, matches: Callable[[AuditEvent], bool], timeout_s: float = 15.0) -> AuditEvent:
    """The latest one that matches, as soon as there is one. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while True:
            found = [event for event in await audited(bus) if matches(event)]
            if found:
                return found[-1]
            await asyncio.sleep(0.1)

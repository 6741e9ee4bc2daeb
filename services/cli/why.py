"""Finding a volume's decisions among the cluster's events."""

from __future__ import annotations

import re
import time

from pydantic import ValidationError

from services.cli.cluster import Session
from services.cli.story import Chapter, tell
from stoscore import history
from stoscore.errors import Code, StosError, invalid, not_found
from stoscore.messages import DecisionEvent

_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(\d{1,9})([smhd])", re.ASCII)


def since_unix_ms(since: str) -> int:
    """Raises StosError INVALID_ARGUMENT."""
    match = _DURATION.fullmatch(since)
    if match is None:
        raise invalid(f"{since!r} is no span of time", "write a number and s, m, h or d, such as 10m")
    return max(0, int((time.time() - int(match[1]) * _UNIT_S[match[2]]) * 1000))


async def decisions(session: Session, name: str, since: str) -> list[Chapter]:
    """The volume's story. A volume that was deleted is found by the name or id that its events have. Raises
    NOT_FOUND when there is neither the volume nor an event of it."""
    start = since_unix_ms(since)
    volume = await _id_of(session, name)
    events = []
    async for kept in history.read(session.bus, "decision", since_unix_ms=start):
        event = _read(kept.body)
        if event is not None and event.node == kept.reporter and _is_of(event, volume, name):
            events.append(event)
    if not events and volume is None:
        raise not_found(f"there is no volume {name!r}, and nothing was decided about one of that name within {since}")
    return tell(events)


async def _id_of(session: Session, name: str) -> str | None:
    try:
        entry, _ = await session.volumes.survey(name)
    except StosError as error:
        if error.code is not Code.NOT_FOUND:
            raise
        return None
    return entry.volume


def _is_of(event: DecisionEvent, volume: str | None, name: str) -> bool:
    return event.volume == volume if volume is not None else name in (event.volume, event.name)


def _read(body: str) -> DecisionEvent | None:
    """None for what another version wrote and this one can't read."""
    try:
        return DecisionEvent.model_validate_json(body)
    except ValidationError:
        return None

"""Past events, as the stream kept them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from stoscore.bus import Bus
from stoscore.errors import unavailable
from stoscore.nats_session import STATUS, Msg
from stoscore.subjects import EVENTS_STREAM, event

Kind = Literal["audit", "decision"]
PAGE = 500
END_OF_PAGE, NO_MESSAGES = "204", "404"


@dataclass(frozen=True, slots=True)
class KeptEvent:
    """One event. `body` is its JSON; the time is the stream's, `reporter` who may speak under that name."""

    at_unix_ms: int
    reporter: str
    body: str


async def read(bus: Bus, kind: Kind, *, since_unix_ms: int = 0, reporter: str = "") -> AsyncIterator[KeptEvent]:
    """Kept events of one kind, oldest first, to the newest of now. Raises StosError UNAVAILABLE, PERMISSION_DENIED."""
    since = datetime.fromtimestamp(since_unix_ms / 1000, UTC).isoformat()
    request: dict[str, object] = {"batch": PAGE, "next_by_subj": event(reporter or "*", kind), "start_time": since}
    while True:
        found = await bus.collect(f"$JS.API.DIRECT.GET.{EVENTS_STREAM}", json.dumps(request).encode(), _ends_page)
        end = found.pop()
        if end.headers.get(STATUS) not in (END_OF_PAGE, NO_MESSAGES):
            raise unavailable(f"the events can't be read: {end.headers.get('Description', 'JetStream refused')}")
        for msg in found:
            yield _kept(msg)
        if not found or end.headers.get("Nats-Num-Pending", "0") == "0":
            return
        request = {"batch": PAGE, "next_by_subj": request["next_by_subj"], "seq": int(_sequence(found[-1])) + 1}


def _ends_page(msg: Msg) -> bool:
    return not msg.data and STATUS in msg.headers


def _sequence(msg: Msg) -> str:
    return msg.headers.get("Nats-Sequence", "0")


def _kept(msg: Msg) -> KeptEvent:
    subject, stamp = msg.headers.get("Nats-Subject", ""), msg.headers.get("Nats-Time-Stamp", "")
    at = datetime.fromisoformat(f"{stamp[:19]}+00:00")
    millis = int((stamp[20:].rstrip("Z") + "000")[:3]) if len(stamp) > 20 else 0
    reporter = subject.split(".")[-2]
    return KeptEvent(int(at.timestamp()) * 1000 + millis, reporter, msg.data.decode("utf-8", "replace"))

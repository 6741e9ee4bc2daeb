"""Past events out of their streams, for who asks: read one by one, since nobody may make a consumer.

A page is bounded in events and bytes. Where to begin for a time is found by bisection: the numbers of a stream rise
with time and, but for what fell off its old end, without gaps.
"""

from __future__ import annotations

from typing import Any

from stoscore import jetstream, subjects
from stoscore.bus import Bus, RequestContext
from stoscore.errors import StosError, invalid
from stoscore.messages import HistoryPage, HistoryRequest, KeptEvent
from stoscore.subjects import AUDIT_STREAM, EVENTS, EVENTS_STREAM

STREAM = {"audit": AUDIT_STREAM, "decision": EVENTS_STREAM}
PAGE = 200
PAGE_BYTES = 512 << 10
ANSWER_S = 0.5
"""Kept of the asker's time: a page that takes longer ends early."""
QUEUE = "nats"


class History:
    """Answers history.read."""

    def __init__(self, bus: Bus):
        self._bus = bus

    async def serve(self) -> None:
        await self._bus.serve(subjects.history("read"), HistoryRequest, self._read, queue=QUEUE)

    async def _read(self, request: HistoryRequest, context: RequestContext) -> HistoryPage:
        stream = STREAM[request.kind]
        if request.reporter.count(":") > 1:
            raise invalid(f"{request.reporter!r} reports nothing", "a node's name, or svc:<name>")
        state = (await jetstream.info(self._bus, stream))["state"]
        sequence = max(int(state["first_seq"]), request.after + 1)
        if request.since_unix_ms and not request.after:
            sequence = await self._first_since(stream, state, request.since_unix_ms)
        wanted = f"{EVENTS}.{request.reporter or '*'}.{request.kind}"
        events: list[KeptEvent] = []
        size = 0
        while len(events) < PAGE and size < PAGE_BYTES:
            stored = await jetstream.find(self._bus, stream, {"seq": sequence, "next_by_subj": wanted})
            if stored is None:
                return HistoryPage(events=events, next=0)
            event = _kept(stored)
            size += len(event.body)
            events.append(event)
            sequence = stored.sequence + 1
            if context.left_s() < ANSWER_S:
                break
        return HistoryPage(events=events, next=events[-1].number)

    async def _first_since(self, stream: str, state: dict[str, Any], since_unix_ms: int) -> int:
        """The number of the first event that was kept at that time or later."""
        low, high = int(state["first_seq"]), int(state["last_seq"]) + 1
        while low < high:
            middle = (low + high) // 2
            stored = await self._at(stream, middle)
            if stored is not None and stored.at_unix_ms >= since_unix_ms:
                high = middle
            else:
                low = middle + 1
        return low

    async def _at(self, stream: str, sequence: int) -> jetstream.Stored | None:
        """None when it was dropped meanwhile: it was older than all that is there."""
        try:
            return await jetstream.find(self._bus, stream, {"seq": sequence})
        except StosError as error:
            if error.details.get("err_code") == jetstream.NOTHING_FOUND:
                return None
            raise


def _kept(stored: jetstream.Stored) -> KeptEvent:
    return KeptEvent(
        number=stored.sequence,
        at_unix_ms=stored.at_unix_ms,
        reporter=stored.subject.removeprefix(f"{EVENTS}.").rpartition(".")[0],
        body=stored.data.decode("utf-8", "replace"),
    )

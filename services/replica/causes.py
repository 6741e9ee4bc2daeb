"""What led to what, across time: an election to the silence before it and to the resync that it made necessary.

Parent and child can't say it: the silence was there before, and the copy comes back when it likes. So the spans are
linked: a leader's election names the spans of the silent voters, and promises the spans of their resyncs, whose ids
are drawn there and then.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from services.replica.replication.effects import ResyncDone
from stoscore import telemetry
from stoscore.spans import Link, link_to
from stoscore.units import MS

MISSED, RESYNC, FAILOVER = "missed beats", "resync", "failover"
_ELECTION = ("stand", "lead")
PROMISED_MAX = 10_000
"""Resyncs that were promised and have not come; the oldest are forgotten."""


class Causes:
    """One node's memory of who was lost, and of whose elections followed."""

    def __init__(self) -> None:
        self._lost: dict[str, str] = {}
        """node -> span of its loss, until it is back"""
        self._back_ns: dict[str, int] = {}
        self._promised: dict[tuple[str, str], str] = {}
        """(volume, node) -> span that its resync will have"""
        self._stood: dict[str, str] = {}
        """volume -> span of the last time that this node asked for votes, until it leads"""
        self._elected: dict[str, str] = {}
        """volume -> span of the election that it is led by"""

    def link_down(self, node: str, reason: str) -> None:
        self._lost[node] = telemetry.record("peer.lost", 0, error=reason, peer=node)

    def link_up(self, node: str) -> None:
        self._lost.pop(node, None)
        self._back_ns[node] = time.monotonic_ns()

    def of(self, kind: str, volume: str, voters: Iterable[str]) -> tuple[Link, ...]:
        """What a decision of that kind is linked to."""
        if kind not in _ELECTION:
            return ()
        found: list[Link | None] = []
        for node in voters:
            if node in self._lost:
                found.append(link_to(self._lost[node], MISSED))
                if kind == "lead":
                    found.append(link_to(self._promise(volume, node), RESYNC))
        return tuple(link for link in found if link is not None)

    def parent(self, kind: str, volume: str) -> str:
        """What a decision that nobody asked for is a part of: a leader's election of its own standing for it."""
        return self._stood.get(volume, "") if kind == "lead" else ""

    def decided(self, kind: str, volume: str, traceparent: str) -> None:
        if kind == "stand":
            self._stood[volume] = traceparent
        elif kind == "lead":
            self._elected[volume] = traceparent
            self._stood.pop(volume, None)

    def resynced(self, volume: str, done: ResyncDone) -> None:
        """From the return of its link until it held everything."""
        node, foretold = done.node, done.estimate
        link = link_to(self._elected.get(volume, ""), FAILOVER)
        began_ns = self._back_ns.get(node, time.monotonic_ns())
        telemetry.record(
            "resync",
            time.monotonic_ns() - began_ns,
            links=(link,) if link is not None else (),
            promised=self._promised.pop((volume, node), ""),
            volume=volume,
            peer=node,
            compared_blocks=done.blocks_compared,
            sent_blocks=done.blocks_sent,
            sent_bytes=max(0, done.bytes_sent - done.bytes_spared),
            spared_bytes=done.bytes_spared,
            estimated_bytes=foretold.bytes.likely if foretold is not None else 0,
            estimated_ms=foretold.duration_ns.likely // MS if foretold is not None else 0,
            took_ms=done.took_ns // MS,
        )

    def _promise(self, volume: str, node: str) -> str:
        if len(self._promised) >= PROMISED_MAX:
            del self._promised[next(iter(self._promised))]
        return self._promised.setdefault((volume, node), telemetry.promise())

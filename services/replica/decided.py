"""Decisions on their way out: one span, one log line and one event each.

Decisions are at their most interesting when things are broken, the bus among them: events that could not be sent wait,
in order and bounded, and leave when the bus is back. They are told for people and never acted on.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from typing import Any

from services.replica.brain import events as ev
from services.replica.brain import lost_voter
from services.replica.replication import effects as fx
from services.replica.replication.estimate import Band
from stoscore import subjects
from stoscore.bus import Bus
from stoscore.messages import DecisionEvent
from stoscore.spans import Link
from stoscore.telemetry import get_logger, span
from stoscore.units import MS, SECOND, format_size

log = get_logger("replica")
BLOCKS_TOLD_MAX = 16
WAITING_MAX = 10_000
"""Beyond it the oldest is dropped: a thousand volumes' worth of elections."""


class Decisions:
    """One node's decisions."""

    def __init__(self, node: str, bus: Bus):
        self._node = node
        self._bus = bus
        self.counted: Counter[str] = Counter()
        """by kind"""
        self._waiting: deque[DecisionEvent] = deque(maxlen=WAITING_MAX)
        bus.on_connected.append(self._send_waiting)

    def tell(self, volume: str, name: str, explain: ev.Explain, at_ns: int, links: tuple[Link, ...] = ()) -> str:
        """`at_ns`: this node's clock. `links`: what its span has to do with. Gives its traceparent."""
        self.counted[explain.kind] += 1
        about: dict[str, Any] = {"volume": volume, "epoch": explain.epoch, "version": explain.version}
        told: dict[str, Any] = {f"input.{key}": _flat(value) for key, value in explain.inputs.items()}
        title = f"brain {explain.kind}"
        with span(title, explain.cause or None, links=links, outcome=explain.outcome, **about, **told) as opened:
            log.info("%s: %s", explain.kind, explain.outcome, extra={**about, "inputs": dict(explain.inputs)})
            event = DecisionEvent(
                volume=volume,
                name=name,
                node=self._node,
                kind=explain.kind,
                epoch=explain.epoch,
                version=explain.version,
                inputs=dict(explain.inputs),
                outcome=explain.outcome,
                alternatives=list(explain.alternatives),
                cause=opened.traceparent,
                at_ns=at_ns,
            )
        self._waiting.append(event)
        self._send()
        return event.cause

    def tell_lost(self, volume: str, reason: str, at_ns: int) -> None:
        """A voter that has no brain to speak for it."""
        self.tell(volume, "", lost_voter(self._node, reason), at_ns)

    def tell_damage(self, volume: str, name: str, epoch: int, damage: fx.Damage, at_ns: int) -> None:
        """No decision, but what a volume's story must not leave out."""
        count = sum(length for _, length in damage.blocks)
        what = f"{count} block{'s' if count > 1 else ''} of {damage.node}"
        if damage.kind == "differing":
            outcome = f"{what} differed from {damage.source}'s, which were kept, though both matched their checksums"
        elif damage.source:
            outcome = f"{what}, rotten, healed from {damage.source}"
        else:
            outcome = f"{what}, rotten, could not be healed: no other copy has them, and reading them fails"
        inputs = {
            "node": damage.node,
            "found": damage.kind,
            "source": damage.source,
            "blocks": [list(piece) for piece in damage.blocks[:BLOCKS_TOLD_MAX]],
            "count": count,
        }
        self.tell(volume, name, ev.Explain("heal", outcome, inputs, epoch=epoch), at_ns)

    def tell_resync(self, volume: str, name: str, begins: fx.ResyncBegins, at_ns: int) -> None:
        """What a copy's return will cost, before the first block of it is sent."""
        size, time = begins.estimate.bytes, begins.estimate.duration_ns
        outcome = (
            f"{begins.node} lacks about {format_size(size.likely)} ({format_size(size.low)} to "
            f"{format_size(size.high)}): about {_seconds(time.likely)} ({_seconds(time.low)} to {_seconds(time.high)})"
        )
        inputs = {"node": begins.node, "bytes": _band(size), "duration_ms": [value // MS for value in _band(time)]}
        self.tell(volume, name, ev.Explain("resync", outcome, inputs), at_ns)

    def tell_resynced(self, volume: str, name: str, done: fx.ResyncDone, at_ns: int) -> None:
        """What it has cost, beside what was foretold."""
        assert done.estimate is not None
        foretold = done.estimate
        outcome = (
            f"{done.node} holds everything: {format_size(done.bytes_sent)} in {_seconds(done.took_ns)}, foretold were "
            f"{format_size(foretold.bytes.likely)} in {_seconds(foretold.duration_ns.likely)}"
        )
        if done.bytes_spared:
            outcome += f"; packing spared {format_size(done.bytes_spared)}"
        inputs = {
            "node": done.node,
            "bytes": done.bytes_sent,
            "spared_bytes": done.bytes_spared,
            "duration_ms": done.took_ns // MS,
            "foretold_bytes": foretold.bytes.likely,
            "foretold_ms": foretold.duration_ns.likely // MS,
            "blocks_compared": done.blocks_compared,
            "blocks_sent": done.blocks_sent,
        }
        self.tell(volume, name, ev.Explain("resynced", outcome, inputs), at_ns)

    def _send(self) -> None:
        subject = subjects.event(self._node, "decision")
        while self._waiting and self._bus.connected and self._bus.send(subject, self._waiting[0]):
            self._waiting.popleft()

    async def _send_waiting(self) -> None:
        self._send()


def _band(band: Band) -> list[int]:
    return [band.low, band.likely, band.high]


def _seconds(duration_ns: int) -> str:
    return f"{duration_ns / SECOND:.2f} s"


def _flat(value: object) -> str | int:
    """As an attribute of a span, which has no place for lists and objects."""
    return value if isinstance(value, str | int) else json.dumps(value)

"""This node and each other node as a pair: beats, promises, and who is there; the same for all volumes that they share.

    the link is up     beats go over it            there for everything
    the link is down   beats go over the bus       heard: it votes and promises, and takes no data
    neither answers    beats probe the bus         gone

A pair costs the same messages for one volume as for a thousand. What leaves by which way is decided here alone: over
our link when it is up, else over the bus, which is no order and no end of anything (see `brain.promises`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from services.replica.brain import Beat, BeatAnswer, Claims, Confirm, Detector, PairMessage, Promises, Timing
from services.replica.driver.orders import HangUp, Order, ToPeer


@dataclass(frozen=True, slots=True)
class Heard:
    """What a message between two nodes has changed for their volumes."""

    up: bool = False
    """The node is there again, on our link."""
    on_bus: bool = False
    """The node is heard over the bus, and was not."""
    answered: bool = False
    """It answers one of our beats: a lease may hold again."""
    lost: tuple[str, ...] = ()
    """Volumes that it does not lead any more."""
    uncovered: tuple[str, ...] = ()
    """Volumes for which it promises us nothing any more."""


NOTHING = Heard()


class Pairs:
    """All pairs of one node. Its orders go to `order`."""

    def __init__(self, timing: Timing, nonce: int, now_ns: int, order: Callable[[Order], None]):
        self.timing = timing
        self.promises = Promises(timing, nonce)
        self.links = Detector(timing.suspect_ns)
        self.bus = Detector(timing.suspect_ns)
        self.linked: set[str] = set()
        self.heard_ns: dict[str, int] = {}
        """Node -> when any word of it came last, on whatever way."""
        self.linked_ns: dict[str, int] = {}
        """The same, over a link, theirs or ours."""
        self.awake_since_ns = 0
        self.next_beat_ns = now_ns
        self._order = order
        self._next_probe_ns = now_ns
        self._owed: dict[str, PairMessage] = {}
        """Node -> what we promise it now, which it has not been told."""

    # ---- links ----------------------------------------------------------------------------------------

    def link_up(self, node: str, now_ns: int) -> None:
        self.linked.add(node)
        self.links.expect(node, now_ns)
        self.say(self.promises.link_up(node))
        self._order(ToPeer(node, self.promises.beat(node, now_ns)))

    def link_down(self, node: str, now_ns: int) -> bool:
        """True when the node was there."""
        self.linked.discard(node)
        self._next_probe_ns = now_ns  # it may be the link alone
        return self.links.link_lost(node)

    # ---- messages -------------------------------------------------------------------------------------

    def say(self, messages: list[tuple[str, PairMessage]]) -> None:
        for node, message in messages:
            owed = self._owed.pop(node, None) if isinstance(message, Confirm | BeatAnswer) else None
            if owed is not None and isinstance(message, BeatAnswer):
                self._order(ToPeer(node, owed, by_bus=node not in self.linked))
            self._order(ToPeer(node, message, by_bus=node not in self.linked))

    def claim(self, messages: list[tuple[str, PairMessage]]) -> None:
        """Only to who is there: whoever is heard again answers as if it had not heard of our claims, and is told."""
        self.say([(node, message) for node, message in messages if node in self.linked or self.bus.up(node)])

    def owe(self, messages: list[tuple[str, PairMessage]]) -> None:
        """What our own steps have changed of our promises: said with the next answer to the node's beats, which alone
        makes a promise. *All volumes that two nodes share store a new epoch within a moment, each list tells of all of
        them, and half went over the bus to a node that was dead: 1,000 volumes made 20 MiB.*"""
        self._owed.update(messages)

    def received(
        self,
        node: str,
        message: PairMessage,
        now_ns: int,
        stores: Callable[[str, int, int], bool],
        others: frozenset[str],
        *,
        by_bus: bool,
    ) -> Heard:
        """A beat that came by link is answered if the node is one of the `others`, or linked. *Each copy that does not
        lead answered the node where its volume is used, at every beat and over the bus, for it had no other way.*"""
        self.heard_ns[node] = now_ns
        if not by_bus:
            self.linked_ns[node] = now_ns
        match message:
            case Beat() if by_bus or node in self.linked or node in others:
                self.say([(node, self.promises.on_beat(node, message, now_ns))])
            case BeatAnswer():
                if self.promises.on_answer(node, message):
                    return self._answered(node, message, now_ns, by_bus=by_bus)
            case Claims():
                messages, lost = self.promises.on_claims(node, message, stores)
                self.say(messages)
                return Heard(lost=tuple(lost))
            case Confirm():
                return Heard(uncovered=self.promises.on_confirm(node, message))
        return NOTHING

    def _answered(self, node: str, answer: BeatAnswer, now_ns: int, *, by_bus: bool) -> Heard:
        if not self.promises.fits(node, answer):
            # A message got lost, or another process answers, or late claims of our process before came by the bus: the
            # link stood, and nobody would have told that we lead.
            self.say(self.promises.announce(node))
        if not by_bus:
            # A late answer after the end of our own link says nothing about the link: were it counted, the peer's
            # coming back would go unnoticed.
            up = node in self.linked and self.links.heard(node, now_ns)
            if up:
                self.bus.link_lost(node)
            return Heard(up=up, answered=True)
        return Heard(on_bus=not self.links.up(node) and self.bus.heard(node, now_ns), answered=True)

    # ---- time -----------------------------------------------------------------------------------------

    def beats_due(self, now_ns: int) -> bool:
        return now_ns >= self.next_beat_ns

    def overslept(self, now_ns: int) -> bool:
        """We were paused ourselves: what the others said meanwhile still waits in our sockets."""
        return now_ns - self.next_beat_ns > self.timing.beat_ns

    def excuse(self, now_ns: int) -> None:
        self.links.excuse(now_ns)
        self.bus.excuse(now_ns)
        self.awake_since_ns = now_ns

    def beat(self, others: frozenset[str], now_ns: int) -> None:
        """To everybody linked, and over the bus to `others` who are not: at every beat to who answers there, seldom to
        who does not."""
        self.next_beat_ns = now_ns + self.timing.beat_ns
        probing = now_ns >= self._next_probe_ns
        if probing:
            self._next_probe_ns = now_ns + self.timing.lease_ns
        for node in sorted(self.linked):
            self._order(ToPeer(node, self.promises.beat(node, now_ns)))
        for node in sorted(others - self.linked):
            if probing or self.bus.up(node):
                self._order(ToPeer(node, self.promises.beat(node, now_ns), by_bus=True))

    def silent(self, others: frozenset[str], now_ns: int) -> list[str]:
        """Nodes that have just become silent on their links. These are ended, and those on which nobody ever answered,
        so that the way over the bus is free and a new link is made. Only `others` answer: a copy that does not lead has
        no link to the node where its volume is used. *That one made new links, with a handshake, twice a second.*"""
        gone = self.links.silent(now_ns)
        for node in [*gone, *(node for node in self.links.unheard(now_ns) if node in others)]:
            self._order(HangUp(node))
        return gone

    def silent_on_bus(self, now_ns: int) -> list[str]:
        return self.bus.silent(now_ns)

"""Links and the other way: what can happen to a message between two nodes.

A link is a TCP connection, one per ordered pair of nodes, dialled by the first: FIFO and without loss as long as it
lives, both ways. While a direction is cut its messages wait, and arrive late when the cut heals in time. A broken
link delivers a prefix of what was on its way; each end learns of it at a moment of its own.

NATS is the other way: it loses, doubles, delays and reorders.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, Protocol

from stoscore.units import MS, SECOND

QUICK_NS = (MS // 10, MS)
NATS_LOSS = 0.1
NATS_DOUBLES = 0.1


class End(Protocol):
    """What a node does with its links."""

    name: str

    def dialled(self, link: Link) -> None: ...
    def accepted(self, link: Link) -> None: ...
    def dialler_end(self, link: Link) -> None: ...
    def acceptor_end(self, link: Link) -> None: ...
    def from_dialler(self, link: Link, message: Any) -> None: ...
    def from_acceptor(self, link: Link, message: Any) -> None: ...
    def listening(self) -> bool: ...


class Clock(Protocol):
    """The world's time."""

    now_ns: int

    def schedule(self, delay_ns: int, what: Callable[..., None], *arguments: Any) -> None: ...


class Lane:
    """One direction of a link."""

    __slots__ = ("armed", "last_ns", "pair", "queue", "source", "target")

    def __init__(self, source: str, target: str):
        self.source = source
        self.target = target
        self.pair = (source, target)
        self.queue: deque[tuple[int, Any]] = deque()
        self.last_ns = 0
        self.armed = False


class Link:
    __slots__ = ("acceptor", "acceptor_knows", "back", "broken", "dialler", "dialler_knows", "forth", "number")

    def __init__(self, number: int, dialler: End, acceptor: End):
        self.number = number
        self.dialler = dialler
        self.acceptor = acceptor
        self.forth = Lane(dialler.name, acceptor.name)
        self.back = Lane(acceptor.name, dialler.name)
        self.broken = False
        self.dialler_knows = False
        self.acceptor_knows = False

    def __repr__(self) -> str:
        return f"link {self.number} {self.dialler.name}->{self.acceptor.name}"

    def ends(self) -> tuple[str, str]:
        return self.dialler.name, self.acceptor.name


class Network:
    def __init__(self, rng: Random, delay_ns: tuple[int, int], clock: Clock):
        self._random = rng.random
        self._rng = rng
        self._clock = clock
        self._ends: dict[str, End] = {}
        self._links: list[Link] = []
        self._number = 0
        self.cuts: dict[tuple[str, str], int] = {}
        """(source, target) -> how many faults cut it."""
        self.lags: dict[tuple[str, str], tuple[int, int]] = {}
        """(source, target) -> least and most delay of a message, beyond the usual."""
        self.nats_down: set[str] = set()
        self.usual_ns = delay_ns
        self.delay_ns = delay_ns
        """Of one message, least and most."""

    def join(self, end: End) -> None:
        self._ends[end.name] = end

    # ---- links ----------------------------------------------------------------------------------------

    def dial(self, dialler: End, node: str) -> Link | None:
        """A new link, when the other side listens and nothing is cut. Both ends are told."""
        acceptor = self._ends[node]
        cut = (dialler.name, node) in self.cuts or (node, dialler.name) in self.cuts
        if cut or not acceptor.listening():
            return None
        self._number += 1
        link = Link(self._number, dialler, acceptor)
        self._links.append(link)
        acceptor.accepted(link)
        dialler.dialled(link)
        return link

    def send(self, link: Link, message: Any, *, back: bool = False) -> None:
        if link.broken:
            return
        lane = link.back if back else link.forth
        low, high = self.delay_ns
        if self.lags:
            low, high = self.lags.get(lane.pair, self.delay_ns)
        due = self._clock.now_ns + low + int(self._random() * (high - low))
        if due < lane.last_ns:
            due = lane.last_ns
        lane.last_ns = due
        lane.queue.append((due, message))
        if not lane.armed:
            self._arm(link, lane)

    def _arm(self, link: Link, lane: Lane) -> None:
        if lane.armed or not lane.queue or (self.cuts and lane.pair in self.cuts):
            return
        lane.armed = True
        wait_ns = lane.queue[0][0] - self._clock.now_ns
        self._clock.schedule(wait_ns if wait_ns > 0 else 0, self._deliver, link, lane)

    def _deliver(self, link: Link, lane: Lane) -> None:
        lane.armed = False
        if self.cuts and lane.pair in self.cuts:
            return
        now, queue, forth = self._clock.now_ns, lane.queue, lane is link.forth
        while queue and queue[0][0] <= now:
            _, message = queue.popleft()
            if forth:
                if not link.acceptor_knows:
                    link.acceptor.from_dialler(link, message)
            elif not link.dialler_knows:
                link.dialler.from_acceptor(link, message)
        if queue:
            self._arm(link, lane)

    def break_link(self, link: Link, *, told: bool = True) -> None:
        """A prefix of what is on its way still arrives. `told`: the other side's host says so (RST, FIN)."""
        if link.broken:
            return
        link.broken = True
        self._links.remove(link)
        for lane in (link.forth, link.back):
            cut = lane.pair in self.cuts
            keep = 0 if cut else self._rng.randint(0, len(lane.queue))
            while len(lane.queue) > keep:
                lane.queue.pop()
        rng = self._rng
        soon, late = (MS, 20 * MS), (200 * MS, 3 * SECOND)
        there, back = link.ends(), link.ends()[::-1]
        quick = told and there not in self.cuts and back not in self.cuts
        floor = max(0, max(link.forth.last_ns, link.back.last_ns) - self._clock.now_ns) + 1
        self._clock.schedule(floor + rng.randint(*(soon if quick else late)), self.close_dialler, link)
        self._clock.schedule(floor + rng.randint(*(soon if quick else late)), self.close_acceptor, link)

    def close_dialler(self, link: Link) -> None:
        self.break_link(link)
        if not link.dialler_knows:
            link.dialler_knows = True
            link.dialler.dialler_end(link)

    def close_acceptor(self, link: Link) -> None:
        self.break_link(link)
        if not link.acceptor_knows:
            link.acceptor_knows = True
            link.acceptor.acceptor_end(link)

    def process_died(self, node: str, *, told: bool) -> None:
        for link in [link for link in self._links if node in link.ends()]:
            self.break_link(link, told=told)
            # What the dead process sent last may arrive; nothing reaches it any more.
            if link.dialler.name == node:
                link.dialler_knows = True
            if link.acceptor.name == node:
                link.acceptor_knows = True

    def links(self) -> list[Link]:
        return list(self._links)

    # ---- faults ---------------------------------------------------------------------------------------

    def cut(self, source: str, target: str) -> None:
        self.cuts[source, target] = self.cuts.get((source, target), 0) + 1

    def heal(self, source: str, target: str) -> None:
        """Ends one fault's cut."""
        left = self.cuts.get((source, target), 0) - 1
        if left > 0:
            self.cuts[source, target] = left
            return
        self.cuts.pop((source, target), None)
        for link in self._links:
            for lane in (link.forth, link.back):
                self._arm(link, lane)

    def heal_all(self, but: set[str]) -> None:
        """Everything, except what concerns the nodes in `but`."""
        for pair in sorted(self.cuts):
            if not but.intersection(pair):
                self.cuts[pair] = 1
                self.heal(*pair)
        self.lags = {pair: lag for pair, lag in self.lags.items() if but.intersection(pair)}
        self.nats_down &= but
        self.delay_ns = self.usual_ns if but else QUICK_NS

    # ---- NATS -----------------------------------------------------------------------------------------

    def publish(self, source: str, target: str, deliver: Callable[[], None], *, lossy: bool) -> None:
        rng = self._rng
        if source in self.nats_down or target in self.nats_down or (lossy and rng.random() < NATS_LOSS):
            return
        for _ in range(2 if lossy and rng.random() < NATS_DOUBLES else 1):
            delay = rng.randint(MS, 60 * MS) if lossy else rng.randint(MS, 5 * MS)
            self._clock.schedule(delay, deliver)

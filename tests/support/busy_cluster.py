"""Nodes that have too much to do: each handles one thing after another, and its disk stores one hard state at a time.

What arrives waits until the node has handled what came before, timers too. So a node answers late, though nothing is
lost and nobody is gone: as when a hundred volumes lose their primary at the same moment.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

from services.replica.brain import Voter
from services.replica.driver import Node, Save
from stoscore.units import MS
from tests.support.pure_cluster import PureCluster

WIRE_NS = MS // 5


class BusyCluster(PureCluster):
    """Idle until `load` says how long everything takes."""

    def __init__(self, voters: Iterable[Voter], *, volumes: Iterable[str]):
        self._event_ns = self._save_ns = 0
        self._numbered = count()
        self._coming: list[tuple[int, int, str, Callable[[], None] | None]] = []
        """(when, in which order, to which node, what); None: the node is free again."""
        self._inbox: dict[str, deque[Callable[[], None]]] = {}
        self._free_ns: dict[str, int] = {}
        self._disk_free_ns: dict[str, int] = {}
        self._timer_ns: dict[str, int] = {}
        super().__init__(voters, volumes=volumes)

    def load(self, *, event_ns: int, save_ns: int) -> None:
        self._event_ns, self._save_ns = event_ns, save_ns

    def run(self, ms: int) -> None:
        end_ns = self.now_ns + ms * MS
        for name in sorted(self.nodes.keys() - self.down):
            self._settled(name)
        while self._coming and self._coming[0][0] <= end_ns:
            self.now_ns, _, name, what = heapq.heappop(self._coming)
            if name in self.down:
                continue
            inbox = self._inbox.setdefault(name, deque())
            if what is not None:
                inbox.append(what)
            if inbox and self._free_ns.get(name, 0) <= self.now_ns:
                inbox.popleft()()
                self._free_ns[name] = self.now_ns + self._event_ns
                self._come(self._free_ns[name], name, None)
                self._settled(name)
        self.now_ns = end_ns

    def _come(self, at_ns: int, name: str, what: Callable[[], None] | None) -> None:
        heapq.heappush(self._coming, (at_ns, next(self._numbered), name, what))

    def _settled(self, name: str) -> None:
        """As the shell does it: perform the orders, then set the one timer."""
        node = self.nodes[name]
        for order in node.take():
            self._perform(name, node, order)
        due_ns = node.next_deadline_ns()
        if due_ns is not None and due_ns < self._timer_ns.get(name, due_ns + 1):
            self._timer_ns[name] = due_ns
            self._come(max(due_ns, self.now_ns), name, lambda: self._rang(name, due_ns))

    def _rang(self, name: str, due_ns: int) -> None:
        if self._timer_ns.get(name) == due_ns:
            del self._timer_ns[name]
            self.nodes[name].time_passed(self.now_ns)

    def _later(self, target: str, what: Callable[[], None]) -> None:
        self._come(self.now_ns + WIRE_NS, target, what)

    def _perform(self, name: str, node: Node, order: Any) -> None:
        if isinstance(order, Save):
            volume, ticket = order.volume, order.ticket
            done_ns = max(self.now_ns, self._disk_free_ns.get(name, 0)) + self._save_ns
            self._disk_free_ns[name] = done_ns
            self._come(done_ns, name, lambda: node.disk.saved(volume, ticket, self.now_ns))
        else:
            super()._perform(name, node, order)

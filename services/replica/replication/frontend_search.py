"""Whom a frontend asks for a session, and when, while it looks for the volume's primary.

Everybody that may be it is asked at once, each with a session number of its own. Who refuses is asked again
after a pause that grows with the length of the search (a volume without a majority may stay away for hours,
and a node may have a thousand volumes); who does not answer, only after its patience is over, because the
answer to an older question is not accepted and a primary that is still settling would otherwise never be
heard. A hint moves a node forward, but never below the pause, so that two nodes that point at each other
cost no storm of messages.
"""

from __future__ import annotations

from collections.abc import Iterable, KeysView

from stoscore.units import MS, SECOND

PAUSE_NS_MIN = 30 * MS
PAUSE_NS_MAX = 500 * MS
PAUSE_SHARE = 16
"""A pause is this share of the time searched so far, within the limits above."""
PATIENCE_NS_MIN = 500 * MS
PATIENCE_NS_MAX = 8 * SECOND
NODES_MAX = 32
"""Nodes known at most; hints beyond it are not learned."""

assert PAUSE_NS_MIN < PAUSE_NS_MAX <= PATIENCE_NS_MIN < PATIENCE_NS_MAX


class _Node:
    __slots__ = ("asked_ns", "next_ns", "patience_ns", "session", "up")

    def __init__(self) -> None:
        self.up = False
        self.session = 0
        """The newest one asked for and not answered."""
        self.asked_ns: int | None = None
        self.next_ns = 0
        self.patience_ns = PATIENCE_NS_MIN


class PrimarySearch:
    def __init__(self, nodes: Iterable[str]):
        self._nodes = {node: _Node() for node in nodes}
        self._since_ns = 0

    def nodes(self) -> KeysView[str]:
        """Everybody that may be the primary."""
        return self._nodes.keys()

    def use(self, nodes: Iterable[str]) -> None:
        """These and no others hold the volume from now on."""
        self._nodes = {node: self._nodes.get(node) or _Node() for node in nodes}

    def link_up(self, node: str) -> None:
        """It may be asked at once; an older question went with the older link."""
        known = self._learn(node)
        if known is not None:
            known.up, known.session, known.next_ns, known.patience_ns = True, 0, 0, PATIENCE_NS_MIN

    def link_down(self, node: str) -> None:
        if node in self._nodes:
            self._nodes[node].up, self._nodes[node].session = False, 0

    def begin(self, now_ns: int, refused_by: str = "") -> None:
        """The session is lost: ask everybody now, but who just refused after the pause."""
        self._since_ns = now_ns
        for node, known in self._nodes.items():
            if not known.session:
                known.next_ns = now_ns + (PAUSE_NS_MIN if node == refused_by else 0)

    def due(self, now_ns: int, besides: str = "") -> list[str]:
        """Nodes to ask now. `besides`: the one that serves and must not be disturbed."""
        return [node for node, known in self._nodes.items() if known.up and known.next_ns <= now_ns and node != besides]

    def asked(self, node: str, session: int, now_ns: int) -> None:
        known = self._nodes[node]
        if known.session:
            known.patience_ns = min(2 * known.patience_ns, PATIENCE_NS_MAX)
        known.session = session
        known.asked_ns = now_ns
        known.next_ns = now_ns + known.patience_ns

    def answered(self, node: str, session: int, now_ns: int) -> bool:
        """False when this was not the newest question to that node. It may be asked again after a pause."""
        known = self._nodes.get(node)
        if known is None or not session or known.session != session:
            return False
        known.session = 0
        known.patience_ns = PATIENCE_NS_MIN
        pause_ns = (now_ns - self._since_ns) // PAUSE_SHARE
        known.next_ns = now_ns + min(max(pause_ns, PAUSE_NS_MIN), PAUSE_NS_MAX)
        return True

    def hint(self, node: str, now_ns: int) -> None:
        """Somebody takes `node` for the primary."""
        known = self._learn(node)
        if known is not None and not known.session:
            earliest_ns = now_ns if known.asked_ns is None else max(now_ns, known.asked_ns + PAUSE_NS_MIN)
            known.next_ns = min(known.next_ns, earliest_ns)

    def serving(self, node: str, now_ns: int) -> None:
        """`node` itself says, in a newer epoch, that it serves: ask it now, also if a question is open,
        which it may have refused before it won."""
        known = self._learn(node)
        if known is not None:
            known.session, known.next_ns = 0, now_ns

    def next_ns(self) -> int | None:
        """When somebody is to be asked; None while no link is up."""
        return min((known.next_ns for known in self._nodes.values() if known.up), default=None)

    def _learn(self, node: str) -> _Node | None:
        if node not in self._nodes and len(self._nodes) < NODES_MAX and node:
            self._nodes[node] = _Node()
        return self._nodes.get(node)

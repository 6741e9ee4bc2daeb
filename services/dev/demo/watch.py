"""What the nodes say of the demo's volumes, asked over NATS a few times a second, for view and waiting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from stoscore import subjects
from stoscore.bus import Bus
from stoscore.errors import StosError
from stoscore.messages import DescribeReplica, ReplicaStatus

PERIOD_S = 0.25
FAST_S = 0.02
"""While something is measured."""
ASK_S = 1.0


@dataclass(frozen=True, slots=True)
class Seen:
    """One volume as its nodes described it at one moment. A node that does not answer is not in it."""

    name: str
    statuses: dict[str, ReplicaStatus] = field(default_factory=dict)

    @property
    def primary(self) -> ReplicaStatus | None:
        """Who serves; of two that think so for a moment, the one of the higher epoch."""
        serving = [status for status in self.statuses.values() if status.serving]
        return max(serving, key=lambda status: status.epoch, default=None)

    @property
    def in_sync(self) -> set[str]:
        """Nodes of the in-sync set of the primary's committed record."""
        primary = self.primary
        if primary is None or primary.record is None:
            return set()
        return {voter.node for voter in primary.record.in_sync}


class Watch:
    """`seen` is always the latest of each volume. Volumes are added while it runs."""

    def __init__(self, bus: Bus, nodes: Iterable[str], ask_s: float = ASK_S):
        """A look takes as long as its slowest answer, and `ask_s` at most."""
        self._bus = bus
        self._ask_s = ask_s
        self._nodes = tuple(nodes)
        self._ids: dict[str, str] = {}
        self._looking = asyncio.Lock()
        self.seen: dict[str, Seen] = {}

    def add(self, name: str, volume_id: str) -> None:
        self._ids[name] = volume_id
        self.seen[name] = Seen(name)

    def forget(self, name: str) -> None:
        self._ids.pop(name, None)
        self.seen.pop(name, None)

    async def run(self) -> None:
        """Looks again and again until it is cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(PERIOD_S)

    async def look(self, nodes: Iterable[str] | None = None) -> None:
        """Asks now; only the given nodes if there are any, and then only their part of `seen` changes."""
        async with self._looking:  # An older answer must not replace a newer one.
            await self._look(tuple(self._nodes if nodes is None else nodes))

    async def _look(self, asked: tuple[str, ...]) -> None:
        ids = dict(self._ids)  # some may be forgotten meanwhile
        answers = await asyncio.gather(
            *(self._describe(volume_id, node) for volume_id in ids.values() for node in asked)
        )
        told = iter(answers)
        for name in ids:
            fresh = {node: next(told) for node in asked}
            if name in self.seen:
                kept = {node: old for node, old in self.seen[name].statuses.items() if node not in fresh}
                new = {node: status for node, status in fresh.items() if status is not None}
                self.seen[name] = Seen(name, kept | new)

    async def _describe(self, volume_id: str, node: str) -> ReplicaStatus | None:
        request = DescribeReplica(volume=volume_id)
        try:
            subject = subjects.node(node, "describe")
            return await self._bus.request(subject, request, ReplicaStatus, timeout_s=self._ask_s)
        except StosError:
            return None

    async def until(
        self,
        what: str,
        holds: Callable[[], bool],
        timeout_s: float,
        *,
        nodes: Iterable[str] | None = None,
        each: Callable[[], object] = lambda: None,
        pause_s: float = FAST_S,
    ) -> None:
        """Looks until it holds, so often; `each` is called after every look. Raises TimeoutError saying what
        was waited for."""
        asked = None if nodes is None else tuple(nodes)
        deadline = time.monotonic() + timeout_s
        while True:
            await self.look(asked)
            each()
            if holds():
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not within {timeout_s:.0f} s ({self.told()})")
            await asyncio.sleep(pause_s)

    def told(self) -> str:
        """One line: each volume's roles as last seen."""
        return "; ".join(
            f"{name}: "
            + (", ".join(f"{n} {s.role} epoch {s.epoch}" for n, s in sorted(seen.statuses.items())) or "nobody")
            for name, seen in self.seen.items()
        )

"""Homes for new members: placement chooses a node, that node makes the member, the volume's brain decides what of it.

    brain: AskHome --> placement.rank --> node.<n>.create --> HomeFound(voter) ------> brain: joins, or DropHome
                            |                  |
                            +--- refused ------+--> the next best node, three times --> HomeRefused(reason)

Nothing here is remembered: a brain that never hears back asks again, and a member that no record ever named is removed
by its own node (`unfounded`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from services.replica.brain import Voter
from services.replica.brain import events as ev
from services.replica.clock import boot_time_ns
from services.replica.driver import DropHome, FindHome, Node
from stoscore import subjects
from stoscore.bus import Bus
from stoscore.errors import Code, StosError
from stoscore.messages import (
    APART_LABEL,
    Apart,
    CreateReplica,
    Empty,
    Ranking,
    RankRequest,
    RemoveReplica,
    ReplicaCreated,
)
from stoscore.telemetry import get_logger, span

log = get_logger("homes")

RANK_S = 5.0
CREATE_S = 15.0
REMOVE_S = 5.0
NODES_MAX = 3
"""Nodes tried for one ask; the brain's next one comes after a pause."""
TOLD_MAX = 8


class Homes:
    """Asks for what the brains of this node want, each in a task of its own."""

    def __init__(self, node: Node, bus: Bus, settle: Callable[[], None]):
        """`settle`: have the shell perform what the node orders."""
        self._node = node
        self._bus = bus
        self._settle = settle
        self._tasks: set[asyncio.Task[None]] = set()

    def find(self, order: FindHome) -> None:
        self._spawn(self._find(order.volume, order.asked))

    def drop(self, order: DropHome) -> None:
        self._spawn(self._drop(order.volume, order.home))

    def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()

    async def _find(self, volume: str, asked: ev.AskHome) -> None:
        with span("volume.home", asked.cause or None, volume=volume, kind=asked.kind):
            try:
                found: ev.HomeFound | ev.HomeRefused = await self._made(volume, asked)
            except StosError as error:
                found = ev.HomeRefused(str(error), error.code is Code.RESOURCE_EXHAUSTED)
            except Exception as error:
                log.exception("looking for a home failed", extra={"volume": volume})
                found = ev.HomeRefused(f"{type(error).__name__}: {error}")  # an ask without an answer is never repeated
        if volume in self._node.volumes:
            self._node.ask(volume, found, boot_time_ns())
            self._settle()
        elif isinstance(found, ev.HomeFound):
            await self._drop(volume, found.home)

    async def _made(self, volume: str, asked: ev.AskHome) -> ev.HomeFound:
        """Raises StosError: what placement, or the last node that it chose, refused."""
        refused: dict[str, str] = {}
        while True:
            ranking = await self._rank(volume, asked, list(refused))
            chosen = ranking.chosen[0]
            request = CreateReplica(
                volume=volume, name=asked.name, size_bytes=asked.size_bytes, kind=asked.kind, joins=True
            )
            try:
                subject = subjects.node(chosen.node, "create")
                made = await self._bus.request(subject, request, ReplicaCreated, timeout_s=CREATE_S)
            except StosError as error:
                refused[chosen.node] = error.message
                if len(refused) == NODES_MAX:
                    raise
                log.warning("node %s makes no member: %s", chosen.node, error, extra={"volume": volume})
                continue
            others = {refusal.node: refusal.reason for refusal in ranking.refused} | refused
            told = tuple(f"{node}: {reason}" for node, reason in sorted(others.items()) if node not in asked.exclude)
            return ev.HomeFound(Voter(chosen.node, made.incarnation, asked.kind), told[:TOLD_MAX])

    async def _rank(self, volume: str, asked: ev.AskHome, refused: list[str]) -> Ranking:
        data = asked.kind == "data"
        request = RankRequest(
            volume=volume,
            name=asked.name,
            size_bytes=asked.size_bytes if data else 0,
            copies=1 if data else 0,
            witnesses=0 if data else 1,
            beside=list(asked.exclude),
            exclude=refused,
            zones=list(asked.zones),
            apart=self._apart(volume),
        )
        return await self._bus.request(subjects.placement("rank"), request, Ranking, timeout_s=RANK_S)

    def _apart(self, volume: str) -> Apart:
        """What its copies may not share, if its maker said so."""
        hosted = self._node.volumes.get(volume)
        record = hosted.brain.record if hosted is not None else None
        match dict(record.labels if record is not None else ()).get(APART_LABEL):
            case "zone":
                return "zone"
            case "node":
                return "node"
        return ""

    async def _drop(self, volume: str, home: Voter) -> None:
        request = RemoveReplica(volume=volume, incarnation=home.incarnation)
        try:
            await self._bus.request(subjects.node(home.node, "remove"), request, Empty, timeout_s=REMOVE_S)
        except StosError as error:
            log.info("the member on %s is not removed by us: %s", home.node, error, extra={"volume": volume})

    def _spawn(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            await work

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

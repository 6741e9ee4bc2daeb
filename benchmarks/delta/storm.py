"""A hundred small volumes whose copies return at once on one node, beside one that has no copy there.

The budget is what bounds it: each node sends so many bytes a second to copies that catch up, whoever they are. So all
of them must be in sync when the busiest sender could have sent its part, and a little later; and the volume that has
nothing to do with it must not notice.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from benchmarks.delta.arena import COPIES, Site, open_site
from benchmarks.delta.cases import Cost, started
from benchmarks.delta.figures import Bound
from benchmarks.delta.link import link_seconds
from benchmarks.delta.traffic import Traffic
from stoscore import subjects
from stoscore.messages import DescribeReplicas, RecordModel, ReplicaStatus, ReplicaStatuses
from stoscore.units import BLOCK_BYTES, MIB

VOLUMES = 100
SIZE_BYTES = 8 * MIB
MISSED_BLOCKS = 256
BUDGET_MIB_S = 8
"""Of each node; below the floor that a node has without this setting, so that nothing but the budget holds it back."""
TIME_OF_BUDGET = 1.3
RATIO_MAX = 1.5
QUIET_S = 5.0
_AT_ONCE = 8
_PATIENCE_S = 180.0
_ASK_S = 20.0
_GLANCE_S = 0.1
_LOOKED_AT = 4
_OTHER_BYTES = 64 * MIB
T = TypeVar("T")


async def storm(directory: Path) -> tuple[Cost, float, list[Bound]]:
    """In a cluster of its own, whose nodes have that budget; with the seconds of a bare link."""
    settings = {"STOS_REPLICA_RECOVERY_MIB_S": str(BUDGET_MIB_S)}
    async with open_site(directory, settings) as site, site.volume("other", _OTHER_BYTES, replicas=1) as other:
        names = [f"storm-{number}" for number in range(VOLUMES)]
        ids = [created.record.volume for created in await _each(names, partial(_make, site)) if created.record]
        record = (await other.settled(copies=2)).record
        assert record is not None
        copies = {voter.node for voter in record.voters if voter.kind == "data"}
        away = next(node for node in site.nodes if node not in copies)
        await asyncio.to_thread(site.kill, away)
        there = [node for node in site.nodes if node != away]
        await _until(site, ids, there, lambda record: away not in _in_sync(record))
        await _each(names, partial(_write, site))
        senders = Counter(one.primary.node for one in await _records(site, ids, there) if one.primary is not None)
        async with site.load(other.name, seed=1) as load:
            looks = Traffic([site.pid(there[0])], site.peer_ports)
            quiet = time.monotonic()
            while time.monotonic() < quiet + QUIET_S:  # looked at as often as later: each look costs those looked at
                looks.sample()
                await _records(site, ids[:_LOOKED_AT], there)
                await asyncio.sleep(_GLANCE_S)
            quiet_end = time.monotonic()
            traffic, began = await started(site, "storm", (away,))
            await _until(site, ids, there, lambda record: len(_in_sync(record)) == COPIES, each=traffic.sample)
            seconds = time.monotonic() - began
            sent = traffic.sample()
            await load.stop()
        without, during = load.p99_ms(quiet, quiet_end), load.p99_ms(began, began + seconds)
        link = await asyncio.to_thread(link_seconds, site.identity_dir(away), sent)
        same = all([await site.same_on_disk(volume_id) for volume_id in ids])
    missed = MISSED_BLOCKS * BLOCK_BYTES
    budget_s = max(senders.values()) * missed / (BUDGET_MIB_S * MIB)
    return (
        Cost("storm", VOLUMES * missed, sent, seconds, same),
        link,
        [
            (f"{TIME_OF_BUDGET} x {budget_s:.1f} s, the busiest sender's budget", seconds <= TIME_OF_BUDGET * budget_s),
            (f"another volume's p99 {RATIO_MAX} x ({during / without:.2f})", during <= RATIO_MAX * without),
        ],
    )


async def _make(site: Site, name: str) -> ReplicaStatus:
    return await site.volumes.create(name, SIZE_BYTES, timeout_s=90)


async def _write(site: Site, name: str) -> None:
    """Single blocks all over it."""
    client = await site.connect(name)
    try:
        for block in random.Random(name).sample(range(SIZE_BYTES // BLOCK_BYTES), MISSED_BLOCKS):
            await client.write(block * BLOCK_BYTES, os.urandom(BLOCK_BYTES))
        await client.flush()
    finally:
        await client.close()


async def _each(names: Iterable[str], work: Callable[[str], Awaitable[T]]) -> list[T]:
    """A few at a time."""
    waiting, done = iter(names), []

    async def work_on() -> None:
        for name in waiting:
            done.append(await work(name))

    await asyncio.gather(*(work_on() for _ in range(_AT_ONCE)))
    return done


async def _records(site: Site, ids: list[str], nodes: Iterable[str]) -> list[RecordModel]:
    """Of those volumes, as their primaries tell them: one question to each node."""
    asked = DescribeReplicas(volumes=ids)
    answers = await asyncio.gather(
        *(
            site.bus.request(subjects.node(node, "describe-all"), asked, ReplicaStatuses, timeout_s=_ASK_S)
            for node in nodes
        )
    )
    serving = [status.record for answer in answers for status in answer.statuses if status.serving]
    return [record for record in serving if record is not None]


def _in_sync(record: RecordModel) -> set[str]:
    return {voter.node for voter in record.in_sync}


async def _until(
    site: Site,
    ids: Sequence[str],
    nodes: Sequence[str],
    hold: Callable[[RecordModel], bool],
    each: Callable[[], object] = lambda: None,
) -> None:
    """All of them are served, and it holds for each. A few are asked for at a time and none again, because asking costs
    the nodes that are measured. Raises TimeoutError."""
    deadline, left = time.monotonic() + _PATIENCE_S, list(ids)
    while left:
        each()
        some = left[:_LOOKED_AT]
        held = {record.volume for record in await _records(site, some, nodes) if hold(record)}
        left = [volume_id for volume_id in left if volume_id not in held]
        if time.monotonic() > deadline:
            raise TimeoutError(f"storm: not within {_PATIENCE_S:.0f} s ({len(left)} volumes are left)")
        if len(held) < len(some):
            await asyncio.sleep(_GLANCE_S)

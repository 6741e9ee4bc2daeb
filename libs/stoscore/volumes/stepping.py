"""Snapshots of one moment: of several volumes at once, or of one whose file system stands still meanwhile.

    prepare   all     every copy makes its next layer, beside the writes
    quiet             what the caller wants to stand still does (a frozen file system)
    hold      all     new writes wait, at each volume for HOLD_MS at most
    seal      all     asked for when all hold: there was a moment at which nobody's write was answered
    wait      all     root hashes are compared, the record is agreed on

Why that is one moment: let a write be sent after another one was answered. Where the later one is in a seal, it came
before its volume held, so before the moment at which all of them did; the earlier one was answered before that too, and
is in its own volume's seal. Nobody has to be alive for writes to go on: each primary lets them go by its own clock, and
says so when it is asked to seal after that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Literal

from stoscore import subjects
from stoscore.bus import Bus
from stoscore.messages import CatalogueEntry, SnapshotStep, StampModel, StepSnapshot
from stoscore.volumes.deadline import Deadline, all_of
from stoscore.volumes.primary import Replicas

HOLD_MS = 2000
"""Writes wait for tens of milliseconds; this is when they go on if whoever takes the snapshots dies."""
PREPARE_S = 20.0
"""The first volume that is prepared waits half a minute for the last one (`replication/sealing.py`)."""

Quiet = Callable[[], AbstractAsyncContextManager[None]]
_Step = Literal["hold", "seal", "wait"]


class Stepping:
    """`take` leaves what it began when it fails: whoever calls drops it."""

    def __init__(self, bus: Bus, replicas: Replicas):
        self._bus = bus
        self._replicas = replicas

    async def take(
        self,
        entries: Sequence[CatalogueEntry],
        snapshot: str,
        deadline: Deadline,
        *,
        group: str = "",
        since: StampModel | None = None,
        quiet: Quiet = nullcontext,
    ) -> None:
        """A snapshot of that name of each, all of one moment. Raises what `Snapshots.take` does, and ABORTED when a
        volume's primary changed, or did not hold its writes so long, or another group of one of them is being taken."""
        prepared = await all_of(*(self._prepare(entry, snapshot, group, since, deadline) for entry in entries))
        steps = list(zip(entries, prepared, strict=True))
        async with quiet():
            await self._all("hold", snapshot, steps, deadline.try_s(HOLD_MS / 1000))
            await self._all("seal", snapshot, steps, deadline.try_s())
        await self._all("wait", snapshot, steps, deadline.left_s)

    async def _prepare(
        self, entry: CatalogueEntry, snapshot: str, group: str, since: StampModel | None, deadline: Deadline
    ) -> SnapshotStep:
        request = StepSnapshot(volume=entry.volume, snapshot=snapshot, group=group, since=since, step="prepare")
        soon = Deadline.after(min(PREPARE_S, deadline.left_s))
        return await self._replicas.ask(entry, "step", request, SnapshotStep, soon)

    async def _all(
        self, step: _Step, snapshot: str, steps: Sequence[tuple[CatalogueEntry, SnapshotStep]], timeout_s: float
    ) -> None:
        """Each of the primary that prepared: another one would be of another moment."""

        async def ask(volume: str, prepared: SnapshotStep) -> None:
            request = StepSnapshot(
                volume=volume,
                snapshot=snapshot,
                step=step,
                epoch=prepared.epoch,
                asked=prepared.asked,
                hold_ms=HOLD_MS if step == "hold" else 0,
            )
            subject = subjects.volume(prepared.node, volume, "step")
            await self._bus.request(subject, request, SnapshotStep, timeout_s=timeout_s)

        await all_of(*(ask(entry.volume, prepared) for entry, prepared in steps))

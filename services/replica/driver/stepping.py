"""The brains' steps, one event after the other, and what waits for their hard state (invariant 4).

event ──> Brain.step ──> what may leave now ──> performed
                    ├──> hard state ──────────> Save ──> saved, some time later
                    └──> what depends on it ───────────> performed then, and so is everything after it
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from services.replica import permits
from services.replica.brain import Facts
from services.replica.brain import events as ev
from services.replica.driver.orders import Order, Save
from services.replica.driver.volume import Pending, Volume

if TYPE_CHECKING:
    from services.replica.driver.node import Node


class Stepping:
    """Of one node's brains."""

    def __init__(self, node: Node, order: Callable[[Order], None], perform: Callable[[Volume, ev.Effect, int], None]):
        self._node = node
        self._pairs = node.pairs
        self._volumes = node.volumes
        self._leases = node.leases
        self._deadlines = node.deadlines
        self._order = order
        self._perform = perform
        self._events: deque[tuple[Volume, ev.Event]] = deque()
        self._under_way = False
        self.steps = 0
        """Rises with whatever a brain here may have changed by."""

    def step(self, volume: Volume, event: ev.Event, now_ns: int) -> None:
        """One event at a time, each to its end: were an event handled in the middle of another one's effects, the
        newer hard state would be saved before the older one."""
        self.steps += 1
        self._events.append((volume, event))
        if not self._under_way:
            self._drain(now_ns)

    def _drain(self, now_ns: int) -> None:
        while self._events:
            volume, event = self._events.popleft()
            if self._volumes.get(volume.id) is not volume:
                continue
            self._under_way = True
            try:
                self._step_now(volume, event, now_ns)
            finally:
                self._under_way = False

    def _step_now(self, volume: Volume, event: ev.Event, now_ns: int) -> None:
        batch = volume.brain.step(event, now_ns, self._facts(volume, now_ns))
        self._deadlines.touched.add(volume.id)
        for effect in batch.now:
            self._perform(volume, effect, now_ns)
        if self._volumes.get(volume.id) is volume:
            self._node.neighbours.see(volume.id, volume.brain.record, led=volume.brain.role == "leader")
        if batch.durable is not None:
            volume.tickets += 1
            volume.pending.append(Pending(volume.tickets, batch.durable.epoch, list(batch.after)))
            volume.disk_asked(("save", 0, volume.tickets), now_ns)
            self._order(Save(volume.id, volume.tickets, batch.durable))
        elif volume.pending:
            volume.pending[-1].after.extend(batch.after)
        else:
            for effect in batch.after:
                self._perform(volume, effect, now_ns)

    def _facts(self, volume: Volume, now_ns: int) -> Facts:
        """What a brain has to know of its node with every event."""
        pairs, local = self._pairs, volume.brain.local
        bound = pairs.promises.bound(volume.id, local.state.epoch)
        leader, record = local.followed(), local.record
        attached = record.attachment.node if record is not None and record.attachment is not None else ""
        here, leads = attached == self._node.name, local.role == "leader"
        return Facts(
            promised_until_ns=bound.until_ns,
            lease_until_ns=self._leases.of(volume).until_ns if leads else 0,
            promised_to=bound.to,
            disk_stalled=volume.disk_stalled(now_ns),
            other_promise_until_ns=bound.besides_ns,
            awake_since_ns=pairs.awake_since_ns,
            unpromised=self._leases.of(volume).unpromised if leads else (),
            leader_heard_ns=pairs.heard_ns.get(leader.node, 0) if leader is not None else 0,
            attached_heard_ns=now_ns if here else pairs.heard_ns.get(attached, 0),
            attached_linked_ns=now_ns if here else pairs.linked_ns.get(attached, 0),
            claimed_by=bound.claimed_by,
        )

    def saved(self, volume: Volume, ticket: int, now_ns: int) -> None:
        """The hard state of this ticket is durable: perform what waited for it."""
        while volume.pending and volume.pending[0].ticket <= ticket:
            done = volume.pending.popleft()
            volume.durable_epoch = done.epoch
            self._confirm_claims(volume)
            self._under_way = True
            try:
                for effect in done.after:
                    self._perform(volume, effect, now_ns)
            finally:
                self._under_way = False
            self._drain(now_ns)

    def _confirm_claims(self, volume: Volume) -> None:
        slot = volume.brain.state.slot
        if slot is not None and volume.durable_epoch == volume.brain.epoch:

            def leads(node: str) -> bool:
                return not permits.lead(volume.brain.state, volume.brain.leader, node)

            stored = self._pairs.promises.stored(volume.id, slot.stamp.generation, volume.brain.epoch, leads)
            self._pairs.owe(stored)

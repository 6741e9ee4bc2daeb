"""How long this node may answer reads alone, volume by volume, and the reads that wait until it may again.

A lease follows from what a majority of the voters promises (see `brain.promises`). It is asked for with every read, so
it is worked out anew only when what it follows from has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from services.replica.brain import Promises
from services.replica.driver.orders import Data, Order
from services.replica.driver.volume import Lease, Volume
from services.replica.replication import effects as fx


class Leases:
    """Of the volumes that the node `me` leads."""

    def __init__(self, me: str, promises: Promises, volumes: Mapping[str, Volume], order: Callable[[Order], None]):
        self._me = me
        self._promises = promises
        self._volumes = volumes
        self._order = order
        self._parked: set[str] = set()
        """Volumes with reads that wait for their lease."""

    def until(self, volume: Volume) -> int:
        return self.of(volume).until_ns

    def of(self, volume: Volume) -> Lease:
        state, promises = volume.brain.local.state, self._promises
        known = volume.lease
        if known is not None and known.changes == promises.changes and known.state is state:
            return known
        nodes = tuple([voter.node for voter in state.slot.record.voters]) if state.slot is not None else ()
        until_ns = promises.lease_until(volume.id, state.epoch, self._me, nodes) if nodes else 0
        others = tuple([node for node in nodes if node != self._me])
        unpromised = promises.unpromised(volume.id, state.epoch, others)
        volume.lease = Lease(promises.changes, state, until_ns, unpromised)
        return volume.lease

    def park(self, volume: Volume, read: fx.AnswerRead | fx.AnswerReadMany | fx.AnswerStatus) -> None:
        """The lease does not hold at this moment: the read waits for the next promise."""
        volume.parked.append(read)
        self._parked.add(volume.id)

    def unpark(self) -> None:
        """Asked for at every answer to a beat, and there is nearly never anything."""
        for volume_id in sorted(self._parked):
            volume = self._volumes.get(volume_id)
            if volume is None:
                self._parked.discard(volume_id)
            elif volume.primary is not None:
                self._parked.discard(volume_id)
                reads, volume.parked = volume.parked, []
                epoch = volume.primary.epoch
                self._order(Data(volume.id, epoch, reads, epoch))

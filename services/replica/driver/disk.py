"""What the disk has done, found or failed at, told to the core that it concerns.

Between the asking and the answer a volume may have been forgotten, or another primary leads it: who asked for what is
named by its `owner` (see `orders`) or its epoch, and what nobody waits for any more is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from services.replica.brain import events as ev
from services.replica.driver.orders import REPLICA_OWNER
from services.replica.driver.stepping import Stepping
from services.replica.driver.volume import Volume
from services.replica.replication import effects as fx
from services.replica.replication.past import Moment

if TYPE_CHECKING:
    from services.replica.driver.node import Node


class Disk:
    """The stores of one node's volumes, as far as its cores hear of them."""

    def __init__(self, node: Node, stepping: Stepping, data: Callable[[Volume, list[fx.Effect], int], None]):
        self._node = node
        self._volumes = node.volumes
        self._stepping = stepping
        self._step = stepping.step
        self._data = data

    # ---- what it was asked for ------------------------------------------------------------------------

    def saved(self, volume_id: str, ticket: int, now_ns: int) -> None:
        """The hard state of this ticket is durable, and those before it."""
        volume = self._volumes.get(volume_id)
        if volume is None:
            return
        volume.disk_answered(("save", 0, ticket))
        self._stepping.saved(volume, ticket, now_ns)
        early, volume.early_join = volume.early_join, None
        if early is not None:
            self._node.to_replica(volume_id, early.link, early.node, early.epoch, early.message, now_ns)

    def marked(self, volume_id: str, regions: tuple[int, ...], now_ns: int) -> None:
        volume = self._volumes.get(volume_id)
        if volume is None or volume.replica is None:
            return
        for region in regions:
            volume.disk_answered(("mark", 0, region))
        core = volume.primary or volume.replica
        self._data(volume, core.marked(regions, now_ns), now_ns)

    def synced(self, volume_id: str, owner: int, ticket: int, now_ns: int) -> None:
        volume = self._volumes.get(volume_id)
        if volume is None or volume.replica is None:
            return
        volume.disk_answered(("sync", owner, ticket))
        if owner == REPLICA_OWNER:
            self._data(volume, volume.replica.synced(ticket), now_ns)
        elif volume.primary is not None and volume.primary.epoch == owner:
            self._data(volume, volume.primary.synced(ticket, now_ns), now_ns)

    def seal_prepared(self, volume_id: str, owner: int, number: int, failure: str, now_ns: int) -> None:
        """The next layer is there; `failure`: why there can't be one."""
        volume = self._volumes.get(volume_id)
        if volume is None or volume.replica is None:
            return
        if owner == REPLICA_OWNER:
            self._data(volume, volume.replica.seal_prepared(number, ready=not failure), now_ns)
        elif volume.primary is not None and volume.primary.epoch == owner:
            self._data(volume, volume.primary.seal_prepared(number, failure, now_ns), now_ns)

    def sealed(self, volume_id: str, seq: int, now_ns: int) -> None:
        """Whoever asked for it may not lead, or be led, any more: the store takes writes again."""
        volume = self._volumes.get(volume_id)
        if volume is None or volume.replica is None:
            return
        volume.disk_answered(("seal", 0, seq))
        primary = volume.primary
        done = primary.sealed(seq, now_ns) if primary is not None else volume.replica.sealed(seq)
        self._data(volume, done, now_ns)

    def hashed(self, volume_id: str, owner: int, seq: int, root: int | None, now_ns: int) -> None:
        """`root`: None when this copy's checksums are not proved."""
        volume = self._volumes.get(volume_id)
        if volume is None or volume.replica is None:
            return
        if owner == REPLICA_OWNER:
            self._data(volume, volume.replica.hashed(seq, root), now_ns)
        elif volume.primary is not None and volume.primary.epoch == owner:
            self._data(volume, volume.primary.hashed(seq, root, now_ns), now_ns)

    def compared(
        self, volume_id: str, epoch: int, node: str, number: int, differing: list[tuple[int, int]], now_ns: int
    ) -> None:
        volume = self._volumes.get(volume_id)
        if volume is not None and volume.primary is not None and volume.primary.epoch == epoch:
            self._data(volume, volume.primary.compared(node, number, differing), now_ns)

    def healed(self, volume_id: str, epoch: int, number: int, blocks: Iterable[int], now_ns: int) -> None:
        """Of what a peer gave, these blocks match their checksum now."""
        volume = self._volumes.get(volume_id)
        if volume is not None and volume.primary is not None and volume.primary.epoch == epoch:
            self._data(volume, volume.primary.healed(number, blocks, now_ns), now_ns)

    def erased(self, volume_id: str, now_ns: int) -> None:
        volume = self._volumes.get(volume_id)
        if volume is not None:
            self._step(volume, ev.DataErased(), now_ns)

    # ---- what it found --------------------------------------------------------------------------------

    def store_changed(
        self, volume_id: str, now_ns: int, *, unclean: bool, failure: str = "", votes: bool = True
    ) -> None:
        """The store's unclean mark as it is now; `failure`: its disk failed; `votes`: its hard state can be stored."""
        volume = self._volumes.get(volume_id)
        if volume is None:
            return
        if failure and volume.replica is not None:
            self._data(volume, volume.replica.failed(failure), now_ns)
        self._step(volume, ev.StoreChanged(unclean, failure, votes), now_ns)

    def unreadable(
        self, volume_id: str, epoch: int, waits: fx.AnswerRead | fx.SendCopy, blocks: Iterable[int], now_ns: int
    ) -> None:
        """A read, or a copy for a peer, met blocks of our store that do not match their checksum."""
        volume = self._volumes.get(volume_id)
        if volume is not None and volume.primary is not None and volume.primary.epoch == epoch:
            self._data(volume, volume.primary.rotten(blocks, waits, now_ns), now_ns)

    def past_unreadable(self, volume_id: str, epoch: int, node: str, moment: Moment, now_ns: int) -> None:
        """What the volume was then is not to be had here, though the record says so: it is rotten, or gone."""
        volume = self._volumes.get(volume_id)
        if volume is not None and volume.primary is not None and volume.primary.epoch == epoch:
            self._data(volume, volume.primary.past_unreadable(node, moment, now_ns), now_ns)

    def rotten(self, volume_id: str, blocks: Iterable[int], now_ns: int) -> None:
        """Such blocks were found though nobody waits for them."""
        volume = self._volumes.get(volume_id)
        if volume is None or volume.replica is None:
            return
        primary, replica = volume.primary, volume.replica
        found = primary.rotten(blocks, None, now_ns) if primary is not None else replica.rotten(blocks)
        self._data(volume, found, now_ns)

    def compare(self, volume_id: str, region: int, count: int, now_ns: int) -> None:
        """The scrub has come to these regions: does every copy hold the same?"""
        volume = self._volumes.get(volume_id)
        if volume is not None and volume.primary is not None:
            self._data(volume, volume.primary.compare(region, count, now_ns), now_ns)

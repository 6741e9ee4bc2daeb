"""What a node tells of its copies, its volumes and its peers when somebody asks for metrics.

Nearly all of it is read from where it is kept anyway; what only counting can tell (`Counted`) is a plain integer beside
the code that does the work. Nothing here is called by I/O.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from services.replica.clock import boot_time_ns
from services.replica.driver import Node, Volume
from services.replica.frontends import Frontends
from services.replica.handlers import Handlers
from services.replica.hosted import Hosted
from services.replica.replicas import Replicas
from services.replica.shell import Counted
from services.replica.status import unfinished
from stoscore.metrics import Sample, sampled
from stoscore.units import BLOCK_BYTES, SECOND


class Figures:
    """The node's source of metrics."""

    def __init__(
        self,
        node: Node,
        hosted: dict[str, Hosted],
        counted: Counted,
        replicas: Replicas,
        frontends: Frontends,
        handlers: Handlers,
        decisions: Counter[str],
    ):
        self._node = node
        self._hosted = hosted
        self._counted = counted
        self._replicas = replicas
        self._frontends = frontends
        self._handlers = handlers
        self._decisions = decisions

    def samples(self) -> Iterator[Sample]:
        yield from self._of_node()
        yield from self._of_work()
        now_ns = boot_time_ns()
        for volume in list(self._node.volumes.values()):
            yield from self._of_volume(volume, now_ns)
        for figures, unanswered in self._frontends.figures():
            yield from figures.samples()
            yield unanswered

    def _of_node(self) -> Iterator[Sample]:
        yield Sample("stos.node.capacity", self._replicas.capacity_bytes)
        yield Sample("stos.node.provisioned", self._replicas.provisioned_bytes())
        yield Sample("stos.node.used", self._replicas.used_bytes())
        yield Sample("stos.node.free", self._replicas.free_disk_bytes())
        yield Sample("stos.node.broken", len(self._replicas.broken))
        roles = Counter(self._node.role(volume) for volume in self._node.volumes.values())
        for role, count in sorted(roles.items()):
            yield Sample("stos.node.copies", count, (role,))
        for peer in sorted(self._node.peers()):
            yield Sample("stos.peer.up", int(self._node.detector.up(peer)), (peer,))
        for reason, count in sorted(self._handlers.dropped.items()):
            yield Sample("stos.link.dropped", count, (reason,))

    def _of_work(self) -> Iterator[Sample]:
        counted = self._counted
        for kind, count in sorted(self._decisions.items()):
            yield Sample("stos.decisions", count, (kind,))
        yield sampled("stos.store.sync.duration", counted.syncs)
        yield sampled("stos.snapshot.held", counted.seals)
        yield Sample("stos.checksum.failures", counted.rotten_blocks, ("store",))
        yield Sample("stos.checksum.failures", self._frontends.rotten_blocks(), ("frontend",))
        yield Sample("stos.blocks.healed", counted.healed_blocks)
        yield Sample("stos.resync.completed", counted.resyncs)
        yield Sample("stos.resync.sent", counted.resync_sent_blocks * BLOCK_BYTES - counted.resync_spared_bytes)
        yield Sample("stos.resync.spared", counted.resync_spared_bytes)
        yield Sample("stos.resync.compared", counted.resync_compared_blocks * BLOCK_BYTES)
        yield sampled("stos.resync.estimate.error", counted.estimate_errors)
        yield sampled("stos.resync.duration.error", counted.duration_errors)
        yield Sample("stos.recovery.rate", self._node.recovery.pace.bytes_per_s)
        yield Sample("stos.recovery.waiting", self._node.recovery.budget.waiting)

    def _of_volume(self, volume: Volume, now_ns: int) -> Iterator[Sample]:
        record, hosted = volume.brain.record, self._hosted.get(volume.id)
        if record is None or hosted is None:
            return
        about = (volume.id, record.name)
        yield Sample("stos.volume.copy.failed", int(bool(hosted.failure)), about)
        primary = volume.primary
        if primary is None or volume.brain.role != "leader":
            return
        lease_ns = max(0, self._node.leases.until(volume) - now_ns)
        yield Sample("stos.volume.serving", int(primary.serving and lease_ns > 0), about)
        yield Sample("stos.volume.in_sync", len(record.in_sync), about)
        yield Sample("stos.volume.copies", record.replicas + 1, about)
        yield Sample("stos.volume.epoch", volume.brain.epoch, about)
        yield Sample("stos.volume.lease.margin", lease_ns / SECOND, about)
        yield Sample("stos.volume.size", record.size_bytes, about)
        for peer in primary.peers.values():
            if unfinished(peer):
                left = peer.resync.blocks_left() if peer.resync is not None else len(peer.missed)
                yield Sample("stos.resync.remaining", left * BLOCK_BYTES, (*about, peer.node))

"""What the shell does to bring copies up to date: checksums are compared, blocks that differ are sent and stored."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from services.replica import codec
from services.replica.brain.record import layer_name
from services.replica.clock import boot_time_ns
from services.replica.codec import Parts
from services.replica.copies import pack_copy, store_copy
from services.replica.driver import Data, HangUp
from services.replica.hosted import Hosted
from services.replica.peers import PACKED_BLOCKS_MAX, pack_data
from services.replica.replication import effects as fx
from services.replica.replication import messages as ms
from services.replica.replication import tree
from services.replica.replication.estimate import error_of
from services.replica.replication.packing import Packing, Wire
from services.replica.replication.past import Moment
from services.replica.replication.resync import COPY_BLOCKS
from services.replica.store import Blocks, CorruptBlocks, by_region, span_of
from stoscore.telemetry import get_logger
from stoscore.units import SUM_BYTES

if TYPE_CHECKING:
    from services.replica.shell import Shell

log = get_logger("replica")

assert COPY_BLOCKS <= PACKED_BLOCKS_MAX
assert all(tree.span_of(level) == span_of(level) for level in range(tree.HIGHEST + 1))


class Resyncing:
    """Of all volumes of one node."""

    def __init__(self, shell: Shell):
        self._shell = shell

    def performs(self) -> dict[type, Callable[[Hosted, Data, Any], None]]:
        """Effect -> what performs it."""
        return {
            fx.AnswerDigests: self._answer_digests,
            fx.Compare: self._compare,
            fx.SendCopy: self._send_copy,
            fx.StoreCopy: self._store_copy,
            fx.WriteBack: self._write_back,
            fx.ResyncBegins: self._resync_begins,
            fx.ResyncDone: self._resync_done,
        }

    def _answer_digests(self, hosted: Hosted, order: Data, effect: fx.AnswerDigests) -> None:
        link = self._shell.links.get(effect.link)
        if link is None:
            return
        try:
            digests = hosted.blocks.digests_of(effect.level, effect.ranges)
        except ValueError as error:
            link.close(f"asked for impossible digests: {error}")
            return
        envelope = self._shell.envelope(hosted, order.epoch, link.peer)
        link.send(*codec.pack_message(envelope, ms.Digests(effect.number, effect.level, 0), (digests,)))

    def _compare(self, hosted: Hosted, order: Data, effect: fx.Compare) -> None:
        theirs, blocks = bytes(self._shell.payloads.pop(effect.token)[0]), _blocks(hosted, effect.of)
        if blocks is None:
            self._past_unreadable(hosted, order, effect, "this copy has no such layer")
            return
        ours = blocks.digests_of(effect.level, effect.ranges)
        if len(theirs) != len(ours):
            self._shell.hang_up(
                HangUp(effect.peer), f"it sent {len(theirs)} bytes of digests where {len(ours)} were asked for"
            )
            return
        differing = [] if theirs == ours else different(effect.ranges, ours, theirs)
        now_ns = boot_time_ns()
        self._shell.node.disk.compared(hosted.volume, order.epoch, effect.peer, effect.number, differing, now_ns)

    def _send_copy(self, hosted: Hosted, order: Data, effect: fx.SendCopy) -> None:
        blocks = _blocks(hosted, effect.of)
        if blocks is None:
            self._past_unreadable(hosted, order, effect, "this copy has no such layer")
            return
        try:
            payload = pack_copy(blocks, effect.ranges)
        except CorruptBlocks as error:
            if effect.of is not None:
                self._past_unreadable(hosted, order, effect, str(error))
                return
            self._shell.rot.saw(hosted, error.blocks)
            self._shell.node.disk.unreadable(hosted.volume, order.epoch, effect, error.blocks, boot_time_ns())
            return
        message = ms.Copy(effect.number, effect.as_of, effect.ranges, 0)
        envelope = self._shell.envelope(hosted, order.epoch, effect.peer)
        packed = self._packed(hosted, effect.peer, payload[1:])
        if packed:
            size = sum(map(len, payload[1:]))
            self._shell.network.send(effect.peer, *codec.pack_packed(envelope, message, payload[0], packed, size))
        else:
            self._shell.network.send(effect.peer, *codec.pack_message(envelope, message, payload))

    def _past_unreadable(self, hosted: Hosted, order: Data, effect: fx.Compare | fx.SendCopy, reason: str) -> None:
        assert effect.of is not None
        log.error("%s can't be given: %s", effect.of.snapshot, reason, extra={"volume": hosted.volume})
        self._shell.node.disk.past_unreadable(hosted.volume, order.epoch, effect.peer, effect.of, boot_time_ns())

    def _packed(self, hosted: Hosted, peer: str, data: Parts) -> bytes:
        """These blocks, smaller; empty where they are to be sent as they are."""
        volume, link = self._shell.node.volumes.get(hosted.volume), self._shell.network.outgoing(peer)
        primary = volume.primary if volume is not None else None
        known = primary.peers.get(peer) if primary is not None else None
        if not data or link is None or known is None or not known.takes_packed:
            return b""
        packing = hosted.packing.setdefault(peer, Packing())
        if not packing.tries(Wire(*link.delivery())):
            return b""
        began_ns = time.thread_time_ns()  # what others did to this processor meanwhile is no cost of packing
        packed = pack_data(data)
        took_ns = time.thread_time_ns() - began_ns
        size = sum(map(len, data))
        return packed if packing.tried(size, len(packed), took_ns) else b""

    def _store_copy(self, hosted: Hosted, order: Data, effect: fx.StoreCopy) -> None:
        sums, data = self._shell.payloads.pop(effect.token)
        if effect.keep:
            hosted.blocks.tail_append_many(effect.seq, [part.hull for part in by_region(effect.keep)])
        store_copy(hosted.blocks, effect.ranges, effect.keep, sums, data)
        if hosted.health.rotten:
            copied = (at for block, count in effect.keep for at in range(block, block + count))
            self._shell.counted.healed_blocks += hosted.health.heal(copied)

    def _write_back(self, hosted: Hosted, order: Data, effect: fx.WriteBack) -> None:
        hosted.write_back()

    def _resync_begins(self, hosted: Hosted, order: Data, effect: fx.ResyncBegins) -> None:
        hosted.packing[effect.node] = Packing()
        self._shell.on_resync(hosted.volume, effect)

    def _resync_done(self, hosted: Hosted, order: Data, effect: fx.ResyncDone) -> None:
        packing = hosted.packing.pop(effect.node, None)
        if packing is not None:
            self._shell.counted.resync_spared_bytes += packing.spared_bytes
            effect = replace(effect, bytes_spared=packing.spared_bytes)
        self._shell.on_resynced(hosted.volume, effect)
        self._shell.counted.resyncs += 1
        self._shell.counted.resync_sent_blocks += effect.blocks_sent
        self._shell.counted.resync_compared_blocks += effect.blocks_compared
        if effect.estimate is not None:
            self._shell.counted.estimate_errors.record(error_of(effect.estimate.bytes.likely, effect.bytes_sent))
            self._shell.counted.duration_errors.record(error_of(effect.estimate.duration_ns.likely, effect.took_ns))
        log.info(
            "%s is up to date: compared %d blocks, sent %d",
            effect.node,
            effect.blocks_compared,
            effect.blocks_sent,
            extra={"volume": hosted.volume, "epoch": order.epoch},
        )


def _blocks(hosted: Hosted, of: Moment | None) -> Blocks | None:
    """What is compared and copied: what the volume is, or was; None when that layer is gone."""
    return hosted.blocks if of is None else hosted.blocks.past(layer_name(*of))


def different(ranges: Sequence[tuple[int, int]], ours: bytes, theirs: bytes) -> list[tuple[int, int]]:
    """Runs of nodes whose 8-byte values differ, none across two of the ranges that were asked for."""
    mine, others = memoryview(ours).cast("Q"), memoryview(theirs).cast("Q")
    if len(mine) == len(ranges):  # scattered blocks
        return [where for where, own, other in zip(ranges, mine, others, strict=True) if own != other]
    runs: list[tuple[int, int]] = []
    at = 0
    for first, count in ranges:
        end = at + count
        if ours[at * SUM_BYTES : end * SUM_BYTES] == theirs[at * SUM_BYTES : end * SUM_BYTES]:
            at = end
            continue
        start = -1
        for index in range(at, end):
            if mine[index] == others[index]:
                if start >= 0:
                    runs.append((first + start - at, index - start))
                start = -1
            elif start < 0:
                start = index
        if start >= 0:
            runs.append((first + start - at, end - start))
        at = end
    return runs

"""Blocks that do not match their checksum: they are counted, healed from other copies, and told when nobody can heal
them. A copy whose disk keeps producing them goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from services.replica import codec
from services.replica.brain import events as ev
from services.replica.clock import boot_time_ns
from services.replica.copies import heal_copy, pack_readable
from services.replica.driver import Data
from services.replica.hosted import Hosted
from services.replica.replication import effects as fx
from services.replica.replication import messages as ms
from stoscore.telemetry import get_logger

if TYPE_CHECKING:
    from services.replica.shell import Shell

log = get_logger("replica")
RETIRE_AGAIN_S = 2.0


class Rot:
    """Of all volumes of one node."""

    def __init__(self, shell: Shell):
        self._shell = shell

    def performs(self) -> dict[type, Callable[[Hosted, Data, Any], None]]:
        """Effect -> what performs it."""
        return {
            fx.AnswerFetch: self._answer_fetch,
            fx.Heal: self._heal,
            fx.Damage: self._damage,
        }

    def saw(self, hosted: Hosted, blocks: Sequence[int]) -> None:
        now_ns = boot_time_ns()
        new = hosted.health.see(blocks, now_ns)
        self._shell.counted.rotten_blocks += len(new)
        if new:
            log.warning("%d blocks do not match their checksum: %s", len(new), new[:8], extra={"volume": hosted.volume})
        if hosted.health.worn_out(now_ns) and not hosted.retiring:
            hosted.retiring = True
            self._shell.loop.call_soon(self._retire, hosted)

    def _retire(self, hosted: Hosted) -> None:
        """Another copy in another place is worth more than this one. Who leads hands over first, and the last copy
        that is in sync stays: what it can still give is all that there is. Looked at again until it has left."""
        volume = self._shell.node.volumes.get(hosted.volume)
        record = volume.brain.record if volume is not None else None
        if self._shell.stopped or hosted.failure or self._shell.hosted.get(hosted.volume) is not hosted:
            return
        now_ns = boot_time_ns()
        if volume is not None and record is not None and len(record.in_sync) > 1:
            reason = "its disk keeps producing rotten blocks"
            if volume.brain.role != "leader":
                self._shell.fail(hosted, f"{reason}: {hosted.health.found} since it was started")
            elif not volume.brain.handover.under_way:
                self._shell.node.ask(hosted.volume, ev.MoveAsked(0, reason=reason), now_ns)
            self._shell.settle()
        hosted.retiring = not hosted.failure and hosted.health.worn_out(now_ns)
        if hosted.retiring:
            self._shell.loop.call_later(RETIRE_AGAIN_S, self._retire, hosted)

    def _answer_fetch(self, hosted: Hosted, order: Data, effect: fx.AnswerFetch) -> None:
        link = self._shell.links.get(effect.link)
        if link is None:
            return
        ranges, payload, bad = pack_readable(hosted.blocks, effect.ranges)
        message = ms.Fetched(effect.number, tuple(ranges), 0)
        link.send(*codec.pack_message(self._shell.envelope(hosted, order.epoch, link.peer), message, payload))
        if bad:
            self.saw(hosted, bad)
            self._shell.node.disk.rotten(hosted.volume, bad, boot_time_ns())

    def _heal(self, hosted: Hosted, order: Data, effect: fx.Heal) -> None:
        sums, data = self._shell.payloads.pop(effect.token)
        whole = heal_copy(hosted.blocks, effect.ranges, sums, data, settled=effect.settled)
        self._shell.counted.healed_blocks += hosted.health.heal(whole)
        self._shell.node.disk.healed(hosted.volume, order.epoch, effect.number, whole, boot_time_ns())

    def _damage(self, hosted: Hosted, order: Data, effect: fx.Damage) -> None:
        blocks = [at for block, count in effect.blocks for at in range(block, block + count)]
        if effect.source or effect.node != self._shell.node.name or hosted.health.lose(blocks):
            self._shell.around.damaged(hosted.volume, order.epoch, effect)

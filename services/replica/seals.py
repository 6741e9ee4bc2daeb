"""Snapshots as a store takes them: the next layer is prepared, the volume is sealed into it and hashed, and what no
snapshot of the record needs is dropped."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from services.replica.brain.record import layer_name
from services.replica.clock import boot_time_ns
from services.replica.driver import Data
from services.replica.driver.snapshots import unwanted
from services.replica.hosted import Failure, Hosted
from services.replica.replication import effects as fx
from services.replica.store import Unproved
from stoscore.telemetry import get_logger

if TYPE_CHECKING:
    from services.replica.shell import Shell

log = get_logger("replica")


class Seals:
    """Of all volumes of one node."""

    def __init__(self, shell: Shell):
        self._shell = shell

    def performs(self) -> dict[type, Callable[[Hosted, Data, Any], None]]:
        """Effect -> what performs it."""
        return {
            fx.PrepareSeal: self._prepare_seal,
            fx.SealStore: self._seal_store,
            fx.HashSeal: self._hash_seal,
            fx.WritesHeld: self._writes_held,
            fx.NotGiven: self._not_given,
        }

    def _prepare_seal(self, hosted: Hosted, order: Data, effect: fx.PrepareSeal) -> None:
        def told(why_not: str, failure: Failure) -> None:
            if failure is not None:
                self._shell.fail(hosted, str(failure))
            else:
                self._shell.node.disk.seal_prepared(hosted.volume, order.owner, effect.number, why_not, boot_time_ns())
            self._shell.settle()

        hosted.layers.prepare(told)

    def _seal_store(self, hosted: Hosted, order: Data, effect: fx.SealStore) -> None:
        def told(failure: Failure) -> None:
            if failure is not None:
                self._shell.fail(hosted, str(failure))
            else:
                self._shell.node.disk.sealed(hosted.volume, effect.seq, boot_time_ns())
                self.drop_unwanted(hosted)
            self._shell.settle()

        hosted.layers.seal(layer_name(effect.snapshot, effect.seq), told)

    def _hash_seal(self, hosted: Hosted, order: Data, effect: fx.HashSeal) -> None:
        def told(root: int | None, failure: Failure) -> None:
            if isinstance(failure, Unproved):
                log.warning("%s has no root hash: %s", effect.snapshot, failure, extra={"volume": hosted.volume})
                self._shell.node.disk.hashed(hosted.volume, order.owner, effect.seq, None, boot_time_ns())
            elif failure is not None:
                self._shell.fail(hosted, str(failure))
            elif root is not None:
                self._shell.node.disk.hashed(hosted.volume, order.owner, effect.seq, root, boot_time_ns())
            self._shell.settle()

        hosted.layers.hash(layer_name(effect.snapshot, effect.seq), effect.size_blocks, told)

    def _writes_held(self, hosted: Hosted, order: Data, effect: fx.WritesHeld) -> None:
        self._shell.counted.seals.record(effect.held_ns / 1e9)
        log.info(
            "snapshot %s is sealed: writes were held for %.1f ms, %d waited",
            effect.snapshot,
            effect.held_ns / 1e6,
            effect.requests,
            extra={"volume": hosted.volume, "epoch": order.epoch},
        )

    def _not_given(self, hosted: Hosted, order: Data, effect: fx.NotGiven) -> None:
        log.warning(
            "%s goes on without snapshot %s: %s",
            effect.node,
            effect.snapshot,
            effect.reason,
            extra={"volume": hosted.volume, "epoch": order.epoch},
        )

    def drop_unwanted(self, hosted: Hosted) -> None:
        """Layers that no snapshot of the record needs: of a deposed primary, or dropped."""
        volume = self._shell.node.volumes.get(hosted.volume)
        if hosted.store is None or hosted.failure or volume is None or volume.committed is None:
            return
        sealed, stored = hosted.store.sealed, volume.brain.state.slot
        if sealed and stored is not None:
            hosted.layers.drop(unwanted(sealed, volume.committed, stored))

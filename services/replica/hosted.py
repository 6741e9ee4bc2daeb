"""One voter's directory, open: its store, and the disk work that is under way for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from services.replica.brain import HardState, Slot
from services.replica.codec import Envelope
from services.replica.health import Health
from services.replica.kernel_sync import Syncs
from services.replica.lanes import Lane, Sync, Work
from services.replica.layering import Layering
from services.replica.replication.packing import Packing
from services.replica.replication.replica import Share
from services.replica.store import BlockStore, StoreError, WitnessStore
from stoscore.units import BLOCK_BYTES, REGION_BLOCKS

Failure = StoreError | None


@dataclass(frozen=True, slots=True)
class SyncWait:
    """Who asked for a sync: the follower's side (owner 0) or the primary of epoch `owner`."""

    owner: int
    ticket: int
    settles: bool
    cleans: bool


class Hosted:
    """A replica or a witness of one volume on this node."""

    def __init__(
        self,
        volume: str,
        incarnation: str,
        store: BlockStore | WitnessStore,
        loop: asyncio.AbstractEventLoop,
        pool: Executor,
        health: Health,
        syncs: Syncs | None = None,
    ):
        self.volume = volume
        self.raw = bytes.fromhex(volume)
        self.incarnation = incarnation
        self.number = int(incarnation, 16)
        self.voter_store = store
        self.store: BlockStore | None = None
        self.blocks: BlockStore
        """The same, where there is one; asking a witness for it is a mistake of ours."""
        if not isinstance(store, WitnessStore):
            self.store = self.blocks = store
        self.failure = ""
        self.health = health
        self.retiring = False
        """It has too many rotten blocks, and is to leave as soon as another copy can do without it."""
        self.scrubbed_unix_ms = 0
        """When it was last read to its end, 0: not yet."""
        self.votes = True
        """False: a hard state could not be stored, so no vote may be given any more."""
        self.erased = False
        self.saved_ticket = 0
        self.envelopes: dict[tuple[int, str], Envelope] = {}
        """(epoch, target) -> header of messages, by the record that was `seen` last."""
        self.believed: set[tuple[str, int, int, int]] = set()
        """(node, its incarnation, ours, generation) of frames that this record lets that node send."""
        self.packing: dict[str, Packing] = {}
        """Node that catches up -> whether its copies are packed."""
        self.seen: Slot | None = None
        self._states = Lane(loop, pool)
        self._blocks = Lane(loop, pool, syncs)
        self._hints = Lane(loop, pool)
        self._hinting = False
        self.layering = Layering(self.store, self._blocks, Lane(loop, pool), loop) if self.store is not None else None
        self._to_mark: set[int] = set()
        self._to_sync: list[SyncWait] = []
        self._told_saved: list[tuple[int, asyncio.Future[None]]] = []

    @property
    def layers(self) -> Layering:
        """As for `blocks`."""
        assert self.layering is not None
        return self.layering

    def see(self, slot: Slot | None) -> None:
        """Another record than the one that was `seen` last: what was worked out from that is forgotten with it."""
        self.seen = slot
        self.envelopes.clear()
        self.believed.clear()

    def share(self) -> Share:
        """What this store may hold unconfirmed: its tail, or all marked regions when the tail is lost (D1)."""
        if self.store is None or self.erased:
            return Share((), 0, 0, False)
        last_seq, commit = self.store.tail_state()
        entries = self.store.tail_entries()
        if entries is not None and not self.store.unclean:
            ranges = tuple((block, count) for _, block, count in entries)
            return Share(ranges, last_seq, commit, False)
        size = self.store.size_blocks
        marked = tuple(
            (region * REGION_BLOCKS, min(REGION_BLOCKS, size - region * REGION_BLOCKS))
            for region in sorted(self.store.marked)
        )
        return Share(marked, last_seq, commit, self.store.unclean)

    # ---- hard state -----------------------------------------------------------------------------------

    def save(self, ticket: int, state: HardState, told: Callable[[int, Failure], None]) -> None:
        encoded = state.encode()

        def done(failure: Failure) -> None:
            if failure is None:
                self.saved_ticket = ticket
            for wanted, future in self._told_saved:
                if wanted <= ticket and not future.done():
                    if failure is None:
                        future.set_result(None)
                    else:
                        future.set_exception(failure)
            self._told_saved = [item for item in self._told_saved if item[0] > ticket]
            told(ticket, failure)

        record = state.slot.record if state.slot is not None else None

        def work() -> None:
            if record is not None and self.store is not None and not record.deleted:
                # Before it counts as accepted: whoever is counted for a larger volume has the room.
                self.store.grow(record.size_bytes // BLOCK_BYTES)
            self.voter_store.save_state(encoded)

        self._states.run(lambda: work, done)

    async def until_saved(self, ticket: int) -> None:
        """Raises StoreError when the disk fails."""
        if self.saved_ticket < ticket:
            future = asyncio.get_running_loop().create_future()
            self._told_saved.append((ticket, future))
            await future

    # ---- marks and syncs: what arrives while one is under way shares the next ---------------------------

    def mark(self, regions: tuple[int, ...], told: Callable[[tuple[int, ...], Failure], None]) -> None:
        waiting = bool(self._to_mark)
        self._to_mark.update(regions)
        if waiting:
            return
        taken: list[int] = []

        def prepare() -> Work:
            taken.extend(sorted(self._to_mark))
            self._to_mark.clear()
            return lambda: self.blocks.mark(taken)

        self._blocks.run(prepare, lambda failure: told(tuple(taken), failure))

    def sync(self, wait: SyncWait, told: Callable[[list[SyncWait], Failure], None]) -> None:
        waiting = bool(self._to_sync)
        self._to_sync.append(wait)
        if waiting:
            return
        taken: list[SyncWait] = []

        def prepare() -> Work:
            taken.extend(self._to_sync)
            self._to_sync.clear()
            if any(wait.cleans for wait in taken):
                return clean
            if any(wait.settles for wait in taken):
                return self.blocks.sync
            files = self.blocks.files_to_flush()
            return self.blocks.flush if files is None else Sync(files)

        def clean() -> None:
            self.blocks.sync()
            if self.blocks.unclean:
                self.blocks.set_clean()

        def done(failure: Failure) -> None:
            if failure is not None:
                self.blocks.sync_failed(str(failure))
            told(taken, failure)

        self._blocks.run(prepare, done)

    def write_back(self) -> None:
        """Beside marks and syncs, which wait for nobody's hint."""
        if self._hinting:
            return
        self._hinting = True

        def told(failure: Failure) -> None:
            self._hinting = False

        self._hints.run(lambda: self.blocks.write_back, told)

    def run(self, work: Callable[[], None], told: Callable[[Failure], None]) -> None:
        """Other work of the disk, in order with marks and syncs."""
        self._blocks.run(lambda: work, told)

    async def origin_root(self, size_blocks: int) -> str:
        """See the store. Raises StoreError."""
        found: list[str] = []
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def told(failure: Failure) -> None:
            if done.done():
                return
            if failure is None:
                done.set_result(None)
            else:
                done.set_exception(failure)

        self.run(lambda: found.append(self.blocks.origin_root(size_blocks)), told)
        await done
        return found[0]

    async def close(self, *, clean: bool) -> None:
        """After what is under way."""
        if self.layering is not None:
            await self.layering.stop()
        await self._states.idle()
        await self._blocks.idle()
        await self._hints.idle()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, lambda: self._close(clean))

    def _close(self, clean: bool) -> None:
        if self.store is None:
            self.voter_store.close()
        else:
            self.store.close(clean=clean and not self.failure)

"""What a replica promised so far, and whether a directory that a crash left keeps it.

| promise | since when |
|---|---|
| a flushed block has exactly its content | the sync returned |
| a block written since holds sectors of what it may hold, nothing else | its write began |
| the region of such a block is marked, and the replica knows that it is unclean | its write began |
| the hard state is the last saved one, or the one being saved | the save returned |
| a snapshot holds what the volume held at its seal, exactly | the seal returned, or the snapshot is there |
| a deleted snapshot is gone | the deletion returned |
| every read is verified by checksums, and none fails | always |
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby

from services.replica.store import FileStore
from services.replica.store.layer import Layer
from stoscore.units import BLOCK_BYTES, REGION_BLOCKS
from tests.crash.disk_model import SECTOR

ZEROS = bytes(BLOCK_BYTES)


class Broken(AssertionError):
    """A promise was not kept."""


@dataclass(slots=True)
class Promises:
    size_blocks: int
    flushed: dict[int, bytes] = field(default_factory=dict)
    since: dict[int, list[bytes]] = field(default_factory=dict)
    """Block -> contents written after the last sync began to cover them, oldest first."""
    states: list[bytes | None] = field(default_factory=lambda: [None])
    """What the hard state may be: the durable one, then the one that is being saved."""

    snapshots: dict[str, dict[int, bytes]] = field(default_factory=dict)
    changing: tuple[str, dict[int, bytes]] | None = None
    """The snapshot that is being made or deleted: it is there, whole, or it is not."""

    # --- what the workload tells ---

    def writing(self, block: int, contents: list[bytes]) -> None:
        for at, content in enumerate(contents):
            self.since.setdefault(block + at, []).append(content)

    def synced(self) -> None:
        for block, contents in self.since.items():
            self.flushed[block] = contents[-1]
        self.since.clear()

    def content(self) -> dict[int, bytes]:
        return self.flushed | {block: contents[-1] for block, contents in self.since.items()}

    def sealing(self, name: str) -> None:
        self.changing = (name, self.content())

    def sealed(self) -> None:
        self.synced()
        if self.changing is not None:
            self.snapshots[self.changing[0]] = self.changing[1]
        self.changing = None

    def dropping(self, name: str) -> None:
        self.changing = (name, self.snapshots.pop(name))

    def dropped(self) -> None:
        self.changing = None

    def saving(self, state: bytes) -> None:
        self.states.append(state)

    def saved(self) -> None:
        self.states = self.states[-1:]

    # --- what the crash left ---

    def check_power_loss(self, store: FileStore) -> None:
        unsure = {block // REGION_BLOCKS for block in self.since}
        if not unsure <= store.marked:
            raise Broken(f"regions {sorted(unsure - store.marked)} hold unflushed writes and are not marked")
        if unsure and not store.unclean:
            raise Broken("unflushed writes were lost and the replica believes itself clean")
        self._check_state(store)
        self._check_snapshots(store)
        for block, data in _read(store, {*self.flushed, *self.since}):
            allowed = [self.flushed.get(block, ZEROS), *self.since.get(block, ())]
            if data not in allowed and (block not in self.since or not _of_sectors(data, allowed)):
                raise Broken(f"block {block} holds what was never written there")

    def check_kill(self, store: FileStore) -> None:
        """A killed process loses nothing: but for the write that was under way, all is as it was."""
        self._check_state(store)
        self._check_snapshots(store)
        for block, data in _read(store, {*self.flushed, *self.since}):
            last = self.since.get(block) or [self.flushed.get(block, ZEROS)]
            before = last[-2] if len(last) > 1 else self.flushed.get(block, ZEROS)
            if data not in (last[-1], before):
                raise Broken(f"block {block} lost a write although only the process died")

    def _check_snapshots(self, store: FileStore) -> None:
        name, content = self.changing or ("", {})
        if not self.snapshots.keys() <= store.snapshots.keys() <= {*self.snapshots, name}:
            raise Broken(f"the snapshots are {sorted(store.snapshots)} and should be {sorted(self.snapshots)}")
        for found, layer in store.snapshots.items():
            expected = self.snapshots.get(found, content)
            for block, data in _read(layer, {*self.content(), *expected}):
                if data != expected.get(block, ZEROS):
                    raise Broken(f"block {block} of snapshot {found} is not what it was at the seal")

    def _check_state(self, store: FileStore) -> None:
        if store.load_state() not in self.states:
            raise Broken("the hard state is neither the saved one nor the one that was being saved")


def _read(store: FileStore | Layer, blocks: set[int]) -> Iterator[tuple[int, bytes]]:
    """Neighbours with one read, which looks at the data of zeros among them too."""
    for _, pairs in groupby(enumerate(sorted(blocks)), lambda pair: pair[1] - pair[0]):
        run = [block for _, block in pairs]
        _, data = store.read(run[0], len(run))
        for at, block in enumerate(run):
            yield block, data[at * BLOCK_BYTES : (at + 1) * BLOCK_BYTES]


def _of_sectors(data: bytes, allowed: list[bytes]) -> bool:
    return all(
        any(data[at : at + SECTOR] == content[at : at + SECTOR] for content in allowed)
        for at in range(0, BLOCK_BYTES, SECTOR)
    )

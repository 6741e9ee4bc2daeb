"""A random life of a replica, with a crash at every call that it makes to the kernel.

    python -m tests.crash [--states N] [--first SEED]

At each recorded call some crash states are drawn, laid down beside, opened as after a power loss (another boot id)
and checked; one in ten is lost again in the middle of its own recovery.
"""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from services.replica.store import FileStore, Format, block_sums, by_region
from stoscore.units import BLOCK_BYTES, REGION_BLOCKS
from tests.crash.disk_model import Disk, Image, lay_down
from tests.crash.promises import ZEROS, Broken, Promises

IN_MEMORY = Path("/dev/shm")
CLUSTER, VOLUME = "c", "a" * 32
SIZE_BLOCKS = 2 * REGION_BLOCKS + 100
STATES_PER_CALL = 3
AGAIN = 0.1
"""Share of the states whose recovery is cut short by another power loss."""
SNAPSHOTS_MAX = 3
_STEPS = 60


class PowerCut(Exception):
    """In the middle of a recovery."""


@dataclass(slots=True)
class Counted:
    states: int = 0
    kills: int = 0
    again: int = 0


class Life:
    """One replica from its making, by one seed. Raises Broken at the first promise that was not kept."""

    def __init__(self, seed: int, directory: Path, counted: Counted):
        self._choice = random.Random(seed)
        self._directory = directory
        self._counted = counted
        self._boot = 1
        self._seq = 0
        self._written = 0
        self._sealed = 0
        self._promises = Promises(SIZE_BLOCKS)
        self._unflushed: set[int] = set()
        self._store = FileStore.create(
            directory / "replica", Format(CLUSTER, VOLUME, "v", "b" * 16, "data", SIZE_BLOCKS), "boot-1"
        )
        self._disk = Disk(directory / "replica", self._crash)

    def run(self) -> None:
        with self._disk.recording():
            self.steps(_STEPS)
        self._store.close(clean=False)

    def steps(self, count: int) -> None:
        steps = (
            *(
                self._write,
                self._write,
                self._write_scattered,
                self._zero,
                self._flush,
                self._sync,
                self._settle,
                self._save,
                self._reopen,
            ),
            *(self._prepare, self._seal, self._drop, self._fold, self._fold),
        )
        for _ in range(count):
            self._choice.choice(steps)()

    def after_an_error(self) -> None:
        """The disk refused something: the replica says that it counts for nothing, its process ends and comes back on
        a disk that works again. An opening or closing that failed is only tried again. Raises Broken."""
        was_open = not self._store._closed
        if was_open:
            self._store.set_unclean()
            self._store.close(clean=False)
        store = self._open(self._directory / "replica")
        try:
            if was_open and not store.unclean:
                raise Broken("a replica whose disk failed believes itself clean")
            self._promises.check_kill(store)
        finally:
            store.close(clean=False)

    # --- the workload ---

    def _write(self) -> None:
        block, count = self._range(8)
        contents = [ZEROS if self._choice.random() < 0.15 else self._content() for _ in range(count)]
        data = b"".join(contents)
        self._begin(block, count, contents)
        self._store.write(block, block_sums(data), data)

    def _write_scattered(self) -> None:
        """A copy: some ranges here and there, stored region by region."""
        first, _ = self._range(16)
        ranges = [(first, 1), (first + 2, 2), (first + 7, 1), (60, 3)]
        contents = [self._content() for _, count in ranges for _ in range(count)]
        data, at = b"".join(contents), 0
        self._seq += 1
        for part in by_region(ranges):
            self._store.mark({part.region})
            self._unflushed.add(part.region)
            self._store.tail_append(self._seq, *part.hull)
        for block, count in ranges:
            self._promises.writing(block, contents[at : at + count])
            at += count
        self._store.write_scattered(ranges, block_sums(data), data)

    def _zero(self) -> None:
        block, count = self._range(24)
        self._begin(block, count, [ZEROS] * count)
        self._store.zero(block, count)

    def _begin(self, block: int, count: int, contents: list[bytes]) -> None:
        regions = set(range(block // REGION_BLOCKS, (block + count - 1) // REGION_BLOCKS + 1))
        self._store.mark(regions)
        self._unflushed |= regions
        self._seq += 1
        self._store.tail_append(self._seq, block, count)
        self._promises.writing(block, contents)

    def _flush(self) -> None:
        """The data, and not their checksums."""
        self._store.flush()
        self._promises.synced()
        self._unflushed.clear()

    def _sync(self) -> None:
        self._store.sync()
        self._promises.synced()
        self._unflushed.clear()

    def _settle(self) -> None:
        """Everything confirmed and flushed: the regions are unmarked (rule T3), and marked anew by later writes."""
        self._sync()
        self._store.tail_commit(self._seq)
        if self._store.unclean:
            self._store.set_clean()
        self._store.unmark(self._store.marked)

    def _prepare(self) -> None:
        self._store.prepare_seal()

    def _seal(self) -> None:
        if len(self._promises.snapshots) == SNAPSHOTS_MAX:
            self._drop()
            return
        self._sealed += 1
        self._promises.sealing(f"s{self._sealed}")
        self._store.seal(f"s{self._sealed}")
        self._promises.sealed()
        self._unflushed.clear()

    def _drop(self) -> None:
        if self._promises.snapshots:
            name = self._choice.choice(sorted(self._promises.snapshots))
            self._promises.dropping(name)
            self._store.drop(name)
            self._promises.dropped()

    def _fold(self) -> None:
        """Some of a deleted snapshot's blocks, or all that is left of it, so that its layer goes."""
        if self._choice.random() < 0.5:
            self._store.fold(4)
            return
        while self._store.fold(1000):
            pass
        self._store.settle_fold()

    def _save(self) -> None:
        state = self._choice.randbytes(self._choice.randrange(1, 600))
        self._promises.saving(state)
        self._store.save_state(state)
        self._promises.saved()

    def _reopen(self) -> None:
        """The process ends and comes back: cleanly or killed, on the same boot or after an orderly reboot."""
        clean = self._choice.random() < 0.5
        if clean:
            self._sync()  # so that what a crash in the middle of the closing leaves is known
            self._store.close(clean=True)
            self._boot += self._choice.randrange(2)
        else:
            self._store.close(clean=False)
        self._store = self._open(self._directory / "replica")

    def _open(self, directory: Path) -> FileStore:
        return FileStore.open(directory, cluster=CLUSTER, boot_id=f"boot-{self._boot}")

    def _range(self, most: int) -> tuple[int, int]:
        """Few places, so that blocks are written again and again; some runs cross into the next region."""
        base = self._choice.choice((0, 5, REGION_BLOCKS - 3, 2 * REGION_BLOCKS - 2, SIZE_BLOCKS - most))
        return base + self._choice.randrange(3), self._choice.randrange(1, most - 2)

    def _content(self) -> bytes:
        self._written += 1
        return random.Random(self._written).randbytes(BLOCK_BYTES)

    # --- the crashes ---

    def _crash(self) -> None:
        for _ in range(STATES_PER_CALL):
            self._lose_power(self._disk.power_loss(self._choice))
        if self._choice.random() < 0.2:
            self._kill(self._disk.settled())

    def _lose_power(self, image: Image) -> None:
        crashed = self._lay_down(image)
        self._counted.states += 1
        if self._choice.random() < AGAIN:
            image = self._lose_power_again(crashed, image)
            crashed = self._lay_down(image)
            self._counted.again += 1
        store = FileStore.open(crashed, cluster=CLUSTER, boot_id="after the power loss")
        try:
            self._promises.check_power_loss(store)
        finally:
            store.close(clean=False)

    def _lose_power_again(self, crashed: Path, image: Image) -> Image:
        """What a power loss in the middle of the recovery leaves."""
        left = self._choice.randrange(1, 12)

        def count_down() -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise PowerCut

        recovering = Disk(crashed, count_down, image)
        with recovering.recording(), suppress(PowerCut):
            FileStore.open(crashed, cluster=CLUSTER, boot_id="the boot between").close(clean=False)
        return recovering.power_loss(self._choice)

    def _kill(self, image: Image) -> None:
        store = self._open(self._lay_down(image))
        try:
            self._promises.check_kill(store)
        finally:
            store.close(clean=False)
        self._counted.kills += 1

    def _lay_down(self, image: Image) -> Path:
        crashed = self._directory / "crashed"
        lay_down(image, crashed)
        return crashed


def live(seed: int, directory: Path, counted: Counted) -> None:
    """One life. Raises Broken, with the seed."""
    try:
        Life(seed, directory, counted).run()
    except Exception as error:
        _tell(seed, error)


def _tell(seed: int, error: Exception) -> NoReturn:
    raise AssertionError(f"seed {seed} (python -m tests.crash --first {seed} --states 1): {error}") from error

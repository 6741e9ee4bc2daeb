"""A store with snapshots against dictionaries: one for the volume and one for each snapshot.

Power losses are the crash points' business (tests/crash); here it is the order of seals, drops, folds in pieces,
growth, kills and orderly restarts, with every read compared, and at the end the offline check and the digest.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from xxhash import xxh3_64_hexdigest

from services.replica.store import FileStore, Format, block_sums, check, digest
from stoscore.units import BLOCK_BYTES, REGION_BLOCKS

SIZE = REGION_BLOCKS + 40
ZERO = bytes(BLOCK_BYTES)
SNAPSHOTS_MAX = 4
EDGES = (0, REGION_BLOCKS - 4, SIZE - 12)
TOUCHED = [edge + offset for edge in EDGES for offset in range(12)]
starts = st.builds(lambda edge, offset: edge + offset, st.sampled_from(EDGES), st.integers(0, 6))


def content(seed: int, at: int) -> bytes:
    return ZERO if seed == 0 else (seed * 1000003 + at).to_bytes(8, "little") * (BLOCK_BYTES // 8)


class SnapshotMachine(RuleBasedStateMachine):
    @initialize()
    def create(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="stos-snapshots-"))
        self.directory = self.root / "replica"
        self.store = FileStore.create(self.directory, Format("c", "a" * 32, "v", "b" * 16, "data", SIZE), "boot")
        self.blocks = dict.fromkeys(TOUCHED, ZERO)
        self.snapshots: dict[str, dict[int, bytes]] = {}
        self.sealed = self.seq = 0

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        try:
            self.agree()
            self.store.close()
            report = check(self.directory)
            assert report.whole, report
            sums = bytearray(self.store.size_blocks * 8)
            for at, data in self.blocks.items():
                sums[at * 8 : at * 8 + 8] = block_sums(data)
            assert digest(self.directory).digest == xxh3_64_hexdigest(bytes(sums))
        finally:
            shutil.rmtree(self.root)

    def begin(self, at: int, count: int) -> None:
        self.store.mark(range(at // REGION_BLOCKS, (at + count - 1) // REGION_BLOCKS + 1))
        self.seq += 1
        self.store.tail_append(self.seq, at, count)

    @rule(at=starts, seeds=st.lists(st.integers(0, 3), min_size=1, max_size=6))
    def write(self, at: int, seeds: list[int]) -> None:
        data = [content(seed, at + offset) for offset, seed in enumerate(seeds)]
        self.begin(at, len(data))
        self.store.write(at, block_sums(b"".join(data)), b"".join(data))
        self.blocks.update(enumerate(data, at))

    @rule(places=st.lists(st.tuples(starts, st.integers(1, 6)), min_size=1, max_size=5))
    def read_scattered(self, places: list[tuple[int, int]]) -> None:
        data = b"".join(self.blocks[at] for first, count in places for at in range(first, first + count))
        assert self.store.read_scattered(places) == (block_sums(data), data)

    @rule(at=starts, count=st.integers(1, 6))
    def zero(self, at: int, count: int) -> None:
        self.begin(at, count)
        self.store.zero(at, count)
        self.blocks.update(dict.fromkeys(range(at, at + count), ZERO))

    @rule()
    def prepare(self) -> None:
        self.store.prepare_seal()

    @precondition(lambda self: len(self.snapshots) < SNAPSHOTS_MAX)
    @rule()
    def seal(self) -> None:
        self.sealed += 1
        self.store.seal(f"s{self.sealed}")
        self.snapshots[f"s{self.sealed}"] = dict(self.blocks)

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.snapshots)))
        self.store.drop(name)
        del self.snapshots[name]

    @rule(blocks=st.sampled_from((3, 700, 5000)))
    def fold(self, blocks: int) -> None:
        if not self.store.fold(blocks):
            self.store.settle_fold()

    @rule()
    def sync(self) -> None:
        self.store.sync()

    @rule()
    def settle(self) -> None:
        self.store.sync()
        self.store.tail_commit(self.seq)
        self.store.unmark(self.store.marked)

    @rule()
    def grow(self) -> None:
        self.store.grow(min(self.store.size_blocks + 300, SIZE + 2 * REGION_BLOCKS))

    @rule(clean=st.booleans())
    def restart(self, clean: bool) -> None:
        self.store.close(clean=clean)
        self.store = FileStore.open(self.directory, cluster="c", boot_id="boot")
        self.agree()

    @rule()
    def agree(self) -> None:
        for at in EDGES:
            assert self.store.read(at, 12)[1] == b"".join(self.blocks[at + offset] for offset in range(12))
        assert list(self.store.snapshots) == list(self.snapshots)
        for name, blocks in self.snapshots.items():
            layer = self.store.snapshots[name]
            for at in EDGES:
                assert layer.read(at, 12)[1] == b"".join(blocks[at + offset] for offset in range(12))


SnapshotMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSnapshotModel = SnapshotMachine.TestCase

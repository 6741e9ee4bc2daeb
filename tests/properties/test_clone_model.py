"""A family of replicas, clones of each other's snapshots, each against dictionaries of its own.

They share sealed files by hard links, and every one writes, seals, drops, folds, restarts and is removed as it likes.
What one does must never be seen by another. Layers are folded here whether or not they are shared, which in service
only long lists are: so that folds into shared files happen.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from xxhash import xxh3_64_hexdigest

from services.replica.store import FileStore, Format, block_sums, check, digest, remove
from stoscore.units import BLOCK_BYTES, REGION_BLOCKS

SIZE = REGION_BLOCKS + 40
ZERO = bytes(BLOCK_BYTES)
FAMILY_MAX = 4
SNAPSHOTS_MAX = 3
EDGES = (0, REGION_BLOCKS - 4, SIZE - 12)
TOUCHED = [edge + offset for edge in EDGES for offset in range(12)]
starts = st.builds(lambda edge, offset: edge + offset, st.sampled_from(EDGES), st.integers(0, 6))
members = st.integers(0, FAMILY_MAX - 1)


def content(seed: int, at: int) -> bytes:
    return ZERO if seed == 0 else (seed * 1000003 + at).to_bytes(8, "little") * (BLOCK_BYTES // 8)


class Member:
    """One replica and what it must hold."""

    def __init__(self, store: FileStore, blocks: dict[int, bytes]):
        self.store = store
        self.blocks = dict(blocks)
        self.snapshots: dict[str, dict[int, bytes]] = {}
        self.seq = 0

    def begin(self, at: int, count: int) -> None:
        self.store.mark(range(at // REGION_BLOCKS, (at + count - 1) // REGION_BLOCKS + 1))
        self.seq += 1
        self.store.tail_append(self.seq, at, count)

    def agree(self) -> None:
        for at in EDGES:
            assert self.store.read(at, 12)[1] == b"".join(self.blocks[at + offset] for offset in range(12))
        assert list(self.store.snapshots) == list(self.snapshots)
        for name, blocks in self.snapshots.items():
            layer = self.store.snapshots[name]
            for at in EDGES:
                assert layer.read(at, 12)[1] == b"".join(blocks[at + offset] for offset in range(12))

    def end(self) -> None:
        self.agree()
        self.store.close()
        report = check(self.store.directory)
        assert report.whole, report
        sums = bytearray(self.store.size_blocks * 8)
        for at, data in self.blocks.items():
            sums[at * 8 : at * 8 + 8] = block_sums(data)
        assert digest(self.store.directory).digest == xxh3_64_hexdigest(bytes(sums))


class CloneMachine(RuleBasedStateMachine):
    @initialize(crowded=st.sampled_from((1, 1, 3)))
    def create(self, crowded: int) -> None:
        self.patched = patch("services.replica.store.stack.SHARED_MAX", crowded)
        self.patched.start()
        self.root = Path(tempfile.mkdtemp(prefix="stos-clones-"))
        store = FileStore.create(self.root / "0", Format("c", "a" * 32, "v", "b" * 16, "data", SIZE), "boot")
        self.family = [Member(store, dict.fromkeys(TOUCHED, ZERO))]
        self.made = 1

    def teardown(self) -> None:
        if not hasattr(self, "family"):
            return
        try:
            for member in self.family:
                member.end()
        finally:
            self.patched.stop()
            shutil.rmtree(self.root)

    def pick(self, member: int) -> Member:
        return self.family[member % len(self.family)]

    @precondition(lambda self: len(self.family) < FAMILY_MAX and any(member.snapshots for member in self.family))
    @rule(data=st.data(), larger=st.booleans())
    def clone(self, data: st.DataObject, larger: bool) -> None:
        source = data.draw(st.sampled_from([member for member in self.family if member.snapshots]))
        name = data.draw(st.sampled_from(sorted(source.snapshots)))
        size = source.store.snapshots[name].size_blocks + (300 if larger else 0)
        self.made += 1
        store = source.store.clone(
            name,
            self.root / str(self.made),
            Format("c", f"{self.made:032x}", "clone", f"{self.made:016x}", "data", size),
            "boot",
        )
        self.family.append(Member(store, source.snapshots[name]))

    @precondition(lambda self: len(self.family) > 1)
    @rule(member=members)
    def leave(self, member: int) -> None:
        gone = self.pick(member)
        self.family.remove(gone)
        gone.end()
        remove(gone.store.directory)

    @rule(member=members, at=starts, seeds=st.lists(st.integers(0, 3), min_size=1, max_size=6))
    def write(self, member: int, at: int, seeds: list[int]) -> None:
        one = self.pick(member)
        data = [content(seed, at + offset) for offset, seed in enumerate(seeds)]
        one.begin(at, len(data))
        one.store.write(at, block_sums(b"".join(data)), b"".join(data))
        one.blocks.update(enumerate(data, at))

    @rule(member=members, at=starts, count=st.integers(1, 6))
    def zero(self, member: int, at: int, count: int) -> None:
        one = self.pick(member)
        one.begin(at, count)
        one.store.zero(at, count)
        one.blocks.update(dict.fromkeys(range(at, at + count), ZERO))

    @rule(member=members)
    def seal(self, member: int) -> None:
        one = self.pick(member)
        if len(one.snapshots) < SNAPSHOTS_MAX:
            name = f"s{len(one.snapshots)}-{one.seq}-{self.made}"
            if name not in one.snapshots:
                one.store.seal(name)
                one.snapshots[name] = dict(one.blocks)

    @rule(member=members, data=st.data())
    def drop(self, member: int, data: st.DataObject) -> None:
        one = self.pick(member)
        if one.snapshots:
            name = data.draw(st.sampled_from(sorted(one.snapshots)))
            one.store.drop(name)
            del one.snapshots[name]

    @rule(member=members, blocks=st.sampled_from((3, 700, 5000)))
    def fold(self, member: int, blocks: int) -> None:
        one = self.pick(member)
        if not one.store.fold(blocks):
            one.store.settle_fold()

    @rule(member=members)
    def settle(self, member: int) -> None:
        one = self.pick(member)
        one.store.sync()
        one.store.tail_commit(one.seq)
        one.store.unmark(one.store.marked)

    @rule(member=members, clean=st.booleans())
    def restart(self, member: int, clean: bool) -> None:
        one = self.pick(member)
        one.store.close(clean=clean)
        one.store = FileStore.open(one.store.directory, cluster="c", boot_id="boot")

    @rule()
    def agree(self) -> None:
        for member in self.family:
            member.agree()


CloneMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
TestCloneModel = CloneMachine.TestCase

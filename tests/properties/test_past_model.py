"""A copy that is given what it lacks, whatever it held before: each snapshot by its root hash and block by block, then
what the volume is. The comparison is the core's, the stores are real; what is between them is the test's."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from services.replica.copies import pack_copy, store_copy
from services.replica.replication import effects as fx
from services.replica.replication.blockmap import BlockMap, regions_of
from services.replica.replication.messages import Digest
from services.replica.replication.resync import Resync
from services.replica.resyncing import different
from services.replica.store import Blocks, FileStore, Format, block_sums, check
from stoscore.units import REGION_BLOCKS
from tests.support.replicas import as_of

SIZE = REGION_BLOCKS + 40
LARGER = SIZE + REGION_BLOCKS
STARTS = (0, 300, REGION_BLOCKS - 4, SIZE - 8)
Write = tuple[str, int, int]
writes = st.tuples(st.sampled_from(("write", "zero")), st.sampled_from(STARTS), st.integers(1, 8))
histories = st.lists(
    st.one_of(writes, writes, st.tuples(st.sampled_from(("seal", "grow")), st.just(0), st.just(0))), max_size=14
)


def made(directory: Path, size_blocks: int) -> FileStore:
    return FileStore.create(directory, Format("c", "a" * 32, "v", directory.name * 16, "data", size_blocks), "boot")


def happen(store: FileStore, history: list[Write], salt: int) -> None:
    for at, (what, block, count) in enumerate(history):
        store.mark({block // REGION_BLOCKS, (block + count) // REGION_BLOCKS} if count else ())
        if what == "write":
            data = b"".join((at * 31 + offset + salt).to_bytes(8, "little") * 512 for offset in range(count))
            store.write(block, block_sums(data), data)
        elif what == "zero":
            store.zero(block, count)
        elif what == "grow":
            store.grow(LARGER)
        else:
            store.seal(f"s{at}-{salt}")


def make_like(target: FileStore, source: Blocks, size_blocks: int) -> int:
    """What a primary and a follower do with a comparison; the number of blocks that travelled."""
    resync = Resync("target", size_blocks, BlockMap(), everything=True, finer=True)
    while not resync.done():
        for effect in resync.pump(as_of(0)):
            if isinstance(effect, fx.SendCopy):
                parts = pack_copy(source, effect.ranges)
                target.mark(region for part in effect.ranges for region in regions_of(*part))
                store_copy(target, effect.ranges, effect.ranges, parts[0], b"".join(parts[1:]))
                resync.copied(effect.number)
                continue
            assert isinstance(effect, fx.Tell) and isinstance(effect.message, Digest)
            asked = effect.message
            ours, theirs = (blocks.digests_of(asked.level, asked.ranges) for blocks in (source, target))
            resync.compared(asked.number, different(asked.ranges, ours, theirs))
    return resync.blocks_sent


@settings(max_examples=60, deadline=None)
@given(histories, histories, st.data())
def test_every_snapshot_then_the_present(history: list[Write], before: list[Write], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory(prefix="stos-past-") as root:
        source, target = made(Path(root, "a"), SIZE), made(Path(root, "b"), SIZE)
        happen(source, history, 1)
        happen(target, before, 1_000_000)
        target.grow(source.size_blocks)
        source.grow(target.size_blocks)
        size, kept = source.size_blocks, list(source.snapshots)
        for name in data.draw(st.permutations(kept)):
            past = source.past(name)
            assert past is not None
            make_like(target, past, size)
            target.seal(name)
            for blocks in (SIZE, size):
                assert target.root(name, blocks) == source.root(name, blocks)
            if data.draw(st.booleans()):
                target.close(clean=False)
                target = FileStore.open(target.directory, cluster="c", boot_id="boot")
        make_like(target, source, size)
        assert target.read(0, size) == source.read(0, size)
        assert make_like(target, source, size) == 0
        for name in kept:
            own, other = source.past(name), target.past(name)
            assert own is not None and other is not None
            assert own.read_scattered([(0, size)]) == other.read_scattered([(0, size)])
            assert own.digests_of(1, [(0, size // 256)]) == other.digests_of(1, [(0, size // 256)])
        own_snapshots = [name for name in target.snapshots if name not in kept]
        for name in own_snapshots:
            target.drop(name)
        while target.folds:
            if not target.fold(4096):
                target.settle_fold()
        for name in kept:
            assert target.root(name, size) == source.root(name, size)
        target.close()
        source.close()
        assert check(target.directory).whole

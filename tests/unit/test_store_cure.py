"""K3: what is done to a block that does not match its checksum, with another copy's content at hand."""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path

import pytest

from services.replica.store import CorruptBlocks, Cure, FileStore, Format, block_sums, judge
from services.replica.store.disk import drop_clean, is_cached
from stoscore.units import BLOCK_BYTES, REGION_BLOCKS
from tests.crash.rot import flip

W1, W2, GARBAGE = 1, 2, 3
DATA, SUMS, ROOTS = (Path("layers/0001") / name for name in ("data", "sums", "roots"))


@pytest.mark.parametrize(("settled", "disproved"), list(product([False, True], repeat=2)))
def test_what_the_checksum_says_heals_the_data_whoever_offers_it(settled: bool, disproved: bool) -> None:
    assert judge(W2, GARBAGE, W2, settled=settled, disproved=disproved) is Cure.DATA
    assert judge(W2, W2, W1, settled=settled, disproved=disproved) is Cure.NONE_NEEDED


def test_an_offer_that_agrees_with_the_data_counts_only_when_it_is_settled() -> None:
    """The disk lost w2 and kept w1; who offers w1 may not have received w2 yet."""
    assert judge(W2, W1, W1, settled=False, disproved=False) is Cure.REFUSED
    assert judge(GARBAGE, W1, W1, settled=True, disproved=False) is Cure.SUM


def test_any_other_offer_counts_only_where_the_root_disproves_the_checksums() -> None:
    assert judge(W2, GARBAGE, W1, settled=True, disproved=False) is Cure.REFUSED
    assert judge(W2, GARBAGE, W1, settled=False, disproved=True) is Cure.REFUSED
    assert judge(W2, GARBAGE, W1, settled=True, disproved=True) is Cure.BOTH


# ---- in the store -------------------------------------------------------------------------------------


def content(number: int) -> bytes:
    return bytes([number]) * BLOCK_BYTES


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A closed replica with blocks 0 to 3."""
    made = FileStore.create(tmp_path / "r", Format("c", "a" * 32, "v", "b" * 16, "data", 2 * REGION_BLOCKS), "boot")
    made.mark([0])
    data = b"".join(content(number) for number in (1, 2, 3, 4))
    made.write(0, block_sums(data), data)
    made.close()
    return tmp_path / "r"


def opened(directory: Path) -> FileStore:
    return FileStore.open(directory, cluster="c", boot_id="boot")


def test_rotten_data_are_written_again(directory: Path) -> None:
    flip(directory / DATA, BLOCK_BYTES + 7)
    store = opened(directory)
    with pytest.raises(CorruptBlocks):
        store.read(0, 4)
    wrong = content(9)
    assert store.heal(1, block_sums(wrong), wrong, settled=True) == [], "not what its checksum says"
    right = content(2)
    assert store.heal(1, block_sums(right), right, settled=False) == [1]
    assert store.read(0, 4)[1][BLOCK_BYTES : 2 * BLOCK_BYTES] == right
    store.close()
    assert opened(directory).read(1, 1)[1] == right


def test_data_lost_with_their_space_are_written_again(directory: Path) -> None:
    with (directory / DATA).open("r+b") as file:
        file.truncate(0)
        file.truncate(2 * REGION_BLOCKS * BLOCK_BYTES)
    store = opened(directory)
    data = b"".join(content(number) for number in (1, 2, 3, 4))
    assert store.heal(0, block_sums(data), data, settled=False) == [0, 1, 2, 3]
    assert store.read(0, 4)[1] == data


def test_a_rotten_checksum_in_a_marked_region_gives_way_to_a_settled_offer(directory: Path) -> None:
    store = opened(directory)
    store.mark([0])
    flip(directory / SUMS, 8)
    store._layer.sums._cache.clear()
    with pytest.raises(CorruptBlocks):
        store.read(1, 1)
    right = content(2)
    assert store.heal(1, block_sums(right), right, settled=False) == []
    assert store.heal(1, block_sums(right), right, settled=True) == [1]
    assert store.read(1, 1) == (block_sums(right), right)


def test_a_block_whose_data_and_checksum_have_both_rotten_is_healed_and_the_root_proves_it(directory: Path) -> None:
    flip(directory / DATA, BLOCK_BYTES + 7)
    flip(directory / SUMS, 8)
    store = opened(directory)
    with pytest.raises(CorruptBlocks):
        store.read(1, 1)
    right = content(2)
    assert store.heal(1, block_sums(right), right, settled=True) == [1]
    store.sync()
    assert not store._layer.sums.suspect
    assert store.scan(0, 4)


# ---- the scrub's look at the disk ---------------------------------------------------------------------


@pytest.mark.parametrize(("name", "at", "bad"), [(DATA, 5, [0]), (SUMS, 3, []), (ROOTS, 3, [])])
def test_a_scan_sees_rot_that_the_caches_hide(directory: Path, name: Path, at: int, bad: list[int]) -> None:
    """What roots and data prove is put right at once; the rest is named."""
    store = opened(directory)
    store.read(0, 4)  # into the cache
    assert store.scan(0, 4)
    flip(directory / name, at)
    assert not store.scan(0, 4)
    assert store.recheck(0, 4) == bad
    assert store.scan(0, 4) is (not bad)


def test_a_scan_leaves_the_page_cache_as_its_user_had_it(directory: Path) -> None:
    store = opened(directory)
    with (directory / DATA).open("rb") as file:
        fd, size = file.fileno(), 4 * BLOCK_BYTES
        drop_clean(fd, 0, size)
        if is_cached(fd, 0, size):
            pytest.skip("a file system in memory")
        assert not any(is_cached(fd, 0, size) for _ in range(100)), "to look is not to read"
        assert store.scan(0, 4)
        assert not is_cached(fd, 0, size), "nobody had read it"
        assert store.scan(0, 2)
        assert not any(is_cached(fd, at, BLOCK_BYTES) for at in range(0, size, BLOCK_BYTES)), "nor what follows"
        os.pread(fd, size, 0)
        assert store.scan(0, 4)
        assert is_cached(fd, 0, size)
    store.close()


def test_the_cache_of_a_marked_region_was_written_last(directory: Path) -> None:
    store = opened(directory)
    store.mark([0])
    store.read(0, 4)
    flip(directory / SUMS, 3)
    assert not store.scan(0, 4)
    assert store.recheck(0, 4) == []
    assert store.scan(0, 4)


def test_present_regions_are_found_one_after_the_other(directory: Path) -> None:
    store = opened(directory)
    assert store.next_present(0) == 0
    assert store.next_present(1) is None
    data = content(5)
    store.mark([1])
    store.write(REGION_BLOCKS, block_sums(data), data)
    assert store.next_present(1) == 1

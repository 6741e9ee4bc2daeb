"""What a resync is foretold to cost against what it costs: the whole comparison played against a set of blocks."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.replica.replication.blockmap import BlockMap, Range
from services.replica.replication.effects import SendCopy, Tell
from services.replica.replication.estimate import (
    END_NS,
    UNKNOWN_BYTES_PER_S,
    Band,
    Share,
    Speed,
    bytes_of,
    error_of,
    estimate,
)
from services.replica.replication.messages import Digest
from services.replica.replication.resync import FANOUT, Resync
from stoscore.units import GIB, MIB, SECOND

BLOCKS = GIB // 4096


def _differing(truth: set[int], level: int, ranges: tuple[Range, ...], nodes: dict[int, set[int]]) -> list[Range]:
    there = truth if level == 0 else nodes.setdefault(level, {block // FANOUT**level for block in truth})
    return BlockMap((at, 1) for first, count in ranges for at in range(first, first + count) if at in there).ranges()


def _play(resync: Resync, truth: set[int], refuse: Random | None = None) -> tuple[Band, set[int], int]:
    """(what was foretold before the first copy, the blocks that were copied, bytes): every question is answered."""
    foretold: Band | None = None
    copied: set[int] = set()
    nodes: dict[int, set[int]] = {}
    for _ in range(100_000):
        if foretold is None and resync.sampled():
            foretold, _ = resync.expected()
            assert not copied
        if resync.done():
            break
        for effect in resync.pump(0, lambda blocks: refuse is None or refuse.random() < 0.5):
            if isinstance(effect, Tell):
                assert isinstance(effect.message, Digest)
                _, level, ranges = effect.message.number, effect.message.level, effect.message.ranges
                resync.compared(effect.message.number, _differing(truth, level, ranges, nodes))
            elif isinstance(effect, SendCopy):
                assert foretold is not None, "nothing is copied before it was foretold"
                copied.update(at for first, count in effect.ranges for at in range(first, first + count))
                resync.copied(effect.number)
    assert resync.done() and foretold is not None and resync.rest() == 0
    return foretold, copied, bytes_of(resync.blocks_sent, resync.blocks_compared)


@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(1, 70_000),
    ranges=st.lists(st.tuples(st.integers(0, 69_999), st.integers(1, 3000)), max_size=12),
    seed=st.integers(0, 1 << 20),
)
def test_exactly_what_differs_is_copied_whatever_the_budget_refuses(
    size: int, ranges: list[tuple[int, int]], seed: int
) -> None:
    truth = {at for first, count in ranges for at in range(first, min(first + count, size))}
    resync = Resync("b", size, BlockMap(), everything=True)
    _, copied, _ = _play(resync, truth, Random(seed))
    assert copied == truth


def _scattered(rng: Random, count: int) -> set[int]:
    return set(rng.sample(range(BLOCKS), count))


def _files(rng: Random, count: int) -> set[int]:
    """In runs of up to 1 MiB, as a file system writes."""
    found: set[int] = set()
    while len(found) < count:
        first = rng.randrange(BLOCKS - 256)
        found.update(range(first, first + rng.randint(1, 256)))
    return found


@pytest.mark.parametrize("shape", [_scattered, _files], ids=["scattered", "files"])
@pytest.mark.parametrize("mapped", [True, False], ids=["map", "tree"])
def test_nine_of_ten_estimates_lie_within_15_percent_of_the_truth(shape, mapped: bool) -> None:  # type: ignore[no-untyped-def]
    rng = Random(5)
    right = inside = 0
    runs = 12 if mapped else 20
    for _ in range(runs):
        truth = shape(rng, rng.choice((4096, 16_384)))
        candidates = BlockMap((at, 1) for at in truth) if mapped else BlockMap()
        resync = Resync("b", BLOCKS, candidates, everything=not mapped)
        foretold, copied, _ = _play(resync, truth)
        assert copied == truth
        right += abs(foretold.likely - len(truth)) <= 0.15 * len(truth)
        inside += foretold.low <= len(truth) <= foretold.high
    assert right >= 0.9 * runs
    assert inside >= 0.8 * runs


@given(
    compared=st.integers(0, 1 << 20),
    part=st.floats(0, 1),
    runs=st.integers(0, 1 << 20),
    candidates=st.integers(0, 1 << 24),
)
def test_a_share_is_a_band_that_lies_inside_what_is_possible(
    compared: int, part: float, runs: int, candidates: int
) -> None:
    share = Share(mapped=False)
    differing = int(compared * part)
    share.add(compared, differing, min(runs, differing) or bool(differing))
    band = share.of(candidates)
    assert 0 <= band.low <= band.likely <= band.high <= candidates


def test_the_more_was_compared_the_surer_it_is() -> None:
    few, many = Share(mapped=False), Share(mapped=False)
    few.add(100, 10, 10)
    many.add(10_000, 1000, 1000)
    assert few.of(1000).likely == many.of(1000).likely == 100
    assert few.of(1000).high - few.of(1000).low > 5 * (many.of(1000).high - many.of(1000).low)


def test_neighbours_that_differ_together_tell_less_than_single_blocks() -> None:
    scattered, files = Share(mapped=False), Share(mapped=False)
    scattered.add(10_000, 1000, 1000)
    files.add(10_000, 1000, 10)
    assert files.of(1000).likely == scattered.of(1000).likely
    assert files.of(1000).high > scattered.of(1000).high


def test_speed_is_learned_from_truths_and_so_is_how_far_to_trust_it() -> None:
    speed = Speed()
    doubtful = speed.duration(Band(GIB, GIB, GIB), 1 << 50)
    assert doubtful.likely == GIB * SECOND // UNKNOWN_BYTES_PER_S + END_NS
    for _ in range(10):
        foretold = speed.duration(Band(GIB, GIB, GIB), 1 << 50)
        speed.learn(GIB, 4 * SECOND + END_NS, foretold.likely)
    sure = speed.duration(Band(GIB, GIB, GIB), 1 << 50)
    assert error_of(sure.likely, 4 * SECOND) < 0.05
    assert (sure.high - sure.low) / sure.likely < (doubtful.high - doubtful.low) / doubtful.likely / 2


def test_the_budget_bounds_what_is_foretold() -> None:
    blocks = Band(1024, 1024, 1024)
    fast = estimate(blocks, 0, Speed(), 1 << 50)
    slow = estimate(blocks, 0, Speed(), MIB)
    assert slow.bytes == fast.bytes
    assert slow.duration_ns.likely > 4 * SECOND > fast.duration_ns.likely


def test_tiny_ones_teach_no_rate() -> None:
    speed = Speed()
    speed.learn(4096, SECOND, SECOND)
    assert speed.bytes_per_s == UNKNOWN_BYTES_PER_S

"""What a resync is foretold to cost against what it costs: the whole comparison played against a set of blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.replica.replication.blockmap import BlockMap, Range
from services.replica.replication.effects import SendCopy, Tell
from services.replica.replication.estimate import (
    UNKNOWN_COPYING,
    UNKNOWN_FINISH,
    Allowance,
    Band,
    Rates,
    Share,
    Speed,
    Took,
    Work,
    bytes_of,
    error_of,
    estimate,
    fitted,
)
from services.replica.replication.messages import Digest
from services.replica.replication.pace import PaceLimits
from services.replica.replication.recovery import Recovery, RecoveryLimits
from services.replica.replication.resync import Resync
from services.replica.replication.tree import span_of
from stoscore.units import GIB, MIB, MS, SECOND
from tests.support.replicas import as_of

BLOCKS = GIB // 4096


def _differing(truth: set[int], level: int, ranges: tuple[Range, ...], nodes: dict[int, set[int]]) -> list[Range]:
    there = truth if level == 0 else nodes.setdefault(level, {block // span_of(level) for block in truth})
    return BlockMap((at, 1) for first, count in ranges for at in range(first, first + count) if at in there).ranges()


def _play(resync: Resync, truth: set[int], refuse: Random | None = None) -> tuple[Band, set[int], int]:
    """(what was foretold before the first copy, the blocks that were copied, bytes): every question is answered."""
    foretold: Band | None = None
    copied: set[int] = set()
    nodes: dict[int, set[int]] = {}
    for _ in range(100_000):
        if foretold is None and resync.sampled():
            low, likely, high = resync.expected()
            foretold = Band(low.blocks, likely.blocks, high.blocks)
            assert not copied
        if resync.done():
            break
        for effect in resync.pump(as_of(0), lambda blocks: refuse is None or refuse.random() < 0.5):
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
    finer=st.booleans(),
    seed=st.integers(0, 1 << 20),
)
def test_exactly_what_differs_is_copied_whatever_the_budget_refuses(
    size: int, ranges: list[tuple[int, int]], finer: bool, seed: int
) -> None:
    truth = {at for first, count in ranges for at in range(first, min(first + count, size))}
    resync = Resync("b", size, BlockMap(), everything=True, finer=finer)
    _, copied, _ = _play(resync, truth, Random(seed))
    assert copied == truth


Shape = Callable[[Random, int], set[int]]


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
@pytest.mark.parametrize(("mapped", "finer"), [(True, True), (False, True), (False, False)], ids=["map", "tree", "old"])
def test_nine_of_ten_estimates_lie_within_15_percent_of_the_truth(shape: Shape, mapped: bool, finer: bool) -> None:
    rng = Random(5)
    right = inside = 0
    runs = 12 if mapped else 20
    for _ in range(runs):
        truth = shape(rng, rng.choice((4096, 16_384)))
        candidates = BlockMap((at, 1) for at in truth) if mapped else BlockMap()
        resync = Resync("b", BLOCKS, candidates, everything=not mapped, finer=finer)
        foretold, copied, _ = _play(resync, truth)
        assert copied == truth
        right += abs(foretold.likely - len(truth)) <= 0.15 * len(truth)
        inside += foretold.low <= len(truth) <= foretold.high
    assert right >= 0.9 * runs
    assert inside >= 0.8 * runs


@pytest.mark.parametrize("shape", [_scattered, _files], ids=["scattered", "files"])
def test_an_estimate_of_a_hundred_gigabytes_does_not_wait_until_all_is_compared(shape: Shape) -> None:
    """It is told after a sample of each level, drawn from all over the volume."""
    rng = Random(6)
    right = 0
    for _ in range(6):
        blocks = rng.choice((8192, 16_384))
        truth = {at * 100 + rng.randrange(100) for at in shape(rng, blocks)}
        resync = Resync("b", 100 * BLOCKS, BlockMap(), everything=True, finer=True)
        nodes: dict[int, set[int]] = {}
        while not resync.sampled():
            for effect in resync.pump(as_of(0)):
                assert isinstance(effect, Tell) and isinstance(effect.message, Digest)
                level, ranges = effect.message.level, effect.message.ranges
                resync.compared(effect.message.number, _differing(truth, level, ranges, nodes))
        assert resync.blocks_compared < 100_000
        low, likely, high = (work.blocks for work in resync.expected())
        assert low <= likely <= high
        right += abs(likely - len(truth)) <= 0.15 * len(truth)
    assert right >= 5


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


# ---- how long it takes --------------------------------------------------------------------------------

UNBOUNDED = Allowance(1 << 50)
COUNTS = st.integers(0, 1 << 22)
WORKS = st.builds(Work, COUNTS, COUNTS, COUNTS)
Truth = tuple[Rates, Rates]
KEY = ("v", "b")


def _scaled(factors: tuple[float, ...]) -> Truth:
    """Rates of copying and of the end that nobody knows."""
    copying = tuple(rate * factor for rate, factor in zip(UNKNOWN_COPYING, factors[:4], strict=True))
    return copying, tuple(rate * factor for rate, factor in zip(UNKNOWN_FINISH, factors[4:], strict=True))


def _returns(rng: Random, true: Truth, count: int, noise: float = 0.0) -> list[tuple[Work, Took]]:
    """Of 1 to 64 MiB, as single blocks or in runs, by map and by tree; each took what the rates say, nearly."""

    def took(rates: Rates, parts: Rates) -> int:
        return int(sum(map(float.__mul__, rates, parts)) * rng.uniform(1 - noise, 1 + noise))

    found = []
    for _ in range(count):
        blocks = rng.choice((256, 1024, 4096, 16_384))
        work = Work(blocks, rng.choice((blocks, blocks // 256)), rng.choice((0, 50_000, 250_000)))
        found.append((work, Took(took(true[0], work.copying), took(true[1], work.finish))))
    return found


def _foretold(speed: Speed, returns: list[tuple[Work, Took]]) -> float:
    return _right([(speed.duration_ns(work, UNBOUNDED), took.ns) for work, took in returns])


def _right(told: list[tuple[int, int]]) -> float:
    return sum(abs(foretold - truth) <= 0.15 * truth for foretold, truth in told) / len(told)


@settings(max_examples=40, deadline=None)
@given(factors=st.tuples(*[st.floats(0.2, 5.0)] * 7), seed=st.integers(0, 1 << 20))
def test_whatever_the_machine_is_like_nine_of_ten_are_foretold_within_15_percent_after_a_few(
    factors: tuple[float, ...], seed: int
) -> None:
    speed = Speed()
    told = []
    for work, took in _returns(Random(seed), _scaled(factors), 50, noise=0.08):
        told.append((speed.duration_ns(work, UNBOUNDED), took.ns))
        speed.learn(work, took, told[-1][0])
    assert _right(told[16:]) >= 0.9
    assert speed.error < 0.2


@settings(max_examples=40, deadline=None)
@given(slower=st.floats(0.2, 1.0), disk=st.floats(0.2, 2.0), seed=st.integers(0, 1 << 20))
def test_what_the_budget_paces_is_foretold_however_the_machine_varies(slower: float, disk: float, seed: int) -> None:
    """A machine that copies now fast, now slowly, but never below the budget, whose disk takes now longer, now less to
    sync the rest. Nothing but that end has to be learned."""
    rng = Random(seed)
    allowed = Allowance(16 * MIB, 16 * MIB // 20)
    speed = Speed()
    told = []
    for _ in range(30):
        blocks = rng.choice((2048, 4096, 8192))
        work = Work(blocks, blocks, 60_000)
        copying = max(allowed.held_ns(blocks * 4096), int(blocks * rng.uniform(8_000, 200_000) * slower))
        took = Took(copying, int(disk * 40 * MS * rng.uniform(0.7, 1.3)), held_back=True)
        told.append((speed.duration_ns(work, allowed), took.ns))
        speed.learn(work, took, told[-1][0])
    assert _right(told[3:]) >= 0.9


@given(truths=st.lists(st.tuples(WORKS, st.integers(1, 1 << 45)), max_size=16), work=WORKS, more=WORKS)
def test_a_fit_of_whatever_was_measured_is_finite_and_more_work_never_takes_less_time(
    truths: list[tuple[Work, int]], work: Work, more: Work
) -> None:
    speed = Speed()
    for done, took_ns in truths:
        speed.learn(done, Took(took_ns // 2, took_ns - took_ns // 2), 0)
    for fit in (speed.copying, speed.finish):
        assert all(0 <= rate < 1 << 60 for rate in fit.rates)
    larger = Work(work.blocks + more.blocks, work.pieces + more.pieces, work.compared + more.compared)
    slow = Allowance(MIB)
    assert speed.duration_ns(work, slow) <= speed.duration_ns(larger, slow)
    assert speed.duration_ns(work, UNBOUNDED) <= speed.duration_ns(work, slow)


def test_without_a_truth_the_rates_are_those_of_before() -> None:
    assert fitted([], UNKNOWN_COPYING) == pytest.approx(UNKNOWN_COPYING)


_PLAIN = _scaled((1.0,) * 7)


def test_what_cost_nothing_elsewhere_is_learned_all_the_same() -> None:
    elsewhere = Speed()
    elsewhere.copying._rates, elsewhere.finish._rates = (0.0,) * 4, (0.0,) * 3
    speed = Speed(elsewhere)
    for work, took in _returns(Random(5), _PLAIN, 16):
        speed.learn(work, took, 0)
    assert _foretold(speed, _returns(Random(6), _PLAIN, 40)) == 1.0


def test_a_disk_that_stood_still_once_is_not_learned() -> None:
    true = _scaled((6.0, 1.3, 0.75, 1.3, 1.5, 0.5, 1.2))
    speed = Speed()
    for number, (work, took) in enumerate(_returns(Random(3), true, 15)):
        speed.learn(work, Took(took.copying_ns, 8 * took.finish_ns) if number == 7 else took, 0)
    assert _foretold(speed, _returns(Random(4), true, 40)) == 1.0


def test_what_the_budget_held_back_says_nothing_of_how_fast_the_node_copies() -> None:
    speed = Speed()
    for _ in range(10):
        speed.learn(Work(1024, 1024, 0), Took(60 * SECOND, 500 * MS, held_back=True), 60 * SECOND)
    assert speed.copying.rates == UNKNOWN_COPYING
    assert speed.finish.of(Work(1024, 1024, 0).finish) == pytest.approx(500 * MS, rel=0.1), "but its disk did"
    assert speed.error < 0.1


def test_the_more_was_foretold_well_the_narrower_the_band() -> None:
    work = Work(16_384, 16_384, 0)
    speed = Speed()
    doubtful = speed.band((work, work, work), UNBOUNDED)
    for _ in range(10):
        speed.learn(work, Took(800 * MS, 200 * MS), speed.duration_ns(work, UNBOUNDED))
    sure = speed.band((work, work, work), UNBOUNDED)
    assert error_of(sure.likely, SECOND) < 0.05
    assert (sure.high - sure.low) / sure.likely < (doubtful.high - doubtful.low) / doubtful.likely / 2


def test_the_budget_bounds_what_is_foretold() -> None:
    work = Work(1024, 1024, 0)
    fast = estimate((work, work, work), Speed(), UNBOUNDED)
    slow = estimate((work, work, work), Speed(), Allowance(MIB))
    assert slow.bytes == fast.bytes
    assert slow.duration_ns.likely > 4 * SECOND > fast.duration_ns.likely


def test_whoever_waits_in_the_budget_is_foretold_with_those_that_go_before_it() -> None:
    recovery = Recovery(RecoveryLimits(PaceLimits(floor=MIB, ceiling=MIB)))
    work = Work(1024, 1024, 0)
    alone = recovery.estimate(KEY, (2, 1024), (work, work, work)).duration_ns.likely
    while recovery.may_send(("other", "b"), (2, 512), 64, 0):
        pass
    behind = recovery.estimate(KEY, (2, 1024), (work, work, work)).duration_ns.likely
    before = recovery.estimate(KEY, (2, 256), (work, work, work)).duration_ns.likely
    assert behind - alone == pytest.approx(2 * SECOND, rel=0.01), "512 blocks at 1 MiB a second go first"
    assert before == alone


def test_a_node_that_never_came_back_before_is_taken_for_one_like_the_others() -> None:
    recovery = Recovery(RecoveryLimits())
    true = _scaled((20.0, 4.0, 0.3, 0.4, 4.0, 2.0, 2.0))
    for work, took in _returns(Random(1), true, 16):
        recovery.learn("b", work, took, took.ns)
    for work, took in _returns(Random(2), true, 10):
        foretold = recovery.estimate(("v", "c"), (2, work.blocks), (work, work, work)).duration_ns.likely
        assert error_of(foretold, took.ns) < 0.15


def test_what_returns_take_is_fitted_when_somebody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit takes milliseconds of the event loop, and a hundred volumes may come back within seconds."""
    fits: list[int] = []

    def counted(truths: Sequence[tuple[Rates, int]], before: Rates) -> Rates:
        fits.append(len(truths))
        return fitted(truths, before)

    recovery = Recovery(RecoveryLimits())
    truths = _returns(Random(1), _scaled((20.0, 4.0, 0.3, 0.4, 4.0, 2.0, 2.0)), 16)
    recovery.learn("b", *truths[0], 0)
    monkeypatch.setattr("services.replica.replication.estimate.fitted", counted)
    for work, took in truths[1:]:
        recovery.learn("b", work, took, took.ns)
    assert not fits
    recovery.estimate(KEY, (2, 1024), (truths[0][0],) * 3)
    assert fits

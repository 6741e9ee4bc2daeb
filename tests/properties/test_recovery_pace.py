"""The pace before applications whose latency depends on it: it settles where they are held, and keeps its floor."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.replica.replication.pace import IDLE_NS, Pace, PaceLimits, p99
from stoscore.units import MIB, MS, SECOND

LIMITS = PaceLimits(floor=8 * MIB, ceiling=512 * MIB, factor=1.5)
NORMAL_NS = 2 * MS
_STEP_NS = 100 * MS


def _work(pace: Pace, now_ns: int, seconds: float, latency, *, recovering: bool, each: int = 100):  # type: ignore[no-untyped-def]
    """`each` requests every 100 ms whose latency is `latency(rate)`; gives the time, the rates, what was felt."""
    rates, felt = [], []
    for _ in range(int(seconds * SECOND / _STEP_NS)):
        now_ns += _STEP_NS
        rate = pace.recovering(now_ns) if recovering else 0
        taken = [int(latency(rate)) for _ in range(each)]
        pace.felt(taken, now_ns)
        rates.append(rate)
        felt += taken
    return now_ns, rates, felt


def _calm(pace: Pace) -> int:
    now_ns, _, _ = _work(pace, SECOND, 2.0, lambda rate: NORMAL_NS, recovering=False)
    return now_ns


@settings(max_examples=50, deadline=None)
@given(bearable=st.integers(16, 400), seed=st.integers(0, 1 << 16))
def test_the_p99_of_a_whole_recovery_is_held_and_what_applications_bear_is_used(bearable: int, seed: int) -> None:
    """Beyond `bearable` MiB a second each fifth request takes four times as long; there is some noise all the time."""
    rng = Random(seed)

    def latency(rate: int) -> float:
        suffers = rate > bearable * MIB and rng.random() < 0.2
        return NORMAL_NS * (4 if suffers else 1) * rng.uniform(0.5, 1.0)

    pace = Pace(LIMITS)
    now_ns, _, _ = _work(pace, SECOND, 3.0, latency, recovering=False)
    _, rates, felt = _work(pace, now_ns, 60.0, latency, recovering=True)
    assert p99(felt) <= 1.5 * NORMAL_NS
    late = rates[len(rates) // 4 :]
    assert sum(late) / len(late) > bearable * MIB * 0.35, "and it does not stay far below"


@given(latencies=st.lists(st.lists(st.integers(1, 10 * SECOND), max_size=40), min_size=1, max_size=100))
def test_it_never_leaves_its_limits_whatever_is_felt(latencies: list[list[int]]) -> None:
    pace = Pace(LIMITS)
    now_ns = SECOND
    for taken in latencies:
        now_ns += 50 * MS
        pace.felt(taken, now_ns)
        assert LIMITS.lowest <= pace.recovering(now_ns) <= LIMITS.ceiling


def test_applications_that_are_always_slow_do_not_stop_it() -> None:
    pace = Pace(LIMITS)
    _, rates, _ = _work(pace, _calm(pace), 10.0, lambda rate: 50 * NORMAL_NS, recovering=True)
    assert set(rates) == {LIMITS.lowest}


def test_the_floor_holds_for_a_whole_return_and_never_lies_above_the_ceiling() -> None:
    size, begins_and_ends_s = 256 * MIB, 1.5
    assert size / (size / LIMITS.lowest + begins_and_ends_s) >= LIMITS.floor
    assert PaceLimits(floor=MIB, ceiling=MIB).lowest == MIB


def test_one_bad_moment_is_paid_off_and_it_grows_again() -> None:
    pace = Pace(LIMITS)
    now_ns, before, _ = _work(pace, _calm(pace), 2.0, lambda rate: NORMAL_NS, recovering=True)
    now_ns, _, _ = _work(pace, now_ns, 0.4, lambda rate: 50 * NORMAL_NS, recovering=True)
    now_ns, during, _ = _work(pace, now_ns, 2.0, lambda rate: NORMAL_NS, recovering=True)
    assert max(during) < before[-1], "in debt it stays where nobody suffers"
    _, after, _ = _work(pace, now_ns, 30.0, lambda rate: NORMAL_NS, recovering=True)
    assert after[-1] == LIMITS.ceiling


def test_applications_that_ask_seldom_are_heard_as_well() -> None:
    pace = Pace(LIMITS)
    now_ns, fast, _ = _work(pace, _calm(pace), 30.0, lambda rate: NORMAL_NS, recovering=True, each=1)
    assert fast[-1] > LIMITS.lowest
    _, slow, _ = _work(pace, now_ns, 30.0, lambda rate: 50 * NORMAL_NS, recovering=True, each=1)
    assert slow[-1] == LIMITS.lowest


def test_nobody_at_work_nobody_to_be_held_back_for() -> None:
    pace = Pace(LIMITS)
    assert pace.recovering(SECOND) == LIMITS.ceiling and not pace.held
    now_ns = _calm(pace) + IDLE_NS
    _work(pace, now_ns, 0.2, lambda rate: NORMAL_NS, recovering=False)
    assert pace.recovering(now_ns + 300 * MS) == LIMITS.lowest and pace.held
    assert pace.recovering(now_ns + 300 * MS + IDLE_NS) == LIMITS.ceiling and not pace.held


def test_who_begins_to_work_in_the_middle_of_a_recovery_is_heard_at_once() -> None:
    pace = Pace(LIMITS)
    now_ns = SECOND
    assert pace.recovering(now_ns) == LIMITS.ceiling
    pace.felt([NORMAL_NS], now_ns + 100 * MS)
    assert pace.recovering(now_ns + 100 * MS) == LIMITS.lowest


def test_what_is_felt_during_recovery_is_not_taken_for_normal() -> None:
    pace = Pace(LIMITS)
    now_ns = _calm(pace)
    now_ns, _, _ = _work(pace, now_ns, 5.0, lambda rate: 40 * NORMAL_NS, recovering=True)
    assert pace.normal_ns == NORMAL_NS
    _work(pace, now_ns + IDLE_NS, 10.0, lambda rate: 3 * NORMAL_NS, recovering=False)
    assert pace.normal_ns == 3 * NORMAL_NS, "what is normal may change when nobody recovers"


def test_p99_is_the_smallest_that_99_percent_do_not_exceed() -> None:
    assert p99(range(1, 101)) == 99
    assert p99([7]) == 7


@pytest.mark.parametrize("limits", [(0, 1, 1.5), (2, 1, 1.5), (1, 2, 0.9)])
def test_impossible_limits_are_refused(limits: tuple[int, int, float]) -> None:
    with pytest.raises(ValueError, match="no pace"):
        PaceLimits(*limits)

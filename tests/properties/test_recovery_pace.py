"""The pace before applications whose latency depends on it: it settles where they are held, and keeps its floor."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.replica.replication.pace import IDLE_NS, Pace, PaceLimits, p99
from stoscore.units import MIB, MS, SECOND

LIMITS = PaceLimits(floor=8 * MIB, ceiling=512 * MIB, factor=1.5)
NORMAL_NS = 2 * MS
_STEP_NS = 5 * MS


def _work(pace: Pace, now_ns: int, seconds: float, latency, *, recovering: bool) -> tuple[int, list[int]]:  # type: ignore[no-untyped-def]
    """Writes every 5 ms whose latency is `latency(rate)`; gives the time and the rates of each step."""
    rates = []
    for _ in range(int(seconds * SECOND / _STEP_NS)):
        now_ns += _STEP_NS
        rate = pace.recovering(now_ns) if recovering else 0
        pace.sample(int(latency(rate)), now_ns)
        rates.append(rate)
    return now_ns, rates


def _calm(pace: Pace) -> int:
    now_ns, _ = _work(pace, SECOND, 2.0, lambda rate: NORMAL_NS, recovering=False)
    return now_ns


@settings(max_examples=50, deadline=None)
@given(bearable=st.integers(16, 400))
def test_it_settles_below_what_the_applications_bear(bearable: int) -> None:
    """Beyond `bearable` MiB a second their latency is four times the normal one."""
    pace = Pace(LIMITS)
    now_ns = _calm(pace)
    _, rates = _work(
        pace,
        now_ns,
        20.0,
        lambda rate: NORMAL_NS * (4 if rate > bearable * MIB else 1),
        recovering=True,
    )
    late = rates[len(rates) // 2 :]
    over = sum(rate > bearable * MIB for rate in late) / len(late)
    assert over < 0.45, "it probes now and then, and yields each time"
    assert sum(late) / len(late) > bearable * MIB * 0.35, "and it does not stay far below"


@given(latencies=st.lists(st.integers(1, 10 * SECOND), min_size=1, max_size=400))
def test_it_never_leaves_its_limits_whatever_is_measured(latencies: list[int]) -> None:
    pace = Pace(LIMITS)
    now_ns = SECOND
    for latency_ns in latencies:
        now_ns += 20 * MS
        pace.sample(latency_ns, now_ns)
        assert LIMITS.floor <= pace.recovering(now_ns) <= LIMITS.ceiling


def test_applications_that_are_always_slow_do_not_stop_it() -> None:
    pace = Pace(LIMITS)
    _, rates = _work(pace, _calm(pace), 10.0, lambda rate: 50 * NORMAL_NS, recovering=True)
    assert rates[-1] == LIMITS.floor


def test_nobody_at_work_nobody_to_be_held_back_for() -> None:
    pace = Pace(LIMITS)
    assert pace.recovering(SECOND) == LIMITS.ceiling
    now_ns = _calm(pace)
    assert pace.recovering(now_ns + MS) < LIMITS.ceiling
    assert pace.recovering(now_ns + IDLE_NS + MS) == LIMITS.ceiling


def test_what_is_measured_during_recovery_is_not_taken_for_normal() -> None:
    pace = Pace(LIMITS)
    now_ns = _calm(pace)
    now_ns, _ = _work(pace, now_ns, 5.0, lambda rate: 40 * NORMAL_NS, recovering=True)
    assert pace.normal_ns == NORMAL_NS
    _work(pace, now_ns + IDLE_NS, 1.0, lambda rate: 3 * NORMAL_NS, recovering=False)
    assert pace.normal_ns == 3 * NORMAL_NS, "what is normal may change when nobody recovers"


def test_p99_is_the_smallest_that_99_percent_do_not_exceed() -> None:
    assert p99(range(1, 101)) == 99
    assert p99([7]) == 7


@pytest.mark.parametrize("limits", [(0, 1, 1.5), (2, 1, 1.5), (1, 2, 0.9)])
def test_impossible_limits_are_refused(limits: tuple[int, int, float]) -> None:
    with pytest.raises(ValueError, match="no pace"):
        PaceLimits(*limits)

"""So much a second, with room for a burst, whatever the pattern in which it is taken."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.replica.allowance import Allowance
from stoscore.units import SECOND


def test_a_burst_passes_and_what_follows_waits_its_time() -> None:
    allowance = Allowance(10, 5, 0)
    assert [allowance.take(1, 0) for _ in range(5)] == [0] * 5
    assert allowance.take(1, 0) == SECOND // 10
    assert allowance.take(1, SECOND // 10) == SECOND // 10
    assert allowance.take(3, SECOND) == 0


def test_what_is_not_there_is_not_taken() -> None:
    allowance = Allowance(10, 5, 0)
    assert allowance.take_if_room(5, 0)
    assert not allowance.take_if_room(1, SECOND // 10 - 1)
    assert allowance.take_if_room(1, SECOND // 10)


def test_a_clock_that_stands_still_or_goes_back_gives_nothing() -> None:
    allowance = Allowance(10, 5, SECOND)
    assert allowance.take_if_room(5, SECOND)
    assert not allowance.take_if_room(1, 0)
    assert not allowance.take_if_room(1, SECOND)


def test_a_long_rest_gives_one_burst_and_no_more() -> None:
    allowance = Allowance(10, 5, 0)
    allowance.take(5, 0)
    assert allowance.take_if_room(5, 3600 * SECOND)
    assert not allowance.take_if_room(1, 3600 * SECOND)


STEPS = st.lists(st.tuples(st.integers(0, 2 * SECOND), st.integers(1, 40)), max_size=60)


@given(st.integers(1, 5000), st.integers(1, 100), STEPS)
def test_never_more_than_burst_and_rate_allow(per_s: int, burst: int, steps: list[tuple[int, int]]) -> None:
    allowance = Allowance(per_s, burst, 0)
    now_ns = taken = 0
    for after_ns, cost in steps:
        now_ns += after_ns
        if allowance.take_if_room(cost, now_ns):
            taken += cost
        assert taken <= burst + per_s * now_ns / SECOND


@given(st.integers(1, 5000), st.integers(1, 100), STEPS)
def test_who_waits_as_told_is_not_told_again(per_s: int, burst: int, steps: list[tuple[int, int]]) -> None:
    allowance = Allowance(per_s, burst, 0)
    now_ns = 0
    for after_ns, cost in steps:
        now_ns += after_ns
        now_ns += allowance.take(cost, now_ns)
        assert allowance.take(0, now_ns) == 0

"""When copies are packed: what a try spared and cost decides, and what never pays is hardly tried."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.replica.replication.packing import PAUSE_MAX, Packing, Wire
from stoscore.units import BLOCK_BYTES, MIB, SECOND

SIZE = 64 * BLOCK_BYTES
PACKING_NS = 64 * 12_000
"""As measured for text."""
GIGABIT = SECOND // 8


def slow(bytes_per_s: int) -> Wire:
    return Wire(bytes_per_s, 0, 0)


def tries(packing: Packing, copies: int, packed: int, wire: Wire, took_ns: int = PACKING_NS) -> list[int]:
    """Which of so many copies were tried, where each becomes so small."""
    tried = []
    for number in range(copies):
        if packing.tries(wire):
            tried.append(number)
            packing.tried(SIZE, packed, took_ns)
    return tried


def test_text_is_packed_for_a_gigabit_and_not_for_ten() -> None:
    small = SIZE * 29 // 100
    assert len(tries(Packing(), 1000, small, slow(GIGABIT // 10))) == 1000
    assert len(tries(Packing(), 1000, small, slow(GIGABIT))) == 1000
    assert len(tries(Packing(), 1000, small, slow(10 * GIGABIT))) <= 11


@given(copies=st.integers(1, 4000), rate=st.integers(1, 10 * GIGABIT), grows=st.integers(0, 64))
def test_what_gets_no_smaller_is_off_after_the_first_and_tried_ever_more_rarely(
    copies: int, rate: int, grows: int
) -> None:
    packing = Packing()
    tried = tries(packing, copies, SIZE + grows, slow(rate))
    assert len(tried) <= copies.bit_length() + copies // (PAUSE_MAX + 1)
    assert all(later - earlier <= PAUSE_MAX + 1 for earlier, later in pairwise(tried))
    assert packing.spared_bytes == 0


def test_it_is_tried_again_and_goes_on_where_content_becomes_smaller() -> None:
    packing = Packing()
    tries(packing, 300, SIZE, slow(GIGABIT))
    assert len(tries(packing, 1000, SIZE // 4, slow(GIGABIT))) >= 1000 - PAUSE_MAX
    tries(packing, 1, SIZE, slow(GIGABIT))
    gigabit = slow(GIGABIT)
    assert [packing.tries(gigabit), packing.tries(gigabit)] == [False, True], "one that fails costs one"


def test_what_was_packed_and_is_smaller_goes_so_even_if_it_did_not_pay() -> None:
    packing = Packing()
    fast = slow(100 * GIGABIT)
    assert packing.tries(fast)
    assert packing.tried(SIZE, SIZE // 4, PACKING_NS)
    assert packing.spared_bytes == SIZE - SIZE // 4
    assert not packing.tries(fast)


def test_what_lost_less_than_an_eighth_goes_as_it_is() -> None:
    packing = Packing()
    assert packing.tries(slow(MIB))
    assert not packing.tried(SIZE, SIZE * 7 // 8 + 1, PACKING_NS)
    assert packing.tried(SIZE, SIZE * 7 // 8, PACKING_NS)
    assert packing.spared_bytes == SIZE // 8


def test_nothing_pays_on_a_connection_that_is_not_measured() -> None:
    assert tries(Packing(), 8, SIZE // 4, Wire(0, 0, 0)) == [0, 2, 6]


def test_a_receiver_that_is_slow_to_read_makes_no_slow_link() -> None:
    packing = Packing()
    for copies in range(1, 100):
        if packing.tries(Wire(GIGABIT // 4, 4_000 * copies, 3_950 * copies)):
            packing.tried(SIZE, SIZE // 4, PACKING_NS)
    assert packing.spared_bytes <= 8 * SIZE
    packing = Packing()
    for copies in range(1, 100):
        assert packing.tries(Wire(GIGABIT // 4, 4_000 * copies, 0))
        packing.tried(SIZE, SIZE // 4, PACKING_NS)


def test_what_the_link_was_before_the_return_and_another_link_do_not_count() -> None:
    packing = Packing()
    before = Wire(GIGABIT // 4, 10_000_000, 9_999_000)
    for wire in (before, Wire(GIGABIT // 4, 10_004_000, 9_999_000), Wire(GIGABIT // 4, 4_000, 4_000)):
        assert packing.tries(wire)
        packing.tried(SIZE, SIZE // 4, PACKING_NS)
    assert packing.tries(wire)


def test_a_burst_that_passes_at_another_rate_is_no_fast_link() -> None:
    packing = Packing()
    for copies in range(200):
        rate = 100 * GIGABIT if copies % 5 in (0, 2) else GIGABIT // 4
        if packing.tries(Wire(rate, 8_000 * copies, 0)):
            packing.tried(SIZE, SIZE // 4, PACKING_NS)
    assert packing.spared_bytes > 180 * (SIZE - SIZE // 4)


@pytest.mark.parametrize("took_ns", [0, PACKING_NS, SECOND])
def test_any_numbers_are_fine(took_ns: int) -> None:
    packing = Packing()
    for wire in (Wire(0, 0, 0), Wire(1, 1, 2), Wire(*[2**64 - 1] * 3), Wire(1, 0, 0)):
        packing.tries(wire)
        packing.tried(SIZE, 0, took_ns)

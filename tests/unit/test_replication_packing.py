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


class Connection:
    """Carries a copy's worth before each look, at a rate."""

    def __init__(self, bytes_per_s: int) -> None:
        self.bytes_per_s = bytes_per_s
        self.wire = Wire(0, 0, 0)

    def look(self, unread: float = 0.0) -> Wire:
        """`unread`: the share of the time in which nobody read at the other end."""
        carried, busy_us, unread_us = self.wire
        took_us = SIZE * 1_000_000 / self.bytes_per_s
        busy_us, unread_us = busy_us + took_us / (1 - unread), unread_us + took_us * unread / (1 - unread)
        self.wire = Wire(carried + SIZE, busy_us, unread_us)  # type: ignore[arg-type]
        return Wire(*map(int, self.wire))


def tries(packing: Packing, copies: int, packed: int, link: Connection, took_ns: int = PACKING_NS) -> list[int]:
    """Which of so many copies were tried, where each becomes so small."""
    tried = []
    for number in range(copies):
        if packing.tries(link.look()):
            tried.append(number)
            packing.tried(SIZE, packed, took_ns)
    return tried


def known(link: Connection, packed: int = SIZE // 4) -> Packing:
    """It has seen what the link carries."""
    packing = Packing()
    tries(packing, 40, packed, link)
    return packing


def test_text_is_packed_for_a_gigabit_and_not_for_ten() -> None:
    small = SIZE * 29 // 100
    assert len(tries(Packing(), 1000, small, Connection(GIGABIT // 10))) == 999, "nothing is known at first"
    assert len(tries(Packing(), 1000, small, Connection(GIGABIT))) == 999
    assert len(tries(Packing(), 1000, small, Connection(10 * GIGABIT))) <= 11


@given(copies=st.integers(1, 4000), rate=st.integers(1, 10 * GIGABIT), grows=st.integers(0, 64))
def test_what_gets_no_smaller_is_off_after_the_first_and_tried_ever_more_rarely(
    copies: int, rate: int, grows: int
) -> None:
    packing = Packing()
    tried = tries(packing, copies, SIZE + grows, Connection(rate))
    assert len(tried) <= copies.bit_length() + copies // (PAUSE_MAX + 1)
    assert all(later - earlier <= PAUSE_MAX + 1 for earlier, later in pairwise(tried))
    assert packing.spared_bytes == 0


def test_it_is_tried_again_and_goes_on_where_content_becomes_smaller() -> None:
    packing, link = Packing(), Connection(GIGABIT)
    tries(packing, 300, SIZE, link)
    assert len(tries(packing, 1000, SIZE // 4, link)) >= 1000 - PAUSE_MAX
    tries(packing, 1, SIZE, link)
    assert [packing.tries(link.look()), packing.tries(link.look())] == [False, True], "one that fails costs one"


def test_what_was_packed_and_is_smaller_goes_so_even_if_it_did_not_pay() -> None:
    packing, fast = Packing(), Connection(100 * GIGABIT)
    assert packing.tries(fast.look())
    assert packing.tried(SIZE, SIZE // 4, PACKING_NS)
    assert packing.spared_bytes == SIZE - SIZE // 4
    assert not packing.tries(fast.look())


def test_what_lost_less_than_an_eighth_goes_as_it_is() -> None:
    packing = Packing()
    assert packing.tries(Connection(MIB).look())
    assert not packing.tried(SIZE, SIZE * 7 // 8 + 1, PACKING_NS)
    assert packing.tried(SIZE, SIZE * 7 // 8, PACKING_NS)
    assert packing.spared_bytes == SIZE // 8


def test_nothing_pays_on_a_connection_that_is_not_measured() -> None:
    packing = Packing()
    tried = []
    for number in range(8):
        if packing.tries(Wire(0, 0, 0)):
            tried.append(number)
            packing.tried(SIZE, SIZE // 4, PACKING_NS)
    assert tried == [0, 2, 6]


def test_a_receiver_that_is_slow_to_read_makes_no_slow_link() -> None:
    for unread, pays in ((0.99, False), (0.0, True)):
        packing, link = Packing(), Connection(100 * GIGABIT if unread else GIGABIT)
        for _ in range(100):
            if packing.tries(link.look(unread)):
                packing.tried(SIZE, SIZE // 4, PACKING_NS)
        assert (packing.spared_bytes > 90 * (SIZE - SIZE // 4)) is pays
        assert pays or packing.spared_bytes <= 8 * SIZE


def test_what_another_connection_carried_does_not_count() -> None:
    packing = known(Connection(GIGABIT))
    assert tries(packing, 10, SIZE // 4, Connection(100 * GIGABIT))[:3] == [0, 2, 6]


def test_a_link_that_becomes_slow_is_soon_found_to_be() -> None:
    link = Connection(100 * GIGABIT)
    packing = known(link)
    link.bytes_per_s = GIGABIT // 4
    assert len(tries(packing, 400, SIZE // 4, link)) > 300


def test_a_burst_that_passes_at_another_rate_is_no_fast_link() -> None:
    packing, link = Packing(), Connection(GIGABIT // 4)
    for number in range(200):
        link.bytes_per_s = 100 * GIGABIT if number % 5 in (0, 2) else GIGABIT // 4
        if packing.tries(link.look()):
            packing.tried(SIZE, SIZE // 4, PACKING_NS)
    assert packing.spared_bytes > 190 * (SIZE - SIZE // 4)


@pytest.mark.parametrize("took_ns", [0, PACKING_NS, SECOND])
def test_any_numbers_are_fine(took_ns: int) -> None:
    packing = Packing()
    for wire in (Wire(0, 0, 0), Wire(1, 1, 2), Wire(*[2**64 - 1] * 3), Wire(1, 0, 0)):
        packing.tries(wire)
        packing.tried(SIZE, 0, took_ns)

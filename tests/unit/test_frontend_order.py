"""Rule W3's index: who waits for whom, and that the quick way says the same as the slow one."""

from __future__ import annotations

import random

import pytest

from services.replica.replication.frontend_events import RequestKind
from services.replica.replication.frontend_order import SMALL_BLOCKS, RequestOrder, Unanswered

READ, WRITE, PATCH, ZERO, FLUSH, STATUS = RequestKind


def request(number: int, kind: int, block: int, count: int) -> Unanswered:
    return Unanswered(number, number, kind, block, count, False, 0)


@pytest.mark.parametrize("count", [1, SMALL_BLOCKS, SMALL_BLOCKS + 1])
@pytest.mark.parametrize(
    ("first", "second", "at_once"),
    [
        (READ, READ, True),
        (READ, WRITE, False),
        (WRITE, READ, False),
        (WRITE, WRITE, False),
        (ZERO, READ, False),
        (WRITE, ZERO, False),
        (WRITE, FLUSH, True),
        (FLUSH, WRITE, True),
        (STATUS, READ, True),
        (READ, STATUS, True),
        (STATUS, WRITE, False),
        (PATCH, STATUS, False),
    ],
)
def test_overlapping_requests_wait_unless_both_look(first: int, second: int, at_once: bool, count: int) -> None:
    order = RequestOrder()
    blocks = {FLUSH: 0}
    earlier = request(1, first, 0, blocks.get(RequestKind(first), count))
    assert order.add(earlier)
    later = request(2, second, 0, blocks.get(RequestKind(second), 2))
    assert order.add(later) == at_once
    order.validate()
    assert list(order.remove(earlier)) == ([] if at_once else [later])
    order.validate()


def test_neighbours_do_not_wait() -> None:
    order = RequestOrder()
    assert order.add(request(1, WRITE, 10, 5))
    assert order.add(request(2, WRITE, 15, 5))
    assert order.add(request(3, WRITE, 5, 5))
    assert order.add(request(4, WRITE, 20, 100))


def test_a_read_waits_for_a_held_write_so_that_order_is_kept() -> None:
    order = RequestOrder()
    read, write, late_read = request(1, READ, 0, 1), request(2, WRITE, 0, 1), request(3, READ, 0, 1)
    assert order.add(read)
    assert not order.add(write)
    assert not order.add(late_read)
    assert order.remove(read) == [write]
    assert order.remove(write) == [late_read]


def test_the_index_agrees_with_plain_comparison() -> None:
    rng = random.Random(3)
    order, number = RequestOrder(), 0
    for _ in range(4000):
        if rng.random() < 0.55 or not order.table:
            number += 1
            kind = rng.choice([READ, WRITE, ZERO, FLUSH, STATUS])
            count = 0 if kind == FLUSH else rng.choice([1, 1, 2, SMALL_BLOCKS, SMALL_BLOCKS + 1, 200])
            block = 0 if kind == FLUSH else rng.randrange(300)
            new = request(number, kind, block, count)
            clear = not any(new.conflicts(other) for other in order.table.values())
            assert order.add(new) == clear
        else:
            done = rng.choice(order.sendable())
            for freed in order.remove(done):
                assert not any(freed.conflicts(other) for other in order.table.values() if other.number < freed.number)
        order.validate()

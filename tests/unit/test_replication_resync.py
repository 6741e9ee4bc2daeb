"""Bringing one peer up to date: the tree descends only where it differs, neighbours travel together."""

from __future__ import annotations

from services.replica.replication.blockmap import BlockMap
from services.replica.replication.effects import SendCopy, Tell
from services.replica.replication.messages import Digest
from services.replica.replication.resync import (
    COMPARE_BLOCKS,
    COMPARES_IN_FLIGHT,
    COPIES_IN_FLIGHT,
    COPY_BLOCKS,
    FANOUT,
    SAMPLES,
    Resync,
    top_level,
)


def test_top_level() -> None:
    assert [top_level(size) for size in (1, FANOUT, FANOUT + 1, FANOUT**2, FANOUT**2 + 1)] == [0, 0, 1, 1, 2]


def test_candidates_are_compared_and_what_differs_is_copied() -> None:
    resync = Resync("b", 1000, BlockMap([(3, 2), (10, 1)]), everything=False)
    assert resync.pump(42) == [Tell(("b",), Digest(1, 0, ((3, 2), (10, 1))))]
    assert not resync.done()
    resync.compared(1, [(4, 1), (10, 1)])
    assert resync.pump(43) == [SendCopy("b", 2, 43, ((4, 1), (10, 1)))]
    assert not resync.done()
    resync.copied(2)
    assert resync.done()
    assert (resync.blocks_compared, resync.blocks_sent) == (3, 2)


def test_the_tree_descends_only_into_what_differs() -> None:
    size = FANOUT * FANOUT + 10
    resync = Resync("b", size, BlockMap(), everything=True)
    assert resync.pump(0) == [Tell(("b",), Digest(1, 2, ((0, 2),)))]
    resync.compared(1, [(1, 1)])
    assert resync.pump(0) == [Tell(("b",), Digest(2, 1, ((FANOUT, 1),)))]
    resync.compared(2, [(FANOUT, 1)])
    assert resync.pump(0) == [Tell(("b",), Digest(3, 0, ((FANOUT * FANOUT, 10),)))], "cut at the volume's end"
    resync.compared(3, [])
    assert resync.done()


def test_equal_trees_are_done_at_once_and_doubled_answers_change_nothing() -> None:
    resync = Resync("b", 5000, BlockMap(), everything=True)
    resync.pump(0)
    resync.compared(1, [])
    assert resync.done()
    resync.compared(1, [(0, 1)])
    resync.copied(9)
    assert resync.done()


def test_what_is_in_flight_is_bounded() -> None:
    resync = Resync("b", 100 * COMPARE_BLOCKS, BlockMap([(0, 20 * COMPARE_BLOCKS)]), everything=False)
    assert len(resync.pump(0)) == COMPARES_IN_FLIGHT
    for number in range(1, SAMPLES + 1):
        assert not [effect for effect in resync.pump(0) if isinstance(effect, SendCopy)], "before the sample is known"
        resync.compared(number, [(0, 20 * COPY_BLOCKS)] if number == 1 else [])
    copies = [effect for effect in resync.pump(0) if isinstance(effect, SendCopy)]
    assert len(copies) == COPIES_IN_FLIGHT
    assert all(sum(count for _, count in copy.ranges) == COPY_BLOCKS for copy in copies)


def test_an_unfinished_one_says_what_is_left() -> None:
    resync = Resync("b", 1000, BlockMap([(3, 2), (10, 1)]), everything=False)
    resync.pump(0)
    resync.compared(1, [(4, 1)])
    resync.pump(0)
    rest, everything = resync.unfinished()
    assert (rest, everything) == (BlockMap([(4, 1)]), False)
    tree = Resync("b", 5000, BlockMap(), everything=True)
    tree.pump(0)
    assert tree.unfinished()[1]

"""The intent gate: nothing passes before its mark, overlapping operations keep their order (W1, T3)."""

from __future__ import annotations

from services.replica.replication.gate import QUIET_NS, Gate, op_of
from services.replica.replication.messages import Copy, Write, Zero
from stoscore.units import REGION_BLOCKS


def w(seq: int, block: int, count: int = 1):  # type: ignore[no-untyped-def]
    return op_of(Write(seq, 0, block, count, seq))


def test_a_marked_region_passes_and_an_unmarked_one_asks_once() -> None:
    gate = Gate([0])
    assert gate.submit(w(1, 5), 0) == (True, ())
    assert gate.submit(w(2, REGION_BLOCKS), 0) == (False, (1,))
    assert gate.submit(w(3, REGION_BLOCKS + 1), 0) == (False, ())
    assert [op.seq for op in gate.on_marked((1,))] == [2, 3]
    assert gate.passed == 3


def test_whatever_touches_a_waiting_region_waits_behind_it() -> None:
    gate = Gate([0])
    gate.submit(w(1, REGION_BLOCKS - 1, 2), 0)  # regions 0 and 1
    assert gate.submit(w(2, 3), 0) == (False, ()), "region 0 is marked, but 1 waits in front"
    assert gate.first_waiting_seq([(5, 1)]) == 1, "it may be stored after what is there"
    assert gate.first_waiting_seq([(2 * REGION_BLOCKS, 1)]) is None
    assert [op.seq for op in gate.on_marked((1,))] == [1, 2]
    assert gate.submit(w(3, 3), 0) == (True, ())


def test_marks_that_arrive_apart_let_only_the_complete_pass() -> None:
    gate = Gate([])
    gate.submit(w(1, REGION_BLOCKS - 1, 2), 0)
    gate.submit(w(2, 3 * REGION_BLOCKS), 0)
    assert gate.on_marked((0,)) == []
    assert [op.seq for op in gate.on_marked((3,))] == [2]
    assert [op.seq for op in gate.on_marked((1,))] == [1]
    assert not gate.waiting()


def test_t1_dropped_operations_never_pass() -> None:
    gate = Gate([])
    gate.submit(w(1, 0), 0)
    assert [op.seq for op in gate.drop_waiting()] == [1]
    assert gate.on_marked((0,)) == []
    assert gate.submit(w(2, 0), 0) == (True, ())


def test_t3_unmarked_are_regions_synced_and_committed() -> None:
    gate = Gate([])
    gate.submit(w(10, 0), 0)
    gate.on_marked((0,))
    assert gate.unmark(0, 10) == (), "stored after the sync began"
    assert gate.unmark(1, 9) == (), "above the commit point"
    gate.submit(w(11, 1), 0)
    assert gate.unmark(1, 10) == (), "written again since"
    assert gate.unmark(2, 11) == (0,)
    assert gate.submit(w(12, 1), 0) == (False, (0,)), "marked again for the next write"


def test_t3_what_was_marked_before_a_restart_waits_for_all_that_it_may_hold() -> None:
    """A replica is killed with write 12 in hand and comes back; nobody tells it 12 again. Unmarked at commit point 11,
    12 would be compared by nobody once this replica lost power and the primary died."""
    gate = Gate([0, 1])
    assert gate.unmark(9, 1 << 60) == (), "how high the writes of before go is not known"
    gate.settle(12)
    assert gate.unmark(9, 11) == ()
    gate.submit(w(13, 0), 0)
    assert gate.unmark(9, 12) == (1,)
    assert gate.unmark(9, 13) == (0,)


def test_a_copy_counts_as_the_latest_write_that_it_may_hold() -> None:
    gate = Gate([0, 1])
    gate.settle(0)
    gate.submit(op_of(Copy(1, 20, ((0, 1), (REGION_BLOCKS, 1)), 9)), 0)
    assert gate.unmark(1, 19) == ()
    assert gate.unmark(1, 20) == (0, 1)


def test_the_quiet_while_starts_again_with_every_write() -> None:
    gate = Gate([0])
    gate.submit(op_of(Zero(1, 0, 0, 1)), 100)
    assert gate.quiet_at_ns() == 100 + QUIET_NS
    gate.touch(500)
    assert gate.quiet_at_ns() == 500 + QUIET_NS
    gate.submit(w(2, REGION_BLOCKS), 600)
    assert gate.quiet_at_ns() is None, "something waits"

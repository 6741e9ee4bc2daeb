"""The scrub's pace: everything within the period, evenly, what is late at the largest rate and no faster."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from services.replica.scrubbing import LOOK_NS, SLICE_BYTES, SPARE, Pace, Position, Work, next_volume
from stoscore.units import KIB, MIB, SECOND

PERIOD_NS = 1000 * SECOND
SLICE = 256 * KIB
EMPTY = Work(0, 1)


@settings(max_examples=60)
@given(
    slices=st.integers(1, 400),
    rate=st.integers(MIB, 64 * MIB),
    late_ns=st.integers(0, 2 * PERIOD_NS),
    took_ns=st.integers(0, SECOND // 100),
)
def test_a_pass_keeps_its_plan_and_its_rate(slices: int, rate: int, late_ns: int, took_ns: int) -> None:
    """Begun so late, with a disk that takes so long for each slice."""
    pace = Pace(PERIOD_NS, rate)
    scrub = pace.begin({"a": Work(slices * SLICE, 0)}, 0)
    now = before = late_ns
    before_bytes = 0
    for number in range(slices):
        due = pace.next_slice_ns(scrub, before, before_bytes)
        begins = max(now, due)
        if number:
            assert begins - before >= SLICE * SECOND // rate, "faster than allowed"
            planned = int(number / slices * SPARE * PERIOD_NS)
            assert begins <= max(planned, now, before + SLICE * SECOND // rate), "later than needed"
        before, before_bytes = begins, SLICE
        now = begins + took_ns
        scrub.done_bytes += SLICE
    if late_ns == 0:
        assert before <= PERIOD_NS


def test_more_than_was_measured_still_ends() -> None:
    """What was written since the pass began is read as well."""
    pace = Pace(PERIOD_NS, MIB)
    scrub = pace.begin({"a": Work(SLICE, 1)}, 0)
    scrub.done_bytes = 10 * SLICE
    assert pace.next_slice_ns(scrub, 0, 0) == int(SPARE * PERIOD_NS)


def test_the_next_pass_begins_with_its_period_and_an_empty_node_looks_again_soon() -> None:
    pace = Pace(PERIOD_NS, MIB)
    assert pace.next_pass_ns(pace.begin({"a": Work(SLICE, 1)}, 7)) == 7 + PERIOD_NS
    assert pace.next_pass_ns(pace.begin({}, 7)) == 7 + LOOK_NS


def test_where_nothing_is_allocated_nothing_is_compared() -> None:
    """Every minute all volumes were, as fast as the loop could: with hundreds of them, most of what an idle cluster
    said."""
    pace = Pace(PERIOD_NS, MIB)
    scrub = pace.begin({f"{number}": EMPTY for number in range(300)}, 7)
    assert scrub.at is None
    assert pace.next_pass_ns(scrub) == 7 + LOOK_NS, "until something is written"


@given(empty=st.integers(1, 2000))
def test_empty_windows_are_compared_evenly_as_well(empty: int) -> None:
    """One volume has something; the others' comparisons are spread over the period."""
    pace = Pace(PERIOD_NS, 64 * MIB)
    scrub = pace.begin({"a": Work(SLICE_BYTES, 1)} | {f"b{number:04}": EMPTY for number in range(empty)}, 0)
    scrub.done_bytes, scrub.done_windows = SLICE_BYTES, 1
    scrub.done_windows += empty // 2
    done = (2 + empty // 2) / (2 + empty)
    assert pace.next_slice_ns(scrub, 0, 0) == int(done * SPARE * PERIOD_NS)
    scrub.done_windows = 1 + empty
    assert pace.next_slice_ns(scrub, 0, 0) == int(SPARE * PERIOD_NS)


def test_volumes_come_one_after_the_other_also_when_they_come_and_go() -> None:
    assert Pace(PERIOD_NS, MIB).begin({"b": Work(1, 1), "a": Work(1, 1)}, 0).at == Position("a")
    assert next_volume(["a", "c"], Position("a", 900)) == Position("c")
    assert next_volume(["a", "c"], Position("b")) == Position("c"), "b was removed meanwhile"
    assert next_volume(["a", "b"], Position("b")) is None

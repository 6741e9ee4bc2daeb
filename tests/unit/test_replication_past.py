"""A copy that catches up is given the snapshots that it lacks, and never counts for one that it does not hold (K4)."""

from __future__ import annotations

import pytest

from services.replica.handlers import _check_seal
from services.replica.peers import FrameError
from services.replica.replication import effects as fx
from services.replica.replication.messages import (
    Copied,
    Digest,
    Digests,
    Failed,
    Flush,
    Flushed,
    Join,
    Joined,
    Prepare,
    Prepared,
    Rooted,
    Seal,
    Sealed,
    Write,
    first_seq,
)
from services.replica.replication.past import PATIENCE_NS, RETURNS_MAX, Moment, Past
from services.replica.replication.primary import Primary
from services.replica.replication.withheld import Writes
from tests.support.replicas import join, make_primary, of, write

SIZE = 2048
ROOT = 77
OLD = Past(Moment("old", first_seq(1) + 9), SIZE, ROOT, frozenset("c"))
NEW = Past(Moment("new", first_seq(2) + 4), SIZE, ROOT + 1, frozenset("c"))


def serving(*pasts: Past, told: bool = True) -> Primary:
    """`b` is in sync and `c` is to catch up."""
    primary = make_primary(in_sync=("a", "b"))
    primary.snapshots([], pasts, 0)
    if told:
        primary.told(["b", "c"], 0)
    primary.start(["b", "c"], 0)
    join(primary, "b")
    assert primary.serving
    primary.open(50, "n", 1, 1)
    return primary


def messages(effects: list[fx.Effect], kind: type, node: str = "c") -> list:  # type: ignore[type-arg]
    return [e.message for e in effects if isinstance(e, fx.Tell) and node in e.peers and isinstance(e.message, kind)]


def answer(primary: Primary, asked: list[fx.Effect], differing: list[tuple[int, int]] | None = None) -> list[fx.Effect]:
    """Everything is compared; what differs is the same at every level."""
    out: list[fx.Effect] = []
    for digest in messages(asked, Digest):
        (compare,) = primary.receive("c", Digests(digest.number, digest.level, 1), 0)
        assert isinstance(compare, fx.Compare)
        out += primary.compared("c", digest.number, (differing or []) if digest.level == 0 else digest.ranges)
    return out


def all_equal(primary: Primary, asked: list[fx.Effect]) -> list[fx.Effect]:
    """Until nothing is left to compare."""
    last = asked
    while messages(last, Digest):
        last = answer(primary, last)
    return last


def sealed(primary: Primary, past: Past, root: int | None = None) -> list[fx.Effect]:
    """It has the blocks: it makes a layer and says its root hash."""
    asked = primary.receive("c", Prepared(primary.peers["c"].join_number, True), 0)
    seal = Seal(past.moment.seal, primary.window.commit, past.size_blocks, past.moment.snapshot)
    assert messages(asked, Seal) == [seal]
    assert primary.receive("c", Sealed(past.moment.seal), 0) == []
    return primary.receive("c", Rooted(past.moment.seal, past.root if root is None else root), 0)


def test_the_oldest_comes_first_then_the_next_then_the_present() -> None:
    primary = serving(OLD, NEW)
    out = join(primary, "c")
    for past in (OLD, NEW):
        digest = messages(out, Digest)[0]
        (compare,) = primary.receive("c", Digests(digest.number, digest.level, 1), 0)
        assert isinstance(compare, fx.Compare) and compare.of == past.moment
        last = all_equal(primary, out)
        assert messages(last, Prepare) == [Prepare(primary.peers["c"].join_number)]
        out = sealed(primary, past)
        assert of(fx.ReportGiven, out) == [fx.ReportGiven("c", past.moment)]
    assert primary.peers["c"].phase == "syncing"
    digest = messages(out, Digest)[0]
    (compare,) = primary.receive("c", Digests(digest.number, digest.level, 1), 0)
    assert isinstance(compare, fx.Compare) and compare.of is None
    (flush,) = messages(all_equal(primary, out), Flush)
    assert of(fx.ReportCaughtUp, primary.receive("c", Flushed(flush.ticket), 0))


def test_copies_are_of_the_past_and_writes_go_past_it() -> None:
    primary = serving(OLD)
    last = join(primary, "c")
    while messages(last, Digest):
        last = answer(primary, last, [(3, 2)])
    copies = of(fx.SendCopy, last)
    assert copies and all(copy.of == OLD.moment for copy in copies)
    assert messages(write(primary, 1, block=3), Write) == [], "it is not what the volume is"
    assert messages(write(primary, 2, block=3), Write, "b"), "who is in sync gets it"
    for copy in copies:
        last = primary.receive("c", Copied(copy.number), 0)
    assert messages(last, Prepare)
    out = sealed(primary, OLD)
    assert messages(write(primary, 3, block=3), Write), "from here on it is"
    assert messages(out, Digest), "and all of it is compared: no map says what it lacks"


@pytest.mark.parametrize("root", [ROOT + 5, None])
def test_another_root_hash_is_no_holder(root: int | None) -> None:
    primary = serving(OLD)
    all_equal(primary, join(primary, "c"))
    primary.receive("c", Prepared(primary.peers["c"].join_number, True), 0)
    out = primary.receive("c", Rooted(OLD.moment.seal, root), 0)
    assert of(fx.ReportGiven, out) == []
    assert of(fx.NotGiven, out) == [fx.NotGiven("c", "old", "its root hash is another")]
    assert primary.peers["c"].phase == "syncing", "it goes on without"


def test_nobody_who_counts_is_set_back() -> None:
    primary = make_primary()
    primary.snapshots([], [Past(OLD.moment, SIZE, ROOT, frozenset("bc"))], 0)
    primary.told(["b", "c"], 0)
    primary.start(["b", "c"], 0)
    for node in ("b", "c"):
        assert not any(c.of for c in of(fx.Compare, join(primary, node)))
        assert primary.peers[node].phase in ("synced", "live")


def test_whoever_has_not_stored_the_record_waits_for_that() -> None:
    """It would drop the layer as soon as it is sealed."""
    primary = serving(OLD, told=False)
    out = join(primary, "c")
    assert primary.peers["c"].phase == "syncing"
    assert messages(primary.told(["c"], 0), Join), "nothing was copied: it goes back at once"
    join(primary, "c")
    assert primary.peers["c"].phase == "giving"

    primary = serving(OLD, told=False)
    out = join(primary, "c")
    assert messages(all_equal(primary, out), Flush) == [], "it does not come into the set without it"
    assert messages(primary.told(["c"], 0), Join)


def test_one_of_an_older_version_is_given_none() -> None:
    """It would end the link at a seal of another epoch."""
    primary = serving(OLD)
    message = Joined(primary.peers["c"].join_number, 0, 0, (), unclean=False, takes_past=False)
    out = primary.receive("c", message, 0)
    assert messages(all_equal(primary, out), Flush), "it comes into the set as before"


def test_a_seal_may_be_of_an_epoch_before_and_of_none_to_come() -> None:
    _check_seal(Seal(first_seq(1) + 9, 0, SIZE, "old"), 3, SIZE)
    _check_seal(Seal(first_seq(3) + 9, 0, SIZE, "new"), 3, SIZE)
    with pytest.raises(FrameError, match="later epoch"):
        _check_seal(Seal(first_seq(4), 0, SIZE, "no"), 3, SIZE)


def test_a_snapshot_that_is_dropped_in_the_middle_is_not_gone_on_with() -> None:
    primary = serving(OLD, NEW)
    last = all_equal(primary, join(primary, "c"))
    assert messages(last, Prepare)
    assert messages(primary.snapshots([], [NEW], 0), Join)
    stale = Rooted(OLD.moment.seal, OLD.root)
    assert primary.receive("c", stale, 0) == [], "what it says of it counts for nothing"
    join(primary, "c")
    giving = primary.peers["c"].giving
    assert giving is not None and giving.past == NEW


def test_a_copy_that_is_lost_in_the_middle_is_compared_whole() -> None:
    primary = serving(OLD)
    join(primary, "c")
    write(primary, 1)
    primary.peer_down("c", "its link ended")
    assert primary.peers["c"].missed_all, "the map says what the volume was written, not what it was set back to"
    primary.peer_up("c", 0)
    join(primary, "c")
    assert primary.peers["c"].phase == "giving", "and begins again"


def test_one_that_fails_while_it_is_given_one_is_brought_to_the_present_alone() -> None:
    """Its disk may be full: the volume matters more than its past."""
    primary = serving(OLD)
    join(primary, "c")
    primary.receive("c", Failed("no space left on device"), 0)
    primary.peer_down("c", "its link ended")
    primary.peer_up("c", 0)
    join(primary, "c")
    assert primary.peers["c"].phase == "syncing"


def test_one_that_can_make_no_layer_goes_on_without() -> None:
    primary = serving(OLD)
    all_equal(primary, join(primary, "c"))
    assert messages(primary.receive("c", Prepared(primary.peers["c"].join_number, False), 0), Join)
    join(primary, "c")
    assert primary.peers["c"].phase == "syncing"


def test_one_that_makes_none_in_time_goes_on_without() -> None:
    primary = serving(OLD)
    all_equal(primary, join(primary, "c"))
    due = primary.next_deadline_ns()
    assert due is not None and due <= PATIENCE_NS
    assert messages(primary.time_passed(PATIENCE_NS), Join)
    join(primary, "c")
    assert primary.peers["c"].phase == "syncing"


def test_a_layer_that_cant_be_read_here_is_passed_over() -> None:
    primary = serving(OLD, NEW)
    join(primary, "c")
    assert primary.past_unreadable("c", NEW.moment, 0) == [], "of another one"
    assert messages(primary.past_unreadable("c", OLD.moment, 0), Join)
    join(primary, "c")
    giving = primary.peers["c"].giving
    assert giving is not None and giving.past == NEW


def test_what_is_sealed_while_it_catches_up_is_given_before_it_comes_into_the_set() -> None:
    primary = serving()
    out = join(primary, "c")
    primary.snapshots([("new", 3)], [], 0)
    assert messages(all_equal(primary, out), Flush) == [], "one is being taken without it"
    primary.snapshots([], [NEW], 0)
    assert primary.peers["c"].phase == "syncing", "its own record has not come to it"
    assert messages(primary.told(["c"], 0), Join)
    all_equal(primary, join(primary, "c"))
    out = sealed(primary, NEW)
    assert of(fx.ReportGiven, out) == [fx.ReportGiven("c", NEW.moment)]
    assert messages(all_equal(primary, out), Flush)


def test_nobody_is_given_the_past_while_writes_wait_for_a_copy() -> None:
    primary = serving(OLD)
    join(primary, "c")
    out = primary.require(["a", "b"], Writes.HELD)
    assert messages(out, Join), "what it was being made is left"
    out = join(primary, "c")
    assert primary.peers["c"].phase == "syncing"
    primary.snapshots([("new", 3)], [OLD], 0)
    assert messages(all_equal(primary, out), Flush), "nor does it wait for a seal"


def test_one_that_waits_for_a_seal_does_not_when_writes_wait_for_it() -> None:
    primary = serving()
    primary.snapshots([("new", 3)], [], 0)
    assert messages(all_equal(primary, join(primary, "c")), Flush) == []
    assert messages(primary.require(["a", "b"], Writes.HELD), Flush)


def test_one_that_is_given_up_while_it_is_taken_holds_up_nobody() -> None:
    primary = serving()
    primary.snapshots([("new", 3)], [], 0)
    assert messages(all_equal(primary, join(primary, "c")), Flush) == []
    assert messages(primary.snapshots([], [], 0), Flush)


def test_it_does_not_go_back_for_ever() -> None:
    """Snapshots are taken faster than it catches up."""
    primary = serving()
    out, pasts = join(primary, "c"), list[Past]()
    for number in range(RETURNS_MAX):
        pasts.append(Past(Moment(f"s{number}", first_seq(2) + number), SIZE, ROOT, frozenset("c")))
        primary.snapshots([], pasts, 0)
        assert messages(all_equal(primary, out), Join) == []
        primary.told(["c"], 0)
        all_equal(primary, join(primary, "c"))
        out = sealed(primary, pasts[-1])
    pasts.append(Past(Moment("more", first_seq(2) + 100), SIZE, ROOT, frozenset("c")))
    primary.snapshots([("another", 9)], pasts, 0)
    assert primary.told(["c"], 0) == []
    assert messages(all_equal(primary, out), Flush)


def test_one_that_waits_to_be_admitted_takes_part_in_a_seal() -> None:
    """It holds everything, and comes into the set by the next record: it would lack the snapshot."""
    primary = serving()
    (flush,) = messages(all_equal(primary, join(primary, "c")), Flush)
    primary.seal("s", 5, ["b", "c"], 0)
    assert primary.sealing_stage == 0, "its sync is on its way: the seal waits for that"
    out = primary.receive("c", Flushed(flush.ticket), 0)
    assert messages(out, Prepare) == [Prepare(1)]

"""One replica following one primary: order, epochs, copies that never replace a later write (T1, T2, T3, T4)."""

from __future__ import annotations

from services.replica.replication import effects as fx
from services.replica.replication.gate import QUIET_NS
from services.replica.replication.messages import (
    Ack,
    CommitPoint,
    Copied,
    Copy,
    Digest,
    Failed,
    Flush,
    Flushed,
    Join,
    Joined,
    Write,
    first_seq,
)
from services.replica.replication.replica import WRITE_BACK_BLOCKS, Replica, Share
from services.replica.replication.scrub import FIRST_NUMBER

EPOCH, LINK = 3, 7
BASE = first_seq(EPOCH)


def follower(*, marked=(0, 1), commit: int = 0, covered: bool = True) -> Replica:  # type: ignore[no-untyped-def]
    replica = Replica(marked)
    (answer,) = replica.join(LINK, Join(1), EPOCH, Share((), 0, commit, unclean=False))
    assert answer == fx.Answer(LINK, Joined(1, 0, commit, (), False))
    if covered:
        replica.receive(LINK, CommitPoint(BASE), EPOCH, 0)
    return replica


def test_a_write_is_stored_and_then_confirmed() -> None:
    out = follower().receive(LINK, Write(BASE + 1, BASE, 4, 2, 9), EPOCH, 0)
    assert out == [fx.StoreWrite(BASE + 1, 4, 2, 9), fx.Answer(LINK, Ack((BASE + 1,)))]


def test_invariant_4_another_epoch_or_link_is_dropped() -> None:
    replica = follower()
    assert replica.receive(LINK, Write(BASE + 1, BASE, 4, 2, 9), EPOCH - 1, 0) == [fx.Release(9)]
    assert replica.receive(LINK + 1, Write(BASE + 1, BASE, 4, 2, 9), EPOCH, 0) == [fx.Release(9)]
    assert replica.join(LINK, Join(1), EPOCH - 1, Share((), 0, 0, unclean=False)) == []


def test_t1_what_waits_is_dropped_when_the_epoch_rises() -> None:
    """An epoch-1 write queued on the disk lands after an epoch-2 write."""
    replica = follower(marked=())
    assert replica.receive(LINK, Write(BASE + 1, BASE, 4, 1, 9), EPOCH, 0) == [fx.MarkRegions((0,))]
    assert replica.raise_epoch(EPOCH + 1) == [fx.Release(9)]
    assert replica.marked((0,), 0) == []
    replica.join(LINK, Join(1), EPOCH + 1, Share((), 0, 0, unclean=False))
    out = replica.receive(LINK, Write(first_seq(4) + 1, 0, 4, 1, 10), EPOCH + 1, 0)
    assert out[0] == fx.StoreWrite(first_seq(4) + 1, 4, 1, 10)


def test_the_disk_begins_while_copies_come_in_and_nobody_waits_for_it() -> None:
    """The sync at the end would otherwise find all of it to do."""
    replica = follower(marked=range(8))
    told = []
    for number in range(2 * WRITE_BACK_BLOCKS // 64):
        out = replica.receive(LINK, Copy(number, BASE + 10, ((64 * number, 64),), 8), EPOCH, 0)
        assert out[1] == fx.Answer(LINK, Copied(number)), "confirmed first"
        told += [number] * (fx.WriteBack() in out)
    assert told == [WRITE_BACK_BLOCKS // 64 - 1, 2 * WRITE_BACK_BLOCKS // 64 - 1]


def test_t4_a_copy_never_replaces_a_later_write() -> None:
    """Repair reads x as of 10, write 11 reaches B, the repair frame arrives late and restores 10."""
    replica = follower()
    replica.receive(LINK, Write(BASE + 11, BASE, 5, 1, 9), EPOCH, 0)
    out = replica.receive(LINK, Copy(2, BASE + 10, ((4, 3),), 8), EPOCH, 0)
    assert out == [fx.StoreCopy(BASE + 10, ((4, 3),), ((4, 1), (6, 1)), 8), fx.Answer(LINK, Copied(2))]
    out = replica.receive(LINK, Copy(3, BASE + 11, ((4, 3),), 7), EPOCH, 0)
    assert out[0] == fx.StoreCopy(BASE + 11, ((4, 3),), ((4, 3),), 7)


def test_t4_holds_for_a_copy_that_waits_for_a_mark_while_the_write_is_committed() -> None:
    replica = follower(marked=(0,))
    replica.receive(LINK, Write(BASE + 11, BASE, 5, 1, 9), EPOCH, 0)
    assert replica.receive(LINK, Copy(2, BASE + 10, ((5, 1), (1024, 1)), 8), EPOCH, 0) == [fx.MarkRegions((1,))]
    replica.receive(LINK, CommitPoint(BASE + 11), EPOCH, 0)
    assert replica.marked((1,), 0)[0] == fx.StoreCopy(BASE + 10, ((5, 1), (1024, 1)), ((1024, 1),), 8)


def test_t4_a_write_behind_a_waiting_copy_stays_behind_it() -> None:
    replica = follower(marked=(0,))
    replica.receive(LINK, Copy(2, BASE + 10, ((5, 1), (1024, 1)), 8), EPOCH, 0)
    assert replica.receive(LINK, Write(BASE + 11, BASE, 5, 1, 9), EPOCH, 0) == []
    out = replica.marked((1,), 0)
    assert [type(effect) for effect in out] == [fx.StoreCopy, fx.Answer, fx.StoreWrite, fx.Answer]


def test_t2_the_tail_is_kept_until_this_primary_has_compared_it() -> None:
    replica = follower(covered=False)
    out = replica.receive(LINK, Write(BASE + 1, BASE, 4, 1, 9), EPOCH, 0)
    assert not any(isinstance(effect, fx.CommitTail) for effect in out)
    assert fx.CommitTail(BASE + 1) in replica.receive(LINK, CommitPoint(BASE + 1), EPOCH, 0)


def test_t3_regions_are_unmarked_when_synced_and_committed_after_a_quiet_while() -> None:
    replica = follower(marked=(0,))
    replica.receive(LINK, Write(BASE + 1, BASE, 4, 1, 9), EPOCH, 10)
    (sync,) = replica.time_passed(10 + QUIET_NS)
    assert isinstance(sync, fx.SyncStore)
    assert replica.synced(sync.ticket) == [], "not at or below the commit point"
    replica.receive(LINK, CommitPoint(BASE + 1), EPOCH, 0)
    (sync,) = replica.time_passed(10 + 2 * QUIET_NS)
    assert replica.synced(sync.ticket) == [fx.UnmarkRegions((0,))]  # type: ignore[union-attr]


def test_t3_only_the_sync_that_was_asked_for_with_the_checksums_unmarks() -> None:
    """A flush that nobody waits for any more, since another primary has come, unmarked as well. Its sync is of the data
    alone, so after a power loss the regions' checksums would have been older than these."""
    replica = follower(marked=(0,))
    replica.receive(LINK, Write(BASE + 1, BASE, 4, 1, 9), EPOCH, 10)
    out = replica.receive(LINK, Flush(5, BASE + 1), EPOCH, 10)
    (flush,) = [effect for effect in out if isinstance(effect, fx.SyncStore)]
    assert not flush.settles
    (quiet,) = replica.time_passed(10 + QUIET_NS)
    assert isinstance(quiet, fx.SyncStore) and quiet.settles
    replica.join(LINK + 1, Join(2), EPOCH, Share((), 0, 0, unclean=False))
    assert replica.synced(flush.ticket) == []
    replica.receive(LINK + 1, CommitPoint(BASE + 1), EPOCH, 0)
    assert replica.synced(quiet.ticket) == [fx.UnmarkRegions((0,))]


def test_t3_the_marks_of_before_a_restart_stay_until_they_are_compared() -> None:
    """Unmarked by the first quiet sync, a power loss's regions would be compared by nobody."""
    replica = follower(marked=(0, 1), covered=False)
    assert replica.next_deadline_ns() is None
    assert replica.time_passed(100 * QUIET_NS) == []
    replica.receive(LINK, Flush(1, BASE, cleans=True), EPOCH, 0)
    assert replica.next_deadline_ns() is not None


def test_a_flush_waits_for_what_came_before_it() -> None:
    replica = follower(marked=())
    replica.receive(LINK, Write(BASE + 1, BASE, 4, 1, 9), EPOCH, 0)
    assert replica.receive(LINK, Flush(5, BASE), EPOCH, 0) == []
    out = replica.marked((0,), 0)
    (sync,) = [effect for effect in out if isinstance(effect, fx.SyncStore)]
    assert replica.synced(sync.ticket) == [fx.Answer(LINK, Flushed(5))]


def test_a_newer_join_forgets_whom_to_answer() -> None:
    replica = follower()
    (sync,) = replica.receive(LINK, Flush(5, BASE), EPOCH, 0)
    replica.join(LINK + 1, Join(2), EPOCH, Share((), 0, 0, unclean=False))
    assert replica.synced(sync.ticket) == []  # type: ignore[union-attr]
    assert replica.link_lost(LINK) == [], "the older link's end says nothing"


def test_a_failed_disk_is_said_once() -> None:
    replica = follower()
    assert replica.failed("no space") == [fx.Answer(LINK, Failed("no space"))]
    assert replica.failed("no space") == []


def test_regions_that_are_compared_block_by_block_are_marked_together_and_ahead_of_their_copies() -> None:
    """Scattered blocks waited for the disk once a region."""
    replica = follower(marked=(0,))
    ranges = ((5, 1), (1024, 2), (2047, 2))
    out = replica.receive(LINK, Digest(1, 0, ranges), EPOCH, 0)
    assert out == [fx.AnswerDigests(LINK, 1, 0, ranges), fx.MarkRegions((1, 2))]
    waits = replica.receive(LINK, Copy(2, BASE, ((1024, 2),), 8), EPOCH, 0)
    assert waits == [], "the mark that it waits for is under way"
    assert replica.marked((1, 2), 0)[0] == fx.StoreCopy(BASE, ((1024, 2),), ((1024, 2),), 8)
    again = replica.receive(LINK, Digest(3, 0, ranges), EPOCH, 0)
    assert again == [fx.AnswerDigests(LINK, 3, 0, ranges)]


def test_the_upper_levels_and_the_scrub_mark_nothing() -> None:
    replica = follower(marked=())
    for number, level in ((1, 1), (FIRST_NUMBER, 0)):
        out = replica.receive(LINK, Digest(number, level, ((0, 4),)), EPOCH, 0)
        assert out == [fx.AnswerDigests(LINK, number, level, ((0, 4),))]


def test_a_mark_that_was_made_ahead_and_not_needed_is_taken_back() -> None:
    replica = follower(marked=())
    replica.receive(LINK, Digest(1, 0, ((5, 1),)), EPOCH, 0)
    replica.marked((0,), 0)
    (sync,) = replica.time_passed(QUIET_NS)
    assert isinstance(sync, fx.SyncStore)
    assert replica.synced(sync.ticket) == [fx.UnmarkRegions((0,))]

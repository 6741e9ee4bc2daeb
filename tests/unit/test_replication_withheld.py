"""Fewer copies in sync than the policy asks for: writes wait or fail, reads go on, and nothing is lost (W2, W4)."""

from __future__ import annotations

from errno import EIO

from services.replica.replication import effects as fx
from services.replica.replication.messages import Ack, Done, Flushed, Io, Opened, Request
from services.replica.replication.primary import Primary
from services.replica.replication.withheld import Writes
from tests.support.replicas import BASE, LINK, serving, write


def below(writes: Writes = Writes.HELD) -> Primary:
    """B is lost and has left; a write needs two copies."""
    primary = serving(("b",))
    primary.peer_down("b", "gone")
    primary.require(["a"], writes)
    return primary


def answers(effects: list[fx.Effect]) -> list[object]:
    return [effect.message for effect in effects if isinstance(effect, fx.Answer)]


def test_a_write_is_stored_and_its_answer_waits_until_a_copy_came_back() -> None:
    primary = below()
    out = write(primary, 1)
    assert fx.StoreWrite(BASE + 1, 0, 1, 101) in out
    assert answers(out) == []
    assert fx.CommitTail(BASE + 1) in out, "everybody in sync has it: nothing of it is under way"
    assert primary.require(["a", "b"], Writes.HELD) == [], "proposed is not committed"
    assert answers(primary.require(["a", "b"], Writes.OPEN)) == [Done(1, 1, 0)]
    assert answers(primary.require(["a", "b"], Writes.OPEN)) == [], "answered once"


def test_a_write_under_way_when_the_set_shrank_waits_as_well() -> None:
    primary = serving(("b",))
    write(primary, 1)
    primary.peer_down("b", "gone")
    assert answers(primary.require(["a"], Writes.HELD)) == []
    assert answers(primary.require(["a"], Writes.OPEN)) == [Done(1, 1, 0)], "the failure mode is another now"


def test_reads_go_on_and_a_flush_waits() -> None:
    primary = below()
    read = primary.request(LINK, Request(1, 1, Io.READ, 0, 1), 0)
    assert read == [fx.AnswerRead(LINK, 1, 1, 0, 1)]
    (sync,) = primary.request(LINK, Request(1, 2, Io.FLUSH, 0, 0), 0)
    assert isinstance(sync, fx.SyncStore)
    assert primary.synced(sync.ticket, 0) == []
    assert answers(primary.require(["a"], Writes.OPEN)) == [Done(1, 2, 0)]


def test_a_fua_write_is_flushed_when_it_may_be_answered() -> None:
    primary = below()
    assert answers(write(primary, 1, fua=True)) == []
    out = primary.require(["a"], Writes.OPEN)
    (sync,) = [effect for effect in out if isinstance(effect, fx.SyncStore)]
    assert answers(primary.synced(sync.ticket, 0)) == [Done(1, 1, 0)]


def test_w2_a_newer_session_opens_and_reads_while_writes_are_suspended() -> None:
    """The old session's write is on every in-sync copy and in no queue any more: nothing older is left to settle."""
    primary = below()
    write(primary, 1)
    assert answers(primary.open(LINK + 1, "n", 9, 1)) == [Opened(9)]
    read = primary.request(LINK + 1, Request(9, 10, Io.READ, 0, 1), 0)
    assert read == [fx.AnswerRead(LINK + 1, 9, 10, 0, 1)]
    assert answers(primary.require(["a"], Writes.OPEN)) == [], "its frontend has sent it again by now"


def test_w4_a_failed_write_is_equal_on_every_in_sync_copy_before_it_is_answered() -> None:
    primary = serving(("b", "c"))
    write(primary, 1)
    primary.receive("b", Ack((BASE + 1,)), 0)
    primary.peer_down("c", "gone")
    primary.require(["a", "b", "c"], Writes.OPEN)
    assert answers(primary.require(["a", "b"], Writes.FAILED)) == [Done(1, 1, EIO)]
    write_under_way = serving(("b", "c"))
    write(write_under_way, 1)
    write_under_way.peer_down("c", "gone")
    assert answers(write_under_way.require(["a", "b"], Writes.FAILED)) == [], "b may not have it"
    assert write_under_way.window.commit == BASE
    assert answers(write_under_way.receive("b", Ack((BASE + 1,)), 0)) == [Done(1, 1, EIO)]
    assert write_under_way.window.commit == BASE + 1


def test_a_new_write_fails_at_once_and_touches_no_copy() -> None:
    primary = below(Writes.FAILED)
    assert write(primary, 1) == [fx.Release(101), fx.Answer(LINK, Done(1, 1, EIO))]
    assert primary.request(LINK, Request(1, 2, Io.FLUSH, 0, 0), 0) == [fx.Answer(LINK, Done(1, 2, EIO))]
    assert primary.request(LINK, Request(1, 3, Io.READ, 0, 1), 0) == [fx.AnswerRead(LINK, 1, 3, 0, 1)]
    assert primary.request(LINK, Request(1, 4, Io.STATUS, 0, 9), 0) == [fx.AnswerStatus(LINK, 1, 4, 0, 9)]


def test_what_waits_fails_when_the_policy_says_so_now() -> None:
    primary = below()
    write(primary, 1)
    (sync,) = primary.request(LINK, Request(1, 2, Io.FLUSH, 0, 0), 0)
    assert isinstance(sync, fx.SyncStore)
    assert answers(primary.require(["a"], Writes.FAILED)) == [Done(1, 1, EIO)]
    assert answers(primary.synced(sync.ticket, 0)) == [Done(1, 2, EIO)]


def test_another_attachment_or_the_end_of_the_reign_forgets_what_waits() -> None:
    primary = below()
    write(primary, 1)
    primary.attachment("m", 2)
    assert answers(primary.require(["a"], Writes.OPEN)) == []
    stopped = below()
    write(stopped, 1)
    stopped.stop()
    assert answers(stopped.require(["a"], Writes.OPEN)) == []


def test_a_member_that_joins_is_asked_to_follow_and_one_that_left_is_forgotten() -> None:
    primary = serving(("b",))
    write(primary, 1)
    out = primary.members(["b", "d"], ["b", "d"], 0)
    assert [effect.peers for effect in out if isinstance(effect, fx.Tell)] == [("d",)]
    assert primary.peers["d"].missed_all, "it is empty: everything is compared"
    assert answers(primary.receive("b", Ack((BASE + 1,)), 0)) == [Done(1, 1, 0)], "it counts for nothing yet"
    primary.members(["b"], ["b"], 0)
    assert list(primary.peers) == ["b"]
    assert primary.receive("d", Flushed(1), 0) == []
    assert primary.compared("d", 1, []) == []

"""The write path, effect by effect: order, who has to confirm, flush, sessions (S1, W1, W2)."""

from __future__ import annotations

from services.replica.replication import effects as fx
from services.replica.replication.messages import (
    Ack,
    CommitPoint,
    Done,
    Flush,
    Flushed,
    Io,
    Opened,
    OpenRefused,
    Refusal,
    Request,
    Write,
    Zero,
)
from services.replica.replication.patience import PATIENCE_NS
from services.replica.replication.primary import COMMIT_IDLE_NS
from tests.support.replicas import BASE, LINK, serving, write

PEERS = ("b", "c")


def test_a_write_goes_to_every_peer_and_the_own_store_and_is_answered_when_all_have_it() -> None:
    primary = serving()
    assert write(primary, 1, 7, 2) == [
        fx.Tell(PEERS, Write(BASE + 1, BASE, 7, 2, 101)),
        fx.StoreWrite(BASE + 1, 7, 2, 101),
    ]
    assert primary.receive("b", Ack((BASE + 1,)), 0) == []
    assert primary.receive("c", Ack((BASE + 1,)), 0) == [
        fx.Answer(LINK, Done(1, 1, 0)),
        fx.CommitTail(BASE + 1),
    ]
    assert primary.receive("c", Ack((BASE + 1,)), 0) == [], "doubled"


def test_answers_leave_as_they_are_confirmed_and_the_commit_point_in_order() -> None:
    primary = serving(("b",))
    write(primary, 1)
    write(primary, 2, 9)
    assert primary.receive("b", Ack((BASE + 2,)), 0) == [fx.Answer(LINK, Done(1, 2, 0))]
    assert primary.window.commit == BASE
    out = primary.receive("b", Ack((BASE + 1,)), 0)
    assert out == [fx.Answer(LINK, Done(1, 1, 0)), fx.CommitTail(BASE + 2)]


def test_a_zero_is_a_sequenced_write() -> None:
    primary = serving(("b",))
    out = primary.request(LINK, Request(1, 1, Io.ZERO, 3, 4), 0)
    assert out == [fx.Tell(("b",), Zero(BASE + 1, BASE, 3, 4)), fx.StoreZero(BASE + 1, 3, 4)]


def test_the_first_write_to_a_region_waits_for_its_mark_here_and_travels_at_once() -> None:
    primary = serving(("b",), marked=())
    assert write(primary, 1) == [fx.Tell(("b",), Write(BASE + 1, BASE, 0, 1, 101)), fx.MarkRegions((0,))]
    assert primary.receive("b", Ack((BASE + 1,)), 0) == []
    assert primary.marked((0,), 0) == [
        fx.StoreWrite(BASE + 1, 0, 1, 101),
        fx.Answer(LINK, Done(1, 1, 0)),
        fx.CommitTail(BASE + 1),
    ]


def test_s1_a_lost_member_is_needed_until_a_smaller_set_is_committed() -> None:
    primary = serving()
    write(primary, 1)
    primary.receive("b", Ack((BASE + 1,)), 0)
    assert primary.peer_down("c", "its link ended") == [fx.ReportFailed("c", "its link ended")]
    assert primary.require(["a", "b", "c"]) == []
    assert primary.require(["a", "b"]) == [fx.Answer(LINK, Done(1, 1, 0)), fx.CommitTail(BASE + 1)]


def test_a_flush_syncs_everywhere() -> None:
    primary = serving(("b",))
    (sync, tell) = primary.request(LINK, Request(1, 1, Io.FLUSH, 0, 0), 0)
    assert isinstance(sync, fx.SyncStore) and not sync.cleans
    assert tell == fx.Tell(("b",), Flush(sync.ticket, BASE))
    assert primary.synced(sync.ticket, 0) == []
    assert primary.receive("b", Flushed(sync.ticket), 0) == [fx.Answer(LINK, Done(1, 1, 0))]


def test_fua_is_a_write_and_then_a_flush() -> None:
    primary = serving(("b",))
    write(primary, 1, fua=True)
    out = primary.receive("b", Ack((BASE + 1,)), 0)
    syncs = [effect for effect in out if isinstance(effect, fx.SyncStore)]
    assert len(syncs) == 1 and not any(isinstance(effect, fx.Answer) for effect in out)
    primary.receive("b", Flushed(syncs[0].ticket), 0)
    assert primary.synced(syncs[0].ticket, 0) == [fx.Answer(LINK, Done(1, 1, 0))]


def test_w2_a_newer_session_opens_only_when_everything_older_is_settled() -> None:
    primary = serving(("b",))
    write(primary, 1)
    assert primary.open(LINK + 1, "n", 2, 1) == []
    (refused,) = primary.request(LINK, Request(1, 2, Io.READ, 0, 1), 0)
    assert isinstance(refused, fx.Answer) and isinstance(refused.message, OpenRefused)
    out = primary.receive("b", Ack((BASE + 1,)), 0)
    assert fx.Answer(LINK + 1, Opened(2)) in out
    assert primary.open(LINK, "n", 1, 1)[0].message.code is not Refusal.FENCED, "late, not fenced"  # type: ignore[union-attr]


def test_another_attachment_fences_the_old_frontend_and_a_newer_one_is_no_reason_to() -> None:
    primary = serving(("b",))
    primary.attachment("m", 2)
    (refused,) = primary.open(LINK, "n", 9, 1)
    assert refused == fx.Answer(LINK, OpenRefused(9, Refusal.FENCED))
    (later,) = primary.open(LINK, "k", 9, 3)
    assert later == fx.Answer(LINK, OpenRefused(9, Refusal.NOT_READY)), "it is we who are behind"


def test_an_idle_primary_says_its_commit_point_once() -> None:
    primary = serving(("b",))
    write(primary, 1)
    primary.receive("b", Ack((BASE + 1,)), 0)
    due = primary.next_deadline_ns()
    assert due == COMMIT_IDLE_NS
    assert primary.time_passed(due) == [fx.Tell(("b",), CommitPoint(BASE + 1))]
    assert primary.time_passed(2 * due) == []


def test_a_member_that_answers_beats_and_no_writes_leaves_the_set() -> None:
    primary = serving(("b",))
    write(primary, 1)
    assert primary.time_passed(PATIENCE_NS - 1)[1:] == []
    out = primary.time_passed(PATIENCE_NS)
    assert fx.ReportFailed("b", "it gives no answer") in out
    assert primary.require(["a"])[0] == fx.Answer(LINK, Done(1, 1, 0))


def test_a_member_that_fails_again_while_it_catches_up_is_reported_again() -> None:
    """The brain may have forgotten the first report when it came back; unreported, it would stop every write."""
    primary = serving(("b",))
    write(primary, 1)
    assert primary.peer_down("b", "gone") == [fx.ReportFailed("b", "gone")]
    primary.peer_up("b", 0)
    assert primary.peer_down("b", "gone again") == [fx.ReportFailed("b", "gone again")]
    primary.peer_up("b", 0)
    out = primary.time_passed(PATIENCE_NS)
    assert fx.ReportFailed("b", "it gives no answer") in out
    assert not any(isinstance(effect, fx.ReportFailed) for effect in primary.time_passed(PATIENCE_NS + 1))


def test_a_member_whose_sync_hangs_leaves_the_set_though_it_confirms_writes() -> None:
    primary = serving(("b",))
    (sync, _) = primary.request(LINK, Request(1, 1, Io.FLUSH, 0, 0), 0)
    assert isinstance(sync, fx.SyncStore)
    primary.synced(sync.ticket, 0)
    write(primary, 2)
    primary.receive("b", Ack((BASE + 1,)), PATIENCE_NS - 1)
    assert fx.ReportFailed("b", "it gives no answer") in primary.time_passed(PATIENCE_NS)


def test_stop_sends_the_frontend_on_and_releases_what_waits() -> None:
    primary = serving(("b",), marked=())
    write(primary, 1)
    assert primary.stop() == [fx.Release(101), fx.Answer(LINK, OpenRefused(1, Refusal.NOT_PRIMARY))]

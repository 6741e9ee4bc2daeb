"""Take-over and catching up: what is compared, what a peer is sent, when it counts (T2, D1, D2, S3, S4)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.replica.replication import effects as fx
from services.replica.replication.messages import (
    Ack,
    CommitPoint,
    Copied,
    Digest,
    Digests,
    Flush,
    Flushed,
    Io,
    Join,
    Joined,
    Request,
    Write,
)
from services.replica.replication.peer import JOIN_RETRY_NS
from services.replica.replication.replica import Share
from stoscore.units import REGION_BLOCKS
from tests.support.replicas import BASE, CLEAN, LINK, join, make_primary, of, serving, write

TAIL = Share(((7, 1),), 5, 4, unclean=False)


def compared(primary, node: str, differing=()):  # type: ignore[no-untyped-def]
    """The peer's digests arrive and the shell compares them."""
    (number,) = primary.peers[node].resync._comparing
    asked = primary.receive(node, Digests(number, 0, 900), 0)
    assert isinstance(asked[0], fx.Compare)
    return primary.compared(node, number, list(differing))


def test_nothing_unconfirmed_anywhere_serves_after_one_round() -> None:
    primary = make_primary(("b",))
    assert primary.start(["b"], 0) == [fx.Tell(("b",), Join(1))]
    out = join(primary, "b")
    assert primary.serving
    assert fx.CommitTail(BASE) in out and fx.Tell(("b",), CommitPoint(BASE)) in out
    assert fx.StartedServing(0, 0) in out


def test_t2_compared_is_the_union_of_both_tails_and_our_content_wins() -> None:
    """w on the new primary only: the peer's list does not name it. w on the peer only: ours does not."""
    primary = make_primary(("b",), share=TAIL)
    primary.start(["b"], 0)
    out = join(primary, "b", Share(((9, 2),), 6, 4, unclean=False))
    assert out == [fx.Tell(("b",), Digest(1, 0, ((7, 1), (9, 2))))]
    out = compared(primary, "b", [(9, 1)])
    assert out == [fx.SendCopy("b", 2, BASE, ((9, 1),))]
    assert not primary.serving
    primary.receive("b", Copied(2), 0)
    assert primary.serving


def test_it_does_not_serve_before_a_silent_member_has_left_by_a_committed_record() -> None:
    primary = make_primary()
    out = primary.start(["b"], 0)
    assert fx.ReportFailed("c", "its link is down") in out
    join(primary, "b")
    assert not primary.serving
    primary.require(["a", "b"])
    assert primary.serving


def test_a_peer_that_is_not_in_sync_is_compared_as_a_whole() -> None:
    primary = make_primary(("b",), in_sync=["a"], size_blocks=300)
    primary.start(["b"], 0)
    assert primary.serving
    assert join(primary, "b") == [fx.Tell(("b",), Digest(1, 1, ((0, 2),))), fx.ReportFollows("b")]


def test_d1_a_returning_peer_misses_our_map_and_its_own_tail() -> None:
    primary = serving()
    write(primary, 1, 3)
    primary.peer_down("b", "gone")
    write(primary, 2, 20)
    primary.peer_up("b", 0)
    out = join(primary, "b", Share(((40, 1),), 9, 8, unclean=False))
    assert out[-2:] == [fx.Tell(("b",), Digest(1, 0, ((3, 1), (20, 1), (40, 1)))), fx.ReportFollows("b")]


def admitted(primary, node: str):  # type: ignore[no-untyped-def]
    return [effect for effect in primary if effect == fx.ReportCaughtUp(node)]


def test_s4_a_peer_is_reported_after_its_own_fdatasync_and_writes_need_it_from_before() -> None:
    primary = serving(("b",), in_sync=["a"], size_blocks=200)
    assert primary.serving
    out = compared(primary, "b")
    flush = out[-1]
    assert isinstance(flush, fx.Tell) and flush.message == Flush(1, BASE, cleans=True, settled=BASE)
    primary.open(LINK, "n", 2, 1)
    out = primary.request(LINK, Request(2, 1, Io.WRITE, 0, 1, token=5), 0)
    assert not any(isinstance(effect, fx.Answer) for effect in out), "settled: from here on it has to confirm"
    assert fx.ReportCaughtUp("b") in primary.receive("b", Flushed(1), 0)
    out = primary.receive("b", Ack((BASE + 1,)), 0)
    assert any(isinstance(effect, fx.Answer) for effect in out)


def test_t2_what_a_copy_holds_by_comparison_alone_of_unconfirmed_writes_is_copied_all_the_same() -> None:
    """B stores nothing and stays in sync; a block is zeroed here; C, new and empty, is equal there. Admitted without a
    note, it differed from B when B led, in a block that no tail named, and stayed so."""
    primary = serving(("b", "c"), in_sync=["a", "b"], size_blocks=200)
    compared(primary, "c")
    primary.peer_down("c", "its directory is gone")
    primary.request(LINK, Request(1, 1, Io.ZERO, 45, 1, token=0), 0)
    primary.request(LINK, Request(1, 2, Io.WRITE, 7, 2, token=5), 0)
    primary.peer_up("c", 0)
    join(primary, "c")
    write(primary, 3, 99)  # it gets this one as a write
    out = compared(primary, "c")
    (copy,) = [effect for effect in out if isinstance(effect, fx.SendCopy)]
    assert (copy.peer, copy.ranges) == ("c", ((7, 2), (45, 1)))
    assert not any(isinstance(effect, fx.Tell) and isinstance(effect.message, Flush) for effect in out)
    primary.receive("c", Ack((BASE + 3,)), 0)
    out = primary.receive("c", Copied(copy.number), 0)
    assert any(isinstance(effect, fx.Tell) and isinstance(effect.message, Flush) for effect in out), "and only once"


def test_t2_a_copy_is_named_for_as_long_as_the_newest_write_that_it_holds() -> None:
    """Write 1 waits for its mark, write 2 is stored here and is not everywhere. A copy that holds 2, noted as of before
    1, is forgotten with the next commit point; if who got it leads next, C lacks 2 where no tail says so."""
    primary = serving(marked=(0,))
    write(primary, 1, REGION_BLOCKS + 5)
    write(primary, 2, 7)
    primary.peer_down("b", "a blip")
    primary.peer_up("b", 0)
    join(primary, "b")
    (copy,) = of(fx.SendCopy, compared(primary, "b", [(7, 1)]))
    assert copy.as_of == BASE + 2
    (copy,) = of(fx.SendCopy, primary.receive("b", Copied(copy.number), 0))
    assert copy.as_of == BASE + 2, "what is copied in any case as well"
    primary.receive("b", Copied(copy.number), 0)
    (tell,) = primary.receive("b", Ack((BASE + 1,)), 0)
    assert isinstance(tell, fx.Tell) and tell.message == Flush(1, BASE, cleans=True, settled=BASE + 2)


def test_t4_a_copy_is_as_of_before_a_write_that_waits_and_may_touch_it() -> None:
    primary = serving(marked=(0,))
    write(primary, 1, 7)
    write(primary, 2, REGION_BLOCKS - 1, 2)
    primary.peer_down("b", "a blip")
    primary.peer_up("b", 0)
    join(primary, "b")
    (copy,) = of(fx.SendCopy, compared(primary, "b", [(7, 1)]))
    assert copy.as_of == BASE + 1


def test_t2_who_catches_up_during_a_take_over_is_not_done_before_it() -> None:
    """What our own tail names is not settled yet: equal to that and admitted, it would differ from who leads next."""
    primary = make_primary(("b", "c"), in_sync=["a", "b"], share=replace(CLEAN, ranges=((45, 1),)), size_blocks=200)
    primary.start(["b", "c"], 0)
    join(primary, "c")
    assert not [effect for effect in compared(primary, "c") if isinstance(effect, fx.Tell)]
    join(primary, "b")
    assert not primary.serving and primary.peers["c"].phase == "syncing"
    out = compared(primary, "b")
    assert primary.serving
    assert fx.Tell(("c",), Flush(1, BASE, cleans=True, settled=BASE)) in out


def test_t2_who_left_and_catches_up_during_a_take_over_is_told_of_our_tail_by_a_copy() -> None:
    """Seed 1900002267: B lost power, holds all the same what our tail names, and is admitted while C is waited for.
    Were B to lead next, C would not be compared with it there, because B's tail is lost."""
    tail = ((45, 1), (50, 2))
    primary = make_primary(("b", "c"), share=replace(CLEAN, ranges=tail), size_blocks=200)
    primary.start(["b", "c"], 0)
    out = join(primary, "b", replace(CLEAN, ranges=((0, 200),), unclean=True))
    assert fx.ReportFailed("b", "its host lost power before everything was flushed") in out
    out = compared(primary, "b")
    (copy,) = [effect for effect in out if isinstance(effect, fx.SendCopy)]
    assert (copy.peer, copy.ranges) == ("b", tail)
    (tell,) = [e for e in primary.receive("b", Copied(copy.number), 0) if isinstance(e, fx.Tell)]
    assert isinstance(tell.message, Flush) and tell.message.cleans and not primary.serving


def test_what_was_confirmed_meanwhile_is_not_copied_again() -> None:
    primary = serving(("b", "c"), in_sync=["a", "b"], size_blocks=200)
    compared(primary, "c")
    primary.peer_down("c", "gone")
    write(primary, 1, 45)
    primary.peer_up("c", 0)
    join(primary, "c")
    primary.receive("b", Ack((BASE + 1,)), 0)
    assert not [effect for effect in compared(primary, "c") if isinstance(effect, fx.SendCopy)]


def test_a_peer_lost_between_its_report_and_its_admission_is_reported_lost() -> None:
    primary = serving(("b",), in_sync=["a"], size_blocks=200)
    compared(primary, "b")
    primary.receive("b", Flushed(1), 0)
    assert primary.peer_down("b", "its link ended") == [fx.ReportFailed("b", "its link ended")]


def test_a_write_that_waits_for_its_mark_reaches_a_peer_that_joins_meanwhile() -> None:
    """It is not in our store, so the comparison can't find it missing, and was sent on no link of this peer."""
    primary = serving(("b",), marked=())
    primary.peer_down("b", "gone")
    out = write(primary, 1, 5)
    assert out == [fx.MarkRegions((0,))]
    primary.peer_up("b", 0)
    out = join(primary, "b")
    assert out[0] == fx.Tell(("b",), Write(BASE + 1, BASE, 5, 1, 101))
    compared(primary, "b", [])
    assert primary.peers["b"].phase == "settling", "the write is not confirmed yet"


def test_a_late_answer_to_an_older_join_does_not_count_and_the_pause_grows() -> None:
    primary = make_primary(("b",))
    primary.start(["b"], 0)
    assert primary.time_passed(JOIN_RETRY_NS) == [fx.Tell(("b",), Join(2))]
    assert primary.receive("b", Joined(1, 0, 0, (), unclean=False), 0) == []
    assert primary.peers["b"].retry_at_ns == JOIN_RETRY_NS + 2 * JOIN_RETRY_NS
    join(primary, "b")
    assert primary.serving


def test_s3_an_unclean_member_leaves_first_and_its_answers_count_for_nothing() -> None:
    """{a,b}: w acknowledged, unflushed; b loses power and is back before any write shrinks the set. Were its flush
    counted, a flush would be acknowledged, and b might lead after the next power loss without w."""
    primary = serving(("b",))
    write(primary, 1)
    primary.receive("b", Ack((BASE + 1,)), 0)
    primary.peers["b"].up = True
    primary.peers["b"].lose()
    primary.catch_up.ask_to_join(primary.peers["b"], 0)
    out = join(primary, "b", replace(CLEAN, ranges=((0, 1024),), unclean=True))
    assert fx.ReportFailed("b", "its host lost power before everything was flushed") in out
    (sync, _) = primary.request(LINK, Request(1, 2, Io.FLUSH, 0, 0), 0)
    assert isinstance(sync, fx.SyncStore)
    primary.synced(sync.ticket, 0)
    assert primary.receive("b", Flushed(sync.ticket), 0) == []
    write(primary, 3, 9)
    assert primary.receive("b", Ack((BASE + 2,)), 0) == []
    out = compared(primary, "b", [(0, 1)])
    (copy,) = [effect for effect in out if isinstance(effect, fx.SendCopy)]
    (tell,) = [e for e in primary.receive("b", Copied(copy.number), 0) if isinstance(e, fx.Tell)]
    assert isinstance(tell.message, Flush) and tell.message.cleans
    out = primary.receive("b", Flushed(tell.message.ticket), 0)
    assert sum(isinstance(effect, fx.Answer) for effect in out) == 2, "now both are confirmed"


def test_s3_when_all_were_unclean_the_take_over_ends_with_a_sync_everywhere() -> None:
    unclean = replace(CLEAN, unclean=True)
    primary = make_primary(("b",), share=unclean)
    primary.start(["b"], 0)
    out = join(primary, "b", unclean)
    (sync,) = [effect for effect in out if isinstance(effect, fx.SyncStore)]
    assert sync.cleans and fx.Tell(("b",), Flush(sync.ticket, 0, cleans=True, settled=BASE)) in out
    assert not primary.serving
    primary.synced(sync.ticket, 0)
    primary.receive("b", Flushed(sync.ticket), 0)
    assert primary.serving


def test_s3_who_failed_is_cleaned_with_all_others_where_all_were_unclean() -> None:
    """Cleaned alone, its marks would mean nothing any more while others still lack what it was found to hold."""
    unclean = replace(CLEAN, ranges=((0, 200),), unclean=True)
    primary = make_primary(("b", "c"), share=unclean, size_blocks=200)
    assert [effect.node for effect in primary.start((), 0) if isinstance(effect, fx.ReportFailed)] == ["b", "c"]
    out: list[fx.Effect] = []
    for node in ("b", "c"):
        assert not [effect for effect in out if isinstance(effect, fx.Tell | fx.SyncStore | fx.ReportCaughtUp)]
        primary.peer_up(node, 1)
        join(primary, node, unclean)
        out = compared(primary, node)
    (sync,) = [effect for effect in out if isinstance(effect, fx.SyncStore)]
    assert fx.Tell(("b", "c"), Flush(sync.ticket, 0, cleans=True, settled=BASE)) in out
    primary.synced(sync.ticket, 2)
    primary.receive("b", Flushed(sync.ticket), 2)
    out = primary.receive("c", Flushed(sync.ticket), 2)
    assert primary.serving
    assert [effect.node for effect in out if isinstance(effect, fx.ReportCaughtUp)] == ["b", "c"], "as they had failed"


@pytest.mark.parametrize("had_synced", [True, False])
def test_s3_who_is_lost_while_all_are_cleaned_is_cleaned_again(had_synced: bool) -> None:
    """What it has done may be undone: it lost power once more. What it was told it has forgotten."""
    unclean = replace(CLEAN, ranges=((0, 200),), unclean=True)
    primary = make_primary(("b", "c"), share=unclean, size_blocks=200)
    primary.start(["b", "c"], 0)
    for node in ("b", "c"):
        join(primary, node, unclean)
        out = compared(primary, node)
    (sync,) = of(fx.SyncStore, out)
    primary.synced(sync.ticket, 2)
    if had_synced:
        primary.receive("b", Flushed(sync.ticket), 2)
    primary.peer_down("b", "it lost power again")
    primary.peer_up("b", 3)
    join(primary, "b", unclean)
    primary.receive("c", Flushed(sync.ticket), 3)
    (copy,) = of(fx.SendCopy, compared(primary, "b", [(3, 1)]))
    out = primary.receive("b", Copied(copy.number), 3)
    assert not primary.serving
    (again,) = of(fx.SyncStore, out)
    assert again.cleans and again.ticket != sync.ticket
    assert fx.Tell(("b", "c"), Flush(again.ticket, 0, cleans=True, settled=BASE)) in out
    primary.synced(again.ticket, 4)
    for node in ("b", "c"):
        assert not primary.serving
        primary.receive(node, Flushed(again.ticket), 4)
    assert primary.serving


def test_members_whose_failure_was_never_committed_are_live_again() -> None:
    """A volume was founded and elected its primary before any link was up: both members were reported as failed,
    the brain waited for a majority before it let anybody go, and then both were there. The take-over never ended,
    because nobody told it that the set had stayed as it was."""
    primary = make_primary(("b", "c"))
    reported = [effect.node for effect in primary.start((), 0) if isinstance(effect, fx.ReportFailed)]
    assert reported == ["b", "c"]
    for node in ("b", "c"):
        primary.peer_up(node, 1)
        join(primary, node)
        ticket = primary.peers[node].flush_ticket
        assert fx.ReportCaughtUp(node) in primary.receive(node, Flushed(ticket), 2)
    assert not primary.serving
    out = primary.require(("a", "b", "c"))
    assert primary.serving
    assert any(isinstance(effect, fx.StartedServing) for effect in out)
    assert all(peer.phase == "live" and not peer.failed for peer in primary.peers.values())


def test_s4_who_is_let_go_after_it_caught_up_again_is_waited_for_until_it_is_admitted() -> None:
    """It failed, caught up, and the brain comes to let it go only now. The word that it caught up waits for its turn as
    well, so what is confirmed until then it has to confirm too."""
    primary = serving(("b",))
    primary.peer_down("b", "silent")
    primary.peer_up("b", 0)
    assert fx.Tell(("b",), Flush(1, BASE, cleans=True, settled=BASE)) in join(primary, "b")
    primary.require(["a", "b"])
    assert fx.ReportCaughtUp("b") in primary.receive("b", Flushed(1), 0)
    primary.require(["a", "b"])
    primary.require(["a"])

    assert not [effect for effect in write(primary, 1) if isinstance(effect, fx.Answer)]
    out = primary.receive("b", Ack((BASE + 1,)), 0)
    assert [effect for effect in out if isinstance(effect, fx.Answer)]
    sync = primary.request(LINK, Request(1, 2, Io.FLUSH, 0, 0), 0)[0]
    assert isinstance(sync, fx.SyncStore)
    assert primary.synced(sync.ticket, 0) == []
    assert primary.peer_down("b", "silent")[0] == fx.ReportFailed("b", "silent"), "or it would be admitted all the same"

"""A primary that is about to move: nothing new, everything under way confirmed everywhere, and back if it stays."""

from __future__ import annotations

from services.replica.replication import effects as fx
from services.replica.replication.messages import Ack, CommitPoint, Io, OpenRefused, Refusal, Request
from tests.support.replicas import BASE, LINK, make_primary, serving, write


def test_it_settles_when_the_last_write_under_way_is_confirmed() -> None:
    primary = serving()
    write(primary, 1)
    assert primary.settle() == []
    assert not _settled(primary.receive("b", Ack((BASE + 1,)), 0))
    out = primary.receive("c", Ack((BASE + 1,)), 0)
    assert _settled(out)
    assert fx.Tell(("b", "c"), CommitPoint(BASE + 1)) in out, "nobody has a tail any more"
    assert not _settled(primary.receive("c", Ack((BASE + 1,)), 0)), "said once"


def test_with_nothing_under_way_it_has_settled_at_once() -> None:
    assert _settled(serving().settle())


def test_it_settles_only_after_its_own_take_over() -> None:
    primary = make_primary()
    primary.start(["b", "c"], 0)
    assert primary.settle() == []


def test_new_writes_are_dropped_for_the_frontend_sends_them_again_and_reads_go_on() -> None:
    primary = serving()
    primary.settle()
    assert write(primary, 2) == [fx.Release(102)]
    assert primary.request(LINK, Request(1, 3, Io.FLUSH, 0, 0), 0) == []
    (read,) = primary.request(LINK, Request(1, 4, Io.READ, 0, 1), 0)
    assert isinstance(read, fx.AnswerRead)
    (status,) = primary.request(LINK, Request(1, 5, Io.STATUS, 0, 9), 0)
    assert isinstance(status, fx.AnswerStatus)


def test_it_sends_the_frontend_to_the_successor() -> None:
    primary = serving()
    primary.settle()
    assert fx.Answer(LINK, OpenRefused(1, Refusal.NOT_PRIMARY, "c")) in primary.stop("c")


def test_if_it_stays_the_frontend_opens_another_session_and_sends_again() -> None:
    primary = serving()
    primary.settle()
    write(primary, 2)
    assert primary.go_on() == [fx.Answer(LINK, OpenRefused(1, Refusal.NOT_READY))]
    assert [effect for effect in primary.open(LINK, "n", 2, 1) if isinstance(effect, fx.Answer)]
    again = primary.request(LINK, Request(2, 5, Io.WRITE, 0, 1, False, 9), 0)
    assert any(isinstance(effect, fx.StoreWrite) for effect in again)


def _settled(effects: list[fx.Effect]) -> bool:
    return fx.ReportSettled() in effects

"""Writes that come together are one: one number, one mark, one confirmation; and each request has its answer."""

from __future__ import annotations

from errno import EIO

import pytest

from services.replica.replication import effects as fx
from services.replica.replication.messages import (
    Ack,
    Copied,
    Copy,
    Done,
    DoneMany,
    Io,
    Join,
    Joined,
    OpenRefused,
    Prepared,
    Refusal,
    RequestMany,
    Sealed,
    Write,
    WriteMany,
    Zero,
)
from services.replica.replication.peer import JOIN_RETRY_NS
from services.replica.replication.primary import Primary
from services.replica.replication.replica import Replica, Share
from services.replica.replication.withheld import Writes
from stoscore.units import REGION_BLOCKS
from tests.support.replicas import BASE, LINK, serving, write

ASKS = ((11, 7, 1), (12, 900, 2))
RANGES = ((7, 1), (900, 2))
PEERS = ("b", "c")


def ask(primary: Primary, io: Io = Io.WRITE, session: int = 1, token: int = 5) -> list[fx.Effect]:
    return primary.request_many(LINK, RequestMany(session, io, ASKS, token if io is Io.WRITE else 0), 0)


def test_they_have_one_number_and_are_answered_together_when_all_have_them() -> None:
    primary = serving()
    many = WriteMany(BASE + 1, BASE, RANGES, 5)
    assert ask(primary) == [fx.Tell(PEERS, many), fx.StoreWriteMany(BASE + 1, RANGES, 5)]
    assert (primary.unanswered, primary.writes) == (2, 2)
    assert primary.receive("b", Ack((BASE + 1,)), 0) == []
    assert primary.receive("c", Ack((BASE + 1,)), 0) == [
        fx.Answer(LINK, DoneMany(1, (11, 12))),
        fx.CommitTail(BASE + 1),
    ]
    assert primary.unanswered == 0
    assert write(primary, 3)[0] == fx.Tell(PEERS, Write(BASE + 2, BASE + 1, 0, 1, 103)), "the next number"


def test_reads_are_answered_together() -> None:
    assert ask(serving(), Io.READ) == [fx.AnswerReadMany(LINK, 1, ASKS)]


def test_all_regions_are_marked_before_any_of_them_is_stored() -> None:
    primary = serving(("b",), marked=(0,))
    far = ((11, 7, 1), (12, 2 * REGION_BLOCKS, 1))
    out = primary.request_many(LINK, RequestMany(1, Io.WRITE, far, 5), 0)
    assert out[1:] == [fx.MarkRegions((2,))]
    assert write(primary, 3, 7)[1:] == [], "what touches one of its regions waits behind it (W1)"
    stored = primary.marked((2,), 0)
    assert [type(effect) for effect in stored] == [fx.StoreWriteMany, fx.StoreWrite]


def test_a_lost_peer_misses_all_of_their_blocks() -> None:
    primary = serving(("b",))
    ask(primary)
    primary.peer_down("b", "its link ended")
    assert primary.peers["b"].missed.ranges() == [(7, 1), (900, 2)]


def test_an_older_session_a_moving_primary_and_a_policy_that_fails_writes_keep_no_payload() -> None:
    primary = serving(("b",))
    refused = OpenRefused(9, Refusal.NOT_READY, newest=1)
    assert ask(primary, session=9) == [fx.Release(5), fx.Answer(LINK, refused)]
    primary.require(["a", "b"], Writes.FAILED)
    assert ask(primary) == [fx.Release(5), *[fx.Answer(LINK, Done(1, request, EIO)) for request in (11, 12)]]
    primary.require(["a", "b"], Writes.OPEN)
    primary.settle()
    assert ask(primary) == [fx.Release(5)]


def test_below_the_number_of_copies_each_answer_is_withheld() -> None:
    primary = serving(("b",))
    primary.require(["a", "b"], Writes.HELD)
    ask(primary)
    assert primary.receive("b", Ack((BASE + 1,)), 0) == [fx.CommitTail(BASE + 1)]
    assert primary.require(["a", "b"], Writes.OPEN) == [fx.Answer(LINK, Done(1, request, 0)) for request in (11, 12)]


def joins(primary: Primary, *, takes_many: bool) -> list[fx.Effect]:
    """b comes back."""
    primary.peer_down("b", "its link ended")
    primary.peer_up("b", 0)
    number = primary.peers["b"].join_number
    return primary.receive("b", Joined(number, 0, BASE, (), unclean=False, takes_many=takes_many), 0)


@pytest.mark.parametrize("takes_many", [True, False])
def test_a_copy_of_an_older_version_ends_it_for_all(takes_many: bool) -> None:
    primary = serving()
    joins(primary, takes_many=takes_many)
    assert primary.peers.takes_many is takes_many


def test_a_copy_of_an_older_version_waits_until_nothing_that_it_does_not_know_waits_for_a_mark() -> None:
    primary = serving(marked=())
    ask(primary)
    out = joins(primary, takes_many=False)
    assert not any(isinstance(effect, fx.Tell) for effect in out)
    assert (primary.peers["b"].phase, primary.peers.takes_many) == ("joining", False)
    primary.marked((0,), 0)
    again = primary.time_passed(primary.peers["b"].retry_at_ns)
    assert fx.Tell(("b",), Join(primary.peers["b"].join_number)) in again
    assert primary.peers["b"].retry_at_ns > JOIN_RETRY_NS


def test_a_copy_of_an_older_version_waits_until_nothing_that_it_does_not_know_waits_for_a_seal() -> None:
    """*What was held was sent to it as one frame: it ended the link of all volumes.*"""
    primary = serving()
    primary.seal("s", 5, ["c"], 0)
    primary.seal_prepared(1, "", 0)
    primary.receive("c", Prepared(1, True), 0)
    assert ask(primary) == []
    out = joins(primary, takes_many=False)
    assert (primary.peers["b"].phase, primary.peers.takes_many) == ("joining", False)
    out += primary.sealed(BASE + 1, 0) + primary.receive("c", Sealed(BASE + 1), 0)
    told = [effect.peers for effect in out if isinstance(effect, fx.Tell) and isinstance(effect.message, WriteMany)]
    assert told == [("c",)]


def test_one_that_comes_back_gets_what_waits_for_its_marks() -> None:
    primary = serving(marked=())
    ask(primary)
    assert fx.Tell(("b",), WriteMany(BASE + 1, BASE, RANGES, 5)) in joins(primary, takes_many=True)


# ---- a replica ----------------------------------------------------------------------------------------


def follower(marked: tuple[int, ...] = (0,)) -> Replica:
    replica = Replica(marked)
    replica.join(LINK, Join(1), BASE >> 40, Share((), 0, BASE, unclean=False))
    return replica


def test_a_replica_stores_and_confirms_them_as_one() -> None:
    out = follower().receive(LINK, WriteMany(BASE + 1, BASE, RANGES, 9), BASE >> 40, 0)
    assert out == [fx.StoreWriteMany(BASE + 1, RANGES, 9), fx.Answer(LINK, Ack((BASE + 1,)))]


def test_t4_a_copy_replaces_none_of_them() -> None:
    replica = follower()
    replica.receive(LINK, WriteMany(BASE + 5, BASE, RANGES, 9), BASE >> 40, 0)
    out = replica.receive(LINK, Copy(1, BASE + 4, ((6, 3), (900, 4)), 10), BASE >> 40, 0)
    kept = ((6, 1), (8, 1), (902, 2))
    assert out == [fx.StoreCopy(BASE + 4, ((6, 3), (900, 4)), kept, 10), fx.Answer(LINK, Copied(1))]


def test_t1_what_waits_is_dropped_with_its_payload() -> None:
    replica = follower(marked=())
    assert replica.receive(LINK, WriteMany(BASE + 1, BASE, RANGES, 9), BASE >> 40, 0) == [fx.MarkRegions((0,))]
    assert replica.receive(LINK, Zero(BASE + 2, BASE, 7, 1), BASE >> 40, 0) == []
    assert replica.leave() == [fx.Release(9)]

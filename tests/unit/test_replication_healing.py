"""A primary heals its own blocks before it answers, and sends its peers what is rotten, or differs, there."""

from __future__ import annotations

import errno

import pytest

from services.replica.replication import effects as fx
from services.replica.replication import tree
from services.replica.replication.healing import LOST_PAUSE_NS, PATIENCE_NS, UNSETTLED_MAX
from services.replica.replication.messages import (
    Ack,
    Copied,
    Copy,
    Digests,
    Done,
    Fetch,
    Fetched,
    Io,
    Joined,
    Request,
    Rotten,
    Write,
)
from services.replica.replication.primary import Primary
from services.replica.replication.replica import Replica
from services.replica.replication.scrub import FIRST_NUMBER
from stoscore.units import REGION_BLOCKS
from tests.support.replicas import BASE, CLEAN, EPOCH, LINK, digests, make_primary, of, serving, write


def read(primary: Primary, number: int = 1, block: int = 0, count: int = 4) -> fx.AnswerRead:
    (effect,) = primary.request(LINK, Request(1, number, Io.READ, block, count), 0)
    assert isinstance(effect, fx.AnswerRead)
    return effect


def fetches(effects: list[fx.Effect]) -> list[tuple[str, Fetch]]:
    return [
        (effect.peers[0], effect.message)
        for effect in effects
        if isinstance(effect, fx.Tell) and isinstance(effect.message, Fetch)
    ]


FAILED = fx.Answer(LINK, Done(1, 1, errno.EIO))


def test_a_read_waits_until_its_rotten_blocks_are_healed() -> None:
    primary = serving()
    asked = read(primary)
    assert fetches(primary.rotten((1, 2), asked, 0)) == [("b", Fetch(1, ((1, 2),)))]
    assert primary.receive("b", Fetched(1, ((1, 2),), 7), 0) == [fx.Heal(1, ((1, 2),), 7, settled=True)]
    damage, again = primary.healed(1, [1, 2], 0)
    assert damage == fx.Damage("a", "rotten", ((1, 2),), "b")
    assert again == fx.AnswerRead(LINK, 1, 1, 0, 4, heals=1)
    assert primary.next_deadline_ns() is None or not primary.healing.under_way


def test_whoever_has_it_rotten_too_is_passed_over_and_without_anybody_the_read_fails() -> None:
    primary = serving()
    primary.rotten((1,), read(primary), 0)
    out = primary.receive("b", Fetched(1, (), 7), 0)
    assert fx.Release(7) in out and fetches(out) == [("c", Fetch(1, ((1, 1),)))]
    out = primary.receive("c", Fetched(1, (), 8), 0)
    assert FAILED in out and fx.Damage("a", "rotten", ((1, 1),), "") in out


def test_a_read_goes_on_when_its_own_blocks_are_healed_whatever_else_was_found_with_them() -> None:
    primary = serving()
    primary.rotten((1, 5), None, 0)
    assert primary.rotten((5,), read(primary, block=5, count=1), 0) == []
    assert primary.rotten((1,), read(primary, number=2, block=1, count=1), 0) == []
    primary.receive("b", Fetched(1, ((5, 1),), 7), 0)
    out = primary.healed(1, [5], 0)
    assert fx.AnswerRead(LINK, 1, 1, 5, 1, heals=1) in out
    assert fetches(out) == [("c", Fetch(1, ((1, 1),)))]
    out = primary.receive("c", Fetched(1, (), 8), 0)
    assert [effect for effect in out if isinstance(effect, fx.Answer)] == [fx.Answer(LINK, Done(1, 2, errno.EIO))]


def test_without_peers_the_read_fails_at_once() -> None:
    primary = serving(())
    assert FAILED in primary.rotten((1,), read(primary), 0)


def test_content_that_the_store_refuses_is_asked_of_the_next() -> None:
    primary = serving()
    primary.rotten((1, 2), read(primary), 0)
    primary.receive("b", Fetched(1, ((1, 2),), 7), 0)
    out = primary.healed(1, [2], 0)
    assert fx.Damage("a", "rotten", ((2, 1),), "b") in out
    assert fetches(out) == [("c", Fetch(1, ((1, 1),)))]


def test_a_silent_or_lost_peer_is_passed_over() -> None:
    primary = serving()
    primary.rotten((1,), read(primary), 0)
    assert primary.next_deadline_ns() == PATIENCE_NS
    assert fetches(primary.time_passed(PATIENCE_NS)) == [("c", Fetch(1, ((1, 1),)))]
    assert primary.receive("b", Fetched(1, ((1, 1),), 9), PATIENCE_NS) == [fx.Release(9)], "too late"
    assert FAILED in primary.peer_down("c", "its link ended")


def test_reads_of_the_same_rotten_block_share_one_fetch() -> None:
    primary = serving()
    assert fetches(primary.rotten((1,), read(primary, 1), 0))
    assert primary.rotten((1,), read(primary, 2), 0) == []
    primary.receive("b", Fetched(1, ((1, 1),), 7), 0)
    again = of(fx.AnswerRead, primary.healed(1, [1], 0))
    assert [effect.request for effect in again if isinstance(effect, fx.AnswerRead)] == [1, 2]


# ---- writes that are under way ------------------------------------------------------------------------


def test_what_a_peer_holds_is_not_settled_while_a_write_is_on_its_way_to_it() -> None:
    primary = serving(("b",))
    write(primary, 1, block=1)
    primary.rotten((1,), None, 0)
    (heal,) = primary.receive("b", Fetched(1, ((1, 1),), 7), 0)
    assert isinstance(heal, fx.Heal) and not heal.settled


def test_nor_is_it_heard_when_a_write_began_after_it_was_asked() -> None:
    primary = serving(("b",))
    primary.rotten((1,), None, 0)
    write(primary, 1, block=0, count=3)
    primary.receive("b", Ack((BASE + 1,)), 0)
    assert primary.receive("b", Fetched(1, ((1, 1),), 7), 0) == [fx.Release(7)]


def test_a_write_heals_what_it_covers_and_a_read_that_waited_reads_that() -> None:
    """Seed 1900000471: the read waited for a silent peer, and failed though the block had been written meanwhile."""
    primary = serving(("b",))
    asked = read(primary, 1, block=1, count=1)
    primary.rotten((1, 5), asked, 0)
    out = write(primary, 2, block=0, count=3)
    kinds = [type(effect) for effect in out if isinstance(effect, fx.StoreWrite | fx.AnswerRead)]
    assert kinds == [fx.StoreWrite, fx.AnswerRead], "in this order"
    assert out[-1] == asked._replace(heals=1)
    assert primary.receive("b", Fetched(1, ((5, 1),), 7), 0) == [fx.Heal(1, ((5, 1),), 7, settled=False)]
    write(primary, 3, block=5)
    assert not primary.healing.under_way
    assert primary.receive("b", Fetched(1, ((5, 1),), 8), 0) == [fx.Release(8)]


def test_an_unsettled_offer_that_does_not_heal_is_asked_for_again() -> None:
    primary = serving(("b",))
    write(primary, 1, block=1)
    primary.rotten((1,), read(primary, 1, block=1, count=1), 0)
    for _ in range(UNSETTLED_MAX):
        primary.receive("b", Fetched(1, ((1, 1),), 7), 0)
        assert fetches(primary.healed(1, [], 0)) == [("b", Fetch(1, ((1, 1),)))]
    primary.receive("b", Fetched(1, ((1, 1),), 7), 0)
    assert FAILED in primary.healed(1, [], 0), "not for ever"


def test_who_is_in_sync_is_asked_first_and_who_catches_up_after_it() -> None:
    primary = serving(in_sync=("a", "c"))
    assert primary.peers["b"].phase == "syncing"
    primary.rotten((1,), None, 0)
    (heal,) = primary.receive("c", Fetched(1, ((1, 1),), 7), 0)
    assert isinstance(heal, fx.Heal) and heal.settled
    assert fetches(primary.healed(1, [], 0)) == [("b", Fetch(1, ((1, 1),)))]
    (heal,) = primary.receive("b", Fetched(1, ((1, 1),), 8), 0)
    assert isinstance(heal, fx.Heal) and not heal.settled


# ---- copies that a peer waits for ---------------------------------------------------------------------


def lacks(primary: Primary, node: str, block: int) -> fx.SendCopy:
    """The comparison with a peer that catches up finds that it lacks this block."""
    for number in (1, 2):  # a node, and the group of blocks below it
        primary.compared(node, number, [(0, 1)])
    (copy,) = of(fx.SendCopy, primary.compared(node, 3, [(block, 1)]))
    assert isinstance(copy, fx.SendCopy)
    return copy


def test_a_copy_for_a_peer_waits_for_healing_and_is_sent_as_of_then() -> None:
    primary = serving(in_sync=("a", "c"))
    copy = lacks(primary, "b", 5)
    assert fetches(primary.rotten((5,), copy, 0)) == [("c", Fetch(1, ((5, 1),)))]
    write(primary, 1, block=9)
    primary.receive("c", Fetched(1, ((5, 1),), 7), 0)
    (again,) = of(fx.SendCopy, primary.healed(1, [5], 0))
    assert again == fx.SendCopy("b", copy.number, BASE + 1, ((5, 1),))


def test_a_peer_whose_copy_nobody_has_begins_again_later() -> None:
    primary = serving(("b",), in_sync=("a",))
    copy = lacks(primary, "b", 5)
    assert fetches(primary.rotten((5,), copy, 0)) == [("b", Fetch(1, ((5, 1),)))]
    primary.receive("b", Fetched(1, ((5, 1),), 7), 0)
    for _ in range(UNSETTLED_MAX):
        primary.healed(1, [], 0)
        primary.receive("b", Fetched(1, ((5, 1),), 7), 0)
    primary.healed(1, [], 0)
    assert primary.peers["b"].phase == "joining"


# ---- the peers' rot -----------------------------------------------------------------------------------


def test_a_member_that_reports_rot_is_sent_the_primarys_blocks() -> None:
    primary = serving()
    out = primary.receive("b", Rotten(((3, 2),)), 0)
    assert out == [fx.SendCopy("b", FIRST_NUMBER + 1, BASE, ((3, 2),))]
    assert primary.receive("b", Rotten(((3, 1),)), 0) == [], "they are on their way"
    out = primary.receive("b", Copied(FIRST_NUMBER + 1), 0)
    assert out == [fx.Damage("b", "rotten", ((3, 2),), "a")]
    assert primary.peers["b"].scrub is None


def test_rot_that_is_reported_in_the_middle_of_a_comparison_does_not_wait_for_its_end() -> None:
    """Seed 2200003463: one comparison followed the other, all equal, and nothing was ever copied."""
    primary = serving(("b",))
    assert digests(primary.compare(0, 2, 0))
    assert primary.receive("b", Rotten(((3, 2),)), 0) == [fx.SendCopy("b", FIRST_NUMBER + 2, BASE, ((3, 2),))]


def test_rot_at_both_is_healed_here_first() -> None:
    primary = serving()
    (copy,) = primary.receive("b", Rotten(((3, 1),)), 0)
    assert isinstance(copy, fx.SendCopy)
    assert fetches(primary.rotten((3,), copy, 0)) == [("b", Fetch(1, ((3, 1),)))]
    primary.receive("b", Fetched(1, (), 7), 0)
    primary.receive("c", Fetched(1, ((3, 1),), 8), 0)
    assert copy in primary.healed(1, [3], 0)


def test_rot_that_nobody_can_heal_costs_no_member_its_place() -> None:
    primary = serving(("b",))
    (copy,) = primary.receive("b", Rotten(((3, 1),)), 0)
    assert isinstance(copy, fx.SendCopy)
    primary.rotten((3,), copy, 0)
    out = primary.receive("b", Fetched(1, (), 7), 0)
    assert fx.Damage("b", "rotten", ((3, 1),), "") in out
    assert primary.peers["b"].phase == "live" and primary.peers["b"].scrub is None


def test_what_nobody_has_is_not_asked_for_again_at_once() -> None:
    """Rotten on both: who is asked finds its own rot and asks for the block, which asks it, for ever."""
    primary = serving(("b",))
    (copy,) = of(fx.SendCopy, primary.receive("b", Rotten(((3, 1),)), 0))
    assert isinstance(copy, fx.SendCopy)
    primary.rotten((3,), copy, 0)
    primary.receive("b", Fetched(1, (), 7), 0)
    (again,) = of(fx.SendCopy, primary.receive("b", Rotten(((3, 1),)), 0))
    assert isinstance(again, fx.SendCopy)
    assert fetches(primary.rotten((3,), again, 0)) == []
    assert FAILED in primary.rotten((3,), read(primary), LOST_PAUSE_NS - 1)
    assert fetches(primary.rotten((3,), None, LOST_PAUSE_NS)) == [("b", Fetch(2, ((3, 1),)))]


def test_who_follows_anew_may_have_what_nobody_had() -> None:
    primary = serving((), in_sync=("a",))
    assert FAILED in primary.rotten((3,), read(primary), 0)
    primary.members(("b",), ("b",), 0)
    primary.receive("b", Joined(1, 0, 0, (), False), 0)
    assert fetches(primary.rotten((3,), read(primary, 2), 0)) == [("b", Fetch(2, ((3, 1),)))]


# ---- comparing ----------------------------------------------------------------------------------------


def test_members_are_compared_by_tree_and_what_differs_is_sent() -> None:
    primary = serving(("b",))
    ((_, top),) = digests(primary.compare(1, 1, 0))
    assert (top.level, top.ranges) == (1, ((4, 4),)), "the four nodes above region 1"
    (compare,) = primary.receive("b", Digests(top.number, 1, 5), 0)
    assert isinstance(compare, fx.Compare)
    ((_, blocks),) = digests(primary.compared("b", top.number, [(5, 1)]))
    assert (blocks.level, blocks.ranges) == (0, ((REGION_BLOCKS + 256, 256),))
    (copy,) = primary.compared("b", blocks.number, [(REGION_BLOCKS + 300, 1)])
    assert isinstance(copy, fx.SendCopy)
    out = primary.receive("b", Copied(copy.number), 0)
    assert out == [fx.Damage("b", "differing", ((REGION_BLOCKS + 300, 1),), "a")]


def test_a_volume_may_grow_while_its_members_are_compared() -> None:
    """Seed 1800000454: what was to be compared began beyond the end that the comparison had known."""
    primary = serving(("b",))
    assert digests(primary.compare(0, 1, 0))
    primary.size_blocks *= 2
    ((_, top),) = digests(primary.compare(3, 1, 0))
    ((_, blocks),) = digests(primary.compared("b", top.number, [(12, 1)]))
    assert blocks.ranges == ((3 * REGION_BLOCKS, 256),)


def test_a_block_that_was_written_meanwhile_proves_nothing() -> None:
    primary = serving(("b",))
    write(primary, 1, block=300)
    ((_, top),) = digests(primary.compare(0, 1, 0))
    ((_, blocks),) = digests(primary.compared("b", top.number, [(1, 1)]))
    write(primary, 2, block=400)
    primary.receive("b", Ack((BASE + 1, BASE + 2)), 0)
    (copy,) = primary.compared("b", blocks.number, [(300, 1), (400, 2)])
    assert isinstance(copy, fx.SendCopy) and copy.ranges == ((401, 1),)


@pytest.mark.parametrize("fanout", [4, 16, 256])
def test_a_comparison_covers_its_regions_whatever_the_trees_fan_out(
    fanout: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "FANOUT", fanout)
    primary = serving(("b",))
    ((_, top),) = digests(primary.compare(1, 1, 0))
    ((first, count),) = top.ranges
    span = fanout**top.level
    assert (first * span, count * span) == (REGION_BLOCKS, REGION_BLOCKS)


def test_only_members_in_sync_are_compared() -> None:
    primary = serving(in_sync=("a", "c"))
    assert [node for node, _ in digests(primary.compare(0, 2, 0))] == ["c"]
    assert make_primary().compare(0, 2, 0) == [], "not before it serves"


def test_a_member_lost_in_the_middle_is_not_compared_from_the_top() -> None:
    primary = serving(("b",))
    ((_, top),) = digests(primary.compare(0, 2, 0))
    primary.receive("b", Rotten(((7, 1),)), 0)
    primary.peer_down("b", "its link ended")
    assert not primary.peers["b"].missed_all
    assert primary.peers["b"].missed.ranges() == [(7, 1)]
    assert primary.compared("b", top.number, [(0, 8)]) == []


# ---- the follower -------------------------------------------------------------------------------------


def following() -> Replica:
    replica = Replica([0])
    joined = replica.join(3, primary_join(), EPOCH, CLEAN)
    assert isinstance(joined[-1], fx.Answer) and isinstance(joined[-1].message, Joined)
    return replica


def primary_join():  # type: ignore[no-untyped-def]
    primary = make_primary(("b",))
    (tell,) = of(fx.Tell, primary.start(["b"], 0))
    assert isinstance(tell, fx.Tell)
    return tell.message


def test_a_follower_answers_a_fetch_and_reports_its_rot() -> None:
    replica = following()
    assert replica.receive(3, Fetch(4, ((1, 2),)), EPOCH, 0) == [fx.AnswerFetch(3, 4, ((1, 2),))]
    assert replica.receive(9, Fetch(4, ((1, 2),)), EPOCH, 0) == [], "another link"
    assert replica.rotten([5, 4, 9]) == [fx.Answer(3, Rotten(((4, 2), (9, 1))))]
    replica.link_lost(3)
    assert replica.rotten([5]) == []


def test_a_copy_that_heals_does_not_replace_a_write_that_came_before_it() -> None:
    """T4: rot heals like anything else that is copied."""
    replica = following()
    replica.receive(3, Write(BASE + 2, BASE, 4, 1, 1), EPOCH, 0)
    out = replica.receive(3, Copy(FIRST_NUMBER + 1, BASE + 1, ((4, 2),), 2), EPOCH, 0)
    assert fx.StoreCopy(BASE + 1, ((4, 2),), ((5, 1),), 2) in out

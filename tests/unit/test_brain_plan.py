"""The next step from the members that a volume has to those that its policy asks for: every road, step by step."""

from __future__ import annotations

from dataclasses import replace

from services.replica.brain import Attachment, Record, Snapshot, Voter
from services.replica.brain.plan import Membership, Step, next_step
from stoscore.units import MIB
from tests.support.voters import A, B, C, W, record

D, E = Voter("d", "d1"), Voter("e", "e1")
W2 = Voter("x", "x1", "witness")
THREE = replace(record(A, B, C), primary=A)
PAIR = replace(record(A, B, W), primary=A)


def plan(rec: Record, *, up: str = "abcdewx", **named) -> Step:  # type: ignore[no-untyped-def]
    """`up`: the nodes whose members answer, one letter each."""
    return next_step(Membership(rec, A, tuple(member for member in rec.members if member.node in up), **named))


def names(members) -> str:  # type: ignore[no-untyped-def]
    return "".join(member.node for member in members)


def shape(step: Step) -> tuple[str, str, str]:
    """(voters, in sync, joining)"""
    assert step.record is not None
    return names(step.record.voters), names(step.record.in_sync), names(step.record.joining)


def test_a_volume_that_has_what_it_asks_for_stays_as_it_is() -> None:
    for rec in (THREE, PAIR, replace(record(A), primary=A)):
        assert plan(rec) == Step()


def test_a_lost_copy_is_replaced_and_the_newcomer_votes_only_when_it_holds_everything() -> None:
    rec = replace(THREE, in_sync=(A, B))
    assert plan(rec, up="abd") == Step(), "not lost yet: its delta is cheap"
    asked = plan(rec, up="abd", lost=(C,))
    assert (asked.home, asked.record) == ("data", None)
    joined = plan(rec, up="abd", lost=(C,), home=D)
    assert shape(joined) == ("abc", "ab", "d")
    assert joined.record is not None
    assert plan(joined.record, up="abd", lost=(C,)) == Step(), "it catches up"
    removed = plan(joined.record, up="abd", lost=(C,), ready=(D,))
    assert shape(removed) == ("ab", "ab", "d")
    assert removed.record is not None
    added = plan(removed.record, up="abd", lost=(), ready=(D,))
    assert shape(added) == ("abd", "abd", "")
    assert added.record is not None
    assert plan(added.record, up="abd") == Step()


def test_of_the_copy_that_came_back_and_the_one_made_for_it_the_first_in_sync_stays() -> None:
    both = replace(THREE, in_sync=(A, B), joining=(D,))
    assert plan(both) == Step(), "both catch up"
    assert shape(plan(replace(both, in_sync=(A, B, C)))) == ("abc", "abc", "")
    assert shape(plan(both, ready=(D,))) == ("ab", "ab", "d"), "c is there and behind: it goes all the same"


def test_a_home_that_is_lost_itself_is_given_up_and_another_one_is_looked_for() -> None:
    rec = replace(THREE, in_sync=(A, B), joining=(D,))
    given_up = plan(rec, up="ab", lost=(C, D))
    assert shape(given_up) == ("abc", "ab", "")
    assert given_up.record is not None
    assert plan(given_up.record, up="ab", lost=(C,)).home == "data"


def test_two_lost_copies_are_replaced_one_after_the_other() -> None:
    five = replace(record(A, B, C, D, E), primary=A, in_sync=(A, B, C))
    first = plan(five, up="abc", lost=(D, E), home=Voter("f", "f1"))
    assert shape(first) == ("abcde", "abc", "f")
    assert first.record is not None
    assert plan(first.record, up="abcf", lost=(D, E)).home == "data"
    assert plan(first.record, up="abcf", lost=(D,)) == Step(), "e came back: one newcomer is enough"


def test_a_voter_is_added_only_while_it_answers() -> None:
    rec = replace(THREE, voters=(A, B), in_sync=(A, B), joining=(D,))
    assert plan(rec, up="ab", ready=(D,)) == Step()
    assert shape(plan(rec, up="abd", ready=(D,))) == ("abd", "abd", "")


def test_nobody_is_removed_when_those_left_could_not_agree() -> None:
    rec = replace(record(A, B, C, D, E), primary=A, in_sync=(A, B), joining=(Voter("f", "f1"),))
    assert plan(rec, up="abf", lost=(C, D, E), ready=(Voter("f", "f1"),)) == Step()


def test_whose_directory_is_gone_leaves_at_once_and_its_node_may_get_another_member() -> None:
    rec = replace(THREE, in_sync=(A, B))
    removed = plan(rec, up="abc", lost=(C,), gone=(C,))
    assert shape(removed) == ("ab", "ab", "")
    assert removed.record is not None
    fresh = Voter("c", "c2")
    assert shape(plan(removed.record, up="abc", home=fresh)) == ("ab", "ab", "c")


def test_a_home_on_the_node_of_a_member_or_of_the_wrong_kind_is_dropped() -> None:
    rec = replace(THREE, in_sync=(A, B))
    for home in (Voter("c", "c2"), W):
        step = plan(rec, up="ab", lost=(C,), home=home)
        assert (step.record, step.home, step.drop_home) == (None, "data", True)
    assert plan(THREE, home=D).drop_home


def test_a_lost_witness_is_replaced_by_one_that_stores_the_record() -> None:
    asked = plan(PAIR, up="abx", lost=(W,))
    assert asked.home == "witness"
    joined = plan(PAIR, up="abx", lost=(W,), home=W2).record
    assert joined is not None and names(joined.joining) == "x"
    assert plan(joined, up="abx", lost=(W,)) == Step()
    removed = plan(joined, up="abx", lost=(W,), ready=(W2,))
    assert shape(removed) == ("ab", "ab", "x")
    assert removed.record is not None
    assert shape(plan(removed.record, up="abx", ready=(W2,))) == ("abx", "ab", "")
    assert shape(plan(joined)) == ("abw", "ab", ""), "the old one came back"


def test_one_copy_more_lets_the_witness_go() -> None:
    more = replace(PAIR, replicas=2)
    assert plan(more).home == "data"
    joined = replace(more, joining=(C,))
    added = plan(joined, ready=(C,))
    assert shape(added) == ("abwc", "abc", "")
    assert added.record is not None
    assert shape(plan(added.record)) == ("abc", "abc", "")


def test_nobody_goes_before_those_who_stay_know_each_other() -> None:
    """B is slow and has not stored the record that admits C. W is the only one of whom it could hear of C."""
    four = replace(PAIR, replicas=2, voters=(A, B, W, C), in_sync=(A, B, C))
    assert plan(four, up="awc") == Step()
    assert shape(plan(four, up="abwc")) == ("abc", "abc", "")
    assert plan(replace(four, in_sync=(A, C)), up="awc") == Step(), "it may be back in a moment"


def test_one_copy_more_than_three_gets_a_witness() -> None:
    four = replace(THREE, replicas=3, voters=(A, B, C, D), in_sync=(A, B, C, D))
    assert plan(four).home == "witness"
    assert shape(plan(replace(four, joining=(W,)), ready=(W,))) == ("abcdw", "abcd", "")


def test_one_copy_fewer_waits_for_the_witness_that_takes_its_vote() -> None:
    fewer = replace(THREE, replicas=1)
    assert plan(fewer).home == "witness"
    joined = replace(fewer, joining=(W,))
    assert plan(joined) == Step()
    removed = plan(joined, ready=(W,))
    assert shape(removed) == ("ab", "ab", "w")
    assert removed.record is not None
    assert shape(plan(removed.record, ready=(W,))) == ("abw", "ab", "")


def test_where_every_node_has_a_copy_one_goes_to_make_room_for_the_witness() -> None:
    fewer = replace(THREE, replicas=1)
    removed = plan(fewer, full=True)
    assert shape(removed) == ("ab", "ab", "")
    assert removed.record is not None
    assert plan(removed.record).home == "witness"
    assert shape(plan(removed.record, home=Voter("c", "c2", "witness"))) == ("ab", "ab", "c")


def test_of_too_many_copies_one_that_is_behind_goes_first_and_the_users_own_last() -> None:
    one = replace(PAIR, replicas=0)
    assert shape(plan(one)) == ("aw", "a", "")
    assert shape(plan(replace(one, voters=(A, W), in_sync=(A,)))) == ("a", "a", "")
    five = replace(record(A, B, C, D, E), primary=A, replicas=2)
    assert shape(plan(replace(five, in_sync=(A, B, C, E))))[0] == "abce", "d is behind"
    used = replace(five, attachment=Attachment("e", 1), attach_epoch=1)
    assert shape(plan(used))[0] == "abce", "e is where the volume is used"


def test_a_deleted_volume_gets_nobody() -> None:
    gone = replace(THREE, deleted=True, in_sync=(A,))
    assert plan(gone, up="a", lost=(B, C)) == Step()
    assert plan(gone, up="a", lost=(B, C), home=D) == Step(drop_home=True)


def test_of_copies_in_sync_the_one_goes_with_which_the_fewest_snapshots_go() -> None:
    def held(name: str, *holders: Voter) -> Snapshot:
        incarnations = tuple(holder.incarnation for holder in holders)
        return Snapshot(name, MIB, 1, state="ready", seal=1, root="0" * 16, holders=incarnations)

    pair = replace(THREE, replicas=1, joining=(W,))
    assert shape(plan(pair, ready=(W,))) == ("ab", "ab", "w")
    only_c = replace(pair, snapshots=(held("s", C), held("t", A, B), held("u", A, B)))
    assert shape(plan(only_c, ready=(W,))) == ("ac", "ac", "w")
    more_of_c = replace(pair, snapshots=(held("s", A, B, C), held("t", A, C)))
    assert shape(plan(more_of_c, ready=(W,))) == ("ac", "ac", "w")

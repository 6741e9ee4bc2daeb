"""Repair at the leader, event by event: grace, the ask, the way in, the way out, and what is told to whoever goes."""

from __future__ import annotations

from dataclasses import replace

from services.replica.brain import Brain, Facts, Record, Slot, Stamp, Voter
from services.replica.brain import events as ev
from services.replica.brain import messages as ms
from services.replica.brain.parting import ENQUIRE_LEASES, ENQUIRE_NS_MIN, TOLD_TIMES_MAX
from services.replica.brain.repair import ARRIVAL_LEASES
from services.replica.brain.retreat import PATIENCE_LEASES, Retreat
from stoscore.units import SECOND
from tests.support.voters import LEASE, TIMING, A, B, C, W, accept, brain, elect, record, sent, slot, step

D = Voter("d", "d1")
GRACE = TIMING.grace_ns
LEASED = Facts(lease_until_ns=1 << 60)


def names(members) -> str:  # type: ignore[no-untyped-def]
    return "".join(member.node for member in members)


def shape(machine: Brain) -> tuple[str, str, str]:
    rec = machine.record
    assert rec is not None
    return names(rec.voters), names(rec.in_sync), names(rec.joining)


def asked(effects: list[ev.Effect]) -> list[ev.AskHome]:
    return [effect for effect in effects if isinstance(effect, ev.AskHome)]


def leader(rec: Record, *up: Voter) -> Brain:
    """A leads, its first record is committed, and the others that are given are there."""
    machine = brain(A, slot(rec))
    for voter in up:
        step(machine, ev.PeerUp(voter.node), 0, LEASED)
    elect(machine, *up)
    settle(machine, *up)
    return machine


def settle(machine: Brain, *storing: Voter, now_ns: int = 0) -> list[ev.Effect]:
    """These store whatever the leader proposes, until it has nothing more to propose."""
    out: list[ev.Effect] = []
    for _ in range(20):
        proposal = machine.proposal
        assert proposal is not None
        out += accept(machine, *(voter for voter in storing if machine.proposal is proposal), now_ns=now_ns)
        if machine.proposal is proposal:
            return out
    raise AssertionError("it proposes for ever")


def without_c() -> Brain:
    """A leads {A,B,C}; C failed at time 0 and left the set."""
    machine = leader(record(A, B, C), B, C)
    step(machine, ev.PeerDown("c"), 0, LEASED)
    step(machine, ev.MemberFailed(C, "its link ended"), 0, LEASED)
    settle(machine, B)
    assert shape(machine) == ("abc", "ab", "")
    return machine


def wait(machine: Brain, now_ns: int) -> list[ev.Effect]:
    return step(machine, ev.TimePassed(), now_ns, LEASED)


def test_a_lost_copy_is_rebuilt_elsewhere_and_the_old_one_told_to_go() -> None:
    machine = without_c()
    assert machine.next_deadline_ns(LEASED) == GRACE
    assert asked(wait(machine, GRACE - 1)) == []
    (ask,) = asked(wait(machine, GRACE))
    assert (ask.kind, ask.exclude, ask.size_bytes) == ("data", ("a", "b", "c"), 4 << 20)
    assert asked(wait(machine, GRACE + 10 * SECOND)) == [], "one ask at a time"

    step(machine, ev.HomeFound(D), GRACE, LEASED)
    step(machine, ev.PeerUp("d"), GRACE, LEASED)
    settle(machine, B, D, now_ns=GRACE)
    assert shape(machine) == ("abc", "ab", "d")
    step(machine, ev.MemberFollows(D), GRACE, LEASED)
    assert shape(machine) == ("abc", "ab", "d"), "no vote before it holds everything"

    step(machine, ev.MemberCaughtUp(D), GRACE, LEASED)
    assert shape(machine) == ("ab", "ab", "d")
    out = settle(machine, B, D, now_ns=GRACE)
    assert shape(machine) == ("abd", "abd", "")
    told = [message for message in sent(out) if isinstance(message, ms.Excluded)]
    assert [(message.target, names(message.slot.record.voters)) for message in told] == [(C, "ab")]


def test_whoever_is_joining_gets_the_record_and_its_word_counts_for_nothing() -> None:
    machine = without_c()
    wait(machine, GRACE)
    out = step(machine, ev.HomeFound(D), GRACE, LEASED)
    assert {message.target for message in sent(out) if isinstance(message, ms.Propose)} == {B, C, D}
    accept(machine, D, now_ns=GRACE)
    assert machine.proposal is not None and not machine.proposal.committed
    accept(machine, B, now_ns=GRACE)
    assert machine.proposal.committed


def test_a_copy_that_returns_in_time_is_not_replaced() -> None:
    machine = without_c()
    step(machine, ev.PeerUp("c"), GRACE - 2, LEASED)
    assert asked(wait(machine, GRACE)) != [], "its node is there, its copy is not"
    again = without_c()
    step(again, ev.PeerUp("c"), GRACE - 2, LEASED)
    step(again, ev.MemberFollows(C), GRACE - 1, LEASED)
    assert asked(wait(again, GRACE)) == []
    assert again.next_deadline_ns(LEASED) is None or again.next_deadline_ns(LEASED) != GRACE


def test_the_grace_stands_still_while_it_follows_and_begins_anew_when_it_has_caught_up() -> None:
    """Its process is killed in the middle of every resync: it follows for a moment between two deaths, and were each to
    begin the grace anew, its volume would lack that copy for ever."""
    machine = without_c()
    step(machine, ev.PeerUp("c"), 10, LEASED)
    accept(machine, C, now_ns=10)
    step(machine, ev.MemberFollows(C), 10, LEASED)
    step(machine, ev.MemberFailed(C, "its process died"), 20, LEASED)
    assert asked(wait(machine, GRACE + 9)) == []
    step(machine, ev.MemberFollows(C), GRACE + 9, LEASED)
    assert asked(wait(machine, 10 * GRACE)) == [], "however long the resync takes"
    step(machine, ev.MemberFailed(C, "its process died"), 10 * GRACE, LEASED)
    assert len(asked(wait(machine, 10 * GRACE + 1))) == 1

    again = without_c()
    step(again, ev.PeerUp("c"), 10, LEASED)
    step(again, ev.MemberCaughtUp(C), 10, LEASED)
    settle(again, B, C, now_ns=10)
    step(again, ev.MemberFailed(C, "its disk is slow"), 20, LEASED)
    settle(again, B, now_ns=20)
    assert asked(wait(again, GRACE + 19)) == []
    assert len(asked(wait(again, GRACE + 20))) == 1


def test_a_witness_whose_node_comes_and_goes_and_never_stores_the_record_is_lost() -> None:
    machine = leader(record(A, B, W), B, W)
    step(machine, ev.PeerDown("w"), 0, LEASED)
    step(machine, ev.PeerUp("w"), GRACE - 10, LEASED)
    step(machine, ev.PeerDown("w"), GRACE, LEASED)
    assert asked(wait(machine, GRACE + 9)) == []
    assert [ask.kind for ask in asked(wait(machine, GRACE + 10))] == ["witness"]
    well = leader(record(A, B, W), B, W)
    step(well, ev.PeerDown("w"), 0, LEASED)
    step(well, ev.PeerUp("w"), GRACE - 10, LEASED)
    accept(well, W, now_ns=GRACE - 5)
    step(well, ev.PeerDown("w"), GRACE, LEASED)
    assert asked(wait(well, 2 * GRACE - 1)) == []
    assert [ask.kind for ask in asked(wait(well, 2 * GRACE))] == ["witness"]


def test_who_is_back_after_its_grace_and_has_no_such_member_is_replaced_at_once() -> None:
    """Its link is up, so nobody is asked for; then its node says that there is no such member, and nothing else is ever
    heard of it."""
    machine = leader(record(A, B, W), B, W)
    step(machine, ev.PeerDown("w"), 0, LEASED)
    assert len(asked(wait(machine, GRACE))) == 1
    step(machine, ev.HomeRefused("no node left"), GRACE, LEASED)
    step(machine, ev.PeerUp("w"), GRACE + 1, LEASED)
    step(machine, ev.Received(ms.Unknown("v", W, A)), GRACE + 2, LEASED)
    due = machine.next_deadline_ns(LEASED)
    assert due is not None and due <= GRACE + 2
    wait(machine, GRACE + 2)
    assert shape(machine) == ("ab", "ab", "")


def test_who_is_joining_has_a_new_grace_each_time_it_follows() -> None:
    """Given up, it would lose what it has got so far."""
    machine = without_c()
    wait(machine, GRACE)
    step(machine, ev.HomeFound(D), GRACE, LEASED)
    step(machine, ev.PeerUp("d"), GRACE, LEASED)
    settle(machine, B, D, now_ns=GRACE)
    step(machine, ev.MemberFollows(D), GRACE, LEASED)
    for turn in range(3):
        at_ns = (turn + 2) * GRACE
        step(machine, ev.MemberFailed(D, "its link ended"), at_ns, LEASED)
        step(machine, ev.MemberFollows(D), at_ns + GRACE - 1, LEASED)
        assert shape(machine) == ("abc", "ab", "d")
    step(machine, ev.MemberFailed(D, "its link ended"), 5 * GRACE, LEASED)
    wait(machine, 6 * GRACE)
    assert shape(machine) == ("abc", "ab", "")


def test_the_grace_of_a_member_that_was_away_before_goes_on_with_a_new_leader() -> None:
    """A leader dies within every grace: were each to begin anew, nothing would ever be repaired."""
    machine = brain(B, slot(record(A, B, C, in_sync=(A, B))))
    for node in ("a", "c"):
        step(machine, ev.PeerUp(node))
    step(machine, ev.PeerDown("c"), 10 * SECOND)
    step(machine, ev.PeerDown("a"), GRACE // 2)
    elect(machine, A, now_ns=GRACE)
    settle(machine, A, now_ns=GRACE)
    step(machine, ev.PeerUp("a"), GRACE, LEASED)
    assert asked(wait(machine, GRACE + 10 * SECOND - 1)) == []
    assert len(asked(wait(machine, GRACE + 10 * SECOND))) == 1
    late = brain(B, slot(record(A, B, C, in_sync=(A, B))))
    step(late, ev.PeerUp("a"))
    elect(late, A, now_ns=3 * GRACE)
    settle(late, A, now_ns=3 * GRACE)
    assert asked(wait(late, 3 * GRACE + ARRIVAL_LEASES * LEASE - 1)) == [], "it may be about to link up"
    assert len(asked(wait(late, 3 * GRACE + ARRIVAL_LEASES * LEASE))) == 1


def test_who_comes_back_is_asked_again_whether_it_has_the_record() -> None:
    """B stored it, lost its disk and is back at once: {A,B} without C could neither be committed nor taken back."""
    machine = without_c()
    step(machine, ev.Received(ms.Unknown("v", C, A)), 10, LEASED)
    step(machine, ev.PeerDown("b"), GRACE - 9, LEASED)
    out = sent(step(machine, ev.PeerUp("b"), GRACE - 5, LEASED))
    assert [(type(message), message.target) for message in out] == [(ms.Propose, B)]
    wait(machine, GRACE)
    assert shape(machine) == ("abc", "ab", ""), "nobody knows whether b can store a record"
    again = sent(wait(machine, GRACE - 5 + TIMING.resend_ns))
    assert [(type(message), message.target) for message in again] == [(ms.Propose, B)]
    accept(machine, B, now_ns=GRACE + TIMING.resend_ns)
    assert shape(machine) == ("ab", "ab", "")


def test_who_was_heard_over_the_bus_all_the_time_is_asked_again_when_its_link_is_up() -> None:
    """It may have been started again in between, without its directory."""
    machine = leader(record(A, B, C), B, C)
    step(machine, ev.HeardOnBus("c"), 0, LEASED)
    step(machine, ev.PeerDown("c"), 0, LEASED)
    (propose,) = sent(step(machine, ev.PeerUp("c"), 0, LEASED))
    assert isinstance(propose, ms.Propose) and propose.target == C


def test_placement_is_asked_again_after_pauses_that_grow_to_a_bound() -> None:
    machine = without_c()
    wait(machine, GRACE)
    now_ns = GRACE
    pauses = []
    for _ in range(9):
        step(machine, ev.HomeRefused("no node left"), now_ns, LEASED)
        due = machine.next_deadline_ns(LEASED)
        assert due is not None
        pauses.append((due - now_ns) // SECOND)
        assert asked(wait(machine, due - 1)) == []
        now_ns = due
        assert len(asked(wait(machine, now_ns))) == 1
    assert pauses == [2, 4, 8, 16, 32, 64, 128, 128, 128]


def test_a_leader_that_may_be_cut_off_itself_replaces_nobody() -> None:
    machine = without_c()
    step(machine, ev.PeerDown("b"), GRACE - 1, LEASED)
    assert asked(wait(machine, GRACE)) == []
    assert len(asked(step(machine, ev.PeerUp("b"), GRACE + 1, LEASED))) == 1


def test_a_home_that_nobody_waits_for_is_dropped() -> None:
    machine = without_c()
    wait(machine, GRACE)
    step(machine, ev.PeerUp("c"), GRACE, LEASED)
    step(machine, ev.MemberFollows(C), GRACE, LEASED)
    assert ev.DropHome(D) in step(machine, ev.HomeFound(D), GRACE, LEASED)
    follower = brain(B, slot(record(A, B, C)))
    assert ev.DropHome(D) in step(follower, ev.HomeFound(D))


def test_the_old_copy_in_sync_first_sends_the_new_one_away() -> None:
    machine = without_c()
    wait(machine, GRACE)
    step(machine, ev.HomeFound(D), GRACE, LEASED)
    step(machine, ev.PeerUp("d"), GRACE, LEASED)
    settle(machine, B, D, now_ns=GRACE)
    step(machine, ev.PeerUp("c"), GRACE, LEASED)
    step(machine, ev.MemberCaughtUp(C), GRACE, LEASED)
    out = settle(machine, B, C, D, now_ns=GRACE)
    assert shape(machine) == ("abc", "abc", "")
    assert [message.target for message in sent(out) if isinstance(message, ms.Excluded)] == [D]


def test_whose_directory_is_gone_leaves_after_the_grace_without_a_replacement_at_hand() -> None:
    machine = without_c()
    step(machine, ev.PeerUp("c"), 10, LEASED)
    step(machine, ev.Received(ms.Unknown("v", C, A)), 10, LEASED)
    assert shape(machine) == ("abc", "ab", ""), "a disk that is not mounted yet looks the same"
    wait(machine, GRACE)
    assert shape(machine) == ("ab", "ab", "")
    settle(machine, B, now_ns=GRACE)
    assert machine.record is not None and machine.record.member_on("c") is None


def test_a_witness_is_lost_with_its_node_and_its_successor_votes_when_it_has_stored_the_record() -> None:
    machine = leader(record(A, B, W), B, W)
    step(machine, ev.PeerDown("w"), 0, LEASED)
    (ask,) = asked(wait(machine, GRACE))
    assert ask.kind == "witness"
    successor = Voter("x", "x1", "witness")
    step(machine, ev.HomeFound(successor), GRACE, LEASED)
    settle(machine, B, now_ns=GRACE)
    step(machine, ev.PeerUp("x"), GRACE, LEASED)
    assert shape(machine) == ("abw", "ab", "x")
    settle(machine, B, successor, now_ns=GRACE)
    assert shape(machine) == ("abx", "ab", "")


def test_who_answers_beats_and_stores_nothing_is_lost_as_well() -> None:
    machine = leader(record(A, B, W), B, W)
    step(machine, ev.AttachAsked(1, "n"), 0, LEASED)
    accept(machine, B)
    wait(machine, TIMING.resend_ns)
    assert asked(wait(machine, GRACE)) == []
    assert [ask.kind for ask in asked(wait(machine, GRACE + TIMING.resend_ns))] == ["witness"]


def test_policy_changes_while_in_use_and_an_impossible_one_is_refused() -> None:
    machine = leader(record(A, B, C), B, C)
    out = step(machine, ev.PolicyAsked(5, failure_mode=4), 0, LEASED)
    assert ev.Reply(5, "INVALID_ARGUMENT", "a write can't need 4 of 3 copies") in out
    step(machine, ev.PolicyAsked(6, failure_mode="hard", on_unavailable="error"), 0, LEASED)
    assert ev.Reply(6) in settle(machine, B, C)
    assert machine.record is not None and machine.record.failure_mode == "hard"
    step(machine, ev.PolicyAsked(7, failure_mode="hard"), 0, LEASED)
    assert ev.Reply(7) in settle(machine, B, C), "it is so already"
    step(machine, ev.PolicyAsked(8, replicas=3, failure_mode="soft"), 0, LEASED)
    assert [ask.kind for ask in asked(settle(machine, B, C))] == ["data"]


def test_writes_are_suspended_below_the_number_and_resumed_above_it() -> None:
    machine = leader(replace(record(A, B, C), failure_mode="hard"), B, C)
    assert machine.writes == "open"
    step(machine, ev.MemberFailed(C, "gone"), 0, LEASED)
    assert machine.writes == "open", "proposed is not committed: a write needs c as well (S1)"
    out = settle(machine, B)
    assert machine.writes == "suspended"
    assert [e.kind for e in out if isinstance(e, ev.Explain) and e.kind in ("suspend", "resume")] == ["suspend"]
    step(machine, ev.MemberCaughtUp(C), 0, LEASED)
    assert machine.writes == "suspended"
    out = settle(machine, B, C)
    assert machine.writes == "open"
    assert [e.kind for e in out if isinstance(e, ev.Explain) and e.kind in ("suspend", "resume")] == ["resume"]


def test_a_member_that_is_joining_gives_its_data_back_like_the_voters() -> None:
    machine = without_c()
    wait(machine, GRACE)
    step(machine, ev.HomeFound(D), GRACE, LEASED)
    step(machine, ev.PeerUp("d"), GRACE, LEASED)
    settle(machine, B, D, now_ns=GRACE)
    step(machine, ev.DeleteAsked(9), GRACE, LEASED)
    out = settle(machine, B, D, now_ns=GRACE)
    assert ev.EraseData() in out
    assert D in {message.target for message in sent(out) if isinstance(message, ms.Committed)}
    step(machine, ev.DataErased(), GRACE, LEASED)
    for voter in (B, C):
        step(machine, ev.Received(ms.Erased("v", voter, A, 1)), GRACE, LEASED)
    assert not machine.deletion.erased_voters >= {D}
    out = step(machine, ev.Received(ms.Erased("v", D, A, 1)), GRACE, LEASED)
    assert {message.target for message in sent(out) if isinstance(message, ms.Forget)} == {B, C, D}
    assert asked(wait(machine, 10 * GRACE)) == [], "a volume that is deleted is not repaired"


# ---- who goes ---------------------------------------------------------------------------------------------


def excluded(by: Voter, rec: Record, stamp: Stamp) -> ev.Received:
    return ev.Received(ms.Excluded("v", by, C, stamp.epoch, Slot(stamp, rec)))


def test_i3_only_a_newer_record_told_by_a_member_of_ones_own_makes_a_member_go() -> None:
    mine = slot(record(A, B, C), 3, 7)
    newer = replace(record(A, B, D), in_sync=(A, B, D))
    for told in (
        excluded(D, newer, Stamp(0, 3, 9)),  # a stranger to us
        excluded(A, newer, Stamp(0, 3, 6)),  # older
        excluded(A, record(A, B, C), Stamp(0, 3, 9)),  # names us
    ):
        machine = brain(C, mine, epoch=3)
        assert ev.ForgetVolume() not in step(machine, told)
    machine = brain(C, mine, epoch=3)
    assert ev.ForgetVolume() in step(machine, excluded(A, newer, Stamp(0, 3, 9)))
    assert step(machine, ev.TimePassed(), 1 << 50) == [], "it says nothing any more"


def test_a_member_without_a_leader_asks_whether_it_still_belongs() -> None:
    machine = brain(C, slot(replace(record(A, B, C), in_sync=(A, B)), 3, 7), epoch=3)
    step(machine, ev.TimePassed(), SECOND)  # not in sync: it does not stand
    assert machine.next_deadline_ns(Facts()) == ENQUIRE_NS_MIN
    out = step(machine, ev.TimePassed(), ENQUIRE_NS_MIN)
    assert [message.target for message in sent(out) if isinstance(message, ms.Enquire)] == [A, B]
    assert machine.next_deadline_ns(Facts()) == 3 * ENQUIRE_NS_MIN, "less and less often"
    claimed = brain(C, slot(replace(record(A, B, C), in_sync=(A, B)), 3, 7), epoch=3)
    step(claimed, ev.TimePassed(), SECOND)
    assert step(claimed, ev.TimePassed(), ENQUIRE_NS_MIN, Facts(promised_until_ns=1 << 60)) == []
    assert claimed.next_deadline_ns(Facts()) is None, "a leader claims it: an idle member costs nothing"
    step(claimed, ev.ClaimLost("a"), 1 << 40)
    assert claimed.next_deadline_ns(Facts()) == (1 << 40) + ENQUIRE_LEASES * LEASE, "it may be in sync and not know it"
    witness = brain(W, slot(record(A, B, W), 3, 7), epoch=3)
    step(witness, ev.TimePassed(), SECOND)
    step(witness, ev.ClaimLost("a"), 1 << 40)
    assert witness.next_deadline_ns(Facts()) == (1 << 40) + ENQUIRE_NS_MIN, "it would never stand"


def test_only_who_knows_its_record_committed_answers_and_only_to_who_is_no_member() -> None:
    without = slot(replace(record(A, B, D), in_sync=(A, B, D)), 3, 9)
    enquiry = ev.Received(ms.Enquire("v", C, B, 3, Stamp(0, 3, 7)))
    follower = brain(B, without, epoch=3)
    assert sent(step(follower, enquiry)) == []
    step(follower, ev.Received(ms.Committed("v", A, B, 3, without.stamp)))
    assert [type(message) for message in sent(step(follower, enquiry))] == [ms.Excluded]
    member = ev.Received(ms.Enquire("v", D, B, 3, without.stamp))
    assert sent(step(follower, member)) == []


def test_a3_a_member_that_asks_is_handed_the_newer_record_and_stands() -> None:
    """A and the witness committed that B is in sync again; B has not stored that, and A dies. B did not stand, and the
    witness never does."""
    members = (A, B, W)
    before = slot(replace(record(*members), in_sync=(A,)), 3, 7)
    after = slot(replace(record(*members), in_sync=(A, B)), 3, 8)
    b, witness = brain(B, before, epoch=3), brain(W, after, epoch=3)
    assert sent(step(b, ev.TimePassed(), SECOND)) == []
    (enquiry,) = (m for m in sent(step(b, ev.TimePassed(), ENQUIRE_NS_MIN)) if m.target == W)
    (answer,) = sent(step(witness, ev.Received(enquiry)))
    assert answer == ms.Refused("v", W, B, 3, after)
    step(b, ev.Received(answer), ENQUIRE_NS_MIN)
    asked_for = sent(step(b, ev.TimePassed(), 2 * ENQUIRE_NS_MIN))
    assert {type(message) for message in asked_for if message.target == W} >= {ms.PreVote}


def test_s3_whom_a_record_that_was_handed_on_does_not_name_keeps_its_own_and_knows_its_voters() -> None:
    """Nobody else may have stored it: B, clean and the last to hold every write, must not follow it out of the set."""
    alone = slot(replace(record(A, B, C), in_sync=(A,), primary=A), 3, 8)
    enquiry = ev.Received(ms.Enquire("v", B, A, 3, Stamp(0, 3, 7)))
    (told,) = sent(step(brain(A, alone, epoch=3, unclean=True), enquiry))
    assert told == ms.Refused("v", A, B, 3, alone)
    before = slot(record(A, B, W), 3, 7)
    machine = brain(B, before, epoch=3)
    step(machine, ev.Received(told))
    assert machine.state.slot == before
    assert machine.candidacy.heard == alone.record, "C is no stranger any more"


def test_who_is_excluded_is_told_a_few_times_and_no_more_when_its_node_has_nothing() -> None:
    def told(machine: Brain, tries: int) -> int:
        count = 0
        for _ in range(tries):
            due = machine.parting.next_deadline_ns()
            if due is None:
                break
            count += sum(isinstance(message, ms.Excluded) for message in sent(wait(machine, due)))
        return count

    def gone() -> Brain:
        machine = without_c()
        step(machine, ev.Received(ms.Unknown("v", C, A)), 10, LEASED)
        wait(machine, GRACE)
        settle(machine, B, now_ns=GRACE)
        return machine

    assert told(gone(), 50) == TOLD_TIMES_MAX - 1, "the first time with the commit"
    machine = gone()
    step(machine, ev.Received(ms.Unknown("v", C, A)), GRACE, LEASED)
    assert told(machine, 50) == 0


# ---- a change that does not get through --------------------------------------------------------------------


def halfway() -> Brain:
    """{A,B,W} with B behind, D holds everything, and {A,W} is proposed and not committed."""
    machine = leader(record(A, B, W), B, W)
    step(machine, ev.PeerDown("b"), 0, LEASED)
    step(machine, ev.MemberFailed(B, "its link ended"), 0, LEASED)
    settle(machine, W)
    wait(machine, GRACE)
    step(machine, ev.HomeFound(D), GRACE, LEASED)
    step(machine, ev.PeerUp("d"), GRACE, LEASED)
    settle(machine, W, D, now_ns=GRACE)
    step(machine, ev.MemberCaughtUp(D), GRACE, LEASED)
    assert shape(machine) == ("aw", "a", "d")
    assert machine.proposal is not None and not machine.proposal.committed
    return machine


def test_a_change_whose_voters_are_gone_is_taken_back_and_those_who_are_there_agree() -> None:
    """A needs W to go on without B, and W dies before it stored that; B is back. By the record before they are two of
    three."""
    machine = halfway()
    stamp = machine.proposal.slot.stamp  # type: ignore[union-attr]
    out = step(machine, ev.PeerDown("w"), GRACE + 1, LEASED)
    assert shape(machine) == ("abw", "a", "d")
    assert machine.proposal is not None and machine.proposal.slot.stamp == replace(stamp, version=stamp.version + 1)
    assert {m.target for m in sent(out) if isinstance(m, ms.Propose)} == {B, W, D}
    step(machine, ev.PeerUp("b"), GRACE + 2, LEASED)
    accept(machine, B, now_ns=GRACE + 2)
    assert machine.proposal.committed
    assert shape(machine) == ("abw", "a", "d"), "a and w could not agree on anything else"
    step(machine, ev.PeerUp("w"), GRACE + 3, LEASED)
    settle(machine, B, W, D, now_ns=GRACE + 3)
    assert shape(machine) == ("awd", "ad", "")


def test_who_caught_up_while_it_was_about_to_go_is_admitted_when_it_stays() -> None:
    machine = halfway()
    step(machine, ev.PeerUp("b"), GRACE + 1, LEASED)
    step(machine, ev.MemberCaughtUp(B), GRACE + 1, LEASED)
    step(machine, ev.PeerDown("w"), GRACE + 2, LEASED)
    settle(machine, B, D, now_ns=GRACE + 2)
    assert shape(machine) == ("abw", "ab", "")


def test_a_change_that_nobody_stores_in_time_is_taken_back_too() -> None:
    """W answers beats, and its disk hangs."""
    machine = halfway()
    late_ns = GRACE + PATIENCE_LEASES * LEASE
    wait(machine, late_ns - 1)
    assert shape(machine) == ("aw", "a", "d")
    wait(machine, late_ns)
    assert shape(machine) == ("abw", "a", "d")


def test_no_change_is_taken_back_to_more_voters_than_it_needs_itself() -> None:
    """{A,B,C,D} without D: three of four are not easier to find than two of three. And a first record is not known to
    follow a committed one."""
    for committed, proposed in (((A, B, C, D), (A, B, C)), ((A, B), (A, B, C)), ((A, B, C), (A, B, C))):
        assert not Retreat(A, committed, proposed, (), 100 * LEASE, LEASE).is_due()
    for committed, proposed in (((A, B, C), (A, B)), ((A, B, W), (A, B, W, C))):
        assert Retreat(A, committed, proposed, ("b",), PATIENCE_LEASES * LEASE, LEASE).is_due()
    assert Retreat(A, (A, B, W), (A, B, W, C), ("b",), 0, LEASE).is_due()
    assert not Retreat(A, (A, B, W), (A, B, W, C), ("b", "c"), 0, LEASE).is_due()
    machine = brain(A, slot(replace(record(A, W), in_sync=(A,))))
    step(machine, ev.PeerUp("w"), 0, LEASED)
    elect(machine, W)
    step(machine, ev.PeerDown("w"), 1, LEASED)
    wait(machine, 100 * LEASE)
    assert shape(machine) == ("aw", "a", "")

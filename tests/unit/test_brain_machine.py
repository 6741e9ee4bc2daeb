"""The whole brain: elections, the first commit, changes one at a time, and the stories that broke it."""

from __future__ import annotations

from dataclasses import replace

from services.replica.brain import Brain, Facts, HardState, Stamp, Voter
from services.replica.brain import events as ev
from services.replica.brain import messages as ms
from tests.support.voters import LEASE, NO_FACTS, TIMING, A, B, C, W, accept, brain, elect, record, sent, slot, step

ABW = slot(record(A, B, W))
ABC = slot(record(A, B, C))


def leader(*, in_sync=None, version: int = 1):  # type: ignore[no-untyped-def]
    """A leads {A,B,C} and has committed its first record."""
    machine = brain(A, slot(record(A, B, C, in_sync=in_sync), 0, version))
    elect(machine, B)
    accept(machine, B)
    return machine


def test_the_first_of_the_set_stands_at_once_and_the_others_wait_their_turn() -> None:
    due = [brain(voter, ABC).next_deadline_ns(Facts()) for voter in (A, B, C)]
    assert due == [0, TIMING.election_step_ns, 2 * TIMING.election_step_ns]
    assert brain(W, ABW).candidacy.election_at_ns is not None
    step(witness := brain(W, ABW), ev.TimePassed(), LEASE)
    assert (witness.role, witness.candidacy.election_at_ns) == ("follower", None)


def test_pre_vote_then_vote_then_its_own_record_again_before_anything_else() -> None:
    machine = brain(A, ABW)
    asked = sent(step(machine, ev.TimePassed()))
    assert [type(message) for message in asked] == [ms.PreVote, ms.PreVote]
    assert machine.epoch == 0, "a pre-vote changes nothing"
    out = step(machine, ev.Received(ms.PreVoteAnswer("v", W, A, 1, True, 0)))
    assert [type(message) for message in sent(out)] == [ms.Vote, ms.Vote]
    assert (machine.epoch, machine.state.voted_for) == (1, A)
    out = step(machine, ev.Received(ms.VoteAnswer("v", W, A, 1, True, 1)))
    proposals = [message for message in sent(out) if isinstance(message, ms.Propose)]
    assert [message.slot.stamp for message in proposals] == [Stamp(0, 1, 2)] * 2
    assert proposals[0].slot.record.primary == A
    assert not any(isinstance(effect, ev.Lead) for effect in out)
    out = accept(machine, W)
    assert any(isinstance(effect, ev.Lead) for effect in out)


def test_the_vote_is_durable_before_its_answer_leaves() -> None:
    machine = brain(B, ABW)
    batch = machine.step(ev.Received(ms.Vote("v", A, B, 1, ABW.stamp)), LEASE, Facts())
    assert batch.durable is not None and (batch.durable.epoch, batch.durable.voted_for) == (1, A)
    assert ev.RaiseEpoch(1) in batch.now
    assert any(isinstance(effect, ev.Send) for effect in batch.after)
    assert not any(isinstance(effect, ev.Send) for effect in batch.now)


def test_a_message_for_another_incarnation_is_not_answered() -> None:
    machine = brain(B, ABW)
    stranger = ms.Vote("v", A, type(B)("b", "other"), 1, ABW.stamp)
    assert step(machine, ev.Received(stranger), LEASE) == []


def test_a_restarted_voter_is_silent_for_the_longest_lease() -> None:
    machine = brain(A, ABW, fresh=False)
    silence = TIMING.silence_ns(LEASE)
    assert machine.next_deadline_ns(Facts()) == silence
    answer = sent(step(machine, ev.Received(ms.PreVote("v", B, A, 1, ABW.stamp)), silence - 1))[0]
    assert isinstance(answer, ms.PreVoteAnswer) and not answer.granted
    alone = brain(A, slot(record(A)), fresh=False)
    step(alone, ev.TimePassed(), 1)
    assert alone.role == "leader", "a volume with one voter has promised nobody anything"


def test_a3_a_refused_candidate_takes_over_the_newer_record_and_stands_again() -> None:
    """{A,B,W}: an attach record is on A and W, A dies; W refuses B for ever and may not stand itself."""
    machine = brain(B, ABW)
    machine.candidacy.election_at_ns = 0
    step(machine, ev.TimePassed())
    newer = slot(record(A, B, W, primary=A), 2, 5)
    step(machine, ev.Received(ms.PreVoteAnswer("v", W, B, 1, False, 2, "older", newer)))
    assert (machine.state.slot, machine.epoch, machine.role) == (newer, 2, "follower")
    assert machine.committed is None
    elect(machine, W, now_ns=LEASE)
    assert machine.epoch == 3


def test_one_change_at_a_time_and_none_before_the_first_commit() -> None:
    machine = brain(A, ABC)
    step(machine, ev.PeerUp(B.node))
    elect(machine, B)
    assert sent(step(machine, ev.MemberFailed(C, "gone"))) == []
    out = accept(machine, B)
    proposals = [message for message in sent(out) if isinstance(message, ms.Propose)]
    assert {message.slot.record.in_sync for message in proposals} == {(A, B)}
    assert sent(step(machine, ev.AttachAsked(7, "n1"))) == []
    out = accept(machine, B)
    assert [m.slot.record.attachment.node for m in sent(out) if isinstance(m, ms.Propose)] == ["n1", "n1"]  # type: ignore[union-attr]
    assert ev.Reply(7) in accept(machine, B)


def test_a_member_that_is_lost_before_its_turn_is_not_admitted() -> None:
    """C caught up while an attach was on its way, and its link ended before the attach was committed: admitted
    then, it would be in sync without the writes acknowledged since."""
    machine = leader(in_sync=[A, B])
    step(machine, ev.AttachAsked(7, "n1"))
    step(machine, ev.MemberCaughtUp(C))
    step(machine, ev.MemberFailed(C, "its link ended"))
    out = accept(machine, B)
    assert ev.Reply(7) in out
    assert not any(isinstance(message, ms.Propose) for message in sent(out))
    assert machine.record is not None and machine.record.in_sync == (A, B)


def test_a_leader_that_hears_of_a_higher_epoch_resigns_and_stands_above_it() -> None:
    machine = leader()
    step(machine, ev.AttachAsked(7, "n1"))
    out = step(machine, ev.Received(ms.Refused("v", C, A, 9)), LEASE)
    assert machine.role == "follower"
    assert any(isinstance(effect, ev.StopLeading) for effect in out)
    assert ev.Reply(7, "NOT_PRIMARY", "it stopped being the primary") in out
    step(machine, ev.TimePassed(), LEASE)
    assert machine.candidacy.asking_epoch == 10


def test_a5_a_leader_without_promises_resigns_after_one_lease() -> None:
    machine = leader()
    facts = Facts(lease_until_ns=1000)
    assert machine.next_deadline_ns(facts) == 1000 + LEASE
    step(machine, ev.TimePassed(), 1000 + LEASE - 1, facts)
    assert machine.role == "leader"
    step(machine, ev.TimePassed(), 1000 + LEASE, facts)
    assert machine.role == "follower"


def stand_unclean(*answers: ms.PreVoteAnswer, accepted):  # type: ignore[no-untyped-def]
    machine = brain(A, accepted, epoch=accepted.stamp.epoch, unclean=True)
    step(machine, ev.TimePassed(), LEASE)
    assert machine.candidacy.asking_epoch == accepted.stamp.epoch + 1
    for answer in answers:
        step(machine, ev.Received(answer), LEASE)
    return machine


def pre(voter, held, *, unclean: bool = False):  # type: ignore[no-untyped-def]
    in_sync = held.record.in_sync
    return ms.PreVoteAnswer("v", voter, A, 3, True, 2, unclean=unclean, stamp=held.stamp, in_sync=in_sync)


def test_s3_an_unclean_candidate_needs_every_member_unclean_too() -> None:
    both = slot(record(A, B, C, in_sync=[A, B]), 2, 6)
    assert stand_unclean(pre(C, both), accepted=both).role == "pre-voting"
    assert stand_unclean(pre(C, both), pre(B, both), accepted=both).role == "pre-voting"
    unclean = stand_unclean(pre(C, both), pre(B, both, unclean=True), accepted=both)
    assert unclean.role == "voting"


def test_s3_an_unclean_candidate_does_not_believe_a_set_that_only_it_has_stored() -> None:
    """{A,B} in sync; A stores "in sync {A}", nobody else does, and loses power with unflushed writes. It must not
    lead by that record: B is clean and holds them."""
    alone = slot(record(A, B, C, in_sync=[A]), 2, 7)
    before = slot(record(A, B, C, in_sync=[A, B]), 2, 6)
    assert stand_unclean(pre(C, before), accepted=alone).role == "pre-voting"
    assert stand_unclean(pre(C, before), pre(B, before), accepted=alone).role == "pre-voting"
    assert stand_unclean(pre(C, alone), accepted=alone).role == "voting", "a majority has it: committed"
    everybody = [pre(voter, before, unclean=True) for voter in (B, C)]
    assert stand_unclean(*everybody, accepted=alone).role == "voting"


def test_s3_the_set_that_a_majority_holds_is_the_one_that_counts() -> None:
    """A alone in sync, unclean: it was elected, stored its record again under its epoch and lost power once more."""
    again = slot(record(A, B, C, in_sync=[A], primary=A), 2, 7)
    before = slot(record(A, B, C, in_sync=[A]), 1, 6)
    assert stand_unclean(pre(C, before), accepted=again).role == "pre-voting", "B may know of a larger set"
    assert stand_unclean(pre(C, before), pre(B, before), accepted=again).role == "voting"


def test_s3_a_record_that_was_certainly_replaced_names_nobody() -> None:
    """A, alone in sync, detaches and loses power before anybody else has stored that. B holds the record before, which
    was committed or A would not have gone on; W holds one of long ago that names B, who is clean."""
    newest = slot(record(A, B, W, in_sync=[A]), 2, 10)
    before = slot(record(A, B, W, in_sync=[A]), 2, 9)
    long_ago = slot(record(A, B, W, in_sync=[A, B]), 2, 6)
    assert stand_unclean(pre(W, long_ago), accepted=newest).role == "pre-voting", "B may hold what nobody knows of"
    assert stand_unclean(pre(W, long_ago), pre(B, before), accepted=newest).role == "voting"
    assert stand_unclean(pre(W, long_ago), pre(B, long_ago), accepted=newest).role == "pre-voting"
    other, first = slot(record(A, B, W, in_sync=[A, B]), 1, 9), slot(record(A, B, W, in_sync=[A, B]), 1, 1)
    assert stand_unclean(pre(W, first), pre(B, other), accepted=newest).role == "pre-voting", "of another reign"


def test_s3_an_unclean_candidate_asks_whom_its_own_record_removed() -> None:
    """{A,B} in sync, all lose power. A leads again, stores a record without B that nobody else has, and dies. B can't
    have A's word, to which it is a stranger; A must have B's, or nobody ever leads."""
    before = slot(record(A, B, C, in_sync=[A, B]), 2, 6)
    without = slot(record(A, C, in_sync=[A]), 2, 7)
    for unclean, role in ((False, "pre-voting"), (True, "voting")):
        machine = brain(A, without, epoch=2, unclean=True)
        step(machine, ev.TimePassed(), LEASE)
        (asked,) = sent(step(machine, ev.Received(pre(C, before, unclean=True)), LEASE))
        assert isinstance(asked, ms.PreVote) and asked.target == B
        assert machine.role == "pre-voting", "B may be clean and hold every acknowledged write"
        step(machine, ev.Received(pre(B, before, unclean=unclean)), LEASE)
        assert machine.role == role


def test_s3_the_word_of_whom_nobody_named_counts_for_nothing() -> None:
    before = slot(record(A, B, C, in_sync=[A, B]), 2, 6)
    without = slot(record(A, C, in_sync=[A]), 2, 7)
    machine = brain(A, without, epoch=2, unclean=True)
    step(machine, ev.TimePassed(), LEASE)
    step(machine, ev.Received(pre(B, before, unclean=True)), LEASE)
    assert sent(step(machine, ev.Received(pre(C, before, unclean=True)), LEASE)), "it is asked now"
    assert machine.role == "pre-voting"


def test_s3_an_unclean_candidate_hands_the_record_on_to_the_clean_member_that_it_admits() -> None:
    """A admits B, stores that record, and loses power before anybody else has it: A may not lead, B holds everything
    and does not know that it is in sync, and the volume would stand still for ever."""
    before = slot(record(A, B, C, in_sync=[A]), 2, 6)
    admits = slot(record(A, B, C, in_sync=[A, B], primary=A), 2, 7)
    machine = brain(A, admits, epoch=2, unclean=True)
    step(machine, ev.TimePassed(), LEASE)
    (told,) = sent(step(machine, ev.Received(pre(B, before)), LEASE))
    assert told == ms.Refused("v", A, B, 2, admits)
    member = brain(B, before, epoch=2)
    step(member, ev.Received(told), LEASE)
    assert member.candidacy.election_at_ns is not None
    asked = sent(step(member, ev.TimePassed(), member.candidacy.election_at_ns))
    assert {message.stamp for message in asked if isinstance(message, ms.PreVote)} == {admits.stamp}


def test_s3_an_unclean_candidate_does_not_lead_beside_the_clean_member_that_it_admits() -> None:
    """The others hold the record before, which names A alone. By the time that both have answered B has been handed the
    newer one, and two of three hold it."""
    before = slot(record(A, B, C, in_sync=[A]), 2, 6)
    admits = slot(record(A, B, C, in_sync=[A, B]), 2, 7)
    for answers in ((B, C), (C, B)):
        machine = stand_unclean(*(pre(voter, before) for voter in answers), accepted=admits)
        assert machine.role == "pre-voting"
    assert stand_unclean(pre(C, before), pre(B, before, unclean=True), accepted=admits).role == "voting"


def test_s3_a_clean_member_does_not_follow_an_unclean_voter_out_of_the_set() -> None:
    before = slot(record(A, B, C, in_sync=[A, B]), 2, 6)
    alone = slot(record(A, B, C, in_sync=[A]), 2, 7)
    machine = brain(B, before, epoch=2)
    step(machine, ev.TimePassed(), LEASE)
    refusal = ms.PreVoteAnswer("v", A, B, 3, False, 2, "older", alone, unclean=True, stamp=alone.stamp)
    step(machine, ev.Received(refusal), LEASE)
    assert machine.state.slot == before
    step(machine, ev.Received(ms.PreVoteAnswer("v", C, B, 3, True, 2, stamp=before.stamp)), LEASE)
    assert machine.role == "voting"
    step(machine, ev.Received(ms.VoteAnswer("v", A, B, 3, False, 2, "older", alone, unclean=True)), LEASE)
    assert machine.state.slot == before
    step(machine, ev.Received(ms.VoteAnswer("v", C, B, 3, True, 3)), LEASE)
    assert machine.role == "leader"


def test_a_clean_refuser_with_a_newer_record_is_believed() -> None:
    before = slot(record(A, B, C, in_sync=[A, B]), 2, 6)
    newer = slot(record(A, B, C, in_sync=[A], primary=A), 2, 7)
    machine = brain(B, before, epoch=2)
    step(machine, ev.TimePassed(), LEASE)
    step(machine, ev.Received(ms.PreVoteAnswer("v", C, B, 3, False, 2, "older", newer, stamp=newer.stamp)), LEASE)
    assert machine.state.slot == newer
    assert machine.candidacy.election_at_ns is None, "it is not in sync any more"


def test_the_same_events_give_the_same_decisions() -> None:
    def run() -> list[object]:
        machine = brain(A, ABC)
        out: list[object] = []
        out += step(machine, ev.TimePassed())
        out += step(machine, ev.Received(ms.PreVoteAnswer("v", C, A, 1, True, 0)))
        out += step(machine, ev.Received(ms.VoteAnswer("v", C, A, 1, True, 1)))
        out += accept(machine, C)
        return out

    assert run() == run()


def test_failures_wait_for_a_majority_and_a_member_that_comes_back_first_stays() -> None:
    """Cut off from both others, the leader would commit a set of itself alone by another way, lose its lease, and
    nobody else could lead. So it waits; whoever comes back first is not let go."""
    machine = brain(A, ABC)
    elect(machine, B)
    accept(machine, B)
    for member in (B, C):
        assert sent(step(machine, ev.MemberFailed(member, "its link is down"))) == []
    proposals = [m for m in sent(step(machine, ev.PeerUp(B.node))) if isinstance(m, ms.Propose)]
    assert {message.slot.record.in_sync for message in proposals} >= {(A, B)}
    accept(machine, B)
    out = step(machine, ev.MemberCaughtUp(B))
    assert ev.Require() in out, "replication learns that the set stayed as it was"


def test_an_orderly_end_lets_go_at_once() -> None:
    machine = brain(A, ABC)
    elect(machine, B)
    out = step(machine, ev.Stopping())
    assert any(isinstance(effect, ev.StopLeading) for effect in out)
    assert step(machine, ev.TimePassed()) == []


def test_s3_a_member_that_was_made_clean_between_pre_vote_and_vote_stops_an_unclean_candidate() -> None:
    """B said in its pre-vote that it is unclean; then the sync ended that a primary, dead by now, had asked it for."""
    both = slot(record(A, B, C, in_sync=[A, B]), 2, 6)
    machine = stand_unclean(pre(C, both), pre(B, both, unclean=True), accepted=both)
    step(machine, ev.Received(ms.VoteAnswer("v", C, A, 3, True, 3)), LEASE)
    assert machine.role == "voting"
    step(machine, ev.Received(ms.VoteAnswer("v", B, A, 3, False, 3, "clean by now")), LEASE)
    assert machine.role == "voting"
    again = stand_unclean(pre(C, both), pre(B, both, unclean=True), accepted=both)
    step(again, ev.Received(ms.VoteAnswer("v", C, A, 3, True, 3)), LEASE)
    step(again, ev.Received(ms.VoteAnswer("v", B, A, 3, True, 3, unclean=True)), LEASE)
    assert again.role == "leader"


def test_a_member_that_caught_up_is_not_let_go_for_what_was_before() -> None:
    """Its failure waited for a majority; reconsidered later, it would leave for good, for it has caught up already and
    never says so again."""
    machine = brain(A, ABC)
    elect(machine, B)
    accept(machine, B)
    step(machine, ev.MemberFailed(C, "its host lost power"))
    step(machine, ev.MemberCaughtUp(C))
    proposals = [m for m in sent(step(machine, ev.PeerUp(B.node))) if isinstance(m, ms.Propose)]
    assert {message.slot.record.in_sync for message in proposals} <= {(A, B, C)}


def test_a_member_that_caught_up_before_the_turn_of_its_failure_stays() -> None:
    """Its failure waited behind an attach, then for a majority, and the word that it caught up was taken in between: it
    was let go, followed, and nobody said any more that it may come in."""
    machine = brain(A, ABC)
    elect(machine, B)
    accept(machine, B)
    step(machine, ev.AttachAsked(7, "n1"))
    step(machine, ev.MemberFailed(C, "its link ended"))
    step(machine, ev.MemberCaughtUp(C))
    assert ev.Require() in accept(machine, B), "replication learns that the set stayed as it was"
    step(machine, ev.PeerUp(B.node))
    step(machine, ev.PeerUp(C.node))
    accept(machine, B)
    assert machine.record is not None and machine.record.in_sync == (A, B, C)


def test_i3_the_leader_of_a_tombstone_asks_again_whether_the_data_are_gone() -> None:
    """B's word was lost with B's link, A's own link stood: nobody came back, nobody lagged, and nothing was removed."""
    machine = leader()
    for node in ("b", "c"):
        step(machine, ev.PeerUp(node))
    accept(machine, C)
    step(machine, ev.DeleteAsked(1))
    accept(machine, B, C)
    step(machine, ev.DataErased())
    step(machine, ev.Received(ms.Erased("v", C, A, 1)))
    due = machine.next_deadline_ns(Facts())
    assert due is not None
    told = sent(step(machine, ev.TimePassed(), due))
    assert [(type(message), message.target) for message in told] == [(ms.Committed, B)]
    later = machine.next_deadline_ns(Facts())
    assert later is not None and later > due
    out = sent(step(machine, ev.Received(ms.Erased("v", B, A, 1)), due))
    assert {message.target for message in out if isinstance(message, ms.Forget)} == {B, C}
    assert step(machine, ev.Received(ms.Erased("v", C, A, 1)), due) == [], "while the hard state is being stored"


def test_i3_whoever_was_in_sync_at_the_deletion_may_lead_it_to_its_end() -> None:
    """The leader of the tombstone lets go of a copy that nobody writes to, forgets the volume, and its last word is
    lost. Three of five hold the tombstone, and by it only the one that is gone could lead them to its end."""
    machine = leader()
    for node in ("b", "c"):
        step(machine, ev.PeerUp(node))
    accept(machine, C)
    step(machine, ev.DeleteAsked(1))
    accept(machine, B, C)
    assert sent(step(machine, ev.MemberFailed(B, "its link ended"))) == []
    assert machine.record is not None and machine.record.in_sync == (A, B, C)


def test_i3_a_minority_with_a_tombstone_of_which_no_majority_knows_anything_forgets_it() -> None:
    """The others forgot the volume. B and C hold the tombstone and were started again: was it ever committed? They must
    not erase: should the others be back, with an older record, B would be one of them with empty blocks."""
    d, e = Voter("d", "d1"), Voter("e", "e1")
    gone = slot(replace(record(A, B, C, d, e), deleted=True), 2, 6)
    enquiry = ev.Received(ms.Enquire("v", C, B, 2, gone.stamp))
    for first in (True, False):
        b = brain(B, gone, epoch=2, fresh=False)
        out = step(b, enquiry) if first else []
        for other in (A, d, d):
            out += step(b, ev.Received(ms.Unknown("v", other, B)))
        assert out == [], "two of five may have lost their stores"
        assert step(b, ev.Received(ms.Unknown("v", e, B))) == ([ev.ForgetVolume()] if first else []), "C may hold data"
        if not first:
            assert step(b, enquiry) == [ev.ForgetVolume()]
    c = brain(C, gone, epoch=2, fresh=False)
    told = [step(c, ev.Received(ms.Unknown("v", other, C))) for other in (A, d, e, B)]
    assert told == [[], [], [], [ev.ForgetVolume()]]


def test_i3_two_that_missed_the_last_word_of_a_deletion_tell_each_other_that_nothing_is_left() -> None:
    """The leader and the third have forgotten the volume; B and C were away when they were told to."""
    gone = slot(replace(record(A, B, C), deleted=True), 2, 6)
    b, c = brain(B, gone, epoch=2, fresh=False), brain(C, gone, epoch=2, fresh=False)
    for voter, machine in ((B, b), (C, c)):
        step(machine, ev.Received(ms.Committed("v", A, voter, 2, gone.stamp)))
        step(machine, ev.DataErased())
    asked = ms.Enquire("v", B, C, 2, gone.stamp)
    (answer,) = sent(step(c, ev.Received(asked)))
    assert answer == ms.Erased("v", C, B, 2)
    assert ev.ForgetVolume() not in step(b, ev.Received(answer)), "A may hold data"
    assert ev.ForgetVolume() in step(b, ev.Received(ms.Unknown("v", A, B)))


def test_i3_that_the_data_are_gone_is_remembered_by_the_next_process() -> None:
    """B and C have given their data back and are started again. The leader has forgotten the volume, as both had said
    so, and by the tombstone nobody else may lead."""
    gone = slot(replace(record(A, B, C, in_sync=[A], primary=A), deleted=True), 2, 6)
    machines = []
    for voter in (B, C):
        machine = brain(voter, gone, epoch=2, fresh=False)
        step(machine, ev.Received(ms.Committed("v", A, voter, 2, gone.stamp)))
        batch = machine.step(ev.DataErased(), 0, NO_FACTS)
        assert ev.Send(ms.Erased("v", voter, A, 2)) in batch.after and batch.durable is not None
        again = HardState.decode(batch.durable.encode())
        machines.append(Brain(again, TIMING, now_ns=0, fresh=False))
    b, c = machines
    assert b.erased and c.erased
    step(b, ev.Received(ms.Unknown("v", A, B)))
    (answer,) = sent(step(c, ev.Received(ms.Enquire("v", B, C, 2, gone.stamp))))
    assert answer == ms.Erased("v", C, B, 2)
    assert ev.ForgetVolume() in step(b, ev.Received(answer))


def test_a_witness_has_nothing_to_give_back() -> None:
    gone = slot(replace(record(A, B, W, in_sync=[A], primary=A), deleted=True), 2, 6)
    witness = brain(W, gone, epoch=2, fresh=False)
    out = step(witness, ev.Received(ms.Committed("v", A, W, 2, gone.stamp)))
    assert sent(out) == [ms.Erased("v", W, A, 2)] and ev.EraseData() not in out


def test_a_follower_learns_of_the_record_that_is_replaced_that_it_was_committed() -> None:
    """Changes come so close upon each other that each proposal is there before the word about the one before."""
    first, second = slot(record(A, B, C, primary=A), 2, 6), slot(record(A, B, C, primary=A), 2, 7)
    machine = brain(B, slot(record(A, B, C), 1, 5), epoch=1)
    step(machine, ev.Received(ms.Propose("v", A, B, 2, first, None)))
    out = step(machine, ev.Received(ms.Propose("v", A, B, 2, second, first.stamp)))
    assert ev.RecordCommitted(first) in out and machine.committed == first.stamp
    assert machine.state.slot == second
    assert step(machine, ev.Received(ms.Committed("v", A, B, 2, second.stamp))) == [ev.RecordCommitted(second)]


def test_s3_who_is_clean_takes_no_smaller_set_without_itself_from_a_refusal() -> None:
    """{A,B} in sync, A stores "in sync {A}" alone and is killed. B would hold it as the second of three, and A could
    lead by that when it has lost power. The next leader by that record has it stored as a leader; where nobody has it,
    B leads."""
    both, alone = slot(record(A, B, W), 1, 5), slot(record(A, B, W, in_sync=[A], primary=A), 1, 6)
    machine = brain(B, both, epoch=1)
    step(machine, ev.TimePassed(), LEASE)
    assert machine.role == "pre-voting"
    asked = machine.candidacy.asking_epoch
    refusal = ms.PreVoteAnswer("v", A, B, asked, False, 1, "older", slot=alone, stamp=alone.stamp)
    step(machine, ev.Received(refusal), LEASE)
    step(machine, ev.Received(ms.Refused("v", A, B, 1, alone)), LEASE)
    assert machine.state.slot == both
    step(machine, ev.Received(ms.PreVoteAnswer("v", W, B, asked, True, 1)), LEASE)
    step(machine, ev.Received(ms.VoteAnswer("v", W, B, asked, True, asked)), LEASE)
    assert machine.role == "leader"


def test_a6_a_leader_whose_epoch_is_over_takes_the_refusal_for_no_failed_copy() -> None:
    machine = brain(A, slot(record(A, B, C)))
    elect(machine, B)
    accept(machine, B, C)
    led = machine.state.slot
    out = step(machine, ev.Received(ms.Refused("v", B, A, machine.epoch + 1)))
    assert any(isinstance(effect, ev.StopLeading) for effect in out)
    assert machine.role == "follower"
    assert machine.state.slot == led, "B stays in sync"

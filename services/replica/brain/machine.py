"""One voter's brain: the state machine that composes the concerns, and nothing else.

    follower --suspects the leader--> pre-voting --majority--> voting --majority--> leader
        ^                                 |                       |                    |
        +---------------------------------+-----------------------+--------------------+
                     a higher epoch, a live leader, no majority of promises

    local      what all of them share            candidacy  standing: pre-vote, vote, A3
    agenda     changes that wait their turn       voting     votes for others
    deletion   tombstones (I3)                    following  storing what a leader proposes
    parting    members that a record excludes     handover   moving the primary on purpose (P5)
    condition  founded, failed, silent            proposing  one record on its way to the others
    snapshots  asked for, sealed, agreed on (K4)     override  a new generation, by an operator's word (I4)
    in_step    snapshots of one moment with other volumes'
    leading    commits, resignation; while it leads it has a `repair`, which asks `plan` for the next members

Each knows only those above it in `__init__`. `step(event, now_ns, facts) -> Batch` is a function of its arguments and
the state: no clock, socket or dice.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.replica.brain import events as ev
from services.replica.brain import messages as ms
from services.replica.brain.agenda import Agenda
from services.replica.brain.agreement import Proposal
from services.replica.brain.candidacy import Candidacy
from services.replica.brain.changes import Change
from services.replica.brain.condition import Condition
from services.replica.brain.deletion import Deletion
from services.replica.brain.election import Facts, Timing
from services.replica.brain.following import Following
from services.replica.brain.handover import HandOver
from services.replica.brain.leading import Leading
from services.replica.brain.local import Local
from services.replica.brain.membership import Required
from services.replica.brain.override import Override
from services.replica.brain.parting import Parting
from services.replica.brain.policy import WriteState
from services.replica.brain.record import HardState, Record, Stamp, Voter
from services.replica.brain.snapshots import Snapshots
from services.replica.brain.voting import Voting


class Brain:
    """The decision logic of one volume at one voter."""

    def __init__(self, state: HardState, timing: Timing, *, now_ns: int, fresh: bool, unclean: bool = False):
        """`fresh`: this process made the replica, so no process before can have promised anything."""
        timing.validate()
        silence_ns = 0 if fresh else now_ns + timing.silence_ns(max(state.lease_max_ns, timing.lease_ns))
        self.local = Local(state, timing, silence_ns, now_ns=now_ns, unclean=unclean)
        self.snapshots = Snapshots(self.local)
        self.agenda = Agenda(self.local, self.snapshots)
        self.deletion = Deletion(self.local)
        self.parting = Parting(self.local, now_ns)
        self.leading = Leading(self.local, self.agenda, self.deletion, self.parting, self.snapshots)
        self.candidacy = Candidacy(self.local, self.leading)
        self.voting = Voting(self.local, self.leading, self.candidacy)
        self.following = Following(self.local, self.leading, self.candidacy, self.deletion)
        self.handover = HandOver(self.local, self.leading, self.candidacy)
        self.condition = Condition(self.local, self.leading, self.candidacy, self.handover)
        self.override = Override(self.local, self.leading, self.candidacy, self.parting)
        if self.local.alone():
            self.candidacy.election_at_ns = now_ns  # there is nobody whom a promise could bind to
        elif state.slot is not None:
            self.candidacy.stand_from(now_ns)

    # ---- the outside ----------------------------------------------------------------------------------

    @property
    def state(self) -> HardState:
        return self.local.state

    @property
    def me(self) -> Voter:
        return self.local.me

    @property
    def epoch(self) -> int:
        return self.local.epoch

    @property
    def generation(self) -> int:
        """Of the stored record; it rises only by an operator's override (I4)."""
        return self.local.generation

    @property
    def record(self) -> Record | None:
        return self.local.record

    @property
    def role(self) -> str:
        return self.local.role

    @property
    def leader(self) -> Voter | None:
        return self.local.leader

    @property
    def committed(self) -> Stamp | None:
        """The latest stamp that this voter knows to be committed."""
        return self.local.committed

    @property
    def unclean(self) -> bool:
        return self.local.unclean

    @property
    def failure(self) -> str:
        """Why this voter's copy counts for nothing, or "" when it is sound."""
        return self.local.failure

    @property
    def silent(self) -> bool:
        """It says nothing until it is started again."""
        return self.condition.silent

    @property
    def erased(self) -> bool:
        return self.deletion.erased

    @property
    def up(self) -> set[str]:
        """The nodes of voters that are there, on our links."""
        return self.local.up

    @property
    def proposal(self) -> Proposal | None:
        return self.leading.proposal

    @property
    def required(self) -> Required | None:
        return self.leading.required

    @property
    def writes(self) -> WriteState:
        """What becomes of writes while we lead."""
        return self.leading.writes

    @property
    def waiting(self) -> Sequence[Change]:
        return self.agenda.waiting

    def step(self, event: ev.Event, now_ns: int, facts: Facts) -> ev.Batch:
        self.local.begin(now_ns, facts)
        self.leading.see_lease(facts)
        if not self.silent:
            self._dispatch(event, now_ns, facts)
            self.handover.look()
        self.validate()
        return self.local.batch()

    def next_deadline_ns(self, facts: Facts) -> int | None:
        """When `step(TimePassed)` is due; None: only events move this brain."""
        local = self.local
        if self.silent or local.state.slot is None:
            return None
        role = self.leading.next_deadline_ns(facts) if local.role == "leader" else self.candidacy.next_deadline_ns()
        dues = (
            role,
            self.handover.next_deadline_ns(),
            self.parting.next_deadline_ns(),
            self.override.next_deadline_ns(),
        )
        return min([due for due in dues if due is not None], default=None)

    def validate(self) -> None:
        """The invariants of one brain's state; checked after every step."""
        state, leads = self.local.state, self.local.role == "leader"
        assert state.slot is None or state.slot.stamp.epoch <= state.epoch, "a record above the stored epoch"
        assert leads == (self.proposal is not None), "a leader has a proposal, nobody else"
        assert leads == (self.required is not None)
        if leads:
            assert state.voted_for == state.me, "a leader voted for itself"
            assert state.slot is not None
            assert state.me in state.slot.record.in_sync, "only an in-sync replica leads"
        assert leads or not self.waiting, "changes wait at a leader only"

    # ---- dispatch -------------------------------------------------------------------------------------

    def _dispatch(self, event: ev.Event, now_ns: int, facts: Facts) -> None:
        match event:
            case ev.Received(message):
                self._receive(message, now_ns, facts)
            case ev.TimePassed():
                self._time_passed(now_ns, facts)
            case ev.PeerUp(node):
                self.up.add(node)
                self.local.heard.discard(node)
                if self.role == "leader":
                    self.leading.peer_up(node, now_ns)
                else:
                    self.candidacy.came(now_ns)
            case ev.HeardOnBus(node):
                self.local.heard.add(node)
                if self.role == "leader":
                    self.leading.heard(node, now_ns)
                else:
                    self.candidacy.came(now_ns)
            case ev.Stopping():
                self.condition.stopping()
            case ev.PeerDown(node) | ev.SilentOnBus(node):
                (self.up if isinstance(event, ev.PeerDown) else self.local.heard).discard(node)
                self.local.gone(node)
                self._lost(node, now_ns, facts)
            case ev.ClaimLost(node):
                self._lost(node, now_ns, facts)
            case ev.PromiseEnded():
                self.leading.promise_ended(now_ns)
            case ev.Founded(record, cause):
                self.condition.founded(record, cause)
            case ev.StoreChanged(unclean, failure, votes):
                self.condition.store_changed(unclean, failure, votes=votes)
            case ev.DataErased():
                self.deletion.data_erased()
            case ev.MoveAsked():
                self.handover.asked(event)
            case ev.OverrideAsked():
                self.override.asked(event, facts)
            case ev.Settled(epoch):
                if epoch == self.epoch:
                    self.handover.settled()
            case ev.SessionRefused():
                self.handover.sought(event)
            case ev.MemberFollows(member):
                self.leading.follows(member, now_ns)
            case ev.HomeFound():
                self.leading.home_found(event, now_ns)
            case ev.HomeRefused():
                self.leading.home_refused(event, now_ns)
            case ev.StepAsked() | ev.StepReached():
                if self.role == "leader":
                    self.leading.step_of_snapshot(event)
                elif isinstance(event, ev.StepAsked):
                    self.local.at_once(ev.Reply(event.request, "NOT_PRIMARY", "this voter is not the primary"))
            case (
                ev.MemberFailed()
                | ev.MemberCaughtUp()
                | ev.AttachAsked()
                | ev.DetachAsked()
                | ev.DeleteAsked()
                | ev.PolicyAsked()
                | ev.ExpandAsked()
                | ev.TakeAsked()
                | ev.DropAsked()
                | ev.SnapshotSealed()
                | ev.SnapshotGiven()
                | ev.SealFailed()
            ):
                if self.role == "leader":
                    self.leading.change(event, now_ns)
                else:
                    self.agenda.refuse(event)

    def _receive(self, message: ms.BrainMessage, now_ns: int, facts: Facts) -> None:
        if message.target != self.me:
            return  # I1: meant for another incarnation
        generation = ms.generation_of(message)
        if generation != self.local.generation and not self._crosses(message, generation):
            return
        match message:
            case ms.PreVote():
                self.voting.pre_vote(message, now_ns, facts)
            case ms.Vote():
                self.voting.vote(message, now_ns, facts)
            case ms.PreVoteAnswer():
                if message.began_ns == self.local.began_ns:
                    self.override.answered(message)
                    self.candidacy.answered(message, now_ns, facts)
            case ms.VoteAnswer():
                self.candidacy.answered(message, now_ns, facts)
            case ms.Propose():
                self.following.propose(message, now_ns)
            case ms.Accepted():
                self.leading.accepted(message, now_ns)
                self.candidacy.accepted(message, now_ns)
            case ms.Refused():
                self.candidacy.refused(message, now_ns)
            case ms.Committed():
                self.following.told_committed(message.stamp)
            case ms.Erased():
                self.deletion.peer_erased(message)
            case ms.Unknown():
                self.deletion.peer_knows_nothing(message.sender)
                self.leading.unknown(message.sender)
            case ms.Forget():
                self.deletion.told_to_forget()
            case ms.Enquire():
                self.parting.enquired(message)
                self.deletion.enquired(message)
            case ms.Excluded():
                if self.parting.excluded(message):
                    self.condition.excluded(message.sender, message.slot.stamp.generation)
            case ms.HandOver():
                self.handover.named(message)
            case ms.Released():
                self.handover.released(message)
            case ms.Offer():
                self.handover.offered(message)
            case ms.NotUnderstood():
                self.condition.not_understood(message)
                if self.role == "leader":
                    self.leading.not_understood(message, now_ns)

    def _crosses(self, message: ms.BrainMessage, generation: int) -> bool:
        """Whether it is heard though it is of another generation (I4): what counts there means nothing here. A node's
        word that a voter is gone or can't read us has none, and who has no record yet is told one of any."""
        if self.state.slot is None or isinstance(message, ms.Unknown | ms.NotUnderstood):
            return True
        if generation < self.local.generation:
            self.parting.over(message)
            return False
        return isinstance(message, ms.Excluded)

    def _time_passed(self, now_ns: int, facts: Facts) -> None:
        if self.state.slot is None:
            return
        self.parting.time_passed()
        self.override.time_passed(facts)
        if self.role != "leader":
            self.candidacy.time_passed(now_ns, facts)
            return
        if self.leading.must_resign(now_ns, facts):
            self.leading.stop()
            self.candidacy.stand_from(now_ns + self.local.timing.lease_ns)  # others first
        else:
            self.leading.time_passed(now_ns)

    def _lost(self, node: str, now_ns: int, facts: Facts) -> None:
        """A node is not there any more, or does not lead us any more."""
        if self.role == "leader":
            self.leading.seen(node, now_ns)
            return
        if self.leader is None or self.leader.node == node:
            self.parting.leaderless()
        self.candidacy.suspect(node, now_ns, facts)

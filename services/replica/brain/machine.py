"""One voter's brain: the state machine that composes election, agreement, membership and attachment.

    follower --suspects the leader--> pre-voting --majority--> voting --majority--> leader
        ^                                 |                       |                    |
        +---------------------------------+-----------------------+--------------------+
                     a higher epoch, a live leader, no majority of promises

`step(event, now_ns, facts) -> Batch` is a function of its arguments and the state: no clock, socket or dice.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from services.replica.brain import events as ev
from services.replica.brain import messages as ms
from services.replica.brain.agreement import Proposal
from services.replica.brain.changes import Change, Outcome, outcome_of
from services.replica.brain.election import Asked, Facts, Timing, may_stand, rank, refusal
from services.replica.brain.membership import Required
from services.replica.brain.quorum import majority
from services.replica.brain.record import HardState, InvalidRecord, Record, Slot, Stamp, Voter
from services.replica.brain.unclean import may_win, ousted


class Brain:
    """The decision logic of one volume at one voter."""

    def __init__(
        self, state: HardState, timing: Timing, *, now_ns: int, fresh: bool, unclean: bool = False, erased: bool = False
    ):
        """`fresh`: this process made the replica, so no process before can have promised anything."""
        timing.validate()
        self.timing = timing
        self.state = state
        self.role = "follower"
        self.leader: Voter | None = None
        self.committed: Stamp | None = None
        self.unclean = unclean
        self.failed = False
        self.erased = erased
        self.silent_until_ns = 0 if fresh else now_ns + timing.silence_ns(max(state.lease_max_ns, timing.lease_ns))
        self.up: set[str] = set()
        self.election_at_ns: int | None = None
        self.asking_epoch = 0
        self.seen_epoch = state.epoch
        self.answers: dict[Voter, ms.PreVoteAnswer | ms.VoteAnswer] = {}
        self.retry_at_ns = 0
        self.proposal: Proposal | None = None
        self.required: Required | None = None
        self.led_first = False
        self.led_since_ns = 0
        self.lease_seen_ns = 0
        self.waiting: deque[Change] = deque()
        self.deferred: list[ev.MemberFailed] = []
        """Members that failed while no majority of voters was reachable."""
        self.asked: list[int] = []
        self.erased_voters: set[Voter] = set()
        self.cause = ""
        self._now: list[ev.Effect] = []
        self._after: list[ev.Effect] = []
        self._dirty = False
        if state.slot is not None and not self._alone():
            self.election_at_ns = self._start_ns(now_ns, None)
        elif state.slot is not None:
            self.election_at_ns = now_ns

    # ---- the outside ----------------------------------------------------------------------------------

    @property
    def me(self) -> Voter:
        return self.state.me

    @property
    def epoch(self) -> int:
        return self.state.epoch

    @property
    def record(self) -> Record | None:
        return self.state.slot.record if self.state.slot else None

    def step(self, event: ev.Event, now_ns: int, facts: Facts) -> ev.Batch:
        self._now, self._after, self._dirty = [], [], False
        self.lease_seen_ns = max(self.lease_seen_ns, facts.lease_until_ns)
        if not self.failed:
            self._dispatch(event, now_ns, facts)
        batch = ev.Batch(tuple(self._now), self.state if self._dirty else None, tuple(self._after))
        self.validate()
        return batch

    def next_deadline_ns(self, facts: Facts) -> int | None:
        """When `step(TimePassed)` is due; None: only events move this brain."""
        if self.failed or self.state.slot is None:
            return None
        due: list[int] = []
        if self.role == "leader":
            if any(voter.node not in self.up for voter in self._others()):
                due.append(self._resign_at_ns(facts))
            if self._lagging():
                due.append(self.retry_at_ns)
        elif self.role in ("pre-voting", "voting"):
            due.append(self.retry_at_ns)
        elif self.election_at_ns is not None:
            due.append(self.election_at_ns)
        return min(due) if due else None

    def validate(self) -> None:
        """The invariants of one brain's state; checked after every step."""
        state = self.state
        assert state.slot is None or state.slot.stamp.epoch <= state.epoch, "a record above the stored epoch"
        assert (self.role == "leader") == (self.proposal is not None), "a leader has a proposal, nobody else"
        assert (self.role == "leader") == (self.required is not None)
        if self.role == "leader":
            assert state.voted_for == state.me, "a leader voted for itself"
            assert self.record is not None
            assert state.me in self.record.in_sync, "only an in-sync replica leads"
        assert not (self.role != "leader" and self.waiting), "changes wait at a leader only"

    # ---- dispatch -------------------------------------------------------------------------------------

    def _dispatch(self, event: ev.Event, now_ns: int, facts: Facts) -> None:
        match event:
            case ev.Received(message):
                self._receive(message, now_ns, facts)
            case ev.TimePassed():
                self._time_passed(now_ns, facts)
            case ev.PeerUp(node):
                self.up.add(node)
                self._resend(now_ns, node)
                self._reconsider(node, now_ns)
            case ev.Stopping():
                if self.role == "leader":
                    self._stop_leading("its process ends")
                self.failed = True
            case ev.PeerDown(node):
                self.up.discard(node)
                self._suspect(node, now_ns, facts)
            case ev.ClaimLost(node):
                self._suspect(node, now_ns, facts)
            case ev.Founded(record, cause):
                self._found(record, cause, now_ns)
            case ev.StoreChanged(unclean, failed):
                self._store_changed(unclean, failed, now_ns)
            case ev.DataErased():
                self._data_erased()
            case ev.MemberFailed() | ev.MemberCaughtUp() | ev.AttachAsked() | ev.DetachAsked() | ev.DeleteAsked():
                self._change_asked(event, now_ns)

    def _receive(self, message: ms.BrainMessage, now_ns: int, facts: Facts) -> None:
        if message.target != self.me:
            return  # I1: meant for another incarnation
        match message:
            case ms.PreVote():
                self._pre_vote(message, now_ns, facts)
            case ms.Vote():
                self._vote(message, now_ns, facts)
            case ms.PreVoteAnswer() | ms.VoteAnswer():
                self._vote_answer(message, now_ns, facts)
            case ms.Propose():
                self._propose(message, now_ns)
            case ms.Accepted():
                self._accepted(message, now_ns)
            case ms.Refused():
                self._refused(message, now_ns)
            case ms.Committed():
                self._told_committed(message.stamp)
            case ms.Erased():
                self._peer_erased(message)
            case ms.Unknown():
                self._peer_knows_nothing(message.sender)
            case ms.Forget():
                if self.record is not None and self.record.deleted and self.erased:
                    self._now.append(ev.ForgetVolume())

    # ---- small helpers --------------------------------------------------------------------------------

    def _alone(self) -> bool:
        return self.record is not None and self.record.voters == (self.me,)

    def _others(self) -> tuple[Voter, ...]:
        record = self.record
        return tuple(voter for voter in record.voters if voter != self.me) if record else ()

    def _explain(self, kind: str, outcome: str, *, alternatives: tuple[str, ...] = (), **inputs: object) -> None:
        self._decided(kind, outcome, tuple(inputs.items()), alternatives)

    def _decided(
        self, kind: str, outcome: str, inputs: tuple[tuple[str, object], ...], alternatives: tuple[str, ...] = ()
    ) -> None:
        slot = self.state.slot
        pairs = tuple((name, str(value)) for name, value in inputs)
        version = slot.stamp.version if slot else 0
        self._after.append(ev.Explain(kind, outcome, pairs, alternatives, self.epoch, version, self.cause))

    def _start_ns(self, now_ns: int, gone: Voter | None) -> int:
        assert self.record is not None
        delay = rank(self.record, self.me, gone) * self.timing.election_step_ns
        return max(now_ns, self.silent_until_ns) + delay

    def _raise(self, epoch: int, voted_for: Voter | None) -> None:
        """Raise the stored epoch; a leader of a lower one stops."""
        assert epoch > self.epoch
        if self.role == "leader":
            self._stop_leading(f"epoch {epoch} is above {self.epoch}")
        self.role = "follower"
        self.state = replace(
            self.state,
            epoch=epoch,
            voted_for=voted_for,
            lease_max_ns=max(self.state.lease_max_ns, self.timing.lease_ns),
        )
        self.seen_epoch = max(self.seen_epoch, epoch)
        self._dirty = True
        self._now.append(ev.RaiseEpoch(epoch))

    def _store(self, slot: Slot) -> None:
        self.state = self.state.with_slot(slot)
        self._dirty = True

    def _stop_leading(self, reason: str) -> None:
        assert self.role == "leader"
        self._now.append(ev.StopLeading(reason))
        for change in [*self.waiting]:
            if isinstance(change, ev.AttachAsked | ev.DetachAsked | ev.DeleteAsked):
                self._now.append(ev.Reply(change.request, "NOT_PRIMARY", "it stopped being the primary"))
        for request in self.asked:
            self._now.append(ev.Reply(request, "NOT_PRIMARY", "it stopped being the primary"))
        self.waiting.clear()
        self.deferred = []
        self.asked = []
        self.role = "follower"
        self.leader = None
        self.proposal = None
        self.required = None
        self._explain("step-down", reason)

    # ---- founding -------------------------------------------------------------------------------------

    def _found(self, record: Record, cause: str, now_ns: int) -> None:
        if self.state.slot is not None:
            return  # idempotent: the first record stays
        record.validate()
        if self.me not in record.voters:
            raise InvalidRecord("this replica is no voter of the record")
        self.cause = cause
        self._store(Slot(Stamp(0, 0, 1), record))
        self.election_at_ns = self._start_ns(now_ns, None)
        self._explain("found", f"first record of {record.name}", voters=[voter.node for voter in record.voters])

    # ---- standing -------------------------------------------------------------------------------------

    def _suspect(self, node: str, now_ns: int, facts: Facts) -> None:
        """The leader's node is gone, or it no longer claims the volume."""
        record = self.record
        if record is None or self.role != "follower":
            return
        leader = self.leader or record.primary
        if leader is None or leader.node != node or leader == self.me or may_stand(self.state):
            return
        start = self._start_ns(max(now_ns, facts.promised_until_ns), leader)
        self.election_at_ns = start if self.election_at_ns is None else min(self.election_at_ns, start)

    def _time_passed(self, now_ns: int, facts: Facts) -> None:
        if self.state.slot is None:
            return
        if self.role == "leader":
            if facts.disk_stalled:
                self._stop_leading("its disk makes no progress")  # A5: its beats would keep it alive for ever
                self.election_at_ns = self._start_ns(now_ns + self.timing.lease_ns, None)
                return
            lost = any(voter.node not in self.up for voter in self._others())
            if lost and now_ns >= self._resign_at_ns(facts):
                self._stop_leading("a majority of voters made no promise for one lease")  # A5
                self.election_at_ns = self._start_ns(now_ns, None) + self.timing.lease_ns
            elif self._lagging() and now_ns >= self.retry_at_ns:
                self._resend(now_ns, None)
        elif self.role in ("pre-voting", "voting"):
            if now_ns >= self.retry_at_ns:
                self.role = "follower"
                self._stand(now_ns, facts)
        elif self.election_at_ns is not None and now_ns >= self.election_at_ns:
            self._stand(now_ns, facts)

    def _stand(self, now_ns: int, facts: Facts) -> None:
        """Pre-vote first (A4); with a live promise, wait for its end."""
        reason = may_stand(self.state)
        record = self.record
        if reason or record is None:
            self.election_at_ns = None
            return
        if facts.disk_stalled:
            self.election_at_ns = now_ns + self.timing.lease_ns
            return
        leader = self.leader or record.primary
        if facts.promised_until_ns > now_ns and facts.promised_to in self.up:
            # It lives and leads: its node's end wakes us again.
            self.leader, self.election_at_ns = record.voter_on(facts.promised_to), None
            return
        silent = now_ns < self.silent_until_ns and not self._alone()  # P3
        if silent or facts.promised_until_ns > now_ns:
            self.election_at_ns = self._start_ns(max(now_ns, facts.promised_until_ns), leader)
            return
        self.election_at_ns = None
        self.leader = None
        self.role = "pre-voting"
        self.asking_epoch = max(self.epoch, self.seen_epoch) + 1
        self.answers = {}
        self._set_retry(now_ns)
        self._explain(
            "stand",
            f"asks for votes in epoch {self.asking_epoch}",
            in_sync=[voter.node for voter in record.in_sync],
            up=sorted(self.up),
            unclean=self.unclean,
        )
        assert self.state.slot is not None
        stamp = self.state.slot.stamp
        for voter in self._others():
            asked = ms.PreVote(record.volume, self.me, voter, self.asking_epoch, stamp, self.unclean)
            self._after.append(ev.Send(asked))
        if self._alone():
            self._candidate(now_ns)

    def _set_retry(self, now_ns: int) -> None:
        assert self.record is not None
        turn = self.record.in_sync.index(self.me) if self.me in self.record.in_sync else 0
        self.retry_at_ns = now_ns + self.timing.resend_ns + turn * (self.timing.election_step_ns // 2)

    def _candidate(self, now_ns: int) -> None:
        """A majority would vote for us: vote for ourselves, durably, and ask them to."""
        assert self.state.slot is not None
        record, stamp = self.state.slot.record, self.state.slot.stamp
        self._raise(self.asking_epoch, self.me)
        self.role = "voting"
        self.answers = {}
        self._set_retry(now_ns)
        for voter in self._others():
            self._after.append(ev.Send(ms.Vote(record.volume, self.me, voter, self.epoch, stamp, self.unclean)))
        own = ms.VoteAnswer(record.volume, self.me, self.me, self.epoch, True, self.epoch)
        self._after.append(ev.Send(own))

    # ---- voting ---------------------------------------------------------------------------------------

    def _judge(self, message: ms.PreVote | ms.Vote, now_ns: int, facts: Facts) -> str:
        asked = Asked(message.sender, message.epoch, message.stamp, message.unclean)
        return refusal(
            self.state,
            asked,
            now_ns=now_ns,
            silent_until_ns=self.silent_until_ns,
            facts=facts,
            leading=self.role == "leader",
            unclean=self.unclean,
        )

    def _newer(self, stamp: Stamp) -> Slot | None:
        """Our slot, for a candidate whose record is older (A3)."""
        return self.state.slot if self.state.slot is not None and self.state.slot.stamp > stamp else None

    def _pre_vote(self, message: ms.PreVote, now_ns: int, facts: Facts) -> None:
        if self.state.slot is None:
            return
        reason = self._judge(message, now_ns, facts)
        if not reason and message.epoch <= self.epoch:
            reason = f"epoch {message.epoch} is not above {self.epoch}"
        if reason:
            self._explain("refuse", f"no pre-vote for {message.sender.node}: {reason}", asked=message.epoch)
        self._after.append(
            ev.Send(
                ms.PreVoteAnswer(
                    message.volume,
                    self.me,
                    message.sender,
                    message.epoch,
                    not reason,
                    self.epoch,
                    reason,
                    self._newer(message.stamp),
                    self.unclean,
                    self.state.slot.stamp,
                    self.state.slot.record.in_sync,
                )
            )
        )

    def _vote(self, message: ms.Vote, now_ns: int, facts: Facts) -> None:
        if self.state.slot is None:
            return
        reason = self._judge(message, now_ns, facts)
        if not reason:
            if message.epoch > self.epoch:
                self._raise(message.epoch, message.sender)
            elif self.state.voted_for is None:
                self.state = replace(self.state, voted_for=message.sender)
                self._dirty = True
            self.leader = None
            self.role = "follower"
            if not may_stand(self.state):
                # The winner speaks up soon; if it dies first, we stand.
                self.election_at_ns = self._start_ns(now_ns, message.sender) + 2 * self.timing.lease_ns
            self._explain("grant", f"votes for {message.sender.node}", stamp=message.stamp)
        else:
            self._explain("refuse", f"no vote for {message.sender.node}: {reason}", asked=message.epoch)
        self._after.append(
            ev.Send(
                ms.VoteAnswer(
                    message.volume,
                    self.me,
                    message.sender,
                    message.epoch,
                    not reason,
                    self.epoch,
                    reason,
                    self._newer(message.stamp),
                    self.unclean,
                )
            )
        )

    def _vote_answer(self, answer: ms.PreVoteAnswer | ms.VoteAnswer, now_ns: int, facts: Facts) -> None:
        expected = "pre-voting" if isinstance(answer, ms.PreVoteAnswer) else "voting"
        record = self.record
        self.seen_epoch = max(self.seen_epoch, answer.epoch)
        if self.role != expected or record is None or answer.sender not in record.voters:
            return
        if answer.asked != (self.asking_epoch if expected == "pre-voting" else self.epoch):
            return
        newer, mine = answer.slot, self.state.slot
        if newer is not None and mine is not None and newer.stamp > mine.stamp:
            if not ousted(self.me, self.unclean, newer.record, by_unclean=answer.unclean):
                self._adopt(newer, now_ns)
            return
        self.answers[answer.sender] = answer
        granted = [voter for voter, given in sorted(self.answers.items()) if given.granted]
        if expected == "pre-voting":
            if facts.promised_until_ns > now_ns:
                # A promise made since we asked: it binds our own vote as well (P1, P3).
                self.role = "follower"
                self.election_at_ns = self._start_ns(facts.promised_until_ns, self.leader or record.primary)
                return
            if len(granted) + 1 >= majority(len(record.voters)) and self._may_win_unclean():
                self._candidate(now_ns)
            elif isinstance(answer, ms.PreVoteAnswer):
                self._hand_on(answer, record)
        elif len(granted) >= majority(len(record.voters)) and self.me in self.answers:
            self._win(granted, now_ns)

    def _hand_on(self, answer: ms.PreVoteAnswer, record: Record) -> None:
        """An unclean candidate may be the only one that stored the record which admits a clean member. That member
        holds every acknowledged write (S1, S4) and may lead; it only does not know the record yet (A3)."""
        mine = self.state.slot
        clean_member = self.unclean and not answer.unclean and answer.sender in record.in_sync
        if clean_member and mine is not None and answer.stamp is not None and answer.stamp < mine.stamp:
            self._after.append(ev.Send(ms.Refused(record.volume, self.me, answer.sender, self.epoch, mine)))

    def _may_win_unclean(self) -> bool:
        if not self.unclean:
            return True
        assert self.state.slot is not None
        answers = {v: answer for v, answer in self.answers.items() if isinstance(answer, ms.PreVoteAnswer)}
        return may_win(self.me, self.state.slot, answers)

    def _adopt(self, slot: Slot, now_ns: int) -> None:
        """A refusal brought a newer record: store it as accepted, never as committed, and stand again (A3)."""
        if slot.stamp.epoch > self.epoch:
            self._raise(slot.stamp.epoch, None)
        self._store(slot)
        self.role = "follower"
        self.election_at_ns = None if may_stand(self.state) else self._start_ns(now_ns, None)
        self._explain("adopt", f"stores the newer record {slot.stamp} of a refusal")

    # ---- leading --------------------------------------------------------------------------------------

    def _win(self, granted: list[Voter], now_ns: int) -> None:
        """Elected: the first act is to re-propose the record under our own epoch (A1)."""
        assert self.state.slot is not None
        old = self.state.slot
        self.role = "leader"
        self.leader = self.me
        self.led_first = False
        self.led_since_ns = now_ns
        self.lease_seen_ns = 0
        self.waiting.clear()
        self.asked = []
        self.erased_voters = set()
        self.required = Required(frozenset(old.record.in_sync))
        self._now.append(ev.Claim(self.epoch))
        refused = tuple(f"{v.node}: {a.reason}" for v, a in sorted(self.answers.items()) if not a.granted)
        self._explain("lead", f"elected in epoch {self.epoch}", votes=[v.node for v in granted], alternatives=refused)
        self._put(old.next(self.epoch, replace(old.record, primary=self.me)), now_ns)

    def _put(self, slot: Slot, now_ns: int) -> None:
        """Propose `slot`: its in-sync set counts from before the first message leaves (S1)."""
        assert self.required is not None
        self.required.propose(slot.record.in_sync)
        self._now.append(ev.Require())
        self.proposal = Proposal(slot)
        self._store(slot)
        self._send_proposal(now_ns, self._others())
        own = ms.Accepted(slot.record.volume, self.me, self.me, self.epoch, slot.stamp)
        self._after.append(ev.Send(own))

    def _send_proposal(self, now_ns: int, voters: tuple[Voter, ...]) -> None:
        assert self.proposal is not None
        slot = self.proposal.slot
        self.retry_at_ns = now_ns + self.timing.resend_ns
        for voter in voters:
            message = ms.Propose(slot.record.volume, self.me, voter, self.epoch, slot, self.committed)
            self._after.append(ev.Send(message))

    def _lagging(self) -> tuple[Voter, ...]:
        """Reachable voters that have not stored the latest record."""
        if self.proposal is None:
            return ()
        return tuple(v for v in self._others() if v.node in self.up and v not in self.proposal.accepted)

    def _resend(self, now_ns: int, node: str | None) -> None:
        if self.role == "leader":
            lagging = self._lagging()
            self._send_proposal(now_ns, tuple(v for v in lagging if node is None or v.node == node))
            if self.proposal is not None and self.proposal.slot.record.deleted and self.proposal.committed:
                self._tell_committed(tuple(v for v in self._others() if v.node == node))

    def _resign_at_ns(self, facts: Facts) -> int:
        return max(facts.lease_until_ns, self.lease_seen_ns, self.led_since_ns) + self.timing.lease_ns

    def _propose(self, message: ms.Propose, now_ns: int) -> None:
        slot = message.slot
        if message.epoch < self.epoch or slot.stamp.epoch != message.epoch:
            answer = ms.Refused(message.volume, self.me, message.sender, self.epoch, self._newer(slot.stamp))
            self._after.append(ev.Send(answer))
            return
        if self.me not in slot.record.voters or slot.record.primary != message.sender:
            return
        if message.epoch > self.epoch:
            self._raise(message.epoch, None)
        assert self.role != "leader", "two leaders in one epoch"
        mine = self.state.slot
        if mine is not None and slot.stamp < mine.stamp:
            return  # a late copy of an older proposal of this leader
        self.role = "follower"
        self.leader = message.sender
        self.election_at_ns = None
        if message.sender.node not in self.up and not may_stand(self.state):
            # It reached us another way than by its beats: we will not notice its end by their silence.
            self.election_at_ns = self._start_ns(now_ns + self.timing.lease_ns, message.sender)
        if mine is None or slot.stamp > mine.stamp:
            self._store(slot)
        if message.committed is not None:
            self._told_committed(message.committed)
        accepted = ms.Accepted(message.volume, self.me, message.sender, self.epoch, slot.stamp)
        self._after.append(ev.Send(accepted))

    def _accepted(self, message: ms.Accepted, now_ns: int) -> None:
        proposal = self.proposal
        if proposal is None or message.epoch != self.epoch or message.stamp != proposal.slot.stamp:
            return
        if message.sender not in proposal.slot.record.voters:
            return
        if proposal.accept(message.sender):
            self._commit(now_ns)
        elif proposal.committed and message.sender != self.me:
            self._tell_committed((message.sender,))

    def _commit(self, now_ns: int) -> None:
        assert self.proposal is not None
        assert self.required is not None
        slot = self.proposal.slot
        self.committed = slot.stamp
        self.required.commit(slot.record.in_sync)
        first, self.led_first = not self.led_first, True
        if first:
            self._after.append(ev.Lead(slot))
        self._after.append(ev.Require())
        self._after.append(ev.RecordCommitted(slot))
        for request in self.asked:
            self._after.append(ev.Reply(request))
        self.asked = []
        self._tell_committed(tuple(v for v in self._others() if v in self.proposal.accepted))
        if slot.record.deleted:
            self._erase()
        self._next_change(now_ns)

    def _tell_committed(self, voters: tuple[Voter, ...]) -> None:
        assert self.proposal is not None
        slot = self.proposal.slot
        for voter in voters:
            message = ms.Committed(slot.record.volume, self.me, voter, self.epoch, slot.stamp)
            self._after.append(ev.Send(message))

    def _refused(self, message: ms.Refused, now_ns: int) -> None:
        """A6: no failed copy. A5: a leader that sees a higher epoch resigns and may stand above it."""
        self.seen_epoch = max(self.seen_epoch, message.epoch)
        if self.role == "leader" and message.epoch > self.epoch:
            self._stop_leading(f"{message.sender.node} knows epoch {message.epoch}")
            self.election_at_ns = self._start_ns(now_ns, None)
        mine, newer = self.state.slot, message.slot
        if newer is not None and mine is not None and self.role == "follower" and newer.stamp > mine.stamp:
            self._adopt(newer, now_ns)

    def _told_committed(self, stamp: Stamp) -> None:
        slot = self.state.slot
        if slot is None or self.role == "leader" or slot.stamp != stamp or self.committed == stamp:
            if slot is not None and slot.stamp == stamp and slot.record.deleted and self.erased:
                self._say_erased()
            return
        self.committed = stamp
        self._after.append(ev.RecordCommitted(slot))
        if slot.record.deleted:
            self._erase()

    # ---- changes --------------------------------------------------------------------------------------

    def _change_asked(self, change: Change, now_ns: int) -> None:
        if self.role != "leader":
            if isinstance(change, ev.AttachAsked | ev.DetachAsked | ev.DeleteAsked):
                self._now.append(ev.Reply(change.request, "NOT_PRIMARY", "this voter is not the primary"))
            return
        if isinstance(change, ev.MemberFailed):
            # It may have caught up while another change was on its way, and be lost again before its turn: admitted
            # now, it would be in sync without the writes since.
            caught_up = ev.MemberCaughtUp(change.member)
            self.waiting = deque(waiting for waiting in self.waiting if waiting != caught_up)
        self.waiting.append(change)
        self._next_change(now_ns)

    def _next_change(self, now_ns: int) -> None:
        """One change at a time, and none before our own first commit (A1)."""
        while self.waiting and self.proposal is not None and self.proposal.committed:
            change = self.waiting.popleft()
            slot = self.proposal.slot
            if isinstance(change, ev.MemberFailed) and not self._reachable_majority(slot.record):
                # It may be us who are cut off. A record that leaves only us in sync would still get through on
                # another way, and then nobody else could lead while we have no lease.
                self.deferred.append(change)
                continue
            self.cause = getattr(change, "cause", "") or self.cause
            self._settle_change(change, outcome_of(change, slot.record), now_ns)

    def _settle_change(self, change: Change, outcome: Outcome, now_ns: int) -> None:
        assert self.proposal is not None
        if outcome.kind:
            self._decided(outcome.kind, outcome.outcome, outcome.inputs)
        request = None if isinstance(change, ev.MemberFailed | ev.MemberCaughtUp) else change.request
        if outcome.record is not None:
            if request is not None:
                self.asked.append(request)
            self._put(self.proposal.slot.next(self.epoch, outcome.record), now_ns)
        elif request is not None:
            self._after.append(ev.Reply(request, outcome.code, outcome.error))
        elif isinstance(change, ev.MemberCaughtUp):
            self._after.append(ev.Require())  # it never left the set: its failure was never committed

    def _reachable_majority(self, record: Record) -> bool:
        up = sum(voter == self.me or voter.node in self.up for voter in record.voters)
        return up >= majority(len(record.voters))

    def _reconsider(self, node: str, now_ns: int) -> None:
        """A voter is back: whoever failed while there was no majority is looked at again, but for itself."""
        if self.role == "leader" and self.deferred:
            waiting, self.deferred = self.deferred, []
            self.waiting.extend(failed for failed in waiting if failed.member.node != node)
            self._next_change(now_ns)

    # ---- deletion (I3) --------------------------------------------------------------------------------

    def _erase(self) -> None:
        if self.erased:
            self._data_erased()
        else:
            self._after.append(ev.EraseData())

    def _data_erased(self) -> None:
        self.erased = True
        self._say_erased()

    def _say_erased(self) -> None:
        record = self.record
        leader = self.me if self.role == "leader" else self.leader
        if record is not None and leader is not None:
            self._after.append(ev.Send(ms.Erased(record.volume, self.me, leader, self.epoch)))

    def _peer_erased(self, message: ms.Erased) -> None:
        record = self.record
        if self.role != "leader" or record is None or not record.deleted or message.sender not in record.voters:
            return
        self.erased_voters.add(message.sender)
        if self.erased_voters == set(record.voters):
            for voter in self._others():
                self._after.append(ev.Send(ms.Forget(record.volume, self.me, voter, self.epoch)))
            self._after.append(ev.ForgetVolume())

    def _peer_knows_nothing(self, voter: Voter) -> None:
        """The last word of a deletion was lost: when nobody else knows the volume, our tombstone serves nobody."""
        record = self.record
        if record is None or not record.deleted or voter not in record.voters:
            return
        self.erased_voters.add(voter)
        if self.erased_voters >= set(self._others()):
            self._now.append(ev.ForgetVolume())

    # ---- the disk -------------------------------------------------------------------------------------

    def _store_changed(self, unclean: bool, failed: bool, now_ns: int) -> None:
        self.unclean = unclean
        if failed:
            if self.role == "leader":
                self._stop_leading("its disk failed")
            self.role = "follower"
            self.failed = True
            self._now.append(ev.Explain("fail", "this voter keeps silent: its disk failed", epoch=self.epoch))
